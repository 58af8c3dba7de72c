"""Usefulness for learning: train on one table, test on real holdout rows (TSTR, TRTR)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from dpforge.data.schema import Column, Schema
from dpforge.errors import ConfigError, DataError, did_you_mean
from dpforge.evaluation.accuracy import as_numbers
from dpforge.evaluation.features import Features, level_codes, levels
from dpforge.evaluation.frames import aligned, series
from dpforge.evaluation.learners import classifier, feature_map, fitted, regressor
from dpforge.evaluation.predictions import CHANCE, Predictions, macro_auroc
from dpforge.evaluation.threads import threads_for

__all__ = [
    "CHANCE",
    "DEFAULT_LEARNERS",
    "LEARNERS",
    "VERSION",
    "Score",
    "check_learner",
    "is_classification",
    "macro_auroc",
    "measure_name",
    "predictions",
    "train_on_test_on",
    "with_target",
]

VERSION = "downstream-1"
LEARNERS = ("lr", "hgb", "rf", "mlp")
DEFAULT_LEARNERS = ("lr", "hgb")


@dataclass(frozen=True)
class Score:
    """``value`` of ``measure`` (``auroc`` in [0, 1] or ``r2`` up to 1), with remarks in ``notes``.

    ``others`` holds further measures: ``average_precision``, ``f1`` and ``balanced_accuracy``, or
    ``rmse_ratio``.
    """

    measure: str
    value: float
    notes: tuple[str, ...] = ()
    others: Mapping[str, float] = field(default_factory=dict)


def check_learner(learner: str) -> None:
    """Raise ``ConfigError`` unless ``learner`` is one of :data:`LEARNERS`."""
    if learner not in LEARNERS:
        hint = did_you_mean(learner, LEARNERS)
        raise ConfigError(f"unknown learner '{learner}', expected one of {', '.join(LEARNERS)}.{hint}")


def is_classification(column: Column) -> bool:
    """Whether the target is categorical, or an integer whose public grid has just two values."""
    if column.kind == "categorical":
        return True
    bounds = column.bounds
    if column.kind != "integer" or bounds is None or bounds.min is None or bounds.max is None:
        return False
    return float(bounds.max) - float(bounds.min) == 1.0


def measure_name(schema: Schema) -> str | None:
    """``auroc`` or ``r2`` as the target's kind asks; None without a target."""
    if schema.target is None:
        return None
    return "auroc" if is_classification(schema.column(schema.target)) else "r2"


def train_on_test_on(
    train: pd.DataFrame, test: pd.DataFrame, schema: Schema, learner: str = "hgb", *, seed: int = 0
) -> Score:
    """Score on ``test`` of a learner fitted on ``train`` to predict ``schema.target``.

    Learners (scikit-learn, fixed settings, never tuned): ``hgb`` is histogram gradient boosting with 100
    iterations; ``lr`` is logistic regression (C=1) or, for a numeric target, ridge regression (alpha=1);
    ``rf`` is a random forest of 200 trees with at least 2 rows a leaf; ``mlp`` is a network with hidden
    layers of 128 and 64, 50 epochs of Adam at 1e-3 in batches of 256 (a numeric target is standardised).
    Rows without a target value are left out on both sides.

    Returns:
        AUROC, macro one-vs-rest over the classes of ``test`` (a class that ``train`` lacks counts .5), or
        R² (0 where ``test`` has no variance).

    Raises:
        ConfigError: Unknown learner, or the schema has no target.
        DataError: An empty table, a missing column, or no row with a target value.
    """
    check_learner(learner)
    if schema.target is None:
        raise ConfigError(f"schema '{schema.name}' has no target; set 'target' to score learners.")
    target = schema.column(schema.target)
    train = with_target(aligned(train, schema, "training"), target, "training")
    test = with_target(aligned(test, schema, "test"), target, "test")
    found = predictions(train, test, schema, learner, seed)
    notes, others = found.notes, found.others()
    if not np.isnan(found.value):
        return Score(found.measure, found.value, notes, others)
    if found.measure == "auroc":
        note = "the test table has one class; AUROC is undefined, set to .5"
        return Score("auroc", CHANCE, (*notes, note), others)
    return Score("r2", 0.0, (*notes, "the test target has no variance; R² is undefined, set to 0"), others)


def predictions(
    train: pd.DataFrame, test: pd.DataFrame, schema: Schema, learner: str, seed: int
) -> Predictions:
    """What ``learner``, fitted on ``train``, says about the target of each row of ``test``.

    Args:
        train: Aligned rows that all have a target value (see :func:`with_target`).
        test: The same, of the rows to predict.
        learner: One of :data:`LEARNERS` or of the ranking scores.
    """
    predict = _classification if is_classification(schema.column(str(schema.target))) else _regression
    with threads_for(len(train)):
        return predict(train, test, schema, learner, seed)


def with_target(frame: pd.DataFrame, target: Column, role: str) -> pd.DataFrame:
    """The rows with a value of ``target``. Raises ``DataError`` if there is none."""
    values = series(frame, target.name)
    usable = values.notna() if target.kind == "categorical" else np.isfinite(as_numbers(values))
    kept = frame.loc[usable]
    if kept.empty:
        raise DataError(
            f"the {role} table has no row with a value of target '{target.name}'; learners need at least 1. "
            "Choose another target in the schema."
        )
    return kept


def _classification(
    train: pd.DataFrame, test: pd.DataFrame, schema: Schema, learner: str, seed: int
) -> Predictions:
    target = schema.column(str(schema.target))
    classes, (y, truth) = _class_numbers(target, train, test)
    absent = len(np.setdiff1d(truth, y))
    notes = (f"the training table lacks {absent} of the classes tested; each counts .5",) if absent else ()
    seen = np.unique(y)
    scores = np.zeros((len(test), classes))
    if len(seen) == 1:
        scores[:, seen] = 1.0
        return Predictions(truth, scores, notes)
    features = feature_map(Features(schema, without=schema.target), learner)
    model = fitted(classifier(learner, y, seed), features(train), y)
    scores[:, seen] = model.predict_proba(features(test))
    return Predictions(truth, scores, notes)


def _regression(
    train: pd.DataFrame, test: pd.DataFrame, schema: Schema, learner: str, seed: int
) -> Predictions:
    y, truth = (as_numbers(series(table, str(schema.target))) for table in (train, test))
    features = feature_map(Features(schema, without=schema.target), learner)
    model = fitted(regressor(learner, len(y), seed), features(train), y)
    return Predictions(truth, model.predict(features(test)))


def _class_numbers(
    target: Column, train: pd.DataFrame, test: pd.DataFrame
) -> tuple[int, tuple[np.ndarray, np.ndarray]]:
    if target.kind == "categorical":
        first, second = (level_codes(series(table, target.name), target) for table in (train, test))
        return len(levels(target)) + 1, (first, second)
    assert target.bounds is not None
    low = float(target.bounds.min or 0.0)
    numbers = [np.rint(as_numbers(series(table, target.name)) - low) for table in (train, test)]
    return 2, (np.clip(numbers[0], 0, 1).astype(int), np.clip(numbers[1], 0, 1).astype(int))
