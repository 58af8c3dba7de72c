"""Distances of synthetic rows to training rows, as hints at copying."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.spatial.distance import cdist

from dpforge.data.schema import Bounds, Categories, Column, Schema
from dpforge.evaluation import TabularEvaluation
from dpforge.evaluation.distances import closer_share, column_groups, distance_hints

COLOURS = ("red", "blue")
SCHEMA = Schema(
    "shapes",
    100,
    (
        Column("colour", "categorical", categories=Categories(COLOURS), unseen="drop", nullable=True),
        Column("length", "numeric", bounds=Bounds(-5.0, 5.0), nullable=True),
        Column("width", "numeric", bounds=Bounds(-5.0, 5.0)),
        Column("depth", "numeric", bounds=Bounds(-5.0, 5.0)),
    ),
)


def table(rows: int, seed: int) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    colour = pd.Categorical.from_codes(rng.integers(0, 2, rows), list(COLOURS))
    values = rng.normal(size=(rows, 3))
    values[rng.random(rows) < 0.1, 0] = np.nan
    return pd.DataFrame(
        {"colour": colour, "length": values[:, 0], "width": values[:, 1], "depth": values[:, 2]}
    )


def embedded(frame: pd.DataFrame, known: pd.DataFrame) -> np.ndarray:
    """The encoding written row by row: middle ranks, halves of one-hot, length 1."""
    points = []
    for row in frame.itertuples():
        point = [float(row.colour == c) / np.sqrt(2) for c in COLOURS]
        for name in ("length", "width", "depth"):
            value, column = getattr(row, name), known[name].dropna()
            below, equal = (column < value).mean(), (column == value).mean()
            point += [0.0, 1 / np.sqrt(2)] if np.isnan(value) else [below + equal / 2 - 0.5, 0.0]
        points.append(np.array(point) / np.linalg.norm(point))
    return np.array(points)


def test_hints_are_those_of_brute_force_distances():
    real, holdout, synthetic = (table(60, seed) for seed in (1, 2, 3))
    synthetic.iloc[:5] = real.iloc[:5]
    known = pd.concat([real, holdout])
    r, h, s = (embedded(frame, known) for frame in (real, holdout, synthetic))
    to_real, to_holdout = np.sort(cdist(s, r), axis=1), np.sort(cdist(s, h), axis=1)
    tenth = [np.sort((d[:, 0] + 1e-8) / (d[:, 1] + 1e-8))[9] for d in (to_real, to_holdout)]
    found = distance_hints(real, holdout, synthetic, SCHEMA)
    assert found["dcr_share"] == pytest.approx((to_real[:, 0] < to_holdout[:, 0]).mean())
    assert found["nndr_ratio"] == pytest.approx(tenth[0] / tenth[1], rel=1e-6)
    assert found["ims"] == pytest.approx(5 / 60)
    assert found["ims_holdout"] == 0.0
    assert found["distance_rows"] == 60


def test_copies_of_training_rows_are_all_closer_and_all_identical():
    real, holdout = table(80, 1), table(80, 2)
    found = distance_hints(real, holdout, real.sample(frac=1.0, random_state=0), SCHEMA)
    assert found["dcr_share"] == 1.0
    assert found["ims"] == 1.0
    assert found["nndr_ratio"] < 0.01


def test_fresh_rows_lean_to_neither_side():
    found = distance_hints(table(1500, 1), table(1500, 2), table(1500, 3), SCHEMA)
    assert found["dcr_share"] == pytest.approx(0.5, abs=0.05)
    assert found["nndr_ratio"] == pytest.approx(1.0, abs=0.5)


def test_equal_distances_count_one_half():
    assert closer_share(np.array([0.1, 0.3, 0.2, 0.0]), np.array([0.2, 0.1, 0.2, 1e-9])) == 0.5
    same = table(50, 1)
    assert distance_hints(same, same, table(50, 2), SCHEMA)["dcr_share"] == 0.5


def test_rows_of_every_table_are_cut_to_the_smallest():
    found = distance_hints(table(200, 1), table(50, 2), table(120, 3), SCHEMA)
    assert found["distance_rows"] == 50
    assert (
        distance_hints(table(200, 1), table(50, 2), table(120, 3), SCHEMA, max_rows=20)["distance_rows"] == 20
    )


def test_groups_of_columns_find_a_copied_half():
    real, holdout, synthetic = (table(300, seed) for seed in (1, 2, 3))
    synthetic[["width", "depth"]] = real[["width", "depth"]]
    whole = distance_hints(real, holdout, synthetic, SCHEMA)["dcr_share"]
    grouped = distance_hints(real, holdout, synthetic, SCHEMA, groups=True)["dcr_share"]
    assert grouped >= whole
    associations = np.eye(4)
    associations[2, 3] = associations[3, 2] = 0.9
    groups = [frozenset(group.tolist()) for group in column_groups(associations, 0)]
    assert len(groups) == 6
    assert {len(group) for group in groups} == {2}
    assert frozenset({2, 3}) in groups[:3]


def test_the_suite_reports_hints_with_a_warning_and_only_with_a_holdout():
    evaluation = TabularEvaluation(metrics=["distances"], distance_rows=40)
    tables = table(60, 1), table(60, 2), table(60, 3)
    found = evaluation.evaluate(*tables, SCHEMA, seed=0)
    assert set(found.metrics) == {f"hint/{k}" for k in ("dcr_share", "nndr_ratio", "ims", "ims_holdout")}
    assert all(found.visibility(key) == "private" for key in found.metrics)
    assert any("no evidence of privacy" in note for note in found.notes)
    assert found.rows["distances"] == 40
    alone = evaluation.evaluate(tables[0], None, tables[2], SCHEMA, seed=0)
    assert alone.metrics == {}
    assert "distances left out: there is no holdout to test on" in alone.notes
