"""Numbers, names and symbols: two instructions with the same frame are different tasks if they differ in these."""

import re
import unicodedata
from functools import lru_cache

import polars as pl

from kiloset.core.text import numbers, words

REMEMBERED = 8192
"""Texts whose slots are cached: generation filters its rows again after each wave."""
OPERATOR = re.compile(r"(?<=\d)\s*([*/−-])\s*(?=\d)|(?<=\w)([#%])")
"""Punctuation that distinguishes tasks, unlike the punctuation of Markdown: 6 / 2 is not 6 - 2, and C# is not C."""
NO_FIGURES = re.compile(r"[A-Za-z\s.,;:!?'\"()`-]*")
"""Matches a text without numbers, operators and symbols, as most are."""
NAME = re.compile(r"(?<=[^\s.!?:;\"“”(\[*#-])\s+[\"“(\[]?([^\W\d_][\w'’-]+)")
"""A word with another before it in its sentence."""


class SlotsOf:
    """The numbers, names and symbols of each row's instruction and input, computed when needed."""

    def __init__(self, rows: pl.DataFrame) -> None:
        """Read the columns `instruction` and `input`; rows are numbered by their place."""
        self._instructions, self._inputs = rows["instruction"], rows["input"]

    def figures(self, row: int) -> tuple[str, ...]:
        """Return the numbers, operators, symbols and emoji of a row, sorted."""
        return _figures(self._text(row))

    def are_same(self, first: int, second: int) -> bool:
        """Return whether two rows have the same numbers and symbols, and no name that the other row lacks."""
        one, other = self._text(first), self._text(second)
        return _figures(one) == _figures(other) and _names_all(one, other) and _names_all(other, one)

    def _text(self, row: int) -> str:
        return f"{self._instructions[row]}\n{self._inputs[row]}"


@lru_cache(maxsize=REMEMBERED)
def names(text: str) -> frozenset[str]:
    """Return the capitalised words that do not begin a sentence, case-folded."""
    if text.islower():
        return frozenset()
    capitalised = (match[1].casefold() for match in NAME.finditer(text) if match[1][0].isupper())
    return frozenset(word.rstrip("'’-") for word in capitalised)


@lru_cache(maxsize=REMEMBERED)
def _words(text: str) -> frozenset[str]:
    return frozenset(words(text))


def _names_all(text: str, other: str) -> bool:
    """Return whether every name in a text is a word of the other."""
    return names(text) <= _words(other)


@lru_cache(maxsize=REMEMBERED)
def _figures(text: str) -> tuple[str, ...]:
    """Return the numbers, operators, symbols and emoji, sorted; `normal_form` may lose them."""
    if NO_FIGURES.fullmatch(text):
        return ()
    operators = [match[1] or match[2] for match in OPERATOR.finditer(text)]
    symbols = [c for c in text if c != "`" and unicodedata.category(c) in ("Sm", "Sc", "So", "Sk")]
    return tuple(sorted([*numbers(text), *operators, *symbols]))
