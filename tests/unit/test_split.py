"""The keyed split: a record's side depends on the record."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from dpforge.data.split import keyed_split, split_units
from dpforge.errors import ConfigError


def table(n, seed=0):
    rng = np.random.default_rng(seed)
    return pd.DataFrame(
        {"a": rng.integers(0, 50, n), "b": rng.choice(["x", "y"], n), "c": rng.normal(size=n)}
    )


@pytest.mark.parametrize("removed", [0, 1, 57, 199])
def test_removing_a_record_anywhere_moves_no_other(removed):
    frame = table(200)
    whole = keyed_split(frame, 0.3, seed=5)
    less = keyed_split(frame.drop(index=removed).reset_index(drop=True), 0.3, seed=5)
    assert np.array_equal(np.delete(whole, removed), less)


def test_removing_one_of_identical_records_leaves_the_others_counts():
    frame = pd.DataFrame({"a": [7] * 500})
    whole, less = keyed_split(frame, 0.3, 1), keyed_split(frame.iloc[1:].reset_index(drop=True), 0.3, 1)
    assert abs(int(whole.sum()) - int(less.sum())) <= 1
    assert 100 < whole.sum() < 200


def test_the_order_of_the_records_does_not_matter():
    frame = table(300)
    order = np.random.default_rng(1).permutation(300)
    shuffled = keyed_split(frame.iloc[order].reset_index(drop=True), 0.3, 5)
    assert np.array_equal(keyed_split(frame, 0.3, 5)[order], shuffled)


def test_a_larger_holdout_contains_the_smaller_one():
    small, large = keyed_split(table(2000), 0.1, 3), keyed_split(table(2000), 0.4, 3)
    assert (large | ~small).all()


def test_the_share_is_binomial_and_seeds_are_unrelated():
    first, second = keyed_split(table(20_000), 0.2, 0), keyed_split(table(20_000), 0.2, 1)
    for chosen, share in ((first, 0.2), (second, 0.2), (first & second, 0.04)):
        assert stats.binomtest(int(chosen.sum()), 20_000, share).pvalue > 1e-6


def test_the_split_is_the_same_in_every_process():
    frame = pd.DataFrame({"a": np.arange(40), "b": ["x", "y"] * 20})
    assert np.flatnonzero(keyed_split(frame, 0.2, 0)).tolist() == [0, 3, 4, 5, 10, 23, 38]
    assert keyed_split(frame, 0.0, 0).sum() == 0


def test_rows_of_a_user_stay_together_whoever_else_is_there():
    units = np.repeat(np.arange(300), 4) * 7919
    chosen = split_units(units, 0.3, seed=1)
    per_user = chosen.reshape(300, 4)
    assert (per_user.all(axis=1) == per_user.any(axis=1)).all()
    assert 0 < chosen.sum() < len(units)
    assert np.array_equal(split_units(units[40:], 0.3, seed=1), chosen[40:])
    assert split_units(np.array([], dtype=np.int64), 0.3, 1).shape == (0,)


@pytest.mark.parametrize(("fraction", "seed"), [(1.0, 0), (-0.1, 0), (0.5, -1)])
def test_impossible_splits_are_refused(fraction, seed):
    with pytest.raises(ConfigError):
        keyed_split(table(5), fraction, seed)
