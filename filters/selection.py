"""Select the wanted number of rows of each category, spread over clusters.

The method clusters the sentence embeddings of each category with spherical k-means, so that more candidates in one category
leave the choice in the others as it is. Each cluster gets a quota in proportion to the square root of its size. Within a
cluster the rows of the best quality come first, and a row that is too close to one already taken is passed over (DEITA's
filter, arXiv:2312.15685; we compare with the taken rows of all categories, by cosine). `select.selector` names
baselines to compare the method with.
"""

import hashlib
import heapq
import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import Field

from kiloset.core.config import Fraction, Natural, Share, settings
from kiloset.core.models import Embedder
from kiloset.core.review import accepted_surplus, is_accepted, is_rejected
from kiloset.core.table import STAGE_VERDICT, Outcome, full_instruction
from kiloset.filters.diversity import diversity
from kiloset.filters.nearest import cluster

JUDGED = 512
"""Rows compared with the selected ones at a time, at most."""


@settings
class SelectConfig:
    """The `[select]` table of a run's TOML."""

    selector: Literal["balanced", "random", "longest", "quality"] = "balanced"
    """How a category's rows are chosen: `balanced` is the method of this table; the others are baselines that take the wanted
    number and no reserve: `random`, `longest` (most words in the response), `quality` (highest)."""
    clusters: Natural = 0
    """Clusters in each category; 0 takes a tenth of its wanted rows, at least 2, but at most an eighth of its candidates."""
    temper: Fraction = 0.5
    """A cluster's quota grows with its size to this power, in [0, 1]; 0 is equal shares, 1 is proportional."""
    max_cosine: Share = 0.90
    """Cosine with a taken row from which a row is too similar to be taken."""
    reserve: Annotated[float, Field(ge=0, le=100)] = 0.15
    """Rows taken beyond the wanted number, as a fraction of it in [0, 100], for the style stage to choose from."""

    def rows(self, wanted: int) -> int:
        """Return how many rows are taken where `wanted` are: these and the reserve."""
        return wanted + (math.ceil(wanted * self.reserve - 1e-9) if self.selector == "balanced" else 0)


def select(
    table: pl.DataFrame, embedder: Embedder, wanted: Mapping[str, int], config: SelectConfig, *, seed: int, fill: bool
) -> Outcome:
    """Keep `wanted` rows of each category and the reserve; add `cluster`, and `nearest_cosine` to the selected rows.

    Both columns are null with another selector than `balanced`. The result depends on the rows' ids, not on their order. The note
    `diversity` compares the candidates, the selected rows and as many random ones (`kiloset.filters.diversity`), in the same
    clusters for every selector.

    Rows that a reviewer accepted (column `review`) are selected first, whatever their rank, and count for their category. Rows
    that he rejected are not selected, but they keep their place in the clusters and still exclude rows that are too
    similar to them, so that one row replaces each of them and the rest of the selection stays.

    Args:
        table: Candidates with the columns `quality` and, for the selector `longest`, `response_words`.
        embedder: Embeds instruction and input.
        wanted: Rows of each category.
        config: The `[select]` table.
        seed: Seed of k-means and of the selector `random`.
        fill: Whether rows of other categories replace what one category lacks.
    """
    unwanted = _unwanted(table, wanted)
    known = table.select("id", "category").with_row_index("place")
    # Clusters depend on the order in which k-means is given its rows.
    known = known.join(unwanted, on="place", how="anti").sort("id")
    if known.is_empty():
        return _outcome(table, unwanted, {})
    candidates = table[known["place"]]
    vectors = embedder.embed(full_instruction(candidates))  # (candidates, dims), rows of length 1
    labels = _labels(candidates["category"], vectors, wanted, config, seed)
    known = known.with_columns(
        cluster=labels,
        is_accepted=is_accepted(candidates),
        rejected=is_rejected(candidates),
        surplus=pl.lit(accepted_surplus(candidates, wanted)),
    ).with_row_index("row")  # of `vectors`; `place` is that of `table`
    if config.selector == "balanced":
        ranked = known.with_columns(quality=candidates["quality"].cast(pl.Float64)).sort(-pl.col("quality"), "id")
        verdicts = _verdicts(ranked, _pick(ranked, vectors, wanted, config, fill=fill), config.max_cosine)
    else:
        ranked = known.with_columns(rank=_ranks(candidates, config.selector, seed)).sort("rank", "id")
        verdicts = _baseline(ranked, wanted, config.selector, fill=fill)
    taken = verdicts.filter(pl.col("reason").is_null())["row"].sort().to_numpy().astype(np.int64)
    figures = diversity(vectors, taken, seed, labels)
    return _outcome(table, pl.concat([unwanted, _with_rejected(verdicts, table)], how="diagonal"), figures)


