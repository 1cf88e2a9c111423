"""Rows that ask for the same thing in other words: compared by sentence embeddings with the rows that are kept, by FAISS.

SemDeDup (Abbas et al. 2023, arXiv:2303.09540) drops what is close in a cluster and keeps the row furthest from its centre.
Here, as among near-duplicates, the best row is kept and a row leaves only for a direct twin that stays. A cosine only proposes
a pair: where an input, a number, a name, a symbol or a word tells two rows apart (`paraphrases.py`), both stay, and the pair is
listed. The result does not depend on the order of the rows.
"""

from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from kiloset.core.config import Share, settings
from kiloset.core.errors import ConfigError
from kiloset.core.models import Embedder
from kiloset.core.table import Outcome, full_instruction, with_verdicts
from kiloset.filters.near_duplicates import best_first, verdict
from kiloset.filters.nearest import EXACT, empty_index, one_thread
from kiloset.filters.paraphrases import difference
from kiloset.filters.slots import SlotsOf

BLOCK = 1024
"""Rows compared at a time."""
NEAREST = 64
"""Kept rows, the nearest, that a row is held against at most: this bounds the work where thousands lie together and yet differ."""
LONGEST = 400
"""Bytes of an instruction, about 65 words, up to which its embedding says what it asks: that of a longer one tells what the text
in it is about, and of 256 tokens on the model reads no further."""
LISTED = 1_000
"""Pairs listed for review, the closest."""
_SLACK = 1e-4
"""Below the limit, where single precision and rounding still leave a pair to be computed exactly."""


@settings
class SemanticConfig:
    """The `[semantic]` table of a run's TOML."""

    enabled: bool = True
    """Whether rows are compared by their embeddings at all."""
    threshold: Share = 0.95
    """Cosine of instruction and input from which two rows that no word tells apart say the same."""
    review: Share = 0.90
    """Cosine from which a pair of kept rows is listed for review, at most `threshold`."""


@dataclass(frozen=True, slots=True)
class Semantic:
    """What comparing rows by their embeddings found."""

    outcome: Outcome
    """Kept rows have the column `nearest_kept_cosine`, see `drop_semantic_duplicates`."""
    borderline: pl.DataFrame
    """Pairs of kept rows, the closest first: `id`, `other`, `cosine`, `why`, `instruction`, `other_instruction`."""
    pairs: int
    """All such pairs; at most `LISTED` of them are listed."""


def check_semantic(config: SemanticConfig) -> None:
    """Check what no single setting shows.

    Raises:
        ConfigError: `review` is above `threshold`.
    """
    if config.review > config.threshold:
        raise ConfigError(
            "KS303", f"[semantic] review must be at most threshold ({config.threshold:g}), got {config.review:g}"
        )


def drop_semantic_duplicates(
    table: pl.DataFrame, embedder: Embedder, config: SemanticConfig, *, protect_pool: bool, seed: int
) -> Semantic:
    """Drop every row that says the same as a kept one; the order of the rows does not matter.

    Kept first: as among near-duplicates. Cosines are those of instruction and input; of two rows with the same input, the
    cosine of the instructions alone where that is less, for a long input outweighs what is asked about it. Rows with another
    input, but for white space, are neither duplicates nor listed.

    Kept rows get the column `nearest_kept_cosine`: with the nearest other kept row of the same input, null below `review`.

    `why` of a pair listed is what tells it apart: `other_slots` (numbers, names, symbols), `long` (see `LONGEST`) or a slug
    of `paraphrases.difference`; else `below_threshold`, or `protected` where a duplicate may not leave.

    Args:
        table: Rows.
        embedder: For instruction and input.
        config: The `[semantic]` table.
        protect_pool: Whether rows of the pool, like seeds, never leave.
        seed: Of k-means, where there are more than `EXACT` rows.
    """
    rows = best_first(table)
    protected = rows["source"].is_in(["seed", "pool"] if protect_pool else ["seed"]).to_numpy()
    walk = _Walk(rows, embedder, config, protected)
    if rows.height > 1:
        _compare(walk, empty_index(walk.vectors, seed))
    nearest = pl.Series(walk.nearest, nan_to_null=True)
    found = rows.select("id", nearest_kept_cosine=nearest)
    outcome = with_verdicts(table.join(found, on="id", how="left", maintain_order="left"), walk.verdicts)
    return Semantic(outcome, walk.borderline(), walk.pairs)


