"""Releases: reserved first, noise per element, the declared scale; exact laws of the discrete mechanisms."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats

from dpforge.errors import PrivacyError
from dpforge.privacy.events import EpsilonDelta, Gaussian, NonPrivate
from dpforge.privacy.ledger import Ledger
from dpforge.privacy.mechanisms import (
    Observation,
    PrivateAccess,
    category_threshold,
    discrete_laplace,
    gaussian_threshold,
    laplace,
    quantile_logits,
    rounded_gaussian,
)
from dpforge.privacy.plan import Piece, Plan
from dpforge.privacy.rng import KeyedRandom

RANDOM = KeyedRandom("entropy", bytes(range(32)))


def access_to(tmp_path, *pieces, observers=()):
    ledger = Ledger.create(tmp_path / "ledger.jsonl", Plan(tuple(pieces), 1e-5), {"rng": "entropy"})
    return PrivateAccess(ledger, RANDOM, observers)


def uniforms(size, step=0):
    return RANDOM.uniform("test", step, size)


def test_gaussian_release_is_reserved_and_has_the_planned_scale(tmp_path):
    seen = []
    access = access_to(
        tmp_path, Piece("moments", "gaussian", Gaussian(5.0), 1, 3.0, ""), observers=[seen.append]
    )
    value = np.zeros((200, 500))
    noisy = access.gaussian("moments", value)
    assert access.ledger.reserved("moments") == 1
    assert noisy.std() == pytest.approx(15.0, rel=0.02)
    assert seen[0].scale == 15.0
    np.testing.assert_allclose(seen[0].value + seen[0].noise, noisy.reshape(-1), atol=15 / 1024)


def test_an_unreserved_step_draws_no_noise(tmp_path):
    access = access_to(tmp_path, Piece("train", "dp_sgd", Gaussian(1.0), 10, 1.0, ""))
    with pytest.raises(PrivacyError, match="not been reserved"):
        access.gaussian_sum("train", 0, [torch.zeros(3)])


def test_steps_are_reserved_in_blocks_and_replays_are_free(tmp_path):
    access = access_to(tmp_path, Piece("train", "dp_sgd", Gaussian(1.0), 100, 1.0, ""))
    access.reserve("train", 1)
    assert access.ledger.reserved("train") == 64
    access.reserve("train", 65)
    assert access.ledger.reserved("train") == 100
    access.reserve("train", 30)
    assert access.ledger.reserved("train") == 100


def test_noise_of_a_sum_differs_between_elements_steps_and_parameters(tmp_path):
    access = access_to(tmp_path, Piece("train", "dp_sgd", Gaussian(2.0), 10, 0.5, ""))
    access.reserve("train", 10)
    draws = [
        torch.cat(access.gaussian_sum("train", t, [torch.zeros(50), torch.zeros(60)])) for t in range(10)
    ]
    everything = torch.cat(draws)
    assert everything.unique().numel() == everything.numel()
    assert float(everything.std()) == pytest.approx(1.0, rel=0.1)


def test_histograms_get_weighted_integer_noise(tmp_path):
    seen = []
    piece = Piece("marginals", "rounded_gaussian", Gaussian(4.0), 1, math.sqrt(2), "")
    access = access_to(tmp_path, piece, observers=[seen.append])
    counts = [np.full(4000, 7), np.full(4000, 9)]
    noisy = access.histograms("marginals", counts, [1.0, 0.5])
    assert all(np.array_equal(column, np.rint(column)) for column in noisy)
    assert noisy[0].std() == pytest.approx(4 * math.sqrt(2), rel=0.05)
    assert noisy[1].std() == pytest.approx(8 * math.sqrt(2), rel=0.05)
    assert seen[0].noise.std() == pytest.approx(seen[0].scale, rel=0.05)


def test_without_dp_values_pass_through_but_are_recorded(tmp_path):
    access = access_to(tmp_path, Piece("marginals", "none", NonPrivate(), 1, 1.0, ""))
    counts = [np.arange(5)]
    assert np.array_equal(access.histograms("marginals", counts, [1.0])[0], counts[0])
    assert access.ledger.reserved("marginals") == 1


def test_a_private_piece_cannot_be_read_without_noise(tmp_path):
    access = access_to(tmp_path, Piece("train", "dp_sgd", Gaussian(1.0), 10, 1.0, ""))
    with pytest.raises(PrivacyError, match="without noise"):
        access.open_access("train")


def test_rounded_gaussian_is_the_rounding_of_its_gaussian():
    draws = rounded_gaussian(uniforms(200_000), 2.0)
    support = np.arange(-6, 7)
    expected = stats.norm.cdf(support + 0.5, scale=2) - stats.norm.cdf(support - 0.5, scale=2)
    observed = np.array([(draws == k).sum() for k in support])
    expected = np.append(expected, 1 - expected.sum()) * draws.size
    observed = np.append(observed, draws.size - observed.sum())
    assert stats.chisquare(observed, expected).pvalue > 1e-3


def test_laplace_draws_follow_their_law():
    assert stats.kstest(laplace(uniforms(100_000, 1), 3.0), stats.laplace(scale=3.0).cdf).pvalue > 1e-3


@pytest.mark.parametrize("epsilon", [0.1, 1.0, 3.0])
def test_discrete_laplace_draws_follow_their_law(epsilon):
    draws = discrete_laplace(uniforms(200_000, 2), epsilon)
    support = np.arange(-3, 4)
    expected = stats.dlaplace.pmf(support, epsilon)
    observed = np.array([(draws == k).sum() for k in support])
    expected = np.append(expected, 1 - expected.sum()) * draws.size
    observed = np.append(observed, draws.size - observed.sum())
    assert stats.chisquare(observed, expected).pvalue > 1e-3


@pytest.mark.parametrize("level", [0.005, 0.25, 0.5, 0.9])
def test_quantile_output_distributions_of_neighbours_stay_within_epsilon(level):
    epsilon, grid = 1.0, np.linspace(0, 10, 101)
    tables = [np.repeat([2.0, 9.9], [k, 20 - k]) for k in range(21)]
    tables.append(np.random.default_rng(0).uniform(0, 10, 20))

    def log_probabilities(column, logits):
        below = np.searchsorted(np.sort(column), grid)
        exponent = logits(-np.abs(below - level * column.size))
        return exponent - np.logaddexp.reduce(exponent)

    def worst(logits):
        return max(
            np.abs(log_probabilities(rows, logits) - log_probabilities(np.delete(rows, i), logits)).max()
            for rows in tables
            for i in (0, -1)
        )

    assert worst(lambda u: quantile_logits(u, epsilon, level)) <= epsilon + 1e-9
    if level == 0.25:
        assert worst(lambda u: epsilon * u) > epsilon


@pytest.mark.parametrize(("epsilon", "delta"), [(0.05, 1e-6), (0.5, 1e-7), (1.0, 1e-9), (1.0, 1e-3)])
def test_a_value_of_one_unit_is_kept_with_probability_at_most_delta(epsilon, delta):
    threshold = category_threshold(epsilon, delta)
    needed = threshold - 1
    tail = math.exp(-epsilon * needed) / (1 + math.exp(-epsilon))
    assert tail <= delta
    assert math.exp(-epsilon * (needed - 1)) / (1 + math.exp(-epsilon)) > delta
    continuous = 1 + math.log(1 / (2 * delta)) / epsilon
    assert abs(threshold - continuous) < 1 + math.log(2) / epsilon


@pytest.mark.parametrize(
    ("scale", "delta", "threshold"), [(2, 1e-6, 10.51), (5, 1e-8, 29.06), (20, 1e-9, 120.96)]
)
def test_gaussian_thresholds_equal_the_published_oracles(scale, delta, threshold):
    assert gaussian_threshold(scale, delta) == pytest.approx(threshold, abs=1e-2)


def test_the_keep_rate_of_a_single_holder_stays_below_delta_and_a_fixed_threshold_fails():
    epsilon, delta, trials = 1.0, 1e-3, 200_000
    noisy = 1 + discrete_laplace(uniforms(trials, 3), epsilon)
    kept = int((noisy >= category_threshold(epsilon, delta)).sum())
    assert stats.binomtest(kept, trials, delta, alternative="greater").pvalue > 1e-6
    at_five = int((1 + discrete_laplace(uniforms(trials, 4), 1 / 16) >= 5).sum())
    assert stats.binomtest(at_five, trials, 1e-5, alternative="greater").pvalue < 1e-6


def test_categories_keep_what_many_hold_and_what_is_public(tmp_path):
    access = access_to(tmp_path, Piece("categories/x", "threshold", EpsilonDelta(1.0, 1e-6), 1, 1.0, ""))
    kept = access.categories("categories/x", ["b"] * 500 + ["a"] * 400 + ["rare"], ["z"], None)
    assert kept == ["a", "b", "z"]


def test_bought_counts_have_the_noise_of_their_price(tmp_path):
    epsilon, delta, seen = 0.1, 1e-3, []
    access = access_to(
        tmp_path,
        Piece("bounds/x", "discrete_laplace", EpsilonDelta(epsilon), 1, 1.0, ""),
        Piece("categories/x", "threshold", EpsilonDelta(epsilon, delta), 1, 1.0, ""),
        observers=[seen.append],
    )
    counts = np.arange(5000)
    noise = access.log_histogram("bounds/x", counts) - counts
    assert noise.std() == pytest.approx(stats.dlaplace(epsilon).std(), rel=0.06)
    np.testing.assert_array_equal(seen[0].noise, noise)
    # Held as often as the threshold asks for, a value is kept where its noise is at least 0.
    held = category_threshold(epsilon, delta)
    values = [f"value {number}" for number in range(2000) for _ in range(held)]
    kept = access.categories("categories/x", values, [], None)
    assert stats.binomtest(len(kept), 2000, stats.dlaplace(epsilon).sf(-1)).pvalue > 1e-5
    assert seen[1].names is not None
    assert kept == sorted(n for n, x in zip(seen[1].names, seen[1].noise, strict=True) if x >= 0)


def test_quantiles_are_drawn_with_the_probabilities_of_their_price(tmp_path):
    draws, epsilon, level = 3000, 0.8, 0.75
    column, grid = np.array([1.0, 2.0, 2.0, 5.0]), np.array([1.5, 2.5, 4.0, 6.0])
    access = access_to(tmp_path, Piece("bounds/x", "exponential", EpsilonDelta(epsilon), draws, 1.0, ""))
    found = [access.quantile("bounds/x", step, column, grid, level) for step in range(draws)]
    # By hand: clipped to the grid none, 3, 3 and 4 rows lie below; 3 should.
    expected = np.exp(epsilon * -np.array([3, 0, 0, 1]) / (2 * 0.75))
    counted = [found.count(place) for place in grid]
    assert stats.chisquare(counted, draws * expected / expected.sum()).pvalue > 1e-4


@pytest.mark.parametrize("kind", ["laplace", "choice", "noise"])
def test_distances_are_in_the_norm_of_the_mechanism_and_by_name(kind):
    def seen(values, names=None):
        return Observation("a", 0, np.array(values), np.zeros(len(values)), 1.0, 1.0, kind, names)

    assert seen([3.0, 0.0]).distance(seen([0.0, 4.0])) == {"laplace": 7, "choice": 4, "noise": 5}[kind]
    assert seen([1, 2], ("a", "b")).distance(seen([2], ("b",))) == 1


def test_the_noise_of_a_step_is_drawn_once_in_a_process(tmp_path):
    access = access_to(tmp_path, Piece("train", "dp_sgd", Gaussian(1.0), 10, 1.0, ""))
    access.reserve("train", 10)
    access.gaussian_sum("train", 3, [torch.zeros(3)])
    with pytest.raises(PrivacyError, match="drawn already"):
        access.gaussian_sum("train", 3, [torch.ones(3)])


@pytest.mark.parametrize("kind", ["entropy", "secure"])
def test_a_released_vector_lies_on_a_public_grid_whatever_the_value(tmp_path, kind):
    piece = Piece("moments", "gaussian", Gaussian(5.0), 1, 3.0, "")
    ledger = Ledger.create(tmp_path / "ledger.jsonl", Plan((piece,), 1e-5), {"rng": kind})
    value = np.random.default_rng(0).normal(size=500) * 1e3
    noisy = PrivateAccess(ledger, KeyedRandom(kind, bytes(32))).gaussian("moments", value)
    grid = 2.0 ** math.floor(math.log2(15.0) - 10)
    assert np.array_equal(noisy / grid, np.rint(noisy / grid))
    assert (noisy - value).std() == pytest.approx(15.0, rel=0.15)
