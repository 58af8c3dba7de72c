"""How much of the real values a synthetic table reaches, and how often its rows repeat."""

from __future__ import annotations

import numpy as np
import pandas as pd

from dpforge.data.schema import Column, Schema
from dpforge.evaluation.accuracy import as_numbers
from dpforge.evaluation.features import level_codes, levels
from dpforge.evaluation.frames import aligned, series

VERSION = "coverage-1"
KEYS = ("range_coverage", "category_coverage", "category_mass")
DUPLICATE_VERSION = "duplicates-1"


def value_coverage(real: pd.DataFrame, synthetic: pd.DataFrame, schema: Schema) -> dict[str, float]:
    """Share of the real ranges and categories that ``synthetic`` reaches, each in [0, 1], best 1.

    Returns:
        ``range_coverage``, the mean over number columns of the real range that the synthetic range
        overlaps; ``category_coverage``, the mean over categorical columns of the share of the categories
        of ``real`` that occur in ``synthetic``; ``category_mass``, the share of real values in those.
        Keys without a column of their kind are left out. A wider synthetic range is not punished: see
        the schema violations for that.

    Raises:
        DataError: An empty table or a missing column.
    """
    frame = column_coverage(real, synthetic, schema)
    known = {key: series(frame, key).dropna().to_numpy() for key in KEYS}
    return {key: float(values.mean()) for key, values in known.items() if len(values)}


def column_coverage(real: pd.DataFrame, synthetic: pd.DataFrame, schema: Schema) -> pd.DataFrame:
    """The scores of :func:`value_coverage` for each column, NaN where the score is of the other kind."""
    real, synthetic = aligned(real, schema, "real"), aligned(synthetic, schema, "synthetic")
    rows = [_one(series(real, c.name), series(synthetic, c.name), c) for c in schema.columns]
    found = dict(zip(KEYS, zip(*rows, strict=True), strict=True))
    return pd.DataFrame({"column": list(schema.names), **found})


def duplicate_share(frame: pd.DataFrame, schema: Schema) -> float:
    """Share of the rows that repeat an earlier row, in [0, 1); compare it with that of real rows.

    Raises:
        DataError: An empty table or a missing column.
    """
    return float(aligned(frame, schema, "synthetic").duplicated().mean())


def overlap(real: np.ndarray, synthetic: np.ndarray) -> float:
    """Share of the range of ``real`` inside the range of ``synthetic``, finite values of shape ``(n,)``.

    A constant ``real`` counts 1 where the synthetic range holds its value; an empty one always counts 1.
    """
    if len(real) == 0:
        return 1.0
    if len(synthetic) == 0:
        return 0.0
    low, high = max(real.min(), synthetic.min()), min(real.max(), synthetic.max())
    if real.min() == real.max():
        return float(low <= high)
    return float(np.clip((high - low) / (real.max() - real.min()), 0.0, 1.0))


def _one(real: pd.Series, synthetic: pd.Series, column: Column) -> tuple[float, float, float]:
    if column.kind != "categorical":
        numbers = [as_numbers(values) for values in (real, synthetic)]
        finite = [values[np.isfinite(values)] for values in numbers]
        return overlap(finite[0], finite[1]), np.nan, np.nan
    size = len(levels(column))
    # The last code is "missing or unlisted", which is no category.
    counts, others = (
        np.bincount(level_codes(values, column), minlength=size + 1)[:size] for values in (real, synthetic)
    )
    present = counts > 0
    if not present.any():
        return np.nan, 1.0, 1.0
    reached = present & (others > 0)
    return np.nan, float(reached.sum() / present.sum()), float(counts[reached].sum() / counts.sum())
