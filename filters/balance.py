"""Select the wanted number of rows of each category, spread over clusters; the only file that imports faiss.

Spherical k-means on sentence embeddings within each category, so that more candidates in one leave the choice in the others
as it is; quotas per cluster in proportion to the square root of its size, within a
cluster the best quality first, and nothing too close to what is taken already (DEITA's filter, arXiv:2312.15685, but
against *taken* rows and on cosine similarity). Baselines to hold that against are one word away: `balance.selector`.
"""

import hashlib
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import Field

from core.config import Fraction, Natural, Share, settings
from core.models import Embedder
from core.table import Outcome, full_instruction, with_verdicts
from filters.diversity import diversity


@settings
class BalanceConfig:
    """The `[balance]` table of a run's TOML."""

    selector: Literal["balanced", "random", "longest", "quality"] = "balanced"
    """How a category's rows are chosen: `balanced` is the method of this table; the others are baselines that take the wanted
    number and no reserve: `random`, `longest` (most words in the response), `quality` (highest)."""
    clusters: Natural = 0
    """Clusters in each category; 0 takes a tenth of its wanted rows, at least 2, at most an eighth of its candidates."""
    temper: Fraction = 0.5
    """A cluster's quota grows with its size to this power, in [0, 1]; 0 is equal shares, 1 is proportional."""
    max_cosine: Share = 0.90
    """Cosine with a taken row from which a row is too similar to be taken."""
    reserve: Annotated[float, Field(ge=0, le=100)] = 0.15
    """Rows taken beyond the wanted number, as a fraction of it in [0, 100], for the style stage to choose from."""

    def rows(self, wanted: int) -> int:
        """Return how many rows are taken where `wanted` are: these and the reserve."""
        return wanted + (math.ceil(wanted * self.reserve - 1e-9) if self.selector == "balanced" else 0)


def balance(
    table: pl.DataFrame, embedder: Embedder, wanted: Mapping[str, int], config: BalanceConfig,
    *, seed: int, seeds_in_set: bool, fill: bool, figures: dict[str, Any] | None = None,
) -> Outcome:  # fmt: skip
    """Keep `wanted` rows of each category and the reserve; add the column `cluster`, and `nearest_cosine` to taken rows.

    Both are null with another selector than `balanced`.

    Args:
        table: Candidates with the columns `quality` and, for the selector `longest`, `response_words`.
        embedder: For instruction and input.
        wanted: Rows of each category.
        config: The `[balance]` table.
        seed: Of k-means, and of the selector `random`.
        seeds_in_set: Whether seeds may be taken; otherwise they leave as `seed_kept_apart`.
        fill: Whether other categories make up for one that falls short.
        figures: Told how diverse the candidates, the taken rows and as many random ones are (`filters.diversity`), if given.
    """
    verdicts: dict[str, dict[str, Any]] = {}
    for id, source, category in table.select("id", "source", "category").iter_rows():
        if source == "seed" and not seeds_in_set:
            verdicts[id] = {"reason": "seed_kept_apart", "evidence": "seeds are not selected ([seeds] in_set = false)"}
        elif category not in wanted:
            verdicts[id] = {"reason": "category_not_wanted", "evidence": f"no row of {category} is wanted"}
    candidates = table.filter(~pl.col("id").is_in(list(verdicts)))
    if candidates.is_empty():
        nothing = (_nothing("cluster", pl.Int32), _nothing("nearest_cosine", pl.Float64))
        return with_verdicts(table.with_columns(nothing), verdicts)
    vectors = embedder.embed(full_instruction(candidates))  # (rows, dims), length 1
    labels: list[int | None] = [None] * candidates.height
    nearest: list[float | None] = [None] * candidates.height
    if config.selector == "balanced":
        found = _labels(candidates["category"].to_list(), vectors, wanted, config, seed)
        pick = _Picker(candidates, vectors, found, config)
        for category in sorted(wanted):
            pick.take(category, config.rows(wanted[category]))
        if fill and (short := sum(wanted.values()) - len(pick.taken)) > 0:
            pick.fill(short)
        said, labels, nearest = pick.verdicts(), [*found], pick.nearest()
    else:
        said = _baseline(candidates, wanted, config.selector, seed, fill=fill)
    if figures is not None:
        taken = ~candidates["id"].is_in(list(said))
        figures |= diversity(vectors, taken.arg_true().to_numpy().astype(np.int64), seed)
    columns = pl.DataFrame(
        {
            "id": candidates["id"],
            "cluster": pl.Series(labels, dtype=pl.Int32),
            "nearest_cosine": pl.Series(nearest, dtype=pl.Float64),
        }
    )
    return with_verdicts(table.join(columns, on="id", how="left", maintain_order="left"), verdicts | said)


