"""Points in space for tables with mixed columns: standardised numbers and one-hot levels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from dpforge.data.schema import Schema
from dpforge.evaluation.accuracy import as_numbers
from dpforge.evaluation.features import level_codes, levels
from dpforge.evaluation.frames import series

# Numbers further out than this many real deviations count as this far: squares stay finite.
FURTHEST = 1e6
ONE_HOT = float(np.sqrt(0.5))


@dataclass(frozen=True)
class Axes:
    """What each of the ``m`` coordinates of :func:`points` stands for.

    Args:
        owner: Number of the schema column, shape ``(m,)``.
        indicator: Whether the coordinate is 0 or 1 (a level, or "missing"), shape ``(m,)``.
        level: Whether the coordinate is a level of a category, shape ``(m,)``.
    """

    owner: np.ndarray
    indicator: np.ndarray
    level: np.ndarray


@dataclass(frozen=True)
class Scale:
    """Centre and width of the number columns of the real table, each of shape ``(d,)``."""

    centre: np.ndarray
    width: np.ndarray


def axes(schema: Schema) -> Axes:
    """The coordinates of ``schema``: a number gives its value and "missing", a category its levels."""
    owner: list[int] = []
    indicator: list[bool] = []
    level: list[bool] = []
    for j, column in enumerate(schema.columns):
        categorical = column.kind == "categorical"
        size = len(levels(column)) + 1 if categorical else 2
        owner += [j] * size
        indicator += [True] * size if categorical else [False, True]
        level += [categorical] * size
    return Axes(np.array(owner), np.array(indicator), np.array(level))


def fit_scale(real: pd.DataFrame, schema: Schema) -> Scale:
    """Mean and deviation of the finite values of each number column; width 1 where there is none."""
    found = [
        (0.0, 1.0) if c.kind == "categorical" else _moments(as_numbers(series(real, c.name)))
        for c in schema.columns
    ]
    return Scale(np.array([m for m, _ in found]), np.array([s for _, s in found]))


def points(frame: pd.DataFrame, schema: Schema, scale: Scale) -> np.ndarray:
    """Coordinates of each row, shape ``(n, m)``, finite: indicators 0 or 1, missing numbers 0."""
    blocks = []
    for j, column in enumerate(schema.columns):
        values = series(frame, column.name)
        if column.kind == "categorical":
            blocks.append(np.eye(len(levels(column)) + 1)[level_codes(values, column)])
        else:
            blocks.append(_number(as_numbers(values), scale.centre[j], scale.width[j]))
    return np.concatenate(blocks, axis=1)


def _moments(numbers: np.ndarray) -> tuple[float, float]:
    numbers = numbers[np.isfinite(numbers)]
    if len(numbers) == 0:
        return 0.0, 1.0
    if numbers.min() == numbers.max():
        return float(numbers[0]), 1.0
    # Scaling first keeps the squares of huge values finite.
    largest = float(np.abs(numbers).max())
    shares = numbers / largest
    return largest * float(shares.mean()), largest * float(shares.std())


def _number(numbers: np.ndarray, centre: float, width: float) -> np.ndarray:
    missing = ~np.isfinite(numbers)
    with np.errstate(over="ignore"):
        standard = (np.where(missing, centre, numbers) - centre) / width
    return np.column_stack([np.clip(standard, -FURTHEST, FURTHEST), missing])
