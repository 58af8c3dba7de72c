"""How much of the real ranges and categories a synthetic table reaches."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from dpforge.data.schema import Bounds, Categories, Column, Schema
from dpforge.errors import DataError
from dpforge.evaluation import TabularEvaluation
from dpforge.evaluation.coverage import column_coverage, duplicate_share, overlap, value_coverage

FRUIT = ("apple", "fig", "pear", "plum")
SCHEMA = Schema(
    "fruit",
    10,
    (
        Column("kind", "categorical", categories=Categories(FRUIT), unseen="drop", nullable=True),
        Column("weight", "numeric", bounds=Bounds(0.0, 10.0), nullable=True),
        Column("picked", "datetime", bounds=Bounds("2020-01-01", "2020-12-31"), resolution="second"),
    ),
)


def table(kinds: list[str | None], weights: list[float], days: list[str]) -> pd.DataFrame:
    picked = pd.Series(pd.to_datetime(days)).astype("datetime64[s]")
    return pd.DataFrame({"kind": pd.Categorical(kinds, list(FRUIT)), "weight": weights, "picked": picked})


REAL = table(
    ["apple", "apple", "fig", None],
    [0.0, 2.0, 4.0, np.nan],
    ["2020-01-01", "2020-01-11", "2020-01-05", "2020-01-02"],
)


def test_a_table_covers_itself():
    assert value_coverage(REAL, REAL, SCHEMA) == {
        "range_coverage": 1.0,
        "category_coverage": 1.0,
        "category_mass": 1.0,
    }


def test_coverage_is_the_reached_part_of_range_categories_and_mass():
    synthetic = table(["apple", "plum"], [1.0, 9.0], ["2020-01-03", "2020-01-06"])
    rows = column_coverage(REAL, synthetic, SCHEMA).set_index("column")
    assert rows.loc["weight", "range_coverage"] == pytest.approx(3 / 4)
    assert rows.loc["picked", "range_coverage"] == pytest.approx(3 / 10)
    found = value_coverage(REAL, synthetic, SCHEMA)
    assert found["range_coverage"] == pytest.approx((3 / 4 + 3 / 10) / 2)
    assert found["category_coverage"] == pytest.approx(1 / 2)
    assert found["category_mass"] == pytest.approx(2 / 3)


def test_ranges_that_do_not_meet_cover_nothing_and_wider_ones_everything():
    real = np.array([1.0, 2.0])
    assert overlap(real, np.array([3.0, 4.0])) == 0.0
    assert overlap(real, np.array([-5.0, 50.0])) == 1.0
    assert overlap(real, np.array([])) == 0.0
    assert overlap(np.array([]), real) == 1.0


def test_a_constant_real_column_is_covered_by_a_range_that_holds_its_value():
    assert overlap(np.array([2.0, 2.0]), np.array([1.0, 3.0])) == 1.0
    assert overlap(np.array([2.0, 2.0]), np.array([2.5, 3.0])) == 0.0


def test_columns_without_a_value_are_covered_and_missing_is_no_category():
    empty = REAL.assign(kind=pd.Categorical([None] * 4, list(FRUIT)), weight=np.nan)
    assert value_coverage(empty, REAL, SCHEMA)["category_coverage"] == 1.0
    found = value_coverage(REAL, empty, SCHEMA)
    assert found["category_coverage"] == 0.0
    assert found["range_coverage"] == pytest.approx(1 / 2)


def test_scores_without_a_column_of_their_kind_are_left_out():
    only = Schema("only", 10, SCHEMA.columns[:1])
    assert set(value_coverage(REAL, REAL, only)) == {"category_coverage", "category_mass"}


def test_duplicates_are_the_rows_that_repeat_an_earlier_one():
    repeated = pd.concat([REAL, REAL.iloc[:2], REAL.iloc[:1]])
    assert duplicate_share(REAL, SCHEMA) == 0.0
    assert duplicate_share(repeated, SCHEMA) == pytest.approx(3 / 7)
    with pytest.raises(DataError, match="0 rows"):
        duplicate_share(REAL.iloc[:0], SCHEMA)


def test_the_suite_reports_coverage_beside_floor_and_ceiling():
    found = TabularEvaluation(metrics=["coverage"]).evaluate(REAL, REAL.iloc[:3], REAL, SCHEMA, seed=0)
    assert found.metrics["floor/fidelity/range_coverage"] == 1.0
    assert found.metrics["fidelity/category_coverage"] == 1.0
    assert found.metrics["validity/duplicate_share"] == 0.0
    assert found.visibility("validity/duplicate_share") == "private"
    assert list(found.tables["coverage_columns"]["column"]) == list(SCHEMA.names)