def _baseline(
    table: pl.DataFrame, wanted: Mapping[str, int], selector: str, seed: int, *, fill: bool
) -> dict[str, dict[str, Any]]:
    """Return verdicts on all rows but the first ones of each category, by chance, by length or by quality."""
    if selector == "random":
        chance = [hashlib.sha256(f"{seed}/select/{id}".encode()).digest() for id in table["id"]]
        ranks = pl.Series(chance, dtype=pl.Binary).rank("ordinal")
    else:
        ranks = -table["response_words" if selector == "longest" else "quality"].cast(pl.Float64)
    ordered = table.select("id", "category").with_columns(rank=ranks).sort("rank", "id")
    ordered = ordered.with_columns(place=pl.int_range(1, pl.len() + 1).over("category"))
    quota = pl.col("category").replace_strict(dict(wanted), return_dtype=pl.Int64)
    left = ordered.filter(pl.col("place") > quota)
    if fill:
        left = left[max(0, sum(wanted.values()) - (ordered.height - left.height)) :]
    taken = Counter(ordered.filter(~pl.col("id").is_in(left["id"].implode()))["category"].to_list())
    return {
        id: {
            "reason": "over_quota", "measured": float(place), "limit": float(taken[category]),
            "evidence": f"number {place} of {category} by selector {selector}, of which {taken[category]} were taken",
        }
        for id, category, place in left.select("id", "category", "place").iter_rows()
    }  # fmt: skip


def cluster(vectors: NDArray[np.float32], count: int, seed: int) -> list[int]:
    """Return each row's cluster by spherical k-means, 25 iterations; the same for the same seed."""
    import faiss

    if count < 2:
        return [0] * len(vectors)
    # One thread: several wait for each other where the machine has other work, and over so few rows gain little.
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        means = faiss.Kmeans(
            vectors.shape[1], count, niter=25, seed=seed + 1, spherical=True, min_points_per_centroid=1
        )
        means.train(np.ascontiguousarray(vectors))
        return [int(label) for label in means.index.search(np.ascontiguousarray(vectors), 1)[1][:, 0]]
    finally:
        faiss.omp_set_num_threads(threads)


def tempered_quotas(sizes: Mapping[int, int], total: int, temper: float) -> dict[int, int]:
    """Divide `total` over clusters in proportion to size ** temper, none above its size; what one cannot use goes round.

    At least one each while there is one, the largest first; ties go to the smaller label.
    """
    quotas = dict.fromkeys(sizes, 0)
    left = min(total, sum(sizes.values()))
    while left > 0:
        open_ = [label for label in sizes if quotas[label] < sizes[label]]
        # Whoever has none comes first; then who is furthest below its share (Sainte-Laguë's divisors).
        best = min(
            open_, key=lambda label: (quotas[label] > 0, (2 * quotas[label] + 1) / sizes[label] ** temper, label)
        )
        quotas[best] += 1
        left -= 1
    return quotas


