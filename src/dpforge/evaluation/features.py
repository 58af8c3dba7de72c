"""Feature matrices of a typed table for learners, built from the schema and fitted on no row."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import sparse

from dpforge.data.schema import Column, Schema
from dpforge.errors import ConfigError
from dpforge.evaluation.accuracy import as_numbers, positions
from dpforge.evaluation.frames import series


def levels(column: Column) -> tuple[str, ...]:
    """The categories of ``column`` in schema order, then ``unknown`` where the schema admits it.

    Raises:
        ConfigError: The category set is private and not yet released.
    """
    if column.categories is None or not column.categories.values:
        raise ConfigError(
            f"column '{column.name}' has no category values, expected a public or released set. "
            "Evaluate with the schema that the run saved."
        )
    return tuple(dict.fromkeys(column.levels))


def level_codes(values: pd.Series, column: Column) -> np.ndarray:
    """Position of each value in :func:`levels`, shape ``(n,)``; one past the last if missing or unlisted."""
    names = levels(column)
    codes = positions(values, names)
    return np.where((codes < 0) | values.isna().to_numpy(), len(names), codes)


def scaled(values: pd.Series, column: Column) -> np.ndarray:
    """Numbers scaled so that the public bounds become 0 and 1, shape ``(n,)``; missing as NaN, not clipped.

    Raises:
        ConfigError: The bounds are private and not yet released.
    """
    low, high = _bounds(column)
    width = high - low if high > low else 1.0
    numbers = (as_numbers(values) - low) / width
    return np.where(np.isfinite(numbers), numbers, np.nan)


# Below the public range, so that trees see missing values as a level of their own.
MISSING = -1.0


@dataclass(frozen=True)
class Features:
    """Features of the columns of ``schema`` but ``without``.

    Args:
        schema: Public (or released) schema.
        without: Name of a column to leave out, usually the target.
    """

    schema: Schema
    without: str | None = None

    @property
    def columns(self) -> tuple[Column, ...]:
        return tuple(column for column in self.schema.columns if column.name != self.without)

    def ordinal(self, frame: pd.DataFrame) -> np.ndarray:
        """For trees: level numbers and scaled numbers (missing −1), shape ``(n, d)``, finite float64."""
        if not self.columns:
            return np.zeros((len(frame), 1))
        parts = [
            level_codes(series(frame, c.name), c)
            if c.kind == "categorical"
            else scaled(series(frame, c.name), c)
            for c in self.columns
        ]
        return np.nan_to_num(np.column_stack(parts).astype(float), nan=MISSING)

    def one_hot(self, frame: pd.DataFrame) -> sparse.csr_matrix:
        """For linear models: one-hot levels, and scaled numbers with an indicator of missing values."""
        if not self.columns:
            return sparse.csr_matrix((len(frame), 1))
        blocks = [
            _indicators(level_codes(series(frame, c.name), c), len(levels(c)) + 1)
            if c.kind == "categorical"
            else _number_and_missing(scaled(series(frame, c.name), c))
            for c in self.columns
        ]
        return sparse.csr_matrix(sparse.hstack(blocks, format="csr"))


def _indicators(codes: np.ndarray, size: int) -> sparse.csr_matrix:
    rows = np.arange(len(codes))
    return sparse.csr_matrix((np.ones(len(codes)), (rows, codes)), shape=(len(codes), size))


def _number_and_missing(numbers: np.ndarray) -> sparse.csr_matrix:
    missing = np.isnan(numbers)
    return sparse.csr_matrix(np.column_stack([np.where(missing, 0.0, numbers), missing]))


def _bounds(column: Column) -> tuple[float, float]:
    bounds = column.bounds
    if bounds is None or bounds.min is None or bounds.max is None:
        raise ConfigError(
            f"column '{column.name}' has no bounds, expected public or released ones. "
            "Evaluate with the schema that the run saved."
        )
    if column.kind == "datetime":
        low, high = as_numbers(pd.Series([pd.Timestamp(str(bound)) for bound in (bounds.min, bounds.max)]))
        return float(low), float(high)
    return float(bounds.min), float(bounds.max)
