"""The keyed split."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from dpforge.data.split import keyed_split, split_units
from dpforge.errors import ConfigError


@pytest.mark.parametrize("n", [0, 1, 2, 63, 1000])
def test_adding_a_record_never_moves_another(n):
    assert (keyed_split(n + 1, 0.3, seed=5)[:n] == keyed_split(n, 0.3, seed=5)).all()


def test_a_larger_holdout_contains_the_smaller_one():
    small, large = keyed_split(2000, 0.1, 3), keyed_split(2000, 0.4, 3)
    assert (large | ~small).all()


def test_the_share_is_binomial_and_seeds_are_unrelated():
    first, second = keyed_split(20_000, 0.2, 0), keyed_split(20_000, 0.2, 1)
    for chosen, share in ((first, 0.2), (second, 0.2), (first & second, 0.04)):
        assert stats.binomtest(int(chosen.sum()), 20_000, share).pvalue > 1e-6


def test_the_split_is_the_same_on_every_machine():
    assert np.flatnonzero(keyed_split(40, 0.2, 0)).tolist() == [11, 13, 19, 28, 37]
    assert keyed_split(10, 0.0, 0).sum() == 0


def test_rows_of_a_user_stay_together():
    units = np.repeat(np.arange(300), 4)
    chosen = split_units(units, 0.3, seed=1)
    per_user = chosen.reshape(300, 4)
    assert (per_user.all(axis=1) == per_user.any(axis=1)).all()
    assert 0 < chosen.sum() < len(units)
    assert split_units(np.array([], dtype=np.int64), 0.3, 1).shape == (0,)


@pytest.mark.parametrize(("n", "fraction", "seed"), [(5, 1.0, 0), (5, -0.1, 0), (-1, 0.5, 0), (5, 0.5, -1)])
def test_impossible_splits_are_refused(n, fraction, seed):
    with pytest.raises(ConfigError):
        keyed_split(n, fraction, seed)