def _compare(walk: "_Walk", index: Any) -> None:
    """Go through the rows, best first, block by block: each against the kept ones of the blocks before and of its own."""
    floor = walk.config.review - _SLACK
    held = np.empty(0, np.int64)  # (kept,) row of each vector in the index
    with one_thread() if len(walk.vectors) <= EXACT else nullcontext():
        for begin in range(0, len(walk.vectors), BLOCK):
            vectors = walk.vectors[begin : begin + BLOCK]
            cosines, places = np.zeros((len(vectors), 0)), np.zeros((len(vectors), 0), np.int64)
            if len(held):
                cosines, places = index.search(vectors, min(NEAREST, len(held)))
            among = np.tril(vectors @ vectors.T, -1)
            stays = np.ones(len(vectors), np.bool_)
            close = (cosines.max(axis=1, initial=-1.0) >= floor) | (among.max(axis=1) >= floor)
            for at in np.flatnonzero(close):
                before = begin + np.flatnonzero((among[at] >= floor) & stays)
                others = np.concatenate([held[places[at][cosines[at] >= floor]], before])
                stays[at] = walk.stays(begin + int(at), others)
            index.add(vectors[stays])
            held = np.concatenate([held, begin + np.flatnonzero(stays)])


class _Walk:
    """Decides of each row, best first, whether it stays, and remembers what is close."""

    def __init__(
        self, rows: pl.DataFrame, embedder: Embedder, config: SemanticConfig, protected: NDArray[np.bool_]
    ) -> None:
        self.config = config
        self.vectors = embedder.embed(full_instruction(rows))  # (rows, dims) float32, rows of length 1
        self.nearest = np.full(rows.height, np.nan)  # (rows,) cosine with the nearest kept row
        self.verdicts: dict[str, dict[str, Any]] = {}
        self.pairs = 0
        self._ids, self._instructions, self._protected = rows["id"], rows["instruction"], protected
        self._slots = SlotsOf(rows)
        self._is_long = (rows["instruction"].str.len_bytes() > LONGEST).to_numpy()
        given = rows["input"].str.replace_all(r"\s+", " ").str.strip_chars()
        self._inputs = given.rank("dense").to_numpy()  # (rows,) equal where inputs are
        # Rows whose input another one has, and their instructions' own vectors.
        self._asking = ((given != "") & given.is_duplicated()).arg_true().to_numpy()
        self._asked = embedder.embed(rows["instruction"].gather(self._asking).to_list())
        self._listed: list[tuple[float, int, int]] = []

    def stays(self, row: int, others: NDArray[np.int64]) -> bool:
        """Hold a row against kept ones near it."""
        others = others[self._inputs[others] == self._inputs[row]]
        cosines = self._cosines(row, others)
        order = np.lexsort((others, -cosines))[:NEAREST]
        near = [(float(cosines[at]), int(others[at])) for at in order if cosines[at] >= self.config.review]
        if not near:
            return True
        self.nearest[row] = near[0][0]
        if not self._protected[row]:
            same = (
                pair for pair in near if pair[0] >= self.config.threshold and self._difference(row, pair[1]) is None
            )
            for cosine, other in same:
                evidence = f"cosine {cosine:.4g} with {self._ids[other]} (limit {self.config.threshold:g})"
                self.verdicts[self._ids[row]] = verdict(
                    "semantic_duplicate", evidence, cosine, self.config.threshold, self._ids[other]
                )
                return False
        for cosine, other in near:
            self.nearest[other] = np.fmax(self.nearest[other], cosine)
            self._listed.append((-cosine, other, row))
        self.pairs += len(near)
        if len(self._listed) > 100 * LISTED:
            self._listed = sorted(self._listed)[:LISTED]
        return True

    def borderline(self) -> pl.DataFrame:
        """Return the closest pairs of kept rows."""
        found = []
        for negative, other, row in sorted(self._listed)[:LISTED]:
            close = "protected" if -negative >= self.config.threshold else "below_threshold"
            pair = (self._ids[row], self._ids[other], -negative, self._difference(row, other) or close)
            found.append((*pair, self._instructions[row], self._instructions[other]))
        kinds = dict.fromkeys(("id", "other", "cosine", "why", "instruction", "other_instruction"), pl.String())
        return pl.DataFrame(found, schema=kinds | {"cosine": pl.Float64()}, orient="row")

    def _cosines(self, row: int, others: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the cosines by which pairs are judged, to 4 digits, in double precision: no block shows in the last one."""
        cosines = self.vectors[others].astype(np.float64) @ self.vectors[row].astype(np.float64)
        at = np.searchsorted(self._asking, row)
        if at < len(self._asking) and self._asking[at] == row:
            places = np.searchsorted(self._asking, others)
            asked = self._asked[places].astype(np.float64) @ self._asked[at].astype(np.float64)
            cosines = np.minimum(cosines, asked)
        return np.asarray(np.round(cosines, 4))

    def _difference(self, row: int, other: int) -> str | None:
        """Return what tells two rows of the same input apart."""
        if self._is_long[row] or self._is_long[other]:
            return "long"
        if not self._slots.are_same(row, other):
            return "other_slots"
        return difference(self._instructions[row], self._instructions[other])
