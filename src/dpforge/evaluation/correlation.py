"""Pairwise association of mixed columns and its error."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd

from dpforge.data.schema import Schema
from dpforge.errors import DataError
from dpforge.evaluation.accuracy import as_numbers
from dpforge.evaluation.features import level_codes
from dpforge.evaluation.frames import aligned, series

VERSION = "mixed-1"


def association(frame: pd.DataFrame, schema: Schema) -> pd.DataFrame:
    """Association of each pair of columns, a symmetric ``(d, d)`` table with ones on the diagonal.

    Two numbers: Pearson's r in [-1, 1]; two categories: bias-corrected Cramér's V in [0, 1]; a number and
    a category: the correlation ratio in [0, 1]. A missing category is a level of its own; a row without
    the number is left out of that pair. Pairs with a constant column count 0.

    References:
        Bergsma, *A bias-correction for Cramér's V and Tschuprow's T* (J. Korean Stat. Soc., 2013).
    """
    columns = [
        level_codes(series(frame, c.name), c)
        if c.kind == "categorical"
        else as_numbers(series(frame, c.name))
        for c in schema.columns
    ]
    categorical = [c.kind == "categorical" for c in schema.columns]
    matrix = np.eye(len(columns))
    for i, j in itertools.combinations(range(len(columns)), 2):
        matrix[i, j] = matrix[j, i] = _pair(columns[i], columns[j], categorical[i], categorical[j])
    return pd.DataFrame(matrix, index=list(schema.names), columns=list(schema.names))


def correlation_error(real: pd.DataFrame, synthetic: pd.DataFrame, schema: Schema) -> dict[str, float]:
    """Difference of the associations of two tables, best 0.

    Returns:
        ``correlation_mae`` and ``correlation_max``, mean and largest absolute difference over the pairs
        of columns, in [0, 2]; ``correlation_frobenius``, the Frobenius norm of the difference over d.

    Raises:
        DataError: An empty table, a missing column, or a schema of one column.
    """
    if len(schema.names) < 2:
        raise DataError(f"schema '{schema.name}' has 1 column; associations need at least 2.")
    matrix = association(aligned(real, schema, "real"), schema)
    return matrix_error(matrix, association(aligned(synthetic, schema, "synthetic"), schema))


def matrix_error(real: pd.DataFrame, synthetic: pd.DataFrame) -> dict[str, float]:
    """:func:`correlation_error` of two association tables, each ``(d, d)`` with d at least 2."""
    difference = real.to_numpy() - synthetic.to_numpy()
    upper = np.abs(difference[np.triu_indices(len(difference), 1)])
    return {
        "correlation_mae": float(upper.mean()),
        "correlation_max": float(upper.max()),
        "correlation_frobenius": float(np.linalg.norm(difference) / len(difference)),
    }


def _pair(a: np.ndarray, b: np.ndarray, a_categorical: bool, b_categorical: bool) -> float:
    if a_categorical and b_categorical:
        return cramers_v(a, b)
    if a_categorical:
        return correlation_ratio(a, b)
    if b_categorical:
        return correlation_ratio(b, a)
    return pearson(a, b)


def pearson(a: np.ndarray, b: np.ndarray) -> float:
    """Pearson's r over the rows where both are finite, shape ``(n,)`` each; 0 if one is constant."""
    both = np.isfinite(a) & np.isfinite(b)
    a, b = _centred(a[both]), _centred(b[both])
    scale = np.linalg.norm(a) * np.linalg.norm(b)
    return float(np.clip(a @ b / scale, -1.0, 1.0)) if scale > 0 else 0.0


def correlation_ratio(codes: np.ndarray, numbers: np.ndarray) -> float:
    """Root of the share of the variance of ``numbers`` that lies between the levels ``codes``, in [0, 1]."""
    finite = np.isfinite(numbers)
    codes, centred = codes[finite], _centred(numbers[finite])
    total = float(centred @ centred)
    if total == 0.0:
        return 0.0
    sums, counts = np.bincount(codes, weights=centred), np.bincount(codes)
    between = float((sums[counts > 0] ** 2 / counts[counts > 0]).sum())
    return float(np.sqrt(np.clip(between / total, 0.0, 1.0)))


def cramers_v(a: np.ndarray, b: np.ndarray) -> float:
    """Bias-corrected Cramér's V of two columns of codes, shape ``(n,)`` each, in [0, 1]."""
    n, row_totals, column_totals = len(a), np.bincount(a), np.bincount(b)
    rows, columns = int(np.count_nonzero(row_totals)), int(np.count_nonzero(column_totals))
    if n < 2 or min(rows, columns) < 2:
        return 0.0
    # Pearson's chi-squared over n, from the occupied cells alone: many levels stay cheap.
    keys, counts = np.unique(a.astype(np.int64) * len(column_totals) + b, return_counts=True)
    i, j = np.divmod(keys, len(column_totals))
    phi2 = (counts**2 / (row_totals[i] * column_totals[j])).sum() - 1.0
    corrected = max(0.0, phi2 - (rows - 1) * (columns - 1) / (n - 1))
    limit = min(_corrected_size(rows, n), _corrected_size(columns, n)) - 1
    return float(np.sqrt(min(1.0, corrected / limit))) if limit > 0 else 0.0


def _corrected_size(size: int, n: float) -> float:
    return size - (size - 1) ** 2 / (n - 1)


def _centred(values: np.ndarray) -> np.ndarray:
    """Values minus their mean, scaled to at most 1; exactly 0 where all are equal."""
    if len(values) == 0 or values.min() == values.max():
        return np.zeros(len(values))
    centred = values - values.mean()
    return centred / np.abs(centred).max()
