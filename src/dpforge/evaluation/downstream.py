"""Usefulness for learning: train on one table, test on real holdout rows (TSTR, TRTR)."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import roc_auc_score

from dpforge.data.schema import Column, Schema
from dpforge.errors import ConfigError, DataError, did_you_mean
from dpforge.evaluation.accuracy import as_numbers
from dpforge.evaluation.features import Features, level_codes, levels
from dpforge.evaluation.frames import aligned, series
from dpforge.evaluation.threads import threads_for

VERSION = "downstream-1"
LEARNERS = ("lr", "hgb")
CHANCE = 0.5


@dataclass(frozen=True)
class Score:
    """``value`` of ``measure`` (``auroc`` in [0, 1] or ``r2`` up to 1), with remarks in ``notes``."""

    measure: str
    value: float
    notes: tuple[str, ...] = ()


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
    iterations; ``lr`` is logistic regression (C=1) or, for a numeric target, ridge regression (alpha=1).
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
    train = _with_target(aligned(train, schema, "training"), target, "training")
    test = _with_target(aligned(test, schema, "test"), target, "test")
    score = _classification if is_classification(target) else _regression
    with threads_for(len(train)):
        return score(train, test, schema, learner, seed)


def macro_auroc(truth: np.ndarray, scores: np.ndarray) -> float:
    """Mean one-vs-rest AUROC over the classes that occur in ``truth`` but not everywhere.

    Args:
        truth: Class numbers, shape ``(n,)``.
        scores: Score of each class, shape ``(n, classes)``; a constant column counts .5.

    Returns:
        Value in [0, 1]; NaN if ``truth`` has a single class.
    """
    present = np.unique(truth)
    if len(present) < 2:
        return float("nan")
    return float(np.mean([roc_auc_score(truth == k, scores[:, k]) for k in present]))


def _with_target(frame: pd.DataFrame, target: Column, role: str) -> pd.DataFrame:
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
) -> Score:
    target = schema.column(str(schema.target))
    classes, (y, truth) = _class_numbers(target, train, test)
    absent = len(np.setdiff1d(truth, y))
    notes = (f"the training table lacks {absent} of the classes tested; each counts .5",) if absent else ()
    seen = np.unique(y)
    scores = np.zeros((len(test), classes))
    if len(seen) > 1:
        features = _feature_map(schema, learner)
        model = _fitted(_classifier(learner, y, seed), features(train), y)
        scores[:, seen] = model.predict_proba(features(test))
    value = macro_auroc(truth, scores)
    if np.isnan(value):
        return Score("auroc", CHANCE, (*notes, "the test table has one class; AUROC is undefined, set to .5"))
    return Score("auroc", value, notes)


def _regression(train: pd.DataFrame, test: pd.DataFrame, schema: Schema, learner: str, seed: int) -> Score:
    name = str(schema.target)
    y, truth = as_numbers(series(train, name)), as_numbers(series(test, name))
    total = float(((truth - truth.mean()) ** 2).sum())
    if total == 0.0:
        return Score("r2", 0.0, ("the test target has no variance; R² is undefined, set to 0",))
    features = _feature_map(schema, learner)
    model = _fitted(_regressor(learner, seed), features(train), y)
    residual = float(((truth - model.predict(features(test))) ** 2).sum())
    return Score("r2", 1.0 - residual / total)


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


def _feature_map(schema: Schema, learner: str) -> Callable[[pd.DataFrame], Any]:
    features = Features(schema, without=schema.target)
    return features.one_hot if learner == "lr" else features.ordinal


def _classifier(learner: str, y: np.ndarray, seed: int) -> Any:
    if learner == "lr":
        return LogisticRegression(C=1.0, max_iter=1000)
    # The library's stratified validation split refuses a class of a single row.
    early_stopping: Any = "auto" if np.unique(y, return_counts=True)[1].min() > 1 else False
    return HistGradientBoostingClassifier(max_iter=100, early_stopping=early_stopping, random_state=seed)


def _regressor(learner: str, seed: int) -> Any:
    if learner == "lr":
        return Ridge(alpha=1.0)
    return HistGradientBoostingRegressor(max_iter=100, random_state=seed)


def _fitted(model: Any, features: Any, target: np.ndarray) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return model.fit(features, target)
