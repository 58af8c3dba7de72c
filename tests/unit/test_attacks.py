"""Membership attacks: what their scores prove, and whether they find what there is to find."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from scipy.spatial.distance import cdist
from scipy.stats import binomtest, gaussian_kde
from sklearn.metrics import roc_auc_score

from dpforge.data.schema import Bounds, Categories, Column, Schema
from dpforge.data.table import violations
from dpforge.errors import ConfigError, DataError
from dpforge.evaluation import attacks
from dpforge.evaluation.attack_statistics import (
    AttackResult,
    Scores,
    area_under_curve,
    clopper_pearson,
    epsilon_ceiling,
    epsilon_lower_bound,
    true_positives_at,
)
from dpforge.evaluation.attacks import distance_attack, domias, isolated_rows, outlier_rows, shadow_attack

COLOURS = ("red", "blue")
SCHEMA = Schema(
    "shapes",
    100,
    (
        Column("colour", "categorical", categories=Categories(COLOURS), unseen="drop"),
        Column("length", "numeric", bounds=Bounds(-5.0, 5.0), nullable=True),
        Column("width", "numeric", bounds=Bounds(-5.0, 5.0)),
        Column("seen", "datetime", bounds=Bounds("2020-01-01", "2020-12-31"), resolution="day"),
    ),
)
DENSITIES = ("kde", "knn")


def table(rows: int, seed: int) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(rows, 2))
    values[rng.random(rows) < 0.1, 0] = np.nan
    days = pd.Timestamp("2020-01-01") + pd.to_timedelta(rng.integers(0, 365, rows), unit="D")
    colour = pd.Categorical.from_codes(rng.integers(0, 2, rows), list(COLOURS))
    columns = {"colour": colour, "length": values[:, 0], "width": values[:, 1]}
    return pd.DataFrame({**columns, "seen": days.astype("datetime64[s]")})


def perfect(n: int, m: int) -> Scores:
    return Scores(np.ones(n) + np.arange(n), -np.arange(m, dtype=float))


def halved(scores: Scores) -> AttackResult:
    return AttackResult("dcr", "1", scores, *scores.halves(0))


def brute_bound(scores: Scores, threshold: float, delta: float) -> float:
    """The bound at one threshold from scipy's exact binomial test."""
    found, accused = (scores.members >= threshold).sum(), (scores.non_members >= threshold).sum()
    low = binomtest(int(found), len(scores.members)).proportion_ci(0.95, "exact").low
    high = binomtest(int(accused), len(scores.non_members)).proportion_ci(0.95, "exact").high
    return math.log((low - delta) / high) if low > delta else -math.inf


@pytest.mark.parametrize(("hits", "trials"), [(0, 7), (7, 7), (3, 50), (499, 500), (1, 1)])
def test_intervals_of_shares_are_those_of_the_exact_binomial_test(hits, trials):
    expected = binomtest(hits, trials).proportion_ci(0.95, "exact")
    assert clopper_pearson(hits, trials) == pytest.approx((expected.low, expected.high))


@pytest.mark.parametrize(("n", "epsilon"), [(50, 2.570), (100, 3.281), (500, 4.906)])
def test_a_perfect_attack_proves_the_published_ceiling_and_no_more(n, epsilon):
    assert epsilon_ceiling(n, n) == pytest.approx(epsilon, abs=5e-4)
    assert epsilon_lower_bound(perfect(n, n), perfect(n, n)) == epsilon_ceiling(n, n)
    assert epsilon_lower_bound(perfect(n, n), perfect(n, n), 0.5) == epsilon_ceiling(n, n, 0.5)
    assert epsilon_ceiling(n, n, 0.5) == pytest.approx(
        math.log(math.exp(epsilon) - 0.5 / (1 - 0.025 ** (1 / n))), abs=1e-2
    )


def test_the_area_is_that_of_scikit_learn_also_with_ties():
    rng = np.random.default_rng(1)
    scores = Scores(rng.integers(2, 12, 83).astype(float), rng.integers(0, 10, 61).astype(float))
    expected = roc_auc_score(
        np.repeat([1, 0], [83, 61]), np.concatenate([scores.members, scores.non_members])
    )
    found = area_under_curve(scores)
    assert found.value == pytest.approx(expected)
    assert found.low < found.value < found.high


