"""Ranking agreement, Wasserstein ratio and pMSE ratio, as published and corrected."""

from __future__ import annotations

import itertools
import math
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import kendalltau, wasserstein_distance
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import PolynomialFeatures, StandardScaler

from dpforge.data.schema import Bounds, Categories, Column, Schema
from dpforge.errors import ConfigError, DataError
from dpforge.evaluation import TabularEvaluation
from dpforge.evaluation.correlation import correlation_error
from dpforge.evaluation.frames import permuted_columns
from dpforge.evaluation.propensity import fitted_probabilities, legacy_propensity, propensity_ratio
from dpforge.evaluation.ranking import (
    column_scores,
    legacy_ranking_agreement,
    ranking_agreement,
    synthetic_ranking_agreement,
)
from dpforge.evaluation.wasserstein import (
    binned_distance,
    distances_by_labels,
    legacy_wasserstein,
    wasserstein_ratio,
)

CITIES = ("north", "south", "west")


def numbers_schema(columns: int) -> Schema:
    return Schema(
        "numbers", 100, tuple(Column(str(j), "numeric", bounds=Bounds(-9, 9)) for j in range(columns))
    )


def normal(rows: int, columns: int, seed: int, correlation: float = 0.0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    shared = rng.normal(size=(rows, 1))
    own = rng.normal(size=(rows, columns))
    values = math.sqrt(correlation) * shared + math.sqrt(1 - correlation) * own
    return pd.DataFrame(values, columns=[str(j) for j in range(columns)])


def mixed_schema(target: str | None = "city") -> Schema:
    columns = (
        Column("city", "categorical", categories=Categories(CITIES), unseen="drop", nullable=True),
        Column("size", "numeric", bounds=Bounds(-10.0, 10.0), nullable=True),
        Column("count", "integer", bounds=Bounds(0, 50)),
    )
    return Schema("mixed", 100, columns, target=target)


def mixed(rows: int, seed: int) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    city = rng.integers(0, 3, rows)
    size = city + rng.normal(size=rows)
    size[rng.random(rows) < 0.1] = np.nan
    count = pd.array(rng.poisson(5 + 2 * city).clip(0, 50), dtype="Int64")
    return pd.DataFrame({"city": pd.Categorical.from_codes(city, list(CITIES)), "size": size, "count": count})


# --- ranking agreement


def test_the_agreement_of_three_models_counts_the_pairs_in_the_same_order():
    assert ranking_agreement((0.9, 0.8, 0.7), (0.5, 0.6, 0.4)) == pytest.approx(2 / 3)


def test_models_that_score_alike_agree_wholly_by_the_legacy_rule_and_half_by_the_corrected_one():
    assert ranking_agreement((0.9, 0.8, 0.7), (0.5, 0.5, 0.5), tie=1.0) == 1.0
    assert ranking_agreement((0.9, 0.8, 0.7), (0.5, 0.5, 0.5)) == 0.5
    assert ranking_agreement((0.1, 0.1 + 1e-15), (0.2, 0.1)) == 0.5


def test_without_ties_the_agreement_is_kendalls_tau_on_another_scale():
    rng = np.random.default_rng(0)
    for _ in range(20):
        first, second = rng.normal(size=(2, 7))
        expected = (kendalltau(first, second).statistic + 1) / 2
        assert ranking_agreement(first, second) == pytest.approx(expected)


def test_lists_of_scores_that_do_not_match_are_refused():
    with pytest.raises(DataError, match="3 real and 2 synthetic"):
        ranking_agreement((0.1, 0.2, 0.3), (0.1, 0.2))
    with pytest.raises(DataError, match="at least 2"):
        ranking_agreement((0.1,), (0.1,))


def test_the_training_table_as_synthetic_table_ranks_the_learners_as_itself():
    train, fresh = mixed(150, 1), mixed(150, 2)
    found = synthetic_ranking_agreement(train, train, fresh, mixed_schema(), protocol="tstr", bootstraps=5)
    assert found["sra_tstr"] == 1.0
    assert 0.0 <= found["sra_tstr_low"] <= found["sra_tstr_high"] <= 1.0


def test_a_numeric_target_ranks_regressors_and_noise_is_worse_than_fresh_rows():
    schema = mixed_schema("count")
    train, fresh, other = (mixed(250, seed) for seed in (1, 2, 3))
    noise = permuted_columns(train, 0)
    options = {"protocol": "tstr", "bootstraps": 0}
    good, bad = (
        synthetic_ranking_agreement(train, table, fresh, schema, **options)["sra_tstr"]
        for table in (other, noise)
    )
    assert good > bad


def test_an_unknown_protocol_and_a_schema_without_target_are_refused():
    train = mixed(30, 1)
    with pytest.raises(ConfigError, match="protocol='trtr', expected one of tsts, tstr"):
        synthetic_ranking_agreement(train, train, train, mixed_schema(), protocol="trtr")
    with pytest.raises(ConfigError, match="no target"):
        synthetic_ranking_agreement(train, train, train, mixed_schema(None))


def test_legacy_scores_are_the_r2_of_a_regression_on_the_other_columns():
    table = normal(400, 3, 1, correlation=0.5).to_numpy()
    found = column_scores(table)
    # Exchangeable columns: the population R² of one on the two others is 2ρ²/(1 + ρ).
    assert found == pytest.approx([1 / 3] * 3, abs=0.15)
    assert column_scores(np.zeros((50, 3))) == [0.0] * 3
    assert column_scores(table[:3]) == [0.0] * 3


# --- Wasserstein ratio


def test_distances_of_relabelled_pools_are_those_of_scipy():
    rng = np.random.default_rng(0)
    pooled = np.column_stack([rng.normal(size=40), rng.integers(0, 4, 40), np.ones(40)])
    signs = np.stack([rng.permutation(np.repeat([1, -1], 20)) for _ in range(5)])
    found = distances_by_labels(pooled, signs)
    for row, j in itertools.product(range(5), range(3)):
        first, second = (pooled[signs[row] == sign, j] for sign in (1, -1))
        assert found[row, j] == pytest.approx(wasserstein_distance(first, second), abs=1e-12)


def test_distances_of_histograms_are_those_of_scipy_on_bin_centres():
    rng = np.random.default_rng(1)
    first, second = rng.integers(0, 30, (2, 10))
    centres = 0.25 + 0.5 * np.arange(10)
    expected = wasserstein_distance(centres, centres, first, second)
    assert binned_distance(first, second, 0.5) == pytest.approx(expected)


def test_the_ratio_of_one_column_is_the_observed_distance_over_that_of_shuffled_labels():
    real, synthetic = normal(200, 1, 1), normal(200, 1, 2) + 0.3
    rng = np.random.default_rng(9)
    pool = np.concatenate([real["0"], synthetic["0"]])
    null = []
    for _ in range(300):
        shuffled = rng.permutation(pool)
        null.append(wasserstein_distance(shuffled[:200], shuffled[200:]))
    expected = wasserstein_distance(real["0"], synthetic["0"]) / np.median(null)
    found = wasserstein_ratio(real, synthetic, numbers_schema(1))
    assert found["wasserstein_ratio_1d"] == pytest.approx(expected, rel=0.08)
    assert found["wasserstein_ratio_sliced"] == pytest.approx(found["wasserstein_ratio_1d"], rel=1e-9)


def test_a_categorical_column_counts_by_its_total_variation():
    schema = Schema("one", 10, (Column("c", "categorical", categories=Categories(("a", "b", "c"))),))
    codes = np.repeat([0, 1, 2], [50, 30, 20]), np.repeat([0, 1, 2], [20, 30, 50])
    tables = [pd.DataFrame({"c": pd.Categorical.from_codes(c, ["a", "b", "c"])}) for c in codes]
    rng = np.random.default_rng(9)
    null = []
    for _ in range(400):
        halves = np.split(rng.permutation(np.concatenate(codes)), 2)
        shares = [np.bincount(half, minlength=3) / 100 for half in halves]
        null.append(np.abs(shares[0] - shares[1]).sum() / 2)
    found = wasserstein_ratio(tables[0], tables[1], schema, permutations=400)
    assert found["wasserstein_ratio_1d"] == pytest.approx(0.3 / np.median(null), rel=0.12)


def test_fresh_rows_score_about_one_and_shifted_rows_far_above():
    real, schema = normal(600, 3, 1), numbers_schema(3)
    fresh = wasserstein_ratio(real, normal(600, 3, 2), schema)
    shifted = wasserstein_ratio(real, normal(600, 3, 2) + 0.5, schema)
    for name in ("wasserstein_ratio_1d", "wasserstein_ratio_sliced"):
        assert 0.6 < fresh[name] < 1.6
        assert shifted[name] > 4.0
    assert fresh["wasserstein_rows"] == 600


def test_only_random_directions_see_that_dependence_is_lost():
    real, schema = normal(1000, 3, 1, correlation=0.9), numbers_schema(3)
    found = wasserstein_ratio(real, permuted_columns(real, 0), schema)
    assert found["wasserstein_ratio_1d"] < 1.2
    assert found["wasserstein_ratio_sliced"] > 1.8


def test_missing_values_that_are_filled_in_are_seen():
    real = mixed(500, 1)
    real.loc[:150, "size"] = np.nan
    filled = real.assign(size=real["size"].fillna(real["size"].mean()))
    only = Schema("one", 10, (mixed_schema().column("size"),))
    found = wasserstein_ratio(real, filled, only, repeats=3)
    assert found["wasserstein_ratio_1d"] > 3.0
    assert wasserstein_ratio(real, real, only, repeats=3)["wasserstein_ratio_1d"] == 0.0


# --- propensity


def test_probabilities_are_those_of_an_unpenalised_logistic_regression():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 4))
    label = (rng.random(300) < 1 / (1 + np.exp(-x[:, 0] - 0.5 * x[:, 1]))).astype(float)
    model = LogisticRegression(C=np.inf, tol=1e-10, max_iter=1000).fit(x, label)
    assert fitted_probabilities(x, label) == pytest.approx(model.predict_proba(x)[:, 1], abs=1e-5)


