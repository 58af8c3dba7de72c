"""Preparation of tables for the legacy variants of the published DP-MAF scores.

The published table of DP-MAF rests on three scores that cannot see what they claim to measure: each
table is standardised by its own mean and deviation, which hides every error of location and scale.
They are kept to reproduce the published figures; each has a corrected variant beside it.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from sklearn.model_selection import train_test_split

from dpforge.data.schema import Schema
from dpforge.errors import DataError
from dpforge.evaluation.accuracy import as_numbers
from dpforge.evaluation.frames import aligned, series

SPLIT_SEED = 42
TEST_SHARE = 0.33


def number_columns(schema: Schema) -> tuple[str, ...]:
    """Names of the columns that hold numbers or times; the legacy scores read no other column."""
    return tuple(column.name for column in schema.columns if column.kind != "categorical")


def legacy_matrix(frame: pd.DataFrame, schema: Schema, role: str, rows: int | None = None) -> np.ndarray:
    """Complete finite rows of the number columns, standardised by their own mean and sample deviation.

    Args:
        role: Name of the table in error texts.
        rows: Rows to keep from the top, after incomplete ones were dropped; None for all.

    Returns:
        Shape ``(n, k)``; constant columns are 0, and n is 0 if no row is complete.

    Raises:
        DataError: An empty table, a missing column, or fewer than 2 number columns.
    """
    names = number_columns(schema)
    if len(names) < 2:
        raise DataError(
            f"schema '{schema.name}' has {len(names)} number columns; the legacy scores need at least 2."
        )
    table = aligned(frame, schema, role)
    numbers = np.column_stack([as_numbers(series(table, name)) for name in names])
    return _own_standard(numbers[np.isfinite(numbers).all(axis=1)][:rows])


def legacy_pair(real: pd.DataFrame, synthetic: pd.DataFrame, schema: Schema) -> tuple[np.ndarray, np.ndarray]:
    """:func:`legacy_matrix` of both tables, the synthetic one cut to the rows of the real one."""
    prepared = legacy_matrix(real, schema, "real")
    return prepared, legacy_matrix(synthetic, schema, "synthetic", rows=len(prepared))


def legacy_split(rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Row numbers of the fixed 67/33 split; at least 2 ``rows``."""
    first, second = train_test_split(np.arange(rows), test_size=TEST_SHARE, random_state=SPLIT_SEED)
    return np.asarray(first), np.asarray(second)


def _own_standard(numbers: np.ndarray) -> np.ndarray:
    if len(numbers) < 2:
        return np.zeros_like(numbers)
    # Scaling first keeps the squares of huge values finite.
    largest = np.abs(numbers).max(axis=0)
    numbers = numbers / np.where(largest > 0, largest, 1.0)
    deviation = numbers.std(axis=0, ddof=1)
    varies = np.ptp(numbers, axis=0) > 0
    return np.where(varies, (numbers - numbers.mean(axis=0)) / np.where(varies, deviation, 1.0), 0.0)
