"""A metric as sums and counts by item, so that any two models can be compared item by item."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from kiloset.core.statistics import Interval, difference_interval


@dataclass(frozen=True, slots=True)
class Answer:
    """A model's completion of a prompt."""

    text: str
    finish_reason: str
    """`stop`, or `length` if the completion was cut."""
    tokens: int
    """Tokens of the completion, with its end token if there is one."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt of an evaluation suite, completed greedily."""

    key: str
    """Unique in its suite. Two models are compared on the answers to the same keys."""
    messages: tuple[Mapping[str, str], ...]


@dataclass(frozen=True, slots=True)
class Metric:
    """A mean over items: the sum of `sums` divided by the sum of `counts`."""

    name: str
    unit: str
    better: Literal["higher", "lower", "neither"]
    sums: Mapping[str, float]
    """By the item's key."""
    counts: Mapping[str, float]
    """By the item's key: 1 for a mean over items, its tokens for a mean per token, its constraints for one per constraint."""

    @property
    def mean(self) -> float:
        """The mean; nan if there are no items."""
        total = sum(self.counts.values())
        return sum(self.sums.values()) / total if total else float("nan")


def difference(tuned: Metric, base: Metric, *, seed: int = 0) -> Interval:
    """Return tuned minus base over the items that both have, with its confidence interval over items."""
    return difference_over_seeds([tuned], [base], seed=seed)


def difference_over_seeds(tuned: Sequence[Metric], base: Sequence[Metric], *, seed: int = 0) -> Interval:
    """Return the mean over seeds of tuned minus base, with its confidence interval over seeds and items.

    Args:
        tuned: One metric for each training seed.
        base: One metric for each training seed, in the same order. Items that one of the metrics lacks are left out.
        seed: Seed of the resampling.
    """
    keys = sorted(set.intersection(*(set(metric.counts) for metric in (*tuned, *base))))
    (a, n_a), (b, n_b) = _columns(tuned, keys), _columns(base, keys)
    return difference_interval((a, b), (n_a, n_b), seed=seed)


def _columns(metrics: Sequence[Metric], keys: Sequence[str]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the sums and the counts, each (metrics, keys)."""
    sums = np.array([[metric.sums[key] for key in keys] for metric in metrics], float)
    return sums, np.array([[metric.counts[key] for key in keys] for metric in metrics], float)
