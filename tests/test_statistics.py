"""Confidence intervals against hand-computed values, an enumeration of all resamples, and simulated coverage."""

import math
from itertools import product

import numpy as np
import pytest

from kiloset.core.statistics import Interval, bootstrap_interval, difference_interval, mean_interval, ratio_interval


def test_the_mean_of_two_values_has_both_values_as_bounds() -> None:
    """The resamples' means are 0, 0.5, 0.5 and 1, so that 2.5 % and 97.5 % fall on the extremes."""
    assert mean_interval([0.0, 1.0]) == Interval(0.5, 0.0, 1.0)


def test_the_bounds_are_the_quantiles_over_all_resamples() -> None:
    values = [0.0, 0.0, 0.0, 1.0, 5.0]
    means = [sum(drawn) / 5 for drawn in product(values, repeat=5)]
    interval = mean_interval(values)
    assert (interval.low, interval.high) == pytest.approx(tuple(np.quantile(means, [0.025, 0.975])), abs=0.21)


def test_a_ratio_weighs_every_observation_by_its_count() -> None:
    assert ratio_interval([3.0, 0.0, 1.0], [4.0, 1.0, 1.0]).value == pytest.approx(4 / 6)


def test_fewer_than_two_observations_have_no_bounds() -> None:
    interval = mean_interval([2.0])
    assert interval.value == 2.0
    assert math.isnan(interval.low)
    assert interval.sign == 0
    assert math.isnan(mean_interval([]).value)


def test_the_interval_depends_on_the_seed_only() -> None:
    values = np.random.default_rng(1).random(50)
    assert mean_interval(values, seed=3) == mean_interval(values, seed=3) != mean_interval(values, seed=4)


def test_groups_are_resampled_independently() -> None:
    """The variance of a sum of two independent means is the sum of their variances."""
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=400), rng.normal(size=400)
    interval = bootstrap_interval([400, 400], lambda i, j: a[i].mean(-1) + b[j].mean(-1))
    width = 2 * 1.96 * math.sqrt(a.var() / 400 + b.var() / 400)
    assert interval.high - interval.low == pytest.approx(width, rel=0.07)


def test_of_a_hundred_intervals_about_95_cover_the_true_mean() -> None:
    rng = np.random.default_rng(5)
    samples = rng.exponential(size=(300, 80))
    covered = [interval.low <= 1.0 <= interval.high for interval in map(mean_interval, samples)]
    # Percentile intervals of 80 skewed values cover 93 to 94 %; three standard deviations of 300 trials are 4 %.
    assert 0.89 <= np.mean(covered) <= 0.98


def test_a_difference_over_seeds_draws_seeds_and_items() -> None:
    """Seeds that disagree by 1 about every item: the resamples draw seeds (0, 0), (0, 1), (1, 0) or (1, 1)."""
    zeros, ones = np.zeros((2, 40)), np.ones((2, 40))
    interval = difference_interval((np.stack([zeros[0], ones[0]]), zeros), (ones, ones))
    assert interval == Interval(0.5, 0.0, 1.0)
