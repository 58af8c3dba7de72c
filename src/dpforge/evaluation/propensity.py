"""Propensity score mean squared error (pMSE): how well a model tells synthetic rows from real ones.

References:
    Snoke, Raab, Nowok, Dibben & Slavkovic, *General and specific utility measures for synthetic data*
    (JRSS-A 181, 2018).
"""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold
from sklearn.tree import DecisionTreeClassifier

from dpforge.data.schema import Schema
from dpforge.errors import ConfigError, did_you_mean
from dpforge.evaluation.coordinates import axes, fit_scale, points
from dpforge.evaluation.design import basis, design
from dpforge.evaluation.frames import aligned, drawn_rows
from dpforge.evaluation.legacy import legacy_pair, legacy_split

VERSION = "pmse-1"
LEGACY_VERSION = "pmse-legacy-1"
FEATURES = ("main", "pairwise", "tree")
NULLS = ("independent", "fitted_model")
MAX_ROWS = 10_000
TREE_PERMUTATIONS = 50
NEWTON_STEPS = 30
RIDGE = 1e-8


def propensity_ratio(
    real: pd.DataFrame,
    synthetic: pd.DataFrame,
    schema: Schema,
    *,
    features: str = "main",
    null: str = "independent",
    max_rows: int = MAX_ROWS,
    permutations: int = TREE_PERMUTATIONS,
    seed: int = 0,
) -> dict[str, float]:
    """pMSE over its expectation for two samples of one distribution, at least 0, best about 1.

    Args:
        features: ``main``: unpenalised logistic regression on jointly standardised numbers and one-hot
            levels; ``pairwise``: with all products and squares too (at most 300 features, then a seeded
            choice of products); ``tree``: a cross-fitted classification tree with the null by
            permutation of labels.
        null: ``independent``: ``real`` and ``synthetic`` are independent samples, as a holdout is;
            ``fitted_model``: the synthetic rows come from a model fitted to ``real`` (smaller null).
            The tree's permutations are of the independent kind.
        max_rows: Largest number of rows of each table.
        permutations: Labellings of the tree's null.

    Returns:
        ``pmse``; ``pmse_ratio`` (N/(k-1) when the tables separate perfectly); ``pmse_z``, the distance
        from the null in its standard deviations; ``pmse_parameters``, k with the intercept (0: tree).
        Without any feature that varies, ratio 1 and z 0.

    Raises:
        ConfigError: Unknown ``features`` or ``null``.
        DataError: An empty table or a missing column.
    """
    _check("features", features, FEATURES)
    _check("null", null, NULLS)
    real = drawn_rows(aligned(real, schema, "real"), max_rows, seed, stream=13)
    synthetic = drawn_rows(aligned(synthetic, schema, "synthetic"), max_rows, seed, stream=14)
    scale = fit_scale(real, schema)
    pooled = np.concatenate([points(table, schema, scale) for table in (real, synthetic)])
    label = np.repeat([0.0, 1.0], [len(real), len(synthetic)])
    if features == "tree":
        return _tree_scores(pooled, label, permutations, seed)
    columns = basis(design(pooled, axes(schema), products=features == "pairwise", seed=seed))
    return _scores(columns, label, null)


def fitted_probabilities(features: np.ndarray, label: np.ndarray) -> np.ndarray:
    """Maximum-likelihood logistic regression with an intercept, evaluated on its own rows.

    Newton's method with step halving; on perfectly separated labels it stops at probabilities within
    rounding of 0 and 1.

    Args:
        features: Linearly independent centred columns of unit mean square, shape ``(n, k - 1)``.
        label: 0 or 1, shape ``(n,)``.

    Returns:
        Probability of label 1, shape ``(n,)``.
    """
    x = np.column_stack([np.ones(len(label)), features])
    weights = np.zeros(x.shape[1])
    loss = _loss(x @ weights, label)
    for _ in range(NEWTON_STEPS):
        step = _newton_step(x, label, _logistic(x @ weights))
        weights, smaller = _halved(x, label, weights, step, loss)
        if loss - smaller < 1e-10 * len(label):
            break
        loss = smaller
    return _logistic(x @ weights)


