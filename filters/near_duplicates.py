"""Drop exact and near-duplicates among instructions.

`minhash.py` finds, for each row, the kept rows whose text matches; this module decides which matches are duplicates. No text
is dropped because it is short. There is no transitive closure: a row is dropped only for a kept row that it matches itself.
The result does not depend on the order of the rows.

>>> from kiloset.core.table import table_of
>>> from kiloset.filters import near_duplicates
>>> texts = ["Name a fish of the North Sea.", "Name a fish of the north sea", "Write a poem about snow."]
>>> table = table_of([{"id": f"g{n}", "instruction": text, "source": "generated"} for n, text in enumerate(texts)])
>>> kept, dropped = near_duplicates.drop(table, near_duplicates.Config(threshold=0.7))
>>> kept["id"].to_list()
['g0', 'g2']
"""

import logging
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl

from kiloset.core.config import Count, Share, settings
from kiloset.core.table import Outcome, full_instruction, with_verdicts
from kiloset.filters.minhash import (
    FIVE_GRAMS,
    FOUR_GRAMS,
    LONGEST_WALK,
    SAME_WORDS,
    SHORT_JACCARD,
    Match,
    normal_texts,
)
from kiloset.filters.slots import SlotsOf

logger = logging.getLogger(__name__)

DRAWS = 3
"""Searches of `near_duplicate_pairs`, each with other hash functions: one search misses a pair at the threshold 0.70 with
probability 0.010, all three miss it with probability 1e-6."""


@settings
class NearDuplicatesConfig:
    """The `[near_duplicates]` table of a run's TOML."""

    threshold: Share = 0.70
    """Exact Jaccard similarity of character 5-grams from which two instructions, inputs included, are duplicates."""
    per_template: Count = 3
    """Largest number of rows that differ only in numbers, names or symbols; they share a template and are not duplicates."""
    protect_pool: bool = False
    """Whether rows of the pool are always kept, like seeds; then only generated rows are dropped as duplicates."""


Config = NearDuplicatesConfig


def drop_near_duplicates(table: pl.DataFrame, config: NearDuplicatesConfig, *, seed: int = 0) -> Outcome:
    """Drop every row that matches a kept row; the order of the rows does not matter.

    Rows are kept in this order: seeds, then pool rows, then rows with the longer response, the lower depth, the smaller id.
    Rows that differ in numbers, names or symbols (2 + 3 and 2 * 3, C and C++, the capitals of Kansas and of Arkansas) are
    not duplicates. They share a template, of which at most `per_template` rows are kept.

    Args:
        table: Rows.
        config: The `[near_duplicates]` table.
        seed: Seed of the hash functions.
    """
    rows = best_first(table)
    texts = normal_texts(rows["instruction"], rows["input"])
    selection = _Selection(rows, config)
    copies = _exact_copies(texts.identities(), selection.slots)
    distinct = np.delete(np.arange(len(texts)), np.fromiter(copies, np.int64))
    finder = texts[distinct].match_finder(config.threshold, seed)
    while (step := finder.next_match()) is not None:
        number, matches = step
        if selection.keeps(int(distinct[number]), [replace(m, row=int(distinct[m.row])) for m in matches]):
            finder.keep(number)
    if finder.cut_short:
        logger.warning(
            "near_duplicates: %d times a row was compared with only %d of the rows that share a band with it, because "
            "thousands of rows have the same frame", finder.cut_short, LONGEST_WALK,
        )  # fmt: skip
    return with_verdicts(table, selection.verdicts | selection.verdicts_of_copies(copies))


drop = drop_near_duplicates


def near_duplicate_pairs(rows: pl.DataFrame, threshold: float) -> Iterator[tuple[int, int, float]]:
    """Yield pairs of row numbers, and their similarity, whose instructions and inputs are near-duplicates by `threshold`.

    Unlike `drop_near_duplicates`, numbers and names make no difference, and the default threshold is used if it is lower than
    `threshold`. A pair can come several times. If more than `LONGEST_WALK` rows share a band of hashes, a row is compared
    with so many of them.
    """
    threshold = min(threshold, NearDuplicatesConfig().threshold)
    # A row edited by hand has its input within its instruction, so the rows are also compared as one text each.
    whole = pl.Series(full_instruction(rows), dtype=pl.String)
    nothing = pl.repeat("", rows.height, dtype=pl.String, eager=True)
    for texts in (normal_texts(rows["instruction"], rows["input"]), normal_texts(whole, nothing)):
        for seed in range(DRAWS):
            finder = texts.match_finder(threshold, seed)
            while (step := finder.next_match()) is not None:
                yield from ((step[0], match.row, match.similarity) for match in step[1])
                finder.keep(step[0])