def test_the_interval_of_the_area_holds_the_true_area_in_at_least_95_of_100_samples():
    rng, truth = np.random.default_rng(2), 0.760250  # Φ(1/√2) for normals one deviation apart
    draws = [area_under_curve(Scores(rng.normal(1, 1, 40), rng.normal(size=60))) for _ in range(400)]
    assert np.mean([found.low <= truth <= found.high for found in draws]) >= 0.95
    assert area_under_curve(perfect(50, 50)).low == pytest.approx(binomtest(50, 50).proportion_ci().low)


@pytest.mark.parametrize("rate", [0.0, 0.001, 0.01, 0.2])
def test_the_true_positive_rate_is_the_best_of_all_thresholds_within_the_false_positive_rate(rate):
    rng = np.random.default_rng(3)
    scores = Scores(np.round(rng.normal(1, 1, 300), 1), np.round(rng.normal(size=100), 1))
    thresholds = [math.inf, *np.concatenate([scores.members, scores.non_members])]
    shares = [
        (scores.members >= t).mean() for t in thresholds if (scores.non_members >= t).mean() <= rate + 1e-12
    ]
    assert true_positives_at(scores, rate).value == pytest.approx(max(shares))


def test_the_bound_is_taken_at_the_threshold_that_the_other_scores_chose():
    rng = np.random.default_rng(4)
    choosing = Scores(rng.normal(2, 1, 60), rng.normal(size=60))
    testing = Scores(rng.normal(2, 1, 80), rng.normal(size=80))
    values = np.sort(np.concatenate([choosing.members, choosing.non_members]))
    candidates = [values[0], *(values[:-1] + values[1:]) / 2]
    best = max(candidates, key=lambda t: brute_bound(choosing, t, 0.01))
    assert epsilon_lower_bound(choosing, testing, 0.01) == pytest.approx(brute_bound(testing, best, 0.01))
    # A threshold that the tested scores choose themselves would prove more than it may.
    assert epsilon_lower_bound(testing, testing, 0.01) > epsilon_lower_bound(choosing, testing, 0.01)


def test_randomised_response_rarely_exceeds_its_epsilon_and_usually_comes_near():
    rng, epsilon, bounds = np.random.default_rng(5), 1.5, []
    truth = math.exp(epsilon) / (1 + math.exp(epsilon))
    for _ in range(300):
        members, others = rng.random(600) < truth, rng.random(600) < 1 - truth
        bounds.append(halved(Scores(members.astype(float), others.astype(float))).epsilon_lower_bound())
    assert np.mean(np.array(bounds) > epsilon) <= 0.05
    assert np.median(bounds) > 1.0


def test_scores_that_know_nothing_prove_nothing():
    rng = np.random.default_rng(6)
    assert halved(Scores(rng.normal(size=500), rng.normal(size=500))).epsilon_lower_bound() < 0.3
    tied = halved(Scores(np.zeros(40), np.zeros(40)))
    assert (tied.auc.value, tied.tpr_at_fpr(0.01).value, tied.epsilon_lower_bound()) == (0.5, 0.0, 0.0)


def test_the_halves_of_scores_are_a_partition():
    scores = perfect(7, 4)
    first, second = scores.halves(3)
    assert sorted([*first.members, *second.members]) == sorted(scores.members)
    assert sorted([*first.non_members, *second.non_members]) == sorted(scores.non_members)
    assert (len(first.members), len(second.members)) == (3, 4)


@pytest.mark.parametrize("density", DENSITIES)
def test_domias_finds_the_members_of_a_table_released_as_it_is(density):
    members, others, reference, fresh = (table(800, seed) for seed in range(4))
    copied = domias(members, others, members, reference, SCHEMA, seed=0, density=density)
    assert copied.auc.low > 0.55
    independent = domias(members, others, fresh, reference, SCHEMA, seed=0, density=density)
    assert independent.auc.low < 0.5 < independent.auc.high
    assert independent.epsilon_lower_bound() < 0.3