class _Picker:
    """The rows taken so far."""

    def __init__(
        self, table: pl.DataFrame, vectors: NDArray[np.float32], labels: Sequence[int], config: BalanceConfig
    ) -> None:
        self.ids, self.categories = table["id"].to_list(), table["category"].to_list()
        self.quality = table["quality"].to_list()
        self.vectors, self.labels, self.config = vectors, labels, config
        self.taken: list[int] = []
        self._is_taken: set[int] = set()
        self._close: dict[int, tuple[float, int]] = {}
        self._refused: dict[int, tuple[float, int]] = {}

    def take(self, category: str, count: int) -> None:
        """Take up to `count` rows of a category, cluster by cluster, then the best of what is left."""
        rows = self._best_first([i for i, name in enumerate(self.categories) if name == category])
        sizes: dict[int, int] = {}
        for row in rows:
            sizes[self.labels[row]] = sizes.get(self.labels[row], 0) + 1
        quotas = tempered_quotas(dict(sorted(sizes.items())), count, self.config.temper)
        before = len(self.taken)
        for label, quota in quotas.items():
            self._take([row for row in rows if self.labels[row] == label], quota)
        self._take(rows, count - (len(self.taken) - before))

    def fill(self, count: int) -> None:
        """Take the best of all that is left, whatever its category."""
        self._take(self._best_first(list(range(len(self.ids)))), count)

    def verdicts(self) -> dict[str, dict[str, Any]]:
        """Say of every row that was not taken why."""
        said: dict[str, dict[str, Any]] = {}
        place: Counter[tuple[str, int]] = Counter()
        groups = list(zip(self.categories, self.labels, strict=True))
        taken, share = self._is_taken, Counter(groups[row] for row in self.taken)
        for row in self._best_first(list(range(len(self.ids)))):
            group = groups[row]
            place[group] += 1
            if row in taken:
                continue
            if row in self._refused:
                cosine, other = self._refused[row]
                evidence = (
                    f"cosine {cosine:.2f} with {self.ids[other]}, which was taken (limit {self.config.max_cosine:.2f})"
                )
                said[self.ids[row]] = {"reason": "too_similar", "evidence": evidence, "measured": cosine,
                                       "limit": self.config.max_cosine, "twin": self.ids[other]}  # fmt: skip
            else:
                evidence = (
                    f"number {place[group]} by quality ({self.quality[row]:.2f}) in cluster {group[1]} of {group[0]}, "
                    f"from which {share[group]} were taken"
                )
                said[self.ids[row]] = {"reason": "over_quota", "evidence": evidence,
                                       "measured": float(place[group]), "limit": float(share[group])}  # fmt: skip
        return said

    def nearest(self) -> list[float | None]:
        """Return, for each taken row, its cosine with the nearest row taken before it."""
        return [self._close[row][0] if row in self._close else None for row in range(len(self.ids))]

    def _take(self, rows: Sequence[int], count: int) -> None:
        for row in rows:
            if count <= 0:
                return
            if row in self._is_taken or row in self._refused:
                continue
            if self.taken:
                cosines = self.vectors[self.taken] @ self.vectors[row]
                at = int(np.argmax(cosines))
                nearest = (round(float(cosines[at]), 4), self.taken[at])
                if nearest[0] >= self.config.max_cosine:
                    self._refused[row] = nearest
                    continue
                self._close[row] = nearest
            self.taken.append(row)
            self._is_taken.add(row)
            count -= 1

    def _best_first(self, rows: Sequence[int]) -> list[int]:
        return sorted(rows, key=lambda row: (-self.quality[row], self.ids[row]))


def _labels(
    categories: Sequence[str], vectors: NDArray[np.float32], wanted: Mapping[str, int], config: BalanceConfig, seed: int
) -> list[int]:
    """Return each row's cluster; no two categories share one."""
    labels = [0] * len(categories)
    first = 0
    for category in sorted(set(categories)):
        rows = [row for row, name in enumerate(categories) if name == category]
        most = config.clusters or max(1, min(max(2, wanted[category] // 10), len(rows) // 8))
        found = cluster(vectors[rows], min(len(rows), most), seed)
        for row, label in zip(rows, found, strict=True):
            labels[row] = first + label
        first += max(found) + 1
    return labels


def _nothing(name: str, kind: Any) -> pl.Expr:
    return pl.lit(None, kind).alias(name)
