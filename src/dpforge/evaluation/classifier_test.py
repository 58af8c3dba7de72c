"""Classifier two-sample test (C2ST): how well boosted trees tell two tables apart."""

from __future__ import annotations

import numpy as np
import pandas as pd
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold

from dpforge.data.schema import Schema
from dpforge.evaluation.downstream import CHANCE
from dpforge.evaluation.features import Features
from dpforge.evaluation.frames import aligned, drawn_rows
from dpforge.evaluation.threads import threads_for

VERSION = "c2st-1"
MAX_ROWS = 10_000


def classifier_two_sample(
    real: pd.DataFrame,
    synthetic: pd.DataFrame,
    schema: Schema,
    *,
    max_rows: int = MAX_ROWS,
    folds: int = 5,
    seed: int = 0,
) -> dict[str, float]:
    """Cross-validated AUROC of "is synthetic", best .5, worst 1.

    Equally many rows of both tables (at most ``max_rows`` each) enter. Values outside the bounds or off
    the grid are seen as they are, so a leak of format gives 1. A table against itself scores below .5,
    because a row of the test fold has a twin with the other label in training.

    Returns:
        ``c2st_auc``, ``c2st_auc_std`` (over the folds), ``c2st_advantage`` = 2·abs(AUC − ½) and
        ``c2st_rows``, the rows of each table. Below 2 rows a table, the AUC is .5.

    Raises:
        DataError: An empty table or a missing column.
    """
    real, synthetic = aligned(real, schema, "real"), aligned(synthetic, schema, "synthetic")
    rows = min(len(real), len(synthetic), max_rows)
    if rows < 2:
        return _scores(np.array([CHANCE]), rows)
    tables = drawn_rows(real, rows, seed, stream=5), drawn_rows(synthetic, rows, seed, stream=6)
    features = np.concatenate([Features(schema).ordinal(table) for table in tables])
    label = np.repeat([0, 1], rows)
    split = StratifiedKFold(min(folds, rows), shuffle=True, random_state=seed)
    with threads_for(len(label)):
        aucs = [_fold_auc(features, label, fit, test, seed) for fit, test in split.split(features, label)]
    return _scores(np.array(aucs), rows)


def _fold_auc(features: np.ndarray, label: np.ndarray, fit: np.ndarray, test: np.ndarray, seed: int) -> float:
    model = HistGradientBoostingClassifier(
        max_iter=50, max_depth=10, min_samples_leaf=5, max_features=0.5, random_state=seed
    )
    model.fit(features[fit], label[fit])
    return float(roc_auc_score(label[test], model.predict_proba(features[test])[:, 1]))


def _scores(aucs: np.ndarray, rows: int) -> dict[str, float]:
    auc = float(aucs.mean())
    return {
        "c2st_auc": auc,
        "c2st_auc_std": float(aucs.std()),
        "c2st_advantage": 2.0 * abs(auc - CHANCE),
        "c2st_rows": float(rows),
    }