def test_rows_released_as_they_are_refute_a_guarantee_and_fresh_rows_do_not():
    members, others, fresh = (table(800, seed) for seed in range(3))
    copied = distance_attack(members, others, members, SCHEMA, seed=0)
    assert copied.auc.value == 1.0
    assert copied.sentence(1.0, 1e-6).startswith("VIOLATION: lower bound 4.")
    independent = distance_attack(members, others, fresh, SCHEMA, seed=0)
    assert independent.auc.low < 0.5 < independent.auc.high
    assert independent.sentence(1.0, 1e-6).startswith("no violation found")
    assert "no proof" in independent.sentence(1.0, 1e-6)


def test_the_kernel_density_ratio_is_that_of_scipy_on_whitened_points():
    rng = np.random.default_rng(7)
    raw = [rng.normal(size=(200, 3)) for _ in range(2)]
    whitened = [x @ np.linalg.inv(np.linalg.cholesky(np.cov(x.T))).T for x in raw]
    queries = rng.normal(scale=2.0, size=(30, 3))
    expected = np.subtract(*(gaussian_kde(x.T, "scott").logpdf(queries.T) for x in whitened))
    found = np.subtract(*(attacks._kernel_log_density(x, queries) for x in whitened))
    assert found == pytest.approx(expected)


def test_distance_scores_are_those_of_brute_force_and_swap_with_the_tables():
    members, others, synthetic = (table(60, seed)[["colour", "width"]] for seed in range(3))
    schema = Schema("two", 60, tuple(c for c in SCHEMA.columns if c.name in ("colour", "width")))
    known = pd.concat([members, others])["width"].to_numpy()

    def encoded(frame):
        levels = [(frame["colour"] == c).to_numpy() / np.sqrt(2) for c in COLOURS]
        rank = [((known < v).mean() + (known <= v).mean()) / 2 - 0.5 for v in frame["width"]]
        points = np.column_stack([*levels, rank])
        return points / np.linalg.norm(points, axis=1, keepdims=True)

    found = distance_attack(members, others, synthetic, schema, seed=0).scores
    expected = -cdist(encoded(members), encoded(synthetic)).min(axis=1)
    assert found.members == pytest.approx(expected, abs=1e-6)
    swapped = distance_attack(others, members, synthetic, schema, seed=0).scores
    assert np.array_equal(swapped.non_members, found.members)


def test_equally_many_members_and_non_members_enter_and_at_most_the_limit():
    result = domias(table(90, 1), table(40, 2), table(50, 3), table(50, 4), SCHEMA, seed=0)
    assert (len(result.scores.members), len(result.scores.non_members)) == (40, 40)
    cut = distance_attack(table(90, 1), table(40, 2), table(50, 3), SCHEMA, seed=0, max_rows=25)
    assert cut.metrics()["attack/dcr_members"] == cut.metrics()["attack/dcr_non_members"] == 25


def fresh_rows(rows: int):
    """A generator that ignores its training rows."""
    return lambda _, seed: table(rows, seed)


@pytest.mark.parametrize("learner", ["lr", "rf"])
def test_a_shadow_attack_finds_the_target_of_a_generator_that_copies_its_rows(learner):
    auxiliary, targets = table(80, 1), outlier_rows(SCHEMA, 1, 0)
    result = shadow_attack(lambda f, _: f, auxiliary, targets, SCHEMA, runs=16, seed=0, learner=learner)
    assert result.auc.value > 0.9
    assert result.epsilon_lower_bound() > 0.3
    assert result.epsilon_ceiling() == epsilon_ceiling(8, 8)
    assert not result.one_release


def test_a_shadow_attack_finds_nothing_in_a_generator_that_ignores_its_rows():
    auxiliary = table(80, 1)
    targets = auxiliary.iloc[isolated_rows(auxiliary, SCHEMA, 2)]
    result = shadow_attack(fresh_rows(40), auxiliary, targets, SCHEMA, runs=24, seed=0)
    assert result.auc.low < 0.5 < result.auc.high
    assert result.epsilon_lower_bound() < 0.3


def test_fits_with_and_without_the_target_differ_by_that_row_and_draw_afresh():
    auxiliary, fits, steps = table(30, 1), [], []
    target = auxiliary.iloc[[4]]

    def fit(frame, seed):
        fits.append((frame, seed))
        return table(20, seed)

    shadow_attack(
        fit, auxiliary, target, SCHEMA, runs=6, seed=0, rows=10, progress=lambda *step: steps.append(step)
    )
    inside = [bool((frame["width"] == target["width"].iloc[0]).any()) for frame, _ in fits]
    assert inside == [False, True] * 6
    assert [len(frame) for frame, _ in fits] == [10, 11] * 6
    assert len({seed for _, seed in fits}) == 12
    assert len({tuple(sorted(frame["width"])) for frame, _ in fits}) == 12
    assert all(frame.dtypes.equals(auxiliary.dtypes) for frame, _ in fits)
    assert steps[-1] == ("shadow", 12, 12)


