"""Exact and near duplicates among instructions.

`minhash.py` finds, for each row, the kept ones whose text is alike; what a pair is, is decided here. No text is ever
dropped for being short. No transitive closure: a row leaves only for a direct twin that stays. The result does not depend
on the order of the rows.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from core.config import Count, Share, settings
from core.table import Outcome, with_verdicts
from core.text import numbers, words

REMEMBERED = 8192
"""Texts whose slots are kept: generation judges its rows again after each wave."""
OPERATOR = re.compile(r"(?<=\d)\s*([*/−-])\s*(?=\d)|(?<=\w)([#%])")
"""Punctuation that tells tasks apart, unlike that of Markdown: 6 / 2 is not 6 - 2, nor is C# C."""
NO_FIGURES = re.compile(r"[A-Za-z\s.,;:!?'\"()`-]*")
"""Texts without anything of that kind; most are, and need no closer look."""
NAME = re.compile(r"(?<=[^\s.!?:;\"“”(\[*#-])\s+[\"“(\[]?([^\W\d_][\w'’-]+)")
"""A word with another before it in its sentence."""


@settings
class NearDuplicatesConfig:
    """The `[near_duplicates]` table of a run's TOML."""

    threshold: Share = 0.70
    """Exact Jaccard similarity of character 5-grams from which two instructions, inputs included, are duplicates."""
    per_template: Count = 3
    """Most rows that differ in their numbers, names or symbols only; they are one template, not duplicates."""
    protect_pool: bool = False
    """Whether rows of the pool, like seeds, never leave here: then a duplicate only ever costs new rows."""


def drop_near_duplicates(
    table: pl.DataFrame, config: NearDuplicatesConfig, *, seed: int, warn: Callable[[str], None] | None = None
) -> Outcome:
    """Drop every row with a direct twin that is kept; the order of the rows does not matter.

    Kept first: seeds, then pool rows, then the longer response, the lower depth, the smaller id. Rows whose numbers,
    names or symbols differ (2 + 3 and 2 * 3, C and C++, the capitals of Kansas and of Arkansas) are no duplicates; of each
    such template at most `per_template` stay.

    Args:
        table: Rows.
        config: The `[near_duplicates]` table.
        seed: Of the hash functions.
        warn: Told if a row was not compared with all that might be like it, for there were thousands of them.
    """
    from filters.minhash import normal_texts

    rows = _best_first(table)
    texts = normal_texts(rows["instruction"], rows["input"])
    protected = rows["source"].is_in(["seed", "pool"] if config.protect_pool else ["seed"]).to_numpy()
    ids, slots = rows["id"], _SlotsOf(rows)
    verdicts: dict[str, dict[str, Any]] = {}
    copies = _exact_copies(texts.hashes, slots)
    distinct = np.setdiff1d(np.arange(len(texts)), np.fromiter(copies, np.int64))
    _drop_near(texts[distinct], distinct, ids, slots, protected, config, seed, verdicts, warn)
    for at, first in copies.items():
        if not protected[at]:
            # Where the first one left itself, its copies leave for the same twin.
            evidence = f"same instruction and input as {ids[first]}, but for case, punctuation and white space"
            own = _verdict("exact_duplicate", evidence, 1.0, config.threshold, ids[first])
            verdicts[ids[at]] = verdicts.get(ids[first], own)
    return with_verdicts(table, verdicts)


class _SlotsOf:
    """What fills the frame of each row's text, looked up only where it is asked for."""

    def __init__(self, rows: pl.DataFrame) -> None:
        self._instructions, self._inputs = rows["instruction"], rows["input"]

    def figures(self, row: int) -> tuple[str, ...]:
        return _figures(self._text(row))

    def are_same(self, first: int, second: int) -> bool:
        """Tell whether two texts are about the same numbers and symbols, and name nothing that the other lacks."""
        one, other = self._text(first), self._text(second)
        return _figures(one) == _figures(other) and _names_all(one, other) and _names_all(other, one)

    def _text(self, row: int) -> str:
        return f"{self._instructions[row]}\n{self._inputs[row]}"


