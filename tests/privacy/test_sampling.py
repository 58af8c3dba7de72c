"""Poisson sampling: independent inclusion at rate q, in time O(qN), local in the records."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from dpforge.errors import PrivacyError
from dpforge.privacy.rng import KeyedRandom
from dpforge.privacy.sampling import PoissonSampler

RANDOM = KeyedRandom("entropy", bytes(range(32)))


@pytest.mark.parametrize(("units", "rate"), [(50, 0.3), (200, 0.02), (7, 0.9)])
def test_every_unit_is_included_at_rate_q(units, rate):
    steps = 4000
    sampler = PoissonSampler(units, rate, RANDOM)
    counts = np.bincount(np.concatenate([sampler.sample(t) for t in range(steps)]), minlength=units)
    pvalues = [stats.binomtest(int(c), steps, rate).pvalue for c in counts]
    assert min(pvalues) > 1e-3 / units


def test_batch_sizes_are_dispersed_as_a_binomial_and_not_fixed():
    units, rate, steps = 1000, 0.1, 2000
    sampler = PoissonSampler(units, rate, RANDOM)
    sizes = np.array([sampler.sample(t).size for t in range(steps)])
    expected = units * rate * (1 - rate)
    low, high = stats.chi2.ppf([1e-5, 1 - 1e-5], steps - 1) / (steps - 1)
    assert low < sizes.var(ddof=1) / expected < high


def test_two_units_are_included_independently():
    sampler = PoissonSampler(2, 0.5, RANDOM)
    drawn = [sampler.sample(t) for t in range(4000)]
    table = np.zeros((2, 2))
    for indices in drawn:
        table[int(0 in indices), int(1 in indices)] += 1
    assert stats.chi2_contingency(table).pvalue > 1e-3


def test_a_unit_appended_at_the_end_moves_no_other():
    for step in range(200):
        small = PoissonSampler(99, 0.2, RANDOM).sample(step)
        large = PoissonSampler(100, 0.2, RANDOM).sample(step)
        assert np.array_equal(large[large < 99], small)


def test_indices_are_sorted_unique_and_in_range():
    sample = PoissonSampler(100_000, 0.01, RANDOM).sample(5)
    assert np.array_equal(sample, np.unique(sample))
    assert sample[0] >= 0
    assert sample[-1] < 100_000


def test_an_empty_batch_occurs_and_full_rate_takes_everyone():
    assert PoissonSampler(3, 1e-6, RANDOM).sample(0).size == 0
    assert PoissonSampler(0, 0.5, RANDOM).sample(0).size == 0
    assert np.array_equal(PoissonSampler(5, 1.0, RANDOM).sample(0), np.arange(5))


@pytest.mark.parametrize("rate", [0.0, 1.5, -0.1])
def test_a_rate_outside_the_unit_interval_is_refused(rate):
    with pytest.raises(PrivacyError, match="0 < q <= 1"):
        PoissonSampler(5, rate, RANDOM)