def test_the_most_isolated_rows_are_those_furthest_from_their_neighbour():
    frame = table(40, 1)
    frame.loc[7, "width"], frame.loc[9, "width"] = 400.0, -300.0
    assert list(isolated_rows(frame, SCHEMA, 2)) == [7, 9]
    assert list(isolated_rows(frame.iloc[:1], SCHEMA, 2)) == [0]


def test_made_up_outliers_are_valid_rows_at_the_bounds():
    found = outlier_rows(SCHEMA, 20, 0)
    assert set(found["width"]) == {-5.0, 5.0}
    assert set(found["seen"]) == {pd.Timestamp("2020-01-01"), pd.Timestamp("2020-12-31")}
    assert not any(violations(found, SCHEMA).values())


DEGENERATE = {
    "one row": lambda seed: table(1, seed),
    "constant": lambda _: table(1, 0).loc[[0] * 9].reset_index(drop=True),
    "nothing known": lambda seed: table(9, seed).assign(length=np.nan),
    "far away": lambda seed: table(9, seed).assign(width=1e300),
}


@pytest.mark.parametrize("name", DEGENERATE)
def test_every_number_is_finite_on_degenerate_tables(name):
    tables = [DEGENERATE[name](seed) for seed in range(4)]
    found = [domias(*tables, SCHEMA, seed=0, density=density) for density in DENSITIES]
    found.append(distance_attack(*tables[:3], SCHEMA, seed=0))
    found.append(shadow_attack(lambda f, _: f, tables[0], tables[0].iloc[:1], SCHEMA, runs=4, seed=0))
    for result in found:
        assert all(math.isfinite(value) for value in result.metrics(1e-6).values())
        assert result.epsilon_lower_bound(1e-6) == 0.0


def test_results_carry_the_documented_keys_and_repeat_with_their_seed():
    tables = [table(50, seed) for seed in range(4)]
    first = domias(*tables, SCHEMA, seed=3)
    metrics = first.metrics(1e-6)
    ends = ("", "_low", "_high")
    expected = {f"{k}{end}" for k in ("auc", "tpr_at_fpr_1pct", "tpr_at_fpr_0.1pct") for end in ends}
    expected |= {"epsilon_lower_bound", "epsilon_ceiling", "members", "non_members"}
    assert set(metrics) == {f"attack/domias_{key}" for key in expected}
    assert metrics == domias(*tables, SCHEMA, seed=3).metrics(1e-6)
    assert first.version == "domias-kde-1"


def test_mistakes_are_told_with_what_was_expected():
    small = table(9, 1)
    with pytest.raises(ConfigError, match=r"density='kdee'.*Did you mean 'kde'"):
        domias(small, small, small, small, SCHEMA, seed=0, density="kdee")
    with pytest.raises(ConfigError) as told:
        shadow_attack(fresh_rows(5), small, small, SCHEMA, runs=3, seed=0, learner="svm", rows=99)
    assert len(told.value.mistakes) == 3
    with pytest.raises(DataError, match="columns width have another type"):
        shadow_attack(fresh_rows(5), small, small.astype({"width": "float32"}), SCHEMA, seed=0)
    with pytest.raises(DataError, match="member table has 0 rows"):
        distance_attack(small.iloc[:0], small, small, SCHEMA, seed=0)
    with pytest.raises(ConfigError, match=r"delta=1\.0"):
        halved(perfect(9, 9)).epsilon_lower_bound(1.0)
    with pytest.raises(ConfigError, match="epsilon=nan"):
        halved(perfect(9, 9)).sentence(math.nan, 0.0)
    with pytest.raises(ConfigError, match="rate=1"):
        halved(perfect(9, 9)).tpr_at_fpr(1)
    with pytest.raises(DataError, match="2 attack scores are not finite"):
        Scores(np.array([math.nan, 1.0]), np.array([math.inf]))
