"""Intervals and corrections against scipy and against the closed test they abbreviate."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from dpforge.errors import RunError
from dpforge.experiment.intervals import holm, paired_difference, t_interval

VALUES = [0.031, 0.044, 0.029, 0.035, 0.05]


@pytest.mark.parametrize("level", [0.8, 0.95, 0.99])
def test_the_interval_of_a_mean_is_that_of_scipy(level):
    found = t_interval(VALUES, level)
    low, high = stats.t.interval(level, len(VALUES) - 1, np.mean(VALUES), stats.sem(VALUES))
    assert (found.mean, found.n) == (pytest.approx(np.mean(VALUES)), 5)
    assert (found.low, found.high) == (pytest.approx(low), pytest.approx(high))
    assert found.half == pytest.approx((high - low) / 2)


def test_the_interval_covers_the_mean_as_often_as_it_says():
    draws = np.random.default_rng(0).normal(2.0, 3.0, (2000, 3))
    covered = np.mean([(i := t_interval(draw)).low <= 2.0 <= i.high for draw in draws])
    assert 0.935 < covered < 0.965


def test_one_value_has_a_mean_and_no_interval():
    found = t_interval([0.4])
    assert (found.mean, found.n) == (0.4, 1)
    assert all(math.isnan(value) for value in (found.sd, found.low, found.high, found.half))


def test_values_that_are_not_finite_are_left_out():
    assert t_interval([*VALUES, math.nan, math.inf]) == t_interval(VALUES)
    assert t_interval([math.nan]).n == 0


def test_a_level_outside_zero_and_one_is_refused():
    with pytest.raises(RunError, match=r"level=95"):
        t_interval(VALUES, 95)


def test_paired_differences_are_scipys_paired_test_over_the_common_seeds():
    first = dict(enumerate(VALUES)) | {9: 0.9}
    second = {0: 0.02, 1: 0.05, 2: 0.02, 3: 0.01, 4: 0.04, 7: 0.1}
    found = paired_difference(first, second)
    expected = stats.ttest_rel([first[i] for i in range(5)], [second[i] for i in range(5)])
    interval = expected.confidence_interval(0.95)
    assert found.seeds == (0, 1, 2, 3, 4)
    assert found.p == pytest.approx(expected.pvalue)
    assert (found.interval.low, found.interval.high) == pytest.approx((interval.low, interval.high))


def test_a_shared_deviation_of_the_seeds_does_not_blur_a_paired_difference():
    level = {seed: 10.0 * seed for seed in range(5)}
    better = {seed: value + 1 + 0.01 * (-1) ** seed for seed, value in level.items()}
    assert paired_difference(better, level).p < 1e-6
    assert stats.ttest_ind(list(better.values()), list(level.values())).pvalue > 0.5


def test_a_single_common_seed_gives_no_p_value():
    found = paired_difference({0: 1.0, 1: 2.0}, {1: 1.5, 2: 3.0})
    assert found.interval.mean == 0.5
    assert math.isnan(found.p)


@pytest.mark.parametrize(("shift", "p"), [(0.0, 1.0), (0.5, 0.0)])
def test_differences_without_spread_are_certain(shift, p):
    assert paired_difference({0: 1.0, 1: 2.0}, {0: 1.0 - shift, 1: 2.0 - shift}).p == p


@given(st.lists(st.floats(0, 1), min_size=1, max_size=6))
def test_holm_is_the_closed_test_with_bonferroni_for_every_intersection(p_values):
    found = holm(p_values)
    for i in range(len(p_values)):
        others = [j for j in range(len(p_values)) if j != i]
        subsets = (
            (i, *rest) for size in range(len(others) + 1) for rest in itertools.combinations(others, size)
        )
        closed = max(min(1.0, len(s) * min(p_values[j] for j in s)) for s in subsets)
        assert found[i] == pytest.approx(closed)


def test_a_test_that_could_not_be_made_stays_missing_and_costs_nothing():
    found = holm([0.01, math.nan, 0.04])
    assert (found[0], found[2]) == (pytest.approx(0.02), pytest.approx(0.04))
    assert math.isnan(found[1])
