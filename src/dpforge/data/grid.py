"""The public value grid of a number column: clip, snap, and grid indices.

A datetime column is the integer grid of its resolution ticks since ``bounds.min``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from decimal import Decimal

import numpy as np

from dpforge.data.columns import RESOLUTION_SECONDS, Column
from dpforge.errors import ConfigError

_SLACK = 1e-6  # of one grid step: what float arithmetic may add to a value that lies on the grid


@dataclass(frozen=True)
class Grid:
    """The values a number column can take.

    Args:
        low: Smallest value (datetimes: 0).
        high: Largest value (datetimes: the last tick).
        step: Distance of grid points, anchored at zero; ``None`` for a continuous column.
        points: Special values that do not lie on the grid, ascending; all special values if continuous.
    """

    low: float
    high: float
    step: float | None
    points: tuple[float, ...] = ()

    @property
    def first(self) -> int:
        """Index of the first grid point within the bounds."""
        return math.ceil(self.low / self._step - _SLACK)

    @property
    def last(self) -> int:
        """Index of the last grid point within the bounds."""
        return math.floor(self.high / self._step + _SLACK)

    @property
    def _step(self) -> float:
        if self.step is None:
            raise ConfigError("a continuous column has no grid")
        return self.step

    def index(self, values: np.ndarray) -> np.ndarray:
        """Index of the nearest grid point within the bounds, float64; NaN stays NaN."""
        return np.clip(np.rint(np.asarray(values, dtype=np.float64) / self._step), self.first, self.last)

    def value(self, index: np.ndarray) -> np.ndarray:
        """The values at grid indices, float64, without the noise of binary fractions."""
        if self._step == int(self._step):
            return np.asarray(index, dtype=np.float64) * self._step
        decimals = -int(Decimal(str(self._step)).as_tuple().exponent)
        return np.round(np.asarray(index, dtype=np.float64) * self._step, decimals)

    def is_point(self, values: np.ndarray) -> np.ndarray:
        """Which values are special values off the grid, bool."""
        return np.isin(values, np.asarray(self.points)) if self.points else np.zeros(len(values), dtype=bool)

    def snap(self, values: np.ndarray) -> np.ndarray:
        """Clip to the bounds and move to the nearest grid point; special values stay; NaN stays NaN."""
        clipped = np.clip(np.asarray(values, dtype=np.float64), self.low, self.high)
        if self.step is None:
            return clipped
        return np.where(self.is_point(clipped), clipped, self.value(self.index(clipped)))

    def off_grid(self, values: np.ndarray) -> np.ndarray:
        """Which finite values lie neither on the grid nor on a special value, bool."""
        if self.step is None:
            return np.zeros(len(values), dtype=bool)
        steps = np.asarray(values, dtype=np.float64) / self.step
        apart = np.abs(steps - np.rint(steps)) > _SLACK * np.maximum(1.0, np.abs(steps) * 1e-6)
        return np.isfinite(steps) & apart & ~self.is_point(values)


def column_grid(column: Column) -> Grid | None:
    """The grid of a number or datetime column; ``None`` if private without a public range."""
    limits = _limits(column)
    if limits is None:
        return None
    low, high = limits
    step = 1.0 if column.kind == "datetime" else column.granularity
    if column.kind == "integer" and step is None:
        step = 1.0
    if step is None:
        return Grid(low, high, None, tuple(sorted(column.special_values)))
    plain = Grid(low, high, step)
    if plain.first > plain.last:
        raise ConfigError(
            f"column '{column.name}': no multiple of granularity={step:g} lies within the bounds"
        )
    special = np.asarray(sorted(column.special_values), dtype=np.float64)
    return Grid(low, high, step, tuple(float(v) for v in special[plain.off_grid(special)]))


def _limits(column: Column) -> tuple[float, float] | None:
    bounds = column.bounds
    if bounds is None or bounds.min is None or bounds.max is None:
        return bounds.outer if bounds else None
    if column.kind != "datetime":
        return float(bounds.min), float(bounds.max)
    ticks = (seconds(str(bounds.max)) - seconds(str(bounds.min))) // RESOLUTION_SECONDS[column.resolution]
    return 0.0, float(ticks)


def seconds(moment: str) -> int:
    """Seconds since 1970 of an ISO 8601 text."""
    return int(np.datetime64(moment, "s").astype(np.int64))


def to_ticks(moments: np.ndarray, column: Column) -> np.ndarray:
    """Whole ticks since ``bounds.min`` of datetime64 values, rounded down, float64; NaT becomes NaN."""
    start = seconds(str(column.bounds.min)) if column.bounds else 0
    stamps = np.asarray(moments).astype("datetime64[s]")
    ticks = (stamps.astype(np.int64) - start) // RESOLUTION_SECONDS[column.resolution]
    return np.where(np.isnat(stamps), np.nan, ticks.astype(np.float64))


def from_ticks(ticks: np.ndarray, column: Column) -> np.ndarray:
    """The datetime64[s] values at tick numbers; NaN becomes NaT."""
    start = seconds(str(column.bounds.min)) if column.bounds else 0
    missing = np.isnan(ticks)
    stamps = np.where(missing, 0, ticks).astype(np.int64) * RESOLUTION_SECONDS[column.resolution] + start
    moments = stamps.astype("datetime64[s]")
    moments[missing] = np.datetime64("NaT", "s")
    return moments