def _exact_copies(identities: pl.Series, slots: SlotsOf) -> dict[int, int]:
    """Return the rows whose normal form and figures equal those of an earlier row, with that row."""
    first: dict[tuple[Any, tuple[str, ...]], int] = {}
    repeated = identities.is_duplicated().arg_true().to_list()
    originals = {at: first.setdefault((identities[at], slots.figures(at)), at) for at in repeated}
    return {at: original for at, original in originals.items() if at != original}


class _Selection:
    """Decides about rows, best first, and remembers the verdicts and the templates."""

    def __init__(self, rows: pl.DataFrame, config: NearDuplicatesConfig) -> None:
        self.verdicts: dict[str, dict[str, Any]] = {}
        self.slots = SlotsOf(rows)
        self._config, self._ids = config, rows["id"].to_list()
        self._protected = rows["source"].is_in(["seed", "pool"] if config.protect_pool else ["seed"]).to_list()
        self._template: dict[int, int] = {}
        """The first row of each row's template; a row without siblings is missing."""
        self._sizes: Counter[int] = Counter()
        self._measures = {
            FIVE_GRAMS: ("character 5-grams", config.threshold),
            FOUR_GRAMS: ("character 4-grams", SHORT_JACCARD),
            SAME_WORDS: ("words in any order", 1.0),
        }

    def keeps(self, row: int, matches: list[Match]) -> bool:
        """Return whether a row that matches kept rows is kept; note its verdict or its template."""
        matches.sort(key=lambda match: match.row)
        duplicates = [match for match in matches if self.slots.are_same(match.row, row)]
        siblings = [match.row for match in matches if not self.slots.are_same(match.row, row)]
        full = [(other, size) for other in siblings if (size := self._size(other)) >= self._config.per_template]
        if duplicates and not self._protected[row]:
            best = max(duplicates, key=lambda match: (match.similarity, -match.row))
            other, (measure, limit) = self._ids[best.row], self._measures[best.measure]
            evidence = f"Jaccard {best.similarity:.2f} of {measure} with {other} (limit {limit:.2f})"
            self.verdicts[self._ids[row]] = verdict("near_duplicate", evidence, best.similarity, limit, other)
            return False
        if full and not self._protected[row]:
            (sibling, count), limit = full[0], float(self._config.per_template)
            other = self._ids[sibling]
            evidence = f"{count} rows like {other} that differ only in numbers, names or symbols are already kept"
            self.verdicts[self._ids[row]] = verdict("template_full", evidence, float(count + 1), limit, other)
            return False
        if siblings:
            template = self._template[row] = self._template.setdefault(siblings[0], siblings[0])
            self._sizes[template] = max(1, self._sizes[template]) + 1
        return True

    def verdicts_of_copies(self, copies: Mapping[int, int]) -> dict[str, dict[str, Any]]:
        """Return the verdicts on exact copies; where the original was dropped, its copies share its verdict."""
        verdicts = {}
        for row, original in copies.items():
            if not self._protected[row]:
                other = self._ids[original]
                evidence = f"same instruction and input as {other}, except for case, punctuation and white space"
                own = verdict("exact_duplicate", evidence, 1.0, self._config.threshold, other)
                verdicts[self._ids[row]] = self.verdicts.get(other, own)
        return verdicts

    def _size(self, row: int) -> int:
        return max(1, self._sizes[self._template.get(row, row)])


def best_first(table: pl.DataFrame) -> pl.DataFrame:
    """Return the rows in the order of preference: seeds, pool, the longer response, the lower depth, the smaller id."""
    rank = pl.col("source").replace_strict({"seed": 0, "pool": 1, "generated": 2}, return_dtype=pl.Int8)
    length = -pl.col("response").str.len_chars().cast(pl.Int64)
    return table.select("id", "source", "instruction", "input", "response", "depth").sort([rank, length, "depth", "id"])


def verdict(reason: str, evidence: str, measured: float, limit: float, twin: str) -> dict[str, Any]:
    """Return a verdict on a row that duplicates another row, for `kiloset.core.table.with_verdicts`."""
    return {"reason": reason, "evidence": evidence, "measured": measured, "limit": limit, "twin": twin}
