"""A figure about a model as the sums of its items, so that any two models can be compared item by item.

Intervals are percentile bootstraps over items (B. Efron, "Bootstrap Methods: Another Look at the Jackknife", 1979), and
over training seeds where there are several: a resample draws seeds, and items, each with replacement, the same items for
both models. With two or three seeds the draw over seeds is coarse and its interval too narrow rather than too wide.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 2000
CONFIDENCE = 0.95

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Answer:
    """What a model wrote to a prompt."""

    text: str
    finish_reason: str
    """`stop`, or `length` where it was cut."""
    tokens: int
    """Tokens written, the end token included where it wrote one."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """Something to be answered, greedily."""

    key: str
    """Unique in its suite; answers of two models to one key are compared."""
    messages: tuple[Mapping[str, str], ...]


@dataclass(frozen=True, slots=True)
class Metric:
    """A mean over items: the sum of `sums` over the sum of `counts`."""

    name: str
    unit: str
    better: Literal["higher", "lower", "neither"]
    sums: Mapping[str, float]
    """By the item's key."""
    counts: Mapping[str, float]
    """By the item's key: 1 for a plain mean over items, tokens for a mean per token, constraints for one per constraint."""

    @property
    def mean(self) -> float:
        """The figure; nan without items."""
        total = sum(self.counts.values())
        return sum(self.sums.values()) / total if total else float("nan")


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate and the bounds that hold 95 % of its resamples."""

    value: float
    low: float
    high: float

    @property
    def verdict(self) -> int:
        """1 where all of it lies above 0, -1 where all of it lies below, else 0."""
        return int(self.low > 0) - int(self.high < 0)


def mean_of(metric: Metric, *, seed: int = 0) -> Interval:
    """Return a model's figure with its interval over items."""
    keys = sorted(metric.counts)
    sums, counts = _columns(metric, keys)
    weights = _weights(len(keys), seed)
    return _interval(metric.mean, _ratio(weights @ sums, weights @ counts))


def difference(tuned: Metric, base: Metric, *, seed: int = 0) -> Interval:
    """Return tuned minus base over the items that both have, with its interval over items."""
    return difference_over_seeds([tuned], [base], seed=seed)


def difference_over_seeds(tuned: Sequence[Metric], base: Sequence[Metric], *, seed: int = 0) -> Interval:
    """Return the mean over seeds of tuned minus base, with its interval over seeds and items.

    Args:
        tuned: One metric a training seed.
        base: As many, in the order of the seeds; what is compared is paired by seed and by item.
        seed: Seed of the resampling.
    """
    common = set.intersection(*(set(metric.counts) for metric in (*tuned, *base)))
    keys = sorted(common)
    a_sums, a_counts = (np.stack(part) for part in zip(*(_columns(m, keys) for m in tuned), strict=True))
    b_sums, b_counts = (np.stack(part) for part in zip(*(_columns(m, keys) for m in base), strict=True))
    items = _weights(len(keys), seed)  # (resamples, items)
    seeds = _weights(len(tuned), seed + 1) if len(tuned) > 1 else np.ones((RESAMPLES, 1))  # (resamples, seeds)
    per_seed = _ratio(items @ a_sums.T, items @ a_counts.T) - _ratio(items @ b_sums.T, items @ b_counts.T)
    resampled = (per_seed * seeds).sum(1) / seeds.sum(1)
    value = float(np.mean(_ratio(a_sums.sum(1), a_counts.sum(1)) - _ratio(b_sums.sum(1), b_counts.sum(1))))
    return _interval(value, resampled)


def _columns(metric: Metric, keys: Sequence[str]) -> tuple[Floats, Floats]:
    return np.array([metric.sums[key] for key in keys], float), np.array([metric.counts[key] for key in keys], float)


def _weights(items: int, seed: int) -> Floats:
    """Return how often each item is drawn in each resample, (resamples, items)."""
    if not items:
        return np.zeros((RESAMPLES, 0))
    return np.random.default_rng(seed).multinomial(items, np.full(items, 1 / items), RESAMPLES).astype(float)


def _ratio(sums: Floats, counts: Floats) -> Floats:
    quotients: Floats = np.divide(sums, counts, out=np.full(np.shape(sums), np.nan), where=counts > 0)
    return quotients


def _interval(value: float, resampled: Floats) -> Interval:
    known = resampled[np.isfinite(resampled)]
    if not known.size:
        return Interval(value, float("nan"), float("nan"))
    low, high = np.quantile(known, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Interval(value, float(low), float(high))