def legacy_propensity(real: pd.DataFrame, synthetic: pd.DataFrame, schema: Schema) -> dict[str, float]:
    """The published "pMSE ratio"; no value is good or bad, permuted columns score the same.

    Main-effect logistic regression with an L2 penalty, fitted on 67 % of the rows, on tables that are
    standardised each by itself: no error of mean or deviation can be seen.

    Returns:
        ``pmse_ratio``, at least 0; 0 if a table has no complete row.

    Raises:
        DataError: An empty table, a missing column, or fewer than 2 number columns.
    """
    tables = legacy_pair(real, synthetic, schema)
    if min(len(table) for table in tables) < 2:
        return {"pmse_ratio": 0.0}
    x = np.concatenate(tables)
    label = np.repeat([0, 1], [len(table) for table in tables])
    fit, _ = legacy_split(len(label))
    if len(np.unique(label[fit])) < 2:
        return {"pmse_ratio": 0.0}
    model = LogisticRegression(C=1.0, max_iter=500).fit(x[fit], label[fit])
    share = float(label.mean())
    null = x.shape[1] * (1 - share) ** 2 * share / len(label)
    return {"pmse_ratio": _pmse(np.asarray(model.predict_proba(x))[:, 1], share) / null}


def _scores(features: np.ndarray, label: np.ndarray, null: str) -> dict[str, float]:
    size, share, rows = features.shape[1], float(label.mean()), len(label)
    if size == 0:
        return _named(0.0, 1.0, 0.0, 1)
    pmse = _pmse(fitted_probabilities(features, label), share)
    unit = share * (1 - share) / rows * (1.0 if null == "independent" else 1 - share)
    return _named(pmse, pmse / (size * unit), (pmse - size * unit) / (math.sqrt(2 * size) * unit), size + 1)


def _tree_scores(points: np.ndarray, label: np.ndarray, permutations: int, seed: int) -> dict[str, float]:
    rng = np.random.default_rng([seed, 15])
    observed = _tree_pmse(points, label, seed)
    null = np.array([_tree_pmse(points, rng.permutation(label), seed) for _ in range(permutations)])
    mean, spread = float(null.mean()), float(null.std(ddof=1)) if permutations > 1 else 0.0
    if mean == 0.0:
        return _named(observed, 1.0, 0.0, 0)
    return _named(observed, observed / mean, (observed - mean) / spread if spread > 0 else 0.0, 0)


def _tree_pmse(points: np.ndarray, label: np.ndarray, seed: int) -> float:
    smallest = int(np.bincount(label.astype(int), minlength=2).min())
    if smallest < 2:
        return 0.0
    scores = np.zeros(len(label))
    split = StratifiedKFold(min(5, smallest), shuffle=True, random_state=seed)
    for fit, test in split.split(points, label):
        tree = DecisionTreeClassifier(max_depth=10, min_samples_leaf=20, random_state=seed)
        scores[test] = np.asarray(tree.fit(points[fit], label[fit]).predict_proba(points[test]))[:, 1]
    return _pmse(scores, float(label.mean()))


def _pmse(probabilities: np.ndarray, share: float) -> float:
    return float(((probabilities - share) ** 2).mean())


def _named(pmse: float, ratio: float, z: float, parameters: int) -> dict[str, float]:
    return {"pmse": pmse, "pmse_ratio": ratio, "pmse_z": z, "pmse_parameters": float(parameters)}


def _newton_step(x: np.ndarray, label: np.ndarray, probability: np.ndarray) -> np.ndarray:
    curvature = (x * (probability * (1 - probability))[:, None]).T @ x
    curvature[np.diag_indices_from(curvature)] += RIDGE
    return np.linalg.solve(curvature, x.T @ (label - probability))


def _halved(
    x: np.ndarray, label: np.ndarray, weights: np.ndarray, step: np.ndarray, loss: float
) -> tuple[np.ndarray, float]:
    for _ in range(20):
        found = _loss(x @ (weights + step), label)
        if found <= loss:
            return weights + step, found
        step = step / 2
    return weights, loss


def _loss(linear: np.ndarray, label: np.ndarray) -> float:
    return float((np.logaddexp(0.0, linear) - label * linear).sum())


def _logistic(linear: np.ndarray) -> np.ndarray:
    return np.exp(-np.logaddexp(0.0, -linear))


def _check(option: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        hint = did_you_mean(value, known)
        raise ConfigError(f"{option}='{value}', expected one of {', '.join(known)}.{hint}")