def _exact_copies(hashes: NDArray[np.uint64], slots: _SlotsOf) -> dict[int, int]:
    """Return the rows whose normal form and figures a row before them has, and that row."""
    first: dict[tuple[int, tuple[str, ...]], int] = {}
    repeated = pl.Series(hashes).is_duplicated().arg_true().to_list()
    found = {at: first.setdefault((int(hashes[at]), slots.figures(at)), at) for at in repeated}
    return {at: twin for at, twin in found.items() if at != twin}


def _drop_near(
    texts: Any, rows: NDArray[np.int64], ids: pl.Series, slots: _SlotsOf, protected: NDArray[np.bool_],
    config: NearDuplicatesConfig, seed: int, verdicts: dict[str, dict[str, Any]], warn: Callable[[str], None] | None,
) -> None:  # fmt: skip
    """Walk through the rows, best first; drop those with a twin already kept, and templates beyond their share."""
    from filters.minhash import FIVE_GRAMS, FOUR_GRAMS, LONGEST_WALK, SAME_WORDS, SHORT_JACCARD, Walk

    said = {
        FIVE_GRAMS: ("character 5-grams", config.threshold),
        FOUR_GRAMS: ("character 4-grams", SHORT_JACCARD),
        SAME_WORDS: ("words in any order", 1.0),
    }
    walk = Walk(texts, config.threshold, seed)
    group: dict[int, int] = {}
    """Template of a row that has siblings; a row without is a template of its own."""
    members: Counter[int] = Counter()
    while (found := walk.step()) is not None:
        number, alike = found
        at = int(rows[number])
        alike.sort(key=lambda like: like.row)
        same = [slots.are_same(int(rows[like.row]), at) for like in alike]
        twins = [like for like, is_twin in zip(alike, same, strict=True) if is_twin]
        siblings = [like for like, is_twin in zip(alike, same, strict=True) if not is_twin]
        sizes = [max(1, members[group.get(like.row, like.row)]) for like in siblings]
        full = [(like, size) for like, size in zip(siblings, sizes, strict=True) if size >= config.per_template]
        if twins and not protected[at]:
            best = max(twins, key=lambda like: (like.value, -like.row))
            other, (measure, limit) = ids[int(rows[best.row])], said[best.measure]
            evidence = f"Jaccard {best.value:.2f} of {measure} with {other} (limit {limit:.2f})"
            verdicts[ids[at]] = _verdict("near_duplicate", evidence, best.value, limit, other)
        elif full and not protected[at]:
            sibling, count = full[0]
            other = ids[int(rows[sibling.row])]
            evidence = f"{count} rows like {other} that differ in numbers, names or symbols only are kept already"
            verdicts[ids[at]] = _verdict("template_full", evidence, float(count + 1), float(config.per_template), other)
        else:
            if siblings:
                first = siblings[0].row
                group[number] = group.setdefault(first, first)
                members[group[number]] = max(1, members[group[number]]) + 1
            walk.keep(number)
    if walk.cut_short and warn is not None:
        warn(
            f"near_duplicates: {walk.cut_short} times a row was compared with {LONGEST_WALK} of the rows that share a band with "
            f"it, not with all: thousands have the same frame"
        )


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


def _best_first(table: pl.DataFrame) -> pl.DataFrame:
    rank = pl.col("source").replace_strict({"seed": 0, "pool": 1, "generated": 2}, return_dtype=pl.Int8)
    length = -pl.col("response").str.len_chars().cast(pl.Int64)
    return table.select("id", "source", "instruction", "input", "response", "depth").sort([rank, length, "depth", "id"])


def _verdict(reason: str, evidence: str, measured: float, limit: float, twin: str) -> dict[str, Any]:
    return {"reason": reason, "evidence": evidence, "measured": measured, "limit": limit, "twin": twin}
