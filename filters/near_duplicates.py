"""Exact and near duplicates among instructions.

`minhash.py` finds, for each row, the kept ones whose text is alike; what a pair is, is decided here. No text is ever
dropped for being short. No transitive closure: a row leaves only for a direct twin that stays. The result does not depend
on the order of the rows.
"""

import logging
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from kiloset.core.config import Count, Share, settings
from kiloset.core.table import Outcome, full_instruction, with_verdicts
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
    """Most rows that differ in their numbers, names or symbols only; they are one template, not duplicates."""
    protect_pool: bool = False
    """Whether rows of the pool, like seeds, never leave here: then a duplicate only ever costs new rows."""


def drop_near_duplicates(table: pl.DataFrame, config: NearDuplicatesConfig, *, seed: int) -> Outcome:
    """Drop every row with a direct twin that is kept; the order of the rows does not matter.

    Kept first: seeds, then pool rows, then the longer response, the lower depth, the smaller id. Rows whose numbers,
    names or symbols differ (2 + 3 and 2 * 3, C and C++, the capitals of Kansas and of Arkansas) are no duplicates; of each
    such template at most `per_template` stay.

    Args:
        table: Rows.
        config: The `[near_duplicates]` table.
        seed: Of the hash functions.
    """
    from kiloset.filters.minhash import normal_texts

    rows = best_first(table)
    texts = normal_texts(rows["instruction"], rows["input"])
    protected = rows["source"].is_in(["seed", "pool"] if config.protect_pool else ["seed"]).to_numpy()
    ids, slots = rows["id"].to_list(), SlotsOf(rows)
    verdicts: dict[str, dict[str, Any]] = {}
    copies = _exact_copies(texts.hashes, slots)
    distinct = np.delete(np.arange(len(texts)), np.fromiter(copies, np.int64))
    _drop_near(texts[distinct], distinct, ids, slots, protected, config, seed, verdicts)
    for at, first in copies.items():
        if not protected[at]:
            # Where the first one left itself, its copies leave for the same twin.
            evidence = f"same instruction and input as {ids[first]}, but for case, punctuation and white space"
            own = verdict("exact_duplicate", evidence, 1.0, config.threshold, ids[first])
            verdicts[ids[at]] = verdicts.get(ids[first], own)
    return with_verdicts(table, verdicts)


def near_duplicate_pairs(rows: pl.DataFrame, threshold: float) -> Iterator[tuple[int, int]]:
    """Yield pairs of row numbers whose instructions and inputs have an exact Jaccard similarity of at least `threshold`.

    Unlike `drop_near_duplicates`, numbers and names make no difference, and the default threshold is used if it is lower than
    `threshold`. A pair can come several times. If more than 2,000 rows share a band of hashes, a row is compared with 2,000.
    """
    from kiloset.filters.minhash import Walk, normal_texts

    threshold = min(threshold, NearDuplicatesConfig().threshold)
    # A row edited by hand has its input within its instruction, so the rows are also compared as one text each.
    whole = pl.Series(full_instruction(rows), dtype=pl.String)
    nothing = pl.repeat("", rows.height, dtype=pl.String, eager=True)
    for texts in (normal_texts(rows["instruction"], rows["input"]), normal_texts(whole, nothing)):
        for seed in range(DRAWS):
            walk = Walk(texts, threshold, seed)
            while (step := walk.step()) is not None:
                yield from ((step[0], like.row) for like in step[1])
                walk.keep(step[0])


def _exact_copies(hashes: NDArray[np.uint64], slots: SlotsOf) -> dict[int, int]:
    """Return the rows whose normal form and figures a row before them has, and that row."""
    first: dict[tuple[int, tuple[str, ...]], int] = {}
    repeated = pl.Series(hashes).is_duplicated().arg_true().to_list()
    found = {at: first.setdefault((int(hashes[at]), slots.figures(at)), at) for at in repeated}
    return {at: twin for at, twin in found.items() if at != twin}


def _drop_near(
    texts: Any, rows: NDArray[np.int64], ids: list[str], slots: SlotsOf, protected: NDArray[np.bool_],
    config: NearDuplicatesConfig, seed: int, verdicts: dict[str, dict[str, Any]],
) -> None:  # fmt: skip
    """Walk through the rows, best first; drop those with a twin already kept, and templates beyond their share."""
    from kiloset.filters.minhash import FIVE_GRAMS, FOUR_GRAMS, LONGEST_WALK, SAME_WORDS, SHORT_JACCARD, Like, Walk

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
        twins: list[Like] = []
        siblings: list[Like] = []
        for like in alike:
            (twins if slots.are_same(int(rows[like.row]), at) else siblings).append(like)
        sizes = [max(1, members[group.get(like.row, like.row)]) for like in siblings]
        full = [(like, size) for like, size in zip(siblings, sizes, strict=True) if size >= config.per_template]
        if twins and not protected[at]:
            best = max(twins, key=lambda like: (like.value, -like.row))
            other, (measure, limit) = ids[int(rows[best.row])], said[best.measure]
            evidence = f"Jaccard {best.value:.2f} of {measure} with {other} (limit {limit:.2f})"
            verdicts[ids[at]] = verdict("near_duplicate", evidence, best.value, limit, other)
        elif full and not protected[at]:
            sibling, count = full[0]
            other = ids[int(rows[sibling.row])]
            evidence = f"{count} rows like {other} that differ in numbers, names or symbols only are kept already"
            verdicts[ids[at]] = verdict("template_full", evidence, float(count + 1), float(config.per_template), other)
        else:
            if siblings:
                first = siblings[0].row
                group[number] = group.setdefault(first, first)
                members[group[number]] = max(1, members[group[number]]) + 1
            walk.keep(number)
    if walk.cut_short:
        logger.warning(
            "near_duplicates: %d times a row was compared with only %d of the rows that share a band with it, because "
            "thousands of rows do",
            walk.cut_short, LONGEST_WALK,
        )  # fmt: skip


def best_first(table: pl.DataFrame) -> pl.DataFrame:
    """Return rows in the order in which they are kept: seeds, pool, the longer response, the lower depth, the smaller id."""
    rank = pl.col("source").replace_strict({"seed": 0, "pool": 1, "generated": 2}, return_dtype=pl.Int8)
    length = -pl.col("response").str.len_chars().cast(pl.Int64)
    return table.select("id", "source", "instruction", "input", "response", "depth").sort([rank, length, "depth", "id"])


def verdict(reason: str, evidence: str, measured: float, limit: float, twin: str) -> dict[str, Any]:
    """Return what `kiloset.core.table.with_verdicts` takes of a row that left for another one."""
    return {"reason": reason, "evidence": evidence, "measured": measured, "limit": limit, "twin": twin}