@pytest.mark.parametrize("features", ["main", "pairwise"])
def test_the_ratio_is_the_mean_squared_error_of_propensities_over_its_null(features):
    real, synthetic = normal(300, 3, 1), normal(200, 3, 2, correlation=0.4) * 1.2
    pooled = StandardScaler().fit_transform(pd.concat([real, synthetic]))
    degree = 1 if features == "main" else 2
    x = StandardScaler().fit_transform(PolynomialFeatures(degree, include_bias=False).fit_transform(pooled))
    label = np.repeat([0, 1], [300, 200])
    p = LogisticRegression(C=np.inf, tol=1e-10, max_iter=5000).fit(x, label).predict_proba(x)[:, 1]
    pmse, unit = ((p - 0.4) ** 2).mean(), 0.4 * 0.6 / 500
    found = propensity_ratio(real, synthetic, numbers_schema(3), features=features)
    size = x.shape[1]
    assert found["pmse_parameters"] == size + 1
    assert found["pmse_ratio"] == pytest.approx(pmse / (size * unit), rel=1e-4)
    assert found["pmse_z"] == pytest.approx((pmse - size * unit) / (math.sqrt(2 * size) * unit), abs=1e-3)


def test_over_many_samples_of_one_distribution_the_ratio_averages_one():
    schema = numbers_schema(4)
    found = [
        propensity_ratio(normal(500, 4, 2 * i), normal(500, 4, 2 * i + 1), schema, features="pairwise")
        for i in range(200)
    ]
    assert 0.95 < np.mean([f["pmse_ratio"] for f in found]) < 1.07
    assert np.std([f["pmse_z"] for f in found]) == pytest.approx(1.0, abs=0.2)


