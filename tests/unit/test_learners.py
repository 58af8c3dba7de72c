"""The further learners and measures of the utility scores."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from sklearn.ensemble import RandomForestRegressor
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, balanced_accuracy_score, f1_score, roc_auc_score

from dpforge.data.schema import Bounds, Categories, Column, Schema
from dpforge.evaluation import TabularEvaluation, train_on_test_on
from dpforge.evaluation.downstream import LEARNERS
from dpforge.evaluation.predictions import Predictions


def schema_for(target: str) -> Schema:
    columns = (
        Column("pass", "categorical", categories=Categories(("no", "yes")), unseen="drop"),
        Column("hours", "numeric", bounds=Bounds(-5.0, 5.0)),
        Column("sleep", "numeric", bounds=Bounds(-5.0, 5.0)),
    )
    return Schema("exam", 100, columns, target=target)


def table(rows: int, seed: int) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    hours, sleep = rng.normal(size=(2, rows))
    passed = (rng.random(rows) < 1 / (1 + np.exp(-2 * hours * np.sign(sleep)))).astype(int)
    return pd.DataFrame(
        {"pass": pd.Categorical.from_codes(passed, ["no", "yes"]), "hours": hours + passed, "sleep": sleep}
    )


def test_every_measure_of_classes_is_that_of_scikit_learn():
    train, test = table(400, 1), table(300, 2)
    found = train_on_test_on(train, test, schema_for("pass"), "lr").others
    x = [(t[["hours", "sleep"]] + 5) / 10 for t in (train, test)]
    y = [t["pass"].cat.codes for t in (train, test)]
    model = LogisticRegression(C=1.0, max_iter=1000).fit(x[0], y[0])
    said, p = model.predict(x[1]), model.predict_proba(x[1])
    precision = [average_precision_score(y[1] == k, p[:, k]) for k in (0, 1)]
    assert found["average_precision"] == pytest.approx(np.mean(precision), abs=1e-3)
    assert found["f1"] == pytest.approx(f1_score(y[1], said, average="macro"), abs=0.01)
    assert found["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(y[1], said), abs=0.01)


def test_scores_with_ties_give_the_auroc_of_scikit_learn():
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 3, 200)
    scores = np.round(rng.random((200, 3)) + 0.4 * np.eye(3)[truth], 1)
    expected = np.mean([roc_auc_score(truth == k, scores[:, k]) for k in range(3)])
    assert Predictions(truth, scores).value == pytest.approx(expected, abs=1e-12)


def test_the_error_of_a_regression_is_relative_to_the_deviation_of_the_truth():
    truth, said = np.array([1.0, 2.0, 3.0, 6.0]), np.array([1.5, 2.0, 2.0, 5.0])
    expected = math.sqrt(((truth - said) ** 2).mean()) / truth.std()
    assert Predictions(truth, said).others()["rmse_ratio"] == pytest.approx(expected)
    assert Predictions(np.ones(3), np.ones(3)).others() == {"rmse_ratio": 1.0}


def test_a_forest_sees_scaled_numbers_and_level_numbers():
    train, test = table(300, 1), table(300, 2)
    x = [np.column_stack([t["pass"].cat.codes, (t["sleep"] + 5) / 10]).astype(float) for t in (train, test)]
    model = RandomForestRegressor(200, min_samples_leaf=2, random_state=3).fit(x[0], train["hours"])
    expected = model.score(x[1], test["hours"])
    assert train_on_test_on(train, test, schema_for("hours"), "rf", seed=3).value == pytest.approx(expected)


def test_only_nonlinear_learners_find_an_interaction():
    train, test = table(800, 1), table(800, 2)
    flat = train.assign(hours=train["hours"] - (train["pass"] == "yes"))
    fresh = test.assign(hours=test["hours"] - (test["pass"] == "yes"))
    found = {name: train_on_test_on(flat, fresh, schema_for("pass"), name).value for name in LEARNERS}
    assert found["lr"] < 0.6
    assert min(found[name] for name in ("hgb", "rf", "mlp")) > 0.7


def test_a_network_learns_a_number_whatever_its_units():
    train, test = table(500, 1), table(500, 2)
    wide = Schema(
        "exam", 100, (*schema_for("hours").columns[:1], Column("hours", "numeric", bounds=Bounds(-5e6, 5e6)))
    )
    schema = Schema("exam", 100, wide.columns, target="hours")
    scaled = [t.assign(hours=t["hours"] * 1e6) for t in (train, test)]
    found = train_on_test_on(scaled[0], scaled[1], schema, "mlp").value
    linear = train_on_test_on(scaled[0], scaled[1], schema, "lr").value
    assert found == pytest.approx(linear, abs=0.05)


@pytest.mark.parametrize("learner", LEARNERS)
def test_a_training_table_of_one_row_gives_finite_measures(learner):
    for target in ("pass", "hours"):
        found = train_on_test_on(table(1, 1), table(40, 2), schema_for(target), learner)
        assert math.isfinite(found.value)
        assert all(math.isfinite(value) for value in found.others.values())


def test_the_suite_reports_every_measure_when_asked():
    evaluation = TabularEvaluation(metrics=["tstr"], learners=["lr"], every_measure=True)
    train, fresh, synthetic = table(200, 1), table(200, 2), table(200, 3)
    found = evaluation.evaluate(train, fresh, synthetic, schema_for("pass"), seed=0).metrics
    names = ("auroc", "average_precision", "f1", "balanced_accuracy")
    assert {f"ceiling/utility/tstr_{name}_lr" for name in names} <= set(found)
    score, real = found["utility/tstr_auroc_lr"], found["utility/trtr_auroc_lr"]
    assert found["utility/relative_auroc_lr"] == pytest.approx((score - 0.5) / (real - 0.5))
    numbers = evaluation.evaluate(train, fresh, synthetic, schema_for("hours"), seed=0).metrics
    r2, error = numbers["utility/tstr_r2_lr"], numbers["utility/tstr_rmse_ratio_lr"]
    assert error == pytest.approx(math.sqrt(1 - r2))
