"""The bootstrap confidence interval, defined once for the whole package.

Percentile intervals after B. Efron, "Bootstrap Methods: Another Look at the Jackknife", 1979, as `scipy.stats.bootstrap`
computes them. With fewer than about 20 observations a percentile interval is too narrow.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

RESAMPLES = 2000
CONFIDENCE = 0.95
"""Probability that the interval covers the true value, if the observations are independent."""
BATCH = 250
"""Resamples computed at once: 2 MB of indices for 1,000 observations."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate and the bounds of its 95 % confidence interval; the bounds are nan if there are too few observations."""

    value: float
    low: float
    high: float

    @property
    def sign(self) -> int:
        """1 if the whole interval is above 0, -1 if it is below 0, else 0."""
        return int(self.low > 0) - int(self.high < 0)


def proportion_interval(hits: int, trials: int) -> Interval:
    """Return a share of independent trials with its Wilson interval (E. B. Wilson, 1927)."""
    from scipy.stats import binomtest  # type: ignore[import-untyped]

    bounds = binomtest(hits, trials).proportion_ci(method="wilson")
    return Interval(hits / trials, float(bounds.low), float(bounds.high))


def mean_interval(values: ArrayLike, *, seed: int = 0) -> Interval:
    """Return the mean of independent observations with its interval."""
    return ratio_interval(values, np.ones(np.shape(values)), seed=seed)


def ratio_interval(sums: ArrayLike, counts: ArrayLike, *, seed: int = 0) -> Interval:
    """Return the sum of `sums` over the sum of `counts`; observation i is the pair `(sums[i], counts[i])`."""
    a, n = np.asarray(sums, float), np.asarray(counts, float)
    return bootstrap_interval([len(a)], lambda drawn: _ratio(a, n, drawn), seed=seed)


def difference_interval(
    sums: tuple[ArrayLike, ArrayLike], counts: tuple[ArrayLike, ArrayLike], *, seed: int = 0
) -> Interval:
    """Return the ratio of the first model minus the ratio of the second, paired by item and by training seed.

    Each resample draws items and, independently, training seeds, both with replacement. Every model and every seed gets
    the same items. With two or three seeds the interval is too narrow, because the seeds have few distinct resamples.

    Args:
        sums: For each of the two models, (seeds, items).
        counts: For each of the two models, (seeds, items).
        seed: Seed of the resampling.
    """
    (a, b), (n_a, n_b) = (tuple(np.asarray(each, float) for each in pair) for pair in (sums, counts))
    seeds, items = a.shape

    def difference(drawn: NDArray[np.int64], drawn_seeds: NDArray[np.int64] | None = None) -> Floats:
        by_seed = _ratio(a, n_a, drawn) - _ratio(b, n_b, drawn)  # (resamples, seeds)
        means: Floats = (by_seed if drawn_seeds is None else np.take_along_axis(by_seed, drawn_seeds, -1)).mean(-1)
        return means

    return bootstrap_interval([items, seeds] if seeds > 1 else [items], difference, seed=seed)


def bootstrap_interval(sizes: Sequence[int], statistic: Callable[..., Any], *, seed: int = 0) -> Interval:
    """Return a statistic with its percentile bootstrap interval.

    Args:
        sizes: Number of observations in each group; groups are resampled independently of each other.
        statistic: Takes one array of observation numbers for each group, (..., size), and returns (...).
        seed: Seed of the resampling.

    Returns:
        The statistic of all observations with its bounds. The bounds are nan if a group has fewer than two observations.
    """
    numbers = [np.arange(size) for size in sizes]
    value = float(statistic(*numbers)) if all(sizes) else float("nan")
    if min(sizes) < 2:
        return Interval(value, float("nan"), float("nan"))
    from scipy.stats import bootstrap

    result = bootstrap(
        numbers, lambda *drawn, **_: statistic(*drawn), vectorized=True, n_resamples=RESAMPLES, batch=BATCH,
        confidence_level=CONFIDENCE, method="percentile", rng=np.random.default_rng(seed),
    )  # fmt: skip
    return Interval(value, float(result.confidence_interval.low), float(result.confidence_interval.high))


def _ratio(sums: Floats, counts: Floats, drawn: NDArray[np.int64]) -> Floats:
    """Return the ratios of the sums over the drawn items, (resamples, seeds), of `sums` and `counts`, (seeds, items).

    A matrix product with how often each item is drawn is ten times faster than gathering the drawn values.
    """
    rows = drawn.reshape(-1, drawn.shape[-1])
    offsets = rows.shape[1] * np.arange(len(rows))[:, None]
    times = np.bincount((rows + offsets).ravel(), minlength=rows.size).reshape(drawn.shape)
    ratio: Floats = (times @ sums.T) / (times @ counts.T)
    return ratio