def test_separated_tables_score_the_rows_over_the_parameters():
    real, synthetic = normal(200, 2, 1), normal(200, 2, 2) + 50.0
    found = propensity_ratio(real, synthetic, numbers_schema(2))
    assert found["pmse_ratio"] == pytest.approx(400 / 2, rel=1e-3)


def test_main_effects_are_blind_to_dependence_and_products_are_not():
    real, schema = normal(800, 3, 1, correlation=0.6), numbers_schema(3)
    permuted = permuted_columns(real, 0)
    assert propensity_ratio(real, permuted, schema)["pmse_ratio"] == pytest.approx(0.0, abs=1e-6)
    assert propensity_ratio(real, permuted, schema, features="pairwise")["pmse_ratio"] > 5.0
    assert propensity_ratio(real, permuted, schema, features="tree", permutations=8)["pmse_ratio"] > 1.5


def test_the_tree_scores_fresh_rows_about_one():
    tables = normal(400, 3, 1), normal(400, 3, 2)
    found = propensity_ratio(*tables, numbers_schema(3), features="tree", permutations=20)
    assert 0.7 < found["pmse_ratio"] < 1.4
    assert abs(found["pmse_z"]) < 3.5


def test_the_null_of_a_fitted_model_is_half_as_large_at_equal_sizes():
    tables, schema = (normal(300, 2, 1), normal(300, 2, 2)), numbers_schema(2)
    independent = propensity_ratio(*tables, schema)["pmse_ratio"]
    assert propensity_ratio(*tables, schema, null="fitted_model")["pmse_ratio"] == pytest.approx(
        2 * independent
    )


