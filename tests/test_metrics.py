"""Figures and their intervals against scipy's bootstrap, closed forms and hand-made cases."""

import math

import numpy as np
import pytest
from scipy.stats import bootstrap

from kiloset.core.statistics import ratio_interval
from kiloset.evaluation.metrics import Metric, difference, difference_over_seeds


def metric(sums: list[float], counts: list[float] | None = None, better: str = "higher") -> Metric:
    weights = counts or [1.0] * len(sums)
    keys = [f"k{n:03}" for n in range(len(sums))]
    return Metric("m", "u", better, dict(zip(keys, sums, strict=True)), dict(zip(keys, weights, strict=True)))  # type: ignore[arg-type]


def test_a_mean_weighs_items_by_their_counts() -> None:
    assert metric([3.0, 0.0, 1.0], [4.0, 1.0, 1.0]).mean == 4 / 6
    assert math.isnan(metric([]).mean)


def test_an_interval_is_scipys_percentile_bootstrap_of_the_ratio() -> None:
    rng = np.random.default_rng(0)
    counts = rng.integers(1, 30, 80).astype(float)
    sums = rng.gamma(2.0, 1.0, 80) * counts
    result = ratio_interval(sums, counts)
    theirs = bootstrap(
        (sums, counts), lambda a, b, axis=-1: a.sum(axis) / b.sum(axis), paired=True, vectorized=True,
        n_resamples=20_000, method="percentile", rng=np.random.default_rng(1),
    ).confidence_interval  # fmt: skip
    width = theirs.high - theirs.low
    assert result.value == pytest.approx(sums.sum() / counts.sum())
    assert result.low == pytest.approx(theirs.low, abs=0.06 * width)
    assert result.high == pytest.approx(theirs.high, abs=0.06 * width)


def test_differences_are_paired_by_item() -> None:
    """Items differ much from each other and little between the models: only pairing sees the difference."""
    rng = np.random.default_rng(0)
    base = rng.normal(0, 10, 60)
    tuned = base + 0.1
    result = difference(metric(list(tuned)), metric(list(base)))
    assert result.value == pytest.approx(0.1)
    assert result.low == pytest.approx(0.1)
    assert result.high == pytest.approx(0.1)
    assert result.sign == 1
    assert difference(metric(list(base)), metric(list(tuned))).sign == -1
    assert difference(metric(list(base)), metric(list(base))).sign == 0


def test_only_items_that_both_have_are_compared() -> None:
    tuned, base = metric([1.0, 1.0, 1.0, 0.0]), metric([0.0, 1.0])
    assert difference(tuned, base).value == 0.5


def test_an_interval_over_seeds_is_wider_where_seeds_disagree() -> None:
    base = metric([0.0] * 40)
    agree = [metric([0.5] * 40), metric([0.5] * 40)]
    disagree = [metric([0.0] * 40), metric([1.0] * 40)]
    same, other = difference_over_seeds(agree, [base, base]), difference_over_seeds(disagree, [base, base])
    assert (same.value, same.low, same.high) == (0.5, 0.5, 0.5)
    assert (other.value, other.low, other.high) == (0.5, 0.0, 1.0)
    assert other.sign == 0


def test_one_seed_is_the_plain_difference() -> None:
    rng = np.random.default_rng(3)
    a, b = metric(list(rng.random(30))), metric(list(rng.random(30)))
    assert difference_over_seeds([a], [b]) == difference(a, b)


def test_of_models_that_are_alike_few_intervals_leave_out_zero() -> None:
    """200 pairs of models equally good at 60 items: 5 % of the intervals should miss, 2.5 % on either side."""
    rng = np.random.default_rng(7)
    verdicts = [
        difference(metric(list(rng.integers(0, 2, 60))), metric(list(rng.integers(0, 2, 60))), seed=n).sign
        for n in range(200)
    ]
    assert verdicts.count(0) >= 200 - 22  # 5 % of 200 are 10; 22 is over three standard deviations more
    assert verdicts.count(0) < 200


def test_a_difference_over_fewer_than_two_items_has_no_bounds() -> None:
    empty = difference(metric([]), metric([1.0]))
    assert math.isnan(empty.value)
    assert math.isnan(empty.low)
    assert empty.sign == 0
    one = difference(metric([1.0]), metric([0.0]))
    assert one.value == 1.0
    assert math.isnan(one.high)
    assert one.sign == 0
