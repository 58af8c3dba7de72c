"""Total variation of marginals, associations and the row operations they rest on."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from dpforge.data.schema import Bounds, Categories, Column, Schema
from dpforge.errors import DataError
from dpforge.evaluation.correlation import association, correlation_error, correlation_ratio, cramers_v
from dpforge.evaluation.frames import drawn_rows, permuted_columns, resized
from dpforge.evaluation.marginals import column_subsets, marginal_distances, total_variation

COLOURS = ("red", "green", "blue")


def small_schema() -> Schema:
    columns = (
        Column("colour", "categorical", categories=Categories(COLOURS)),
        Column("shape", "categorical", categories=Categories(("round", "square")), nullable=True),
        Column("count", "integer", bounds=Bounds(0, 5)),
        Column("grade", "integer", bounds=Bounds(1, 4), nullable=True),
    )
    return Schema("small", 100, columns, target="shape")


def small_table(rows: int, seed: int) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    colour = rng.choice(3, rows, p=[0.5, 0.3, 0.2])
    shape = np.where(rng.random(rows) < 0.7, colour % 2, rng.integers(0, 2, rows))
    grade = pd.array(rng.integers(1, 5, rows), dtype="Int64")
    grade[rng.random(rows) < 0.2] = pd.NA
    return pd.DataFrame(
        {
            "colour": pd.Categorical.from_codes(colour, categories=[*COLOURS, "unknown"]),
            "shape": pd.Categorical.from_codes(shape, categories=["round", "square", "unknown"]),
            "count": pd.array(np.minimum(colour + rng.integers(0, 4, rows), 5), dtype="Int64"),
            "grade": grade,
        }
    )


def brute_force(real: pd.DataFrame, other: pd.DataFrame, order: int) -> list[float]:
    """Distance of each marginal by counting tuples of values, which need no cells for small grids."""
    distances = []
    for names in itertools.combinations(real.columns, order):
        tables = [
            t[list(names)].astype(object).where(t[list(names)].notna(), "missing") for t in (real, other)
        ]
        p, q = (t.value_counts(normalize=True).to_dict() for t in tables)
        distances.append(0.5 * sum(abs(p.get(k, 0.0) - q.get(k, 0.0)) for k in p.keys() | q.keys()))
    return distances


@pytest.mark.parametrize("order", [1, 2, 3])
def test_total_variation_equals_counting_tuples_of_values(order):
    real, other = small_table(300, 1), small_table(170, 2)
    expected = brute_force(real, other, order)
    found = total_variation(real, other, small_schema(), order)
    assert found[f"tvd_{order}way"] == pytest.approx(np.mean(expected), abs=1e-12)
    assert found[f"tvd_{order}way_max"] == pytest.approx(max(expected), abs=1e-12)
    assert found[f"tvd_{order}way_p95"] == pytest.approx(np.quantile(expected, 0.95), abs=1e-12)


def test_total_variation_of_a_table_and_its_shuffled_rows_is_zero():
    real = small_table(200, 3)
    shuffled = real.sample(frac=1.0, random_state=1)
    assert all(total_variation(real, shuffled, small_schema(), k)[f"tvd_{k}way"] == 0.0 for k in (1, 2, 3))


def test_large_products_of_sizes_give_the_same_distance_as_counting_tuples():
    rng = np.random.default_rng(0)
    sizes = (3_000_000, 2_000_000, 5_000_000)
    values = [rng.choice(size, 6, replace=False) for size in sizes]
    real, other = (np.column_stack([rng.choice(v, 500) for v in values]) for _ in range(2))
    frames = [pd.DataFrame(codes) for codes in (real, other)]
    found = marginal_distances(real, other, sizes, [(0, 1, 2)]).distance[0]
    assert found == pytest.approx(brute_force(*frames, 3)[0], abs=1e-12)


def test_the_noise_level_is_the_mean_distance_of_two_samples_of_one_distribution():
    rng = np.random.default_rng(5)
    p = np.array([0.4, 0.3, 0.2, 0.1])
    draws = [(rng.choice(4, (400, 1), p=p), rng.choice(4, (900, 1), p=p)) for _ in range(400)]
    found = [marginal_distances(a, b, [4], [(0,)]) for a, b in draws]
    simulated = np.mean([f.distance[0] for f in found])
    assert np.mean([f.noise[0] for f in found]) == pytest.approx(simulated, rel=0.05)


def test_all_subsets_are_used_up_to_the_limit_and_a_seeded_sample_beyond():
    assert column_subsets(6, 3) == list(itertools.combinations(range(6), 3))
    sample = column_subsets(40, 3, limit=500, seed=1)
    assert len(set(sample)) == 500
    assert all(len(set(s)) == 3 and list(s) == sorted(s) for s in sample)
    assert sample == column_subsets(40, 3, limit=500, seed=1)
    assert sample != column_subsets(40, 3, limit=500, seed=2)


def test_a_missing_column_is_named_and_an_empty_table_refused():
    real, schema = small_table(20, 0), small_schema()
    with pytest.raises(DataError, match="grade"):
        total_variation(real, real.drop(columns="grade"), schema)
    with pytest.raises(DataError, match="synthetic table has 0 rows"):
        total_variation(real, real.iloc[:0], schema)
    with pytest.raises(DataError, match="order=5"):
        total_variation(real, real, schema, order=5)


def test_the_floor_table_keeps_marginals_and_loses_dependence():
    real, schema = small_table(2000, 4), small_schema()
    floor = permuted_columns(real, seed=1)
    assert total_variation(real, floor, schema, 1)["tvd_1way"] == 0.0
    assert floor.dtypes.equals(real.dtypes)
    dependence = association(floor, schema).loc["colour", "shape"]
    assert dependence < 0.1 < association(real, schema).loc["colour", "shape"]
    assert floor.equals(permuted_columns(real, seed=1))
    assert not floor.equals(permuted_columns(real, seed=2))


def test_draws_do_not_repeat_rows_and_a_bootstrap_fills_the_size():
    frame = pd.DataFrame({"x": range(10)})
    assert len(set(drawn_rows(frame, 6, seed=0)["x"])) == 6
    assert drawn_rows(frame, 10, seed=0).equals(frame)
    assert len(set(resized(frame, 7, seed=0)["x"])) == 7
    assert len(resized(frame, 25, seed=0)) == 25


def test_cramers_v_equals_the_bias_corrected_formula_from_scipy():
    rng = np.random.default_rng(2)
    a = rng.integers(0, 4, 500)
    b = np.where(rng.random(500) < 0.5, a % 3, rng.integers(0, 3, 500))
    chi2 = stats.chi2_contingency(pd.crosstab(a, b), correction=False).statistic
    n, r, k = 500, 4, 3
    phi2 = max(0.0, chi2 / n - (k - 1) * (r - 1) / (n - 1))
    expected = math.sqrt(phi2 / min(k - (k - 1) ** 2 / (n - 1) - 1, r - (r - 1) ** 2 / (n - 1) - 1))
    assert cramers_v(a, b) == pytest.approx(expected, abs=1e-12)
    assert cramers_v(a, a) == pytest.approx(1.0, abs=0.01)
    assert cramers_v(a, np.zeros(500, dtype=int)) == 0.0


def test_the_correlation_ratio_is_the_root_of_the_anova_effect_size():
    rng = np.random.default_rng(3)
    codes = rng.integers(0, 3, 300)
    numbers = codes + rng.normal(size=300)
    f = stats.f_oneway(*(numbers[codes == k] for k in range(3))).statistic
    expected = math.sqrt(f * 2 / (f * 2 + 297))
    assert correlation_ratio(codes, numbers) == pytest.approx(expected, abs=1e-12)


def test_number_pairs_use_pearson_over_complete_rows():
    table, schema = small_table(300, 6), small_schema()
    complete = table["grade"].notna()
    expected = stats.pearsonr(*(table.loc[complete, c].astype(float) for c in ("count", "grade"))).statistic
    assert association(table, schema).loc["count", "grade"] == pytest.approx(expected, abs=1e-12)


def test_the_correlation_error_is_the_mean_difference_of_pairs_and_zero_for_one_table():
    real, other, schema = small_table(300, 7), small_table(300, 8), small_schema()
    assert correlation_error(real, real, schema)["correlation_mae"] == 0.0
    a, b = association(real, schema), association(other, schema)
    pairs = [abs(a.loc[x, y] - b.loc[x, y]) for x, y in itertools.combinations(schema.names, 2)]
    found = correlation_error(real, other, schema)
    assert found["correlation_mae"] == pytest.approx(np.mean(pairs), abs=1e-12)
    assert found["correlation_max"] == pytest.approx(max(pairs), abs=1e-12)
