"""Accuracy of marginals with bins fitted on the real rows, and its published values."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from dpforge.data.schema import Bounds, Categories, Column, Schema
from dpforge.errors import DataError
from dpforge.evaluation.accuracy import as_numbers, binned, fit_bins, mostly_accuracy
from dpforge.evaluation.downstream import train_on_test_on
from dpforge.evaluation.frames import permuted_columns

REFERENCE = Path(os.environ.get("DPFORGE_DATA", "")) / "reference"
needs_reference = pytest.mark.skipif(
    "DPFORGE_DATA" not in os.environ or not (REFERENCE / "argn_adult_train.csv.gz").exists(),
    reason="DPFORGE_DATA names no folder with the reference tables",
)


def one_column(kind: str, **options: object) -> Schema:
    return Schema("one", 100, (Column("x", kind, **options),))  # type: ignore[arg-type]


def codes(values: object, kind: str = "numeric") -> np.ndarray:
    frame = pd.DataFrame({"x": values})
    schema = one_column(kind)
    return binned(frame, schema, fit_bins(frame, schema))[:, 0]


def test_up_to_ten_distinct_numbers_have_a_bin_each():
    values = np.array([5.0, 1.0, 2.5, 5.0, np.nan])
    assert codes(values).tolist() == [2, 0, 1, 2, 3]


def test_more_numbers_are_cut_into_ten_nearly_equal_bins():
    values = np.random.default_rng(0).permutation(np.arange(1000.0))
    counts = np.bincount(codes(values))
    assert len(counts) == 10
    assert counts.min() >= 99
    assert counts.max() <= 101


def test_tied_order_statistics_are_refined_until_eleven_differ():
    values = np.concatenate([np.zeros(900), np.arange(1.0, 101.0)])
    counts = np.bincount(codes(values))
    assert len(counts) == 10
    assert counts[0] >= 900


def test_breaks_are_floored_to_the_fewest_decimals_that_keep_them_apart():
    values = np.linspace(0.0, 1.0, 1001) + 0.0004
    bins = fit_bins(pd.DataFrame({"x": values}), one_column("numeric"))[0]
    assert np.allclose(bins.breaks[:-1] * 10, np.round(bins.breaks[:-1] * 10))
    assert bins.breaks[-1] == pytest.approx(2.0004)


def test_numbers_beyond_the_real_range_count_to_the_outer_bins():
    schema = one_column("numeric")
    bins = fit_bins(pd.DataFrame({"x": np.arange(100.0)}), schema)
    outside = binned(pd.DataFrame({"x": [-1e9, 1e9, np.inf, -np.inf]}), schema, bins)[:, 0]
    assert outside.tolist() == [0, 9, 9, 0]


def test_rare_categories_are_merged_and_missing_ones_kept_apart():
    values = ["a"] * 9 + ["b"] * 5 + ["c"] * 4 + [None]
    found = codes(values, "categorical")
    assert found.tolist() == [0] * 9 + [1] * 5 + [2] * 4 + [3]


def test_only_the_ten_most_frequent_categories_keep_a_bin():
    values = [chr(97 + i) for i in range(12) for _ in range(5 + i)]
    found = codes(values, "categorical")
    assert set(found[: 5 + 6]) == {10}
    assert set(found[11:]) == set(range(10))


def test_a_bin_of_real_rows_that_the_synthetic_table_lacks_costs_its_share():
    real = pd.DataFrame({"x": [0.0] * 75 + [1.0] * 25, "y": [0.0, 1.0] * 50})
    synthetic = real.assign(x=0.0)
    schema = Schema("two", 100, (Column("x", "numeric"), Column("y", "numeric")))
    found = mostly_accuracy(real, synthetic, schema)
    assert found["accuracy_univariate"] == pytest.approx((0.75 + 1.0) / 2)
    assert found["accuracy_bivariate"] == pytest.approx(0.75)
    assert "accuracy_trivariate" not in found
    assert found["accuracy_overall"] == pytest.approx((0.875 + 0.75) / 2)


def test_datetimes_are_binned_by_the_second_and_missing_ones_kept_apart():
    days = pd.date_range("2020-01-01", periods=3, unit="s")
    frame = pd.DataFrame({"x": pd.Series([*days, pd.NaT], dtype="datetime64[s]")})
    assert as_numbers(frame["x"])[:3].tolist() == [1577836800.0 + 86400 * i for i in range(3)]
    assert codes(frame["x"], "datetime").tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(
    "values", [[np.nan] * 4, [3.0] * 4, [1e300, 2e300, -1e300, 0.0], [np.inf, -np.inf, np.nan, 1.0]]
)
def test_degenerate_columns_agree_with_themselves(values):
    frame = pd.DataFrame({"x": values})
    assert mostly_accuracy(frame, frame, one_column("numeric"))["accuracy_overall"] == 1.0


def test_text_in_a_number_column_is_refused_without_quoting_it():
    frame = pd.DataFrame({"x": ["secret", "1"]})
    with pytest.raises(DataError, match="expected numbers") as caught:
        mostly_accuracy(frame, frame, one_column("numeric"))
    assert "secret" not in str(caught.value)


def reference_table(name: str) -> pd.DataFrame:
    path = REFERENCE / name
    raw = pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_csv(path)
    frame = raw.rename(columns=lambda name: name.replace(".", "_"))
    text = frame.select_dtypes(include=["str", "string"]).columns
    return frame.assign(**{c: frame[c].astype("str").str.strip() for c in text})


@pytest.fixture(scope="module")
def adult() -> tuple[Schema, pd.DataFrame, pd.DataFrame]:
    train, test = reference_table("argn_adult_train.csv.gz"), reference_table("argn_adult_test.csv.gz")
    columns = [adult_column(name, pd.concat([train[name], test[name]])) for name in train.columns]
    return Schema("adult", 24_403, tuple(columns), target="income"), train, test


def adult_column(name: str, values: pd.Series) -> Column:
    if pd.api.types.is_numeric_dtype(values):
        return Column(name, "numeric", bounds=Bounds(float(values.min()), float(values.max())))
    return Column(name, "categorical", categories=Categories(tuple(sorted(values.unique()))))


@needs_reference
@pytest.mark.parametrize(
    ("table", "expected", "tolerance"),
    [
        ("train", (1.0, 1.0, 1.0, 1.0), 0.0),
        ("test", (0.9937, 0.9826, 0.9621, 0.9795), 1e-4),
        ("floor", (1.0, 0.9221, 0.8272, 0.9164), 5e-4),
        ("argn_published_synthetic_1.parquet", (0.9786, 0.9604, 0.9348, 0.9579), 1e-4),
        ("argn_published_synthetic_dp_1.parquet", (0.9543, 0.9093, 0.8589, 0.9075), 1e-4),
    ],
)
def test_accuracy_equals_the_published_values_on_adult(adult, table, expected, tolerance):
    schema, train, test = adult
    tables = {"train": train, "test": test, "floor": permuted_columns(train, seed=0)}
    other = tables[table] if table in tables else reference_table(table)
    found = mostly_accuracy(train, other, schema)
    assert tuple(found.values()) == pytest.approx(expected, abs=tolerance + 1e-12)


@needs_reference
@pytest.mark.parametrize(
    ("source", "expected", "tolerance"),
    [("train", 0.9304, 0.001), ("argn_published_synthetic_1.parquet", 0.9142, 0.002)],
)
def test_boosted_trees_reach_the_published_auroc_on_adult(adult, source, expected, tolerance):
    schema, train, test = adult
    fitted_on = train if source == "train" else reference_table(source)
    assert train_on_test_on(fitted_on, test, schema, "hgb").value == pytest.approx(expected, abs=tolerance)


@needs_reference
def test_boosted_trees_on_permuted_columns_are_near_chance_on_adult(adult):
    schema, train, test = adult
    assert 0.42 <= train_on_test_on(permuted_columns(train, seed=0), test, schema, "hgb").value <= 0.56