def cluster_count(wanted: int, candidates: int) -> int:
    """Return how many clusters a category has: a tenth of its wanted rows, at least 2, but at most an eighth of its candidates.

    So a tenth of the budget over the whole set, as if all were clustered at once. FAISS advises 39 rows a cluster; with an
    eighth, 8 at least, a category of twenty candidates still has two. One where there are fewer than 16.
    """
    return max(1, min(max(2, wanted // 10), candidates // 8))


def tempered_quotas(sizes: Mapping[int, int], total: int, temper: float) -> dict[int, int]:
    """Divide `total` over clusters in proportion to size ** temper, none above its size; what one cannot use goes round.

    At least one each while there is one, the largest first; ties go to the smaller label.
    """
    quotas = dict.fromkeys(sizes, 0)

    def turn(label: int) -> tuple[bool, float, int]:
        # Whoever has none comes first; then who is furthest below its share (Sainte-Laguë's divisors).
        return quotas[label] > 0, (2 * quotas[label] + 1) / sizes[label] ** temper, label

    turns = [turn(label) for label, size in sizes.items() if size]
    heapq.heapify(turns)
    for _ in range(min(total, sum(sizes.values()))):
        label = turns[0][2]
        quotas[label] += 1
        if quotas[label] < sizes[label]:
            heapq.heapreplace(turns, turn(label))
        else:
            heapq.heappop(turns)
    return quotas


class _Picker:
    """The rows selected so far, and the nearest one of each row that was compared with them."""

    def __init__(self, vectors: NDArray[np.float32], most: int, max_cosine: float, rejected: NDArray[np.int64]) -> None:
        self.vectors, self.max_cosine = vectors, max_cosine
        self.is_taken = np.zeros(len(vectors), np.bool_)
        self._rejected = np.zeros(len(vectors), np.bool_)
        self._rejected[rejected] = True
        self.nearest = np.full(len(vectors), np.nan)  # (rows,) cosine with the nearest taken before; NaN: not compared
        self.twin = np.zeros(len(vectors), np.int64)  # (rows,) that nearest row, where `nearest` is a number
        self.taken = self._holds = 0
        most += len(rejected)
        self._rows = np.empty(most, np.int64)  # (most,) those taken or rejected, in order; their vectors lie together
        self._held = np.empty((most, vectors.shape[1]), np.float32)

    def pin(self, rows: NDArray[np.int64]) -> None:
        """Take these rows, however similar."""
        for row in rows:
            self._hold(row)

    def _hold(self, row: int) -> None:
        self._rows[self._holds], self._held[self._holds] = row, self.vectors[row]
        self._holds += 1
        if not self._rejected[row]:
            self.is_taken[row] = True
            self.taken += 1

    def take(self, rows: NDArray[np.int64], count: int) -> None:
        """Take the first `count` rows that are not too similar to one taken."""
        rows = rows[~self.is_taken[rows] & np.isnan(self.nearest[rows])]
        full, size = self.taken + count, 2 * count
        while len(rows) and self.taken < full:
            self._judge(rows[: min(size, JUDGED)], full)
            rows, size = rows[min(size, JUDGED) :], 2 * size

    def _judge(self, rows: NDArray[np.int64], full: int) -> None:
        vectors = self.vectors[rows]
        among = vectors @ vectors.T
        cosines, nearest = np.full(len(rows), -np.inf, np.float32), np.zeros(len(rows), np.int64)
        if self._holds:
            held = vectors @ self._held[: self._holds].T
            at = held.argmax(axis=1)
            cosines, nearest = held[np.arange(len(rows)), at], self._rows[at]
        for at, row in enumerate(rows):
            if self._holds:
                # In double precision, so that the block a row is judged in does not show in the last digit.
                cosine = float(vectors[at].astype(np.float64) @ self.vectors[nearest[at]].astype(np.float64))
                self.nearest[row], self.twin[row] = round(cosine, 4), nearest[at]
                if self.nearest[row] >= self.max_cosine:
                    continue
            self._hold(row)
            if self.taken == full:
                return
            closer = among[at] > cosines
            cosines[closer], nearest[closer] = among[at, closer], row


def _pick(
    ranked: pl.DataFrame, vectors: NDArray[np.float32], wanted: Mapping[str, int], config: SelectConfig, *, fill: bool
) -> _Picker:
    """Take the accepted rows, then each category's rows cluster by cluster, then its best others; to fill, the best others of all."""
    pinned = ranked.filter("is_accepted")
    most = min(ranked.height, sum(map(config.rows, wanted.values())) + pinned.height)
    pick = _Picker(vectors, most, config.max_cosine, ranked.filter("rejected")["row"].to_numpy().astype(np.int64))
    pick.pin(pinned["row"].to_numpy().astype(np.int64))
    for category in sorted(wanted):
        rows = ranked.filter(pl.col("category") == category).select("cluster", "row", "is_accepted")
        clusters = {label: part for (label,), part in rows.group_by("cluster", maintain_order=True)}
        sizes = {label: clusters[label].height for label in sorted(clusters)}
        full = pick.taken + config.rows(wanted[category]) - int(rows["is_accepted"].sum())
        for label, quota in tempered_quotas(sizes, config.rows(wanted[category]), config.temper).items():
            missing = min(quota - int(clusters[label]["is_accepted"].sum()), full - pick.taken)
            pick.take(clusters[label]["row"].to_numpy(), missing)
        pick.take(rows["row"].to_numpy(), full - pick.taken)
    if fill:
        pick.take(ranked["row"].to_numpy(), sum(wanted.values()) + ranked["surplus"][0] - pick.taken)
    return pick


def _with_rejected(verdicts: pl.DataFrame, table: pl.DataFrame) -> pl.DataFrame:
    """Give the rows that a reviewer rejected the reason `rejected_in_review`."""
    if "review_reason" not in table.columns:
        return verdicts
    known = table.select("review_reason").with_row_index("place").filter(is_rejected(table))
    why = pl.format("rejected in review: {}", pl.col("review_reason").replace("", "no reason given"))
    rejected = known.select("place", reason=pl.lit("rejected_in_review"), evidence=why)
    others = verdicts.join(rejected, on="place", how="anti")
    return pl.concat([others, rejected.join(verdicts.select("place"), on="place", how="semi")], how="diagonal")


def _verdicts(ranked: pl.DataFrame, pick: _Picker, max_cosine: float) -> pl.DataFrame:
    """Return the cluster of every row, and the reason of every row that was not selected."""
    rows = ranked["row"].to_numpy()
    judged = ranked.with_columns(
        number=pl.int_range(1, pl.len() + 1).over("cluster"), taken=pl.Series(pick.is_taken[rows]),
        cosine=pl.Series(pick.nearest[rows], nan_to_null=True), twin=ranked.sort("row")["id"].gather(pick.twin[rows]),
    ).with_columns(share=pl.col("taken").sum().over("cluster"))  # fmt: skip
    taken = judged.filter("taken").select("place", "row", "cluster", nearest_cosine="cosine")
    others = judged.filter(~pl.col("taken"))
    # Polars writes no fixed number of decimals.
    texts = [f"{value:.2f}" for value in others.select(pl.coalesce("cosine", "quality")).to_series()]
    others = others.with_columns(number_text=pl.Series(texts, dtype=pl.String))
    similar = others.filter(pl.col("cosine").is_not_null()).select(
        "place", "row", "cluster", "twin", reason=pl.lit("too_similar"), measured="cosine", limit=pl.lit(max_cosine),
        evidence=pl.format(f"cosine {{}} with {{}}, which was taken (limit {max_cosine:.2f})", "number_text", "twin"),
    )  # fmt: skip
    evidence = "number {} by quality ({}) in cluster {} of {}, from which {} were taken"
    over = others.filter(pl.col("cosine").is_null()).select(
        "place", "row", "cluster", reason=pl.lit("over_quota"), measured=pl.col("number").cast(pl.Float64),
        limit=pl.col("share").cast(pl.Float64), evidence=pl.format(evidence, "number", "number_text", "cluster", "category", "share"),
    )  # fmt: skip
    return pl.concat([taken, similar, over], how="diagonal")


def _ranks(candidates: pl.DataFrame, selector: str, seed: int) -> pl.Series:
    """Return what a baseline sorts by, the least first."""
    if selector == "random":
        chance = [hashlib.sha256(f"{seed}/select/{id}".encode()).digest() for id in candidates["id"]]
        return pl.Series(chance, dtype=pl.Binary)
    return -candidates["response_words" if selector == "longest" else "quality"].cast(pl.Float64)


def _baseline(ranked: pl.DataFrame, wanted: Mapping[str, int], selector: str, *, fill: bool) -> pl.DataFrame:
    """Return the reason of all rows but the first ones of each category, by their rank."""
    quota = pl.col("category").replace_strict(dict(wanted), default=0, return_dtype=pl.Int64)
    order = ranked.sort(pl.col("rejected"), ~pl.col("is_accepted"), maintain_order=True)
    judged = order.with_columns(number=pl.int_range(1, pl.len() + 1).over("category"))
    judged = judged.with_columns(taken=pl.col("is_accepted") | ((pl.col("number") <= quota) & ~pl.col("rejected")))
    if fill and judged.height:
        short = sum(wanted.values()) + judged["surplus"][0] - int(judged["taken"].sum())
        free = ~pl.col("taken") & ~pl.col("rejected")
        judged = judged.with_columns(pl.col("taken") | (free & (free.cum_sum() <= short)))
    judged = judged.with_columns(share=pl.col("taken").sum().over("category"))
    evidence = f"number {{}} of {{}} by selector {selector}, of which {{}} were taken"
    others = judged.filter(~pl.col("taken")).select(
        "place", "row", reason=pl.lit("over_quota"), measured=pl.col("number").cast(pl.Float64),
        limit=pl.col("share").cast(pl.Float64), evidence=pl.format(evidence, "number", "category", "share"),
    )  # fmt: skip
    return pl.concat([judged.filter("taken").select("place", "row"), others], how="diagonal")


def _labels(
    categories: pl.Series, vectors: NDArray[np.float32], wanted: Mapping[str, int], config: SelectConfig, seed: int
) -> NDArray[np.int32]:
    """Return each row's cluster; no two categories share one."""
    labels = np.zeros(len(categories), np.int32)
    first = 0
    for category in sorted(categories.unique()):
        rows = (categories == category).arg_true().to_numpy().astype(np.int64)
        count = config.clusters or cluster_count(wanted.get(category, 0), len(rows))
        labels[rows] = first + cluster(vectors, rows, min(len(rows), count), seed)
        first = int(labels[rows].max()) + 1
    return labels


def _unwanted(table: pl.DataFrame, wanted: Mapping[str, int]) -> pl.DataFrame:
    """Return the verdicts of rows whose category is not wanted; a row that a reviewer accepted is always a candidate."""
    rows = table.select("category").with_row_index("place").filter(~is_accepted(table))
    return rows.filter(~pl.col("category").is_in(list(wanted))).select(
        "place", reason=pl.lit("category_not_wanted"), evidence=pl.format("no row of {} is wanted", "category")
    )


def _outcome(table: pl.DataFrame, verdicts: pl.DataFrame, figures: dict[str, Any]) -> Outcome:
    """Split a table by the verdict on each place; rows without a reason are kept."""
    kinds = {"place": pl.UInt32, "cluster": pl.Int32, "nearest_cosine": pl.Float64, **STAGE_VERDICT}
    every = pl.concat([pl.DataFrame(schema=kinds), verdicts], how="diagonal").select(*kinds).sort("place").drop("place")
    whole, dropped = table.with_columns(every.get_columns()), every["reason"].is_not_null()
    kept = whole.filter(~dropped).drop(*STAGE_VERDICT)
    return Outcome(kept, whole.filter(dropped), notes={"diversity": figures})