def test_wide_mixed_tables_keep_a_bounded_number_of_products():
    columns = tuple(
        Column(str(j), "categorical", categories=Categories(tuple("abcdef")), unseen="drop")
        for j in range(12)
    )
    rng = np.random.default_rng(0)
    tables = [
        pd.DataFrame(
            {str(j): pd.Categorical.from_codes(rng.integers(0, 6, 2500), list("abcdef")) for j in range(12)}
        )
        for _ in range(2)
    ]
    found = propensity_ratio(*tables, Schema("wide", 10, columns), features="pairwise")
    assert found["pmse_parameters"] <= 301
    assert 0.7 < found["pmse_ratio"] < 1.4


def test_unknown_features_and_nulls_are_refused_with_a_hint():
    table = normal(20, 2, 1)
    with pytest.raises(ConfigError, match="Did you mean 'pairwise'"):
        propensity_ratio(table, table, numbers_schema(2), features="pairwize")
    with pytest.raises(ConfigError, match="null='none'"):
        propensity_ratio(table, table, numbers_schema(2), null="none")


# --- legacy scores


def test_legacy_scores_cannot_see_errors_of_location_and_scale():
    real, schema = normal(300, 3, 1, correlation=0.3), numbers_schema(3)
    wrong = real * 7.0 + 100.0
    for score in (legacy_ranking_agreement, legacy_wasserstein, legacy_propensity):
        same, other = score(real, real, schema), score(real, wrong, schema)
        assert other == pytest.approx(same, rel=1e-6)
    assert wasserstein_ratio(real, wrong, schema)["wasserstein_ratio_1d"] > 10


def test_legacy_scores_keep_the_first_complete_rows_and_the_number_columns():
    real, longer, schema = mixed(80, 1), mixed(200, 2), mixed_schema()
    complete = longer[np.isfinite(longer["size"])].iloc[: int(np.isfinite(real["size"]).sum())]
    for score in (legacy_ranking_agreement, legacy_propensity):
        assert score(real, longer, schema) == score(real, complete, schema)
    with pytest.raises(DataError, match="1 number columns"):
        legacy_propensity(normal(10, 1, 1), normal(10, 1, 2), numbers_schema(1))


# --- degenerate tables


DEGENERATE = {
    "one row": lambda t: t.iloc[:1],
    "constant columns": lambda t: t.assign(size=2.0, count=pd.array([3] * len(t), dtype="Int64")),
    "numbers all missing": lambda t: t.assign(size=np.nan),
    "one class": lambda t: t.assign(city=pd.Categorical(["west"] * len(t), list(CITIES))),
    "huge values": lambda t: t.assign(size=t["size"] * 1e300),
}
FAST = ("wasserstein", "pmse", "distances", "coverage", "legacy")


