"""Learners trained on one table and tested on another, and the classifier two-sample test."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import r2_score, roc_auc_score

from dpforge.data.schema import Bounds, Categories, Column, Schema
from dpforge.errors import ConfigError, DataError
from dpforge.evaluation.classifier_test import classifier_two_sample
from dpforge.evaluation.downstream import macro_auroc, measure_name, train_on_test_on
from dpforge.evaluation.features import Features
from dpforge.evaluation.threads import threads_for

KINDS = ("low", "mid", "high")


def schema_for(target: str | None = "kind") -> Schema:
    columns = (
        Column("kind", "categorical", categories=Categories(KINDS), unseen="drop"),
        Column("side", "categorical", categories=Categories(("left", "right")), unseen="drop", nullable=True),
        Column("size", "numeric", bounds=Bounds(-10.0, 10.0), nullable=True),
        Column("flag", "integer", bounds=Bounds(0, 1)),
    )
    return Schema("things", 100, columns, target=target)


def table(rows: int, seed: int) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    kind = rng.integers(0, 3, rows)
    size = kind - 1.0 + rng.normal(size=rows)
    size[rng.random(rows) < 0.1] = np.nan
    side = pd.Categorical.from_codes((rng.random(rows) < 0.3 + 0.2 * kind).astype(int), ["left", "right"])
    flag = pd.array((rng.random(rows) < 0.2 + 0.3 * kind).astype(int), dtype="Int64")
    return pd.DataFrame(
        {"kind": pd.Categorical.from_codes(kind, list(KINDS)), "side": side, "size": size, "flag": flag}
    )


def plain_features(frame: pd.DataFrame) -> pd.DataFrame:
    """The linear features of ``table`` written by hand."""
    return pd.DataFrame(
        {
            "left": frame["side"] == "left",
            "right": frame["side"] == "right",
            "size": ((frame["size"] + 10) / 20).fillna(0.0),
            "size_missing": frame["size"].isna(),
            "flag": frame["flag"].astype(float),
        }
    ).astype(float)


def test_logistic_regression_gives_the_macro_auroc_of_scikit_learn():
    train, test = table(600, 1), table(500, 2)
    model = LogisticRegression(C=1.0, max_iter=1000).fit(plain_features(train), train["kind"].cat.codes)
    expected = roc_auc_score(
        test["kind"].cat.codes, model.predict_proba(plain_features(test)), multi_class="ovr"
    )
    found = train_on_test_on(train, test, schema_for(), "lr")
    assert found.measure == "auroc"
    assert found.value == pytest.approx(expected, abs=1e-3)


def test_boosted_trees_see_levels_numbers_and_missing_values():
    train, test = table(600, 3), table(500, 4)
    x = [
        t[["flag"]].assign(side=t["side"].cat.codes, size=t["size"].fillna(-1e3)).astype(float)
        for t in (train, test)
    ]
    with threads_for(600):
        model = HistGradientBoostingClassifier(max_iter=100, random_state=0).fit(
            x[0], train["kind"].cat.codes
        )
        scores = model.predict_proba(x[1])
    expected = roc_auc_score(test["kind"].cat.codes, scores, multi_class="ovr")
    assert train_on_test_on(train, test, schema_for(), "hgb").value == pytest.approx(expected, abs=0.002)


def test_an_integer_with_two_values_is_a_class_and_a_wider_one_a_number():
    assert measure_name(schema_for("flag")) == "auroc"
    assert measure_name(schema_for("size")) == "r2"
    assert measure_name(schema_for(None)) is None
    assert train_on_test_on(table(400, 1), table(400, 2), schema_for("flag"), "lr").value > 0.6


def test_ridge_gives_the_r2_of_scikit_learn_over_rows_with_a_target():
    train, test = table(400, 5), table(300, 6)

    def features(frame: pd.DataFrame) -> pd.DataFrame:
        kinds = pd.get_dummies(frame["kind"]).astype(float)
        return kinds.join(plain_features(frame)[["left", "right", "flag"]])

    known_train, known_test = train[train["size"].notna()], test[test["size"].notna()]
    model = Ridge(alpha=1.0).fit(features(known_train), known_train["size"])
    expected = r2_score(known_test["size"], model.predict(features(known_test)))
    found = train_on_test_on(train, test, schema_for("size"), "lr")
    assert found.measure == "r2"
    assert found.value == pytest.approx(expected, abs=1e-6)
    assert train_on_test_on(train, test, schema_for("size"), "hgb").value > 0.2


@pytest.mark.parametrize("learner", ["lr", "hgb"])
def test_a_training_table_of_one_class_scores_one_half_with_a_note(learner):
    train, test = table(200, 1), table(200, 2)
    single = train[train["kind"] == "low"]
    found = train_on_test_on(single, test, schema_for(), learner)
    assert found.value == 0.5
    assert "lacks 2 of the classes" in found.notes[0]


@pytest.mark.parametrize("learner", ["lr", "hgb"])
def test_a_class_that_training_lacks_counts_one_half_in_the_mean(learner):
    train, test = table(400, 1), table(400, 2)
    without = train[train["kind"] != "mid"]
    found = train_on_test_on(without, test, schema_for(), learner)
    assert "lacks 1 of the classes" in found.notes[0]
    two = test[test["kind"] != "mid"]
    assert 0.5 < found.value < train_on_test_on(without, two, schema_for(), learner).value


def test_macro_auroc_skips_absent_classes_and_is_undefined_for_one():
    truth = np.array([0, 0, 2, 2])
    scores = np.array([[0.9, 0.0, 0.1], [0.2, 0.0, 0.8], [0.3, 0.0, 0.7], [0.1, 0.0, 0.9]])
    assert macro_auroc(truth, scores) == pytest.approx(roc_auc_score(truth == 2, scores[:, 2]))
    assert np.isnan(macro_auroc(np.zeros(4, dtype=int), scores))


def test_degenerate_targets_give_finite_scores_with_a_note():
    train, test = table(100, 1), table(100, 2)
    one_class = train_on_test_on(train, test[test["kind"] == "low"], schema_for(), "lr")
    assert (one_class.value, len(one_class.notes)) == (0.5, 1)
    no_variance = train_on_test_on(train, test.assign(size=1.0), schema_for("size"), "lr")
    assert (no_variance.value, len(no_variance.notes)) == (0.0, 1)
    with pytest.raises(DataError, match="no row with a value of target 'size'"):
        train_on_test_on(train.assign(size=np.nan), test, schema_for("size"))


@pytest.mark.parametrize("learner", ["lr", "hgb"])
@pytest.mark.parametrize("target", ["kind", "size", "flag"])
def test_one_row_constant_and_empty_columns_give_finite_scores(learner, target):
    test = table(50, 1)
    row = test[test["size"].notna()].iloc[:1]
    assert np.isfinite(train_on_test_on(row, test, schema_for(target), learner).value)
    hollow = table(60, 2).assign(side=pd.Categorical([None] * 60, ["left", "right"]))
    hollow = hollow if target == "size" else hollow.assign(size=np.nan)
    assert np.isfinite(train_on_test_on(hollow, test, schema_for(target), learner).value)


def test_a_class_of_a_single_row_in_a_large_table_can_be_trained_on():
    rows = table(15_600, 1)
    is_mid = rows["kind"] == "mid"
    train = pd.concat([rows[~is_mid], rows[is_mid].iloc[:1]])
    assert len(train) > 10_000
    assert np.isfinite(train_on_test_on(train, table(60, 2), schema_for(), "hgb").value)


def test_a_misspelt_learner_and_a_missing_target_are_explained():
    train = table(20, 1)
    with pytest.raises(ConfigError, match="Did you mean 'hgb'"):
        train_on_test_on(train, train, schema_for(), "hbg")
    with pytest.raises(ConfigError, match="no target"):
        train_on_test_on(train, train, schema_for(None), "lr")


def test_features_come_from_the_schema_so_a_row_alone_has_the_features_it_has_in_a_table():
    frame = table(40, 1)
    features = Features(schema_for(), without="kind")
    whole = features.one_hot(frame).toarray()
    alone = np.vstack([features.one_hot(frame.iloc[[i]]).toarray() for i in range(40)])
    assert np.array_equal(whole, alone)
    assert whole.shape == (40, 3 + 2 + 2)
    assert np.array_equal(features.ordinal(frame)[:5], features.ordinal(frame.iloc[:5]))


def test_two_halves_of_a_distribution_cannot_be_told_apart():
    both = table(6000, 7)
    auc = classifier_two_sample(both.iloc[:3000], both.iloc[3000:], schema_for())["c2st_auc"]
    assert auc == pytest.approx(0.5, abs=0.02)


def test_a_leak_of_format_is_recognised_at_once():
    real, other = table(500, 1), table(500, 2)
    leak = other.assign(flag=other["flag"].astype(float) + 0.01)
    found = classifier_two_sample(real, leak, schema_for())
    assert found["c2st_auc"] > 0.999
    assert found["c2st_advantage"] == pytest.approx(2 * found["c2st_auc"] - 1)


def test_dependence_alone_is_recognised():
    real = table(2000, 1)
    shuffled = real.assign(size=real["size"].sample(frac=1.0, random_state=0).to_numpy())
    assert classifier_two_sample(real, shuffled, schema_for())["c2st_auc"] > 0.6


@pytest.mark.parametrize("rows", [1, 2, 3, 7])
def test_tiny_tables_give_a_finite_two_sample_score(rows):
    found = classifier_two_sample(table(rows, 1), table(50, 2), schema_for())
    assert 0.0 <= found["c2st_auc"] <= 1.0
    assert found["c2st_rows"] == rows
