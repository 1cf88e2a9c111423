"""What fills the frame of a text and tells tasks apart whose words are otherwise the same: numbers, names, symbols."""

import re
import unicodedata
from functools import lru_cache

import polars as pl

from kiloset.core.text import numbers, words

REMEMBERED = 8192
"""Texts whose slots are kept: generation judges its rows again after each wave."""
OPERATOR = re.compile(r"(?<=\d)\s*([*/−-])\s*(?=\d)|(?<=\w)([#%])")
"""Punctuation that tells tasks apart, unlike that of Markdown: 6 / 2 is not 6 - 2, nor is C# C."""
NO_FIGURES = re.compile(r"[A-Za-z\s.,;:!?'\"()`-]*")
"""Texts without anything of that kind; most are, and need no closer look."""
NAME = re.compile(r"(?<=[^\s.!?:;\"“”(\[*#-])\s+[\"“(\[]?([^\W\d_][\w'’-]+)")
"""A word with another before it in its sentence."""


class SlotsOf:
    """What fills the frame of each row's text, looked up only where it is asked for."""

    def __init__(self, rows: pl.DataFrame) -> None:
        """Hold the columns `instruction` and `input`; rows are named by their place."""
        self._instructions, self._inputs = rows["instruction"], rows["input"]

    def figures(self, row: int) -> tuple[str, ...]:
        """Return the numbers, operators, symbols and emoji of a row, sorted."""
        return _figures(self._text(row))

    def are_same(self, first: int, second: int) -> bool:
        """Tell whether two texts are about the same numbers and symbols, and name nothing that the other lacks."""
        one, other = self._text(first), self._text(second)
        return _figures(one) == _figures(other) and _names_all(one, other) and _names_all(other, one)

    def _text(self, row: int) -> str:
        return f"{self._instructions[row]}\n{self._inputs[row]}"


@lru_cache(maxsize=REMEMBERED)
def _names(text: str) -> frozenset[str]:
    """Return the capitalised words that do not begin a sentence, case-folded."""
    if text.islower():
        return frozenset()
    return frozenset(match[1].casefold() for match in NAME.finditer(text) if match[1][0].isupper())


@lru_cache(maxsize=REMEMBERED)
def _words(text: str) -> frozenset[str]:
    return frozenset(words(text))


def _names_all(text: str, other: str) -> bool:
    """Tell whether every name in a text is a word of the other."""
    names = _names(text)
    return not names or names <= _words(other)


@lru_cache(maxsize=REMEMBERED)
def _figures(text: str) -> tuple[str, ...]:
    """Return what `normal_form` may lose or blur and tasks differ by: the numbers, operators, symbols and emoji."""
    if NO_FIGURES.fullmatch(text):
        return ()
    operators = [match[1] or match[2] for match in OPERATOR.finditer(text)]
    symbols = [c for c in text if c != "`" and unicodedata.category(c) in ("Sm", "Sc", "So", "Sk")]
    return tuple(sorted([*numbers(text), *operators, *symbols]))