@pytest.mark.parametrize("name", DEGENERATE)
@pytest.mark.parametrize("side", ["real", "synthetic", "both"])
def test_degenerate_tables_give_finite_scores(name, side):
    change, same = DEGENERATE[name], lambda t: t
    real, synthetic = {"real": (change, same), "synthetic": (same, change), "both": (change, change)}[side]
    found = TabularEvaluation(metrics=FAST).evaluate(
        real(mixed(60, 1)), real(mixed(60, 2)), synthetic(mixed(60, 3)), mixed_schema(), seed=0
    )
    bad = [k for k, v in found.metrics.items() if not math.isfinite(v) and not k.startswith("normalised/")]
    assert bad == []


@pytest.mark.parametrize("name", ["one row", "constant columns", "one class"])
def test_the_ranking_agreement_of_degenerate_tables_is_finite(name):
    table = DEGENERATE[name](mixed(30, 3))
    found = synthetic_ranking_agreement(mixed(30, 1), table, mixed(30, 2), mixed_schema(), bootstraps=2)
    assert all(0.0 <= value <= 1.0 for value in found.values())


# --- published tables


def published(name: str) -> tuple[pd.DataFrame, pd.DataFrame, Schema]:
    root = os.environ.get("DPFORGE_DATA")
    paths = (f"tabular/maf_{name}_subset.csv", f"reference/maf_published_synthetic_{name}.csv.gz")
    if root is None or not all((Path(root) / path).exists() for path in paths):
        pytest.skip("the published tables are not at hand (DPFORGE_DATA)")
    real = pd.read_csv(Path(root) / paths[0]).astype(float)
    synthetic = pd.read_csv(Path(root) / paths[1], index_col=0).astype(float)
    columns = tuple(Column(c, "numeric", bounds=Bounds(-1e7, 1e7)) for c in real.columns)
    return real, synthetic, Schema(name, 3000, columns)


LEGACY = {
    "adult": (0.6, 0.0837, 1.896),
    "pums": (1 / 6, 0.0933, 0.786),
    "power": (5 / 7, 0.0828, 0.588),
}


@pytest.mark.parametrize("name", LEGACY)
def test_legacy_scores_of_the_published_tables_are_the_published_ones(name):
    real, synthetic, schema = published(name)
    agreement, distance, pmse = LEGACY[name]
    assert legacy_ranking_agreement(real, synthetic, schema)["sra"] == pytest.approx(agreement, abs=1e-9)
    found = legacy_wasserstein(real, synthetic, schema)["wasserstein_ratio"]
    assert found == pytest.approx(distance, abs=0.004)
    assert legacy_propensity(real, synthetic, schema)["pmse_ratio"] == pytest.approx(pmse, abs=0.005)


CORRECTED = {
    "adult": (5.86, 2.56, 3.90, 3.20, 0.038),
    "pums": (4.31, 2.45, 4.41, 13.26, 0.074),
    "power": (5.83, 3.66, 30.5, 107.5, 0.190),
}


@pytest.mark.parametrize("name", CORRECTED)
def test_corrected_scores_show_what_the_published_tables_get_wrong(name):
    real, synthetic, schema = published(name)
    synthetic = synthetic.iloc[: len(real)]
    along, sliced, main, pairwise, correlation = CORRECTED[name]
    found = wasserstein_ratio(real, synthetic, schema)
    assert found["wasserstein_ratio_1d"] == pytest.approx(along, rel=0.05)
    assert found["wasserstein_ratio_sliced"] == pytest.approx(sliced, rel=0.10)
    for features, expected in (("main", main), ("pairwise", pairwise)):
        ratio = propensity_ratio(real, synthetic, schema, features=features)["pmse_ratio"]
        assert ratio == pytest.approx(expected, rel=0.05)
    assert correlation_error(real, synthetic, schema)["correlation_mae"] == pytest.approx(
        correlation, rel=0.05
    )


def test_the_floor_of_the_published_adult_table_is_far_from_its_products():
    real, _, schema = published("adult")
    permuted = permuted_columns(real, 0)
    assert propensity_ratio(real, permuted, schema)["pmse_ratio"] == pytest.approx(0.0, abs=0.005)
    assert propensity_ratio(real, permuted, schema, features="pairwise")["pmse_ratio"] == pytest.approx(
        4.33, rel=0.1
    )
    assert wasserstein_ratio(real, permuted, schema)["wasserstein_ratio_1d"] == pytest.approx(0.89, abs=0.12)
