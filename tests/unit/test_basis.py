"""Basis functions: centred, smooth where there is an order, and shrunken scores of the target."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special

from dpforge.data.encode.basis import SCORE_LIMIT, basis_functions, centred, target_scores


def functions(masses, *, ordered=True, lone=None, degree=3, decay=0.5, scale=0.5):
    masses = np.asarray(masses, dtype=float)
    lone = np.zeros(masses.size, bool) if lone is None else lone
    return basis_functions(masses, ordered=ordered, lone=lone, degree=degree, decay=decay, scale=scale)


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 40), st.booleans(), st.integers(1, 6), st.integers(0, 10**6))
def test_every_function_has_mean_zero_under_the_masses(size, ordered, degree, seed):
    rng = np.random.default_rng(seed)
    masses, lone = rng.dirichlet(np.ones(size)), rng.random(size) < 0.2
    found = functions(masses, ordered=ordered, lone=lone, degree=degree)
    assert found.shape[0] == size
    assert np.isfinite(found).all()
    np.testing.assert_allclose(masses @ found, 0, atol=1e-9)


def test_pieces_without_an_order_have_one_indicator_each():
    masses = np.array([0.5, 0.3, 0.1, 0.05, 0.05])
    np.testing.assert_allclose(functions(masses, ordered=False), np.eye(5) - masses)
    np.testing.assert_allclose(functions(masses[:3] / 0.9, ordered=True), np.eye(3) - masses[:3] / 0.9)


def test_polynomials_are_orthonormal_under_the_masses_up_to_their_prior_scale():
    masses = np.random.default_rng(0).dirichlet(np.full(3000, 5.0))
    found = functions(masses, degree=4, decay=0.5, scale=0.7)
    gram = found.T @ (masses[:, None] * found)
    expected = np.diag(0.49 / np.arange(1, 5))
    np.testing.assert_allclose(gram, expected, atol=2e-3)


def test_polynomials_are_the_shifted_legendre_polynomials_of_the_distribution_function():
    masses = np.full(50, 0.02)
    found = functions(masses, degree=3, decay=0.0, scale=1.0)
    place = (np.arange(50) + 0.5) / 50
    for k in (1, 2, 3):
        expected = special.eval_sh_legendre(k, place) * np.sqrt(2 * k + 1)
        np.testing.assert_allclose(found[:, k - 1], expected - expected.mean(), atol=1e-9)


def test_lone_pieces_stand_outside_the_polynomials_and_have_an_indicator():
    masses = np.full(20, 0.05)
    lone = np.zeros(20, bool)
    lone[[0, 7]] = True
    found = functions(masses, lone=lone, degree=2)
    assert found.shape == (20, 4)
    assert np.ptp(found[lone][:, :2], axis=0) == pytest.approx([0, 0])
    ordinary = found[~lone][:, 0]
    assert (np.diff(ordinary) > 0).all()
    np.testing.assert_allclose(np.diff(ordinary), np.diff(ordinary)[0])  # the gap leaves no step behind
    np.testing.assert_allclose(found[:, 2:], centred(np.eye(20)[:, [0, 7]], masses))


def test_a_column_of_lone_pieces_only_has_indicators():
    assert functions(np.full(20, 0.05), lone=np.ones(20, bool)).shape == (20, 20)


# ---- scores


def test_scores_of_many_records_are_differences_of_log_odds():
    counts = np.array([[8e7, 2e7], [5e7, 5e7], [3e7, 7e7]])
    target = counts.sum(axis=0) / counts.sum()
    scores = target_scores(counts, np.zeros(3), target)
    odds = special.logit(counts[:, 1] / counts.sum(axis=1)) - special.logit(target[1])
    weights = counts.sum(axis=1) / counts.sum()
    np.testing.assert_allclose(scores[:, 0], odds - weights @ odds, atol=1e-5)


def test_a_piece_without_records_has_the_score_of_the_whole_table():
    counts = np.array([[100.0, 100.0], [0.0, 0.0], [-5.0, -3.0]])
    scores = target_scores(counts, np.full(3, 10.0), np.array([0.5, 0.5]))
    assert scores == pytest.approx(0)


@pytest.mark.parametrize("classes", [2, 5])
def test_scores_have_one_column_less_than_the_target_has_classes(classes):
    counts = np.random.default_rng(0).uniform(0, 50, (7, classes))
    assert target_scores(counts, np.ones(7), np.full(classes, 1 / classes)).shape == (7, classes - 1)


def test_scores_shrink_with_the_noise_and_are_cut():
    counts, target = np.array([[30.0, 0.0], [15.0, 15.0]]), np.array([0.5, 0.5])
    spans = [np.ptp(target_scores(counts, np.full(2, noise), target)) for noise in (0.0, 3.0, 30.0)]
    assert spans[0] > spans[1] > spans[2] > 0
    wild = target_scores(np.array([[1e9, 0.0], [0.0, 1e9]]), np.zeros(2), target)
    assert np.ptp(wild) == pytest.approx(2 * SCORE_LIMIT)


def test_scores_of_nothing_but_negative_counts_are_finite():
    assert not target_scores(np.full((4, 3), -2.0), np.ones(4), np.full(3, 1 / 3)).any()
