"""Drop rows that paraphrase a kept row, found by sentence embeddings and FAISS.

SemDeDup (Abbas et al., "SemDeDup: Data-efficient learning at web-scale through semantic deduplication", 2023,
arXiv:2303.09540) keeps, of close rows in a cluster, the row furthest from the centre. Here, as with near-duplicates, the best row
is kept and a row is dropped only for a kept row that is close itself. A cosine only proposes a pair: if the two rows differ in an
input, a number, a name, a symbol or a decisive word (`paraphrases.py`), both are kept and the pair is listed for review. The
result does not depend on the order of the rows.
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
"""Nearest kept rows that a row is compared with at most; bounds the work where thousands of different rows are close."""
LONGEST = 400
"""Bytes of an instruction, about 65 words, up to which its embedding represents the task. The embedding of a longer instruction
represents the topic of the text in it, and the model does not read beyond 256 tokens."""
LISTED = 1_000
"""Number of closest pairs listed for review."""
_SLACK = 1e-4
"""How far below a limit a cosine in single precision may be for a pair that is then computed exactly."""


@settings
class SemanticConfig:
    """The `[semantic]` table of a run's TOML."""

    enabled: bool = True
    """Whether rows are compared by their embeddings at all."""
    threshold: Share = 0.95
    """Cosine of instruction and input from which two rows without a decisive difference are duplicates."""
    review: Share = 0.90
    """Cosine from which a pair of kept rows is listed for review, at most `threshold`."""


Config = SemanticConfig


@dataclass(frozen=True, slots=True)
class Semantic:
    """The result of comparing rows by their embeddings."""

    outcome: Outcome
    """Kept rows have the column `nearest_kept_cosine`, see `drop_semantic_duplicates`."""
    borderline: pl.DataFrame
    """Pairs of kept rows, the closest first: `id`, `other`, `cosine`, `why`, `instruction`, `other_instruction`."""
    pairs: int
    """Number of such pairs; at most `LISTED` of them are listed."""


def check_semantic(config: SemanticConfig) -> None:
    """Check settings that depend on each other.

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
    """Drop every row that paraphrases a kept row; the order of the rows does not matter.

    Rows are kept in the order of `near_duplicates.best_first`. The cosine of two rows is the cosine of instruction and input.
    If they share an input, it is the cosine of the instructions alone if that is less, because a long input outweighs the
    task. Rows with different inputs, except for white space, are neither duplicates nor listed.

    Kept rows get the column `nearest_kept_cosine`: the cosine with the nearest other kept row of the same input, or null if
    it is below `review`.

    `why` of a listed pair is the difference of its rows: `other_slots` (numbers, names, symbols), `long` (see `LONGEST`) or a
    slug of `paraphrases.difference`; else `below_threshold`, or `protected` if the duplicate must be kept.

    Args:
        table: Rows.
        embedder: Embeds instructions and inputs.
        config: The `[semantic]` table.
        protect_pool: Whether rows of the pool are always kept, like seeds.
        seed: Seed of k-means, which is used for more than `EXACT` rows.
    """
    rows = best_first(table)
    protected = rows["source"].is_in(["seed", "pool"] if protect_pool else ["seed"]).to_numpy()
    walk = _Walk(rows, embedder, config, protected)
    if rows.height > 1:
        _compare(walk, empty_index(walk.vectors, seed))
    nearest = pl.Series(walk.nearest, nan_to_null=True)
    cosines = rows.select("id", nearest_kept_cosine=nearest)
    outcome = with_verdicts(table.join(cosines, on="id", how="left", maintain_order="left"), walk.verdicts)
    return Semantic(outcome, walk.borderline(), walk.pairs)


def drop(
    table: pl.DataFrame,
    embedder: Embedder,
    config: SemanticConfig | None = None,
    *,
    protect_pool: bool = False,
    seed: int = 0,
) -> Outcome:
    """Drop every row that paraphrases a kept row; see `drop_semantic_duplicates`."""
    config = config or SemanticConfig()
    return drop_semantic_duplicates(table, embedder, config, protect_pool=protect_pool, seed=seed).outcome


def _compare(walk: "_Walk", index: Any) -> None:
    """Compare each row, best first and block by block, with the kept rows of earlier blocks and of its own block."""
    floor = walk.config.review - _SLACK
    indexed = np.empty(0, np.int64)  # (kept,) row of each vector in the index
    with one_thread() if len(walk.vectors) <= EXACT else nullcontext():
        for begin in range(0, len(walk.vectors), BLOCK):
            vectors = walk.vectors[begin : begin + BLOCK]
            cosines, places = np.zeros((len(vectors), 0)), np.zeros((len(vectors), 0), np.int64)
            if len(indexed):
                cosines, places = index.search(vectors, min(NEAREST, len(indexed)))
            among = np.tril(vectors @ vectors.T, -1)
            kept = np.ones(len(vectors), np.bool_)
            close = (cosines.max(axis=1, initial=-1.0) >= floor) | (among.max(axis=1) >= floor)
            for at in np.flatnonzero(close):
                before = begin + np.flatnonzero((among[at] >= floor) & kept)
                others = np.concatenate([indexed[places[at][cosines[at] >= floor]], before])
                kept[at] = walk.keeps(begin + int(at), others)
            index.add(vectors[kept])
            indexed = np.concatenate([indexed, begin + np.flatnonzero(kept)])


class _Walk:
    """Decides, best first, whether each row is kept, and remembers the close pairs."""

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
        inputs = rows["input"].str.replace_all(r"\s+", " ").str.strip_chars()
        self._inputs = inputs.rank("dense").to_numpy()  # (rows,) equal where inputs are equal
        # Rows that share their input with another row, and the vectors of their instructions alone.
        self._sharing = ((inputs != "") & inputs.is_duplicated()).arg_true().to_numpy()
        self._alone = embedder.embed(rows["instruction"].gather(self._sharing).to_list())
        self._listed: list[tuple[float, int, int]] = []

    def keeps(self, row: int, others: NDArray[np.int64]) -> bool:
        """Return whether a row is kept, given the kept rows near it; note its verdict or the close pairs."""
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
        pairs = []
        for negative, other, row in sorted(self._listed)[:LISTED]:
            close = "protected" if -negative >= self.config.threshold else "below_threshold"
            pair = (self._ids[row], self._ids[other], -negative, self._difference(row, other) or close)
            pairs.append((*pair, self._instructions[row], self._instructions[other]))
        kinds = dict.fromkeys(("id", "other", "cosine", "why", "instruction", "other_instruction"), pl.String())
        return pl.DataFrame(pairs, schema=kinds | {"cosine": pl.Float64()}, orient="row")

    def _cosines(self, row: int, others: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the cosines that decide, in double precision and rounded to 4 digits, so that blocks do not change them."""
        cosines = self.vectors[others].astype(np.float64) @ self.vectors[row].astype(np.float64)
        at = np.searchsorted(self._sharing, row)
        if at < len(self._sharing) and self._sharing[at] == row:
            places = np.searchsorted(self._sharing, others)
            alone = self._alone[places].astype(np.float64) @ self._alone[at].astype(np.float64)
            cosines = np.minimum(cosines, alone)
        return np.asarray(np.round(cosines, 4))

    def _difference(self, row: int, other: int) -> str | None:
        """Return the difference of two rows with the same input, or None."""
        if self._is_long[row] or self._is_long[other]:
            return "long"
        if not self._slots.are_same(row, other):
            return "other_slots"
        return difference(self._instructions[row], self._instructions[other])
