"""The cells of one column, from its public description alone.

Grid units: a column with a grid (integers, datetimes, numerics with a granularity) is laid out over its grid
indices, a continuous column over its values. Intervals are half-open in these units.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from dpforge.data.columns import UNKNOWN, Column
from dpforge.data.grid import Grid, column_grid, from_ticks
from dpforge.errors import ConfigError

NULL = "missing"


@dataclass(frozen=True)
class ColumnCells:
    """The cells of a column in code order: null, unknown, then values, bins or categories in order.

    Args:
        name: Column name.
        kind: Kind of the column.
        labels: One printable text a cell.
        lower: Lower end of each cell, float64 ``(K,)``, in the column's values (datetimes: ticks since the
            minimum); NaN for null, unknown and categories.
        upper: Upper end, exclusive; equal to ``lower`` for an atom.
        atom: Whether the cell is a single value, bool ``(K,)``.
        jitter: Width of one grid step relative to the cell, float64 ``(K,)``; 0 for continuous bins, 1 for
            atoms.
    """

    name: str
    kind: str
    labels: tuple[str, ...]
    lower: np.ndarray
    upper: np.ndarray
    atom: np.ndarray
    jitter: np.ndarray

    @property
    def size(self) -> int:
        """Number of cells."""
        return len(self.labels)


@dataclass(frozen=True)
class ValueCells:
    """The value cells of a number column, ascending, in grid units.

    Args:
        grid: The column's grid.
        low: First grid unit of each cell, float64 ``(K,)``.
        high: End of each cell, exclusive; equal to ``low`` for a special value off the grid.
        atom: Whether the cell is a single value, bool ``(K,)``.
    """

    grid: Grid
    low: np.ndarray
    high: np.ndarray
    atom: np.ndarray


def value_cells(column: Column, *, default_bins: int, discrete_max: int) -> ValueCells:
    """Lay out the value cells of a number column. Raises ``ConfigError`` while its bounds are private."""
    grid = column_grid(column)
    if column.open_bounds or grid is None:
        raise ConfigError(
            f"the bounds of column '{column.name}' are private and not bought yet; release them first "
            "or give public bounds"
        )
    lone = _lone_steps(column, grid, discrete_max)
    cuts = {*_cuts(column, grid, default_bins), *lone, *(step + 1 for step in lone)}
    points = [point if grid.step is None else point / grid.step for point in grid.points]
    # Off the grid, a special value parts the grid points below it from those above.
    cuts |= {point if grid.step is None else math.ceil(point) for point in points}
    ends = sorted(cuts)
    cells = [(low, high, low in lone) for low, high in pairwise(ends)]
    cells = sorted([*cells, *((point, point, True) for point in points)])
    low, high, atom = zip(*cells, strict=True)
    return ValueCells(grid, np.array(low, float), np.array(high, float), np.array(atom, bool))


def _lone_steps(column: Column, grid: Grid, discrete_max: int) -> set[float]:
    """The grid indices that have a cell of their own."""
    if grid.step is None:
        return set()
    if column.kind == "integer" and column.bins is None and grid.last - grid.first + 1 <= discrete_max:
        return set(range(grid.first, grid.last + 1))
    step = grid.step
    return {float(round(value / step)) for value in column.special_values if value not in grid.points}


def _cuts(column: Column, grid: Grid, default_bins: int) -> Iterable[float]:
    """Where bins begin, and the end of the last one, in grid units."""
    if grid.step is None:
        return [grid.low, *_inner_edges(column, grid.low, grid.high, default_bins), grid.high]
    first, end, step = grid.first, grid.last + 1, grid.step
    inner = _inner_edges(column, first * step, end * step, default_bins)
    on_grid = [float(math.ceil(edge / step - 1e-6)) for edge in inner]
    return [first, *(edge for edge in on_grid if first < edge < end), end]


def _inner_edges(column: Column, low: float, end: float, default_bins: int) -> list[float]:
    bins = column.bins
    top = float(column.bounds.max) if column.kind != "datetime" and column.bounds else end  # type: ignore[arg-type]
    if bins is not None and bins.edges is not None:
        # The last bin is closed: an edge at the top begins no bin of its own.
        return [edge for edge in bins.edges if low < edge < top]
    if bins is not None and bins.log_width is not None:
        scale = column.granularity or 1.0
        even = np.linspace(_signed_log(low, scale), _signed_log(end, scale), bins.log_width + 1)
        return [float(np.sign(x) * np.expm1(abs(x)) * scale) for x in even[1:-1]]
    count = bins.equal_width if bins is not None and bins.equal_width is not None else default_bins
    return [float(edge) for edge in np.linspace(low, end, count + 1)[1:-1]]


def _signed_log(value: float, scale: float) -> float:
    return math.copysign(math.log1p(abs(value) / scale), value)


def leading_labels(column: Column) -> list[str]:
    """The labels of the codes before the values: null, then unknown."""
    return [NULL] * column.nullable + [UNKNOWN] * column.has_unknown


def describe_categories(column: Column) -> ColumnCells:
    """The cells of a categorical column. Raises ``ConfigError`` while its category set is private."""
    values = column.categories.values if column.categories else ()
    if not values:
        raise ConfigError(
            f"the categories of column '{column.name}' are private and not bought yet; release them first "
            "or list public values"
        )
    labels = (*leading_labels(column), *values)
    nothing, one = np.full(len(labels), np.nan), np.ones(len(labels))
    return ColumnCells(column.name, column.kind, labels, nothing, nothing, one.astype(bool), one)


def describe_values(column: Column, cells: ValueCells) -> ColumnCells:
    """The public description of the cells of a number column."""
    lead = leading_labels(column)
    step = cells.grid.step or 1.0
    lower, upper = cells.low, cells.high
    if cells.grid.step is not None:
        off_grid = cells.high == cells.low
        lower = np.where(off_grid, _nearest(cells.low * step, cells.grid.points), cells.grid.value(cells.low))
        upper = cells.grid.value(cells.high)
    upper = np.where(cells.atom, lower, upper)
    gap = np.where(cells.atom, 1.0, cells.high - cells.low)
    jitter = np.where(cells.atom, 1.0, 0.0 if cells.grid.step is None else 1.0 / gap)
    pad = np.full(len(lead), np.nan)
    return ColumnCells(
        name=column.name,
        kind=column.kind,
        labels=(*lead, *_labels(column, lower, upper)),
        lower=np.concatenate([pad, lower]),
        upper=np.concatenate([pad, upper]),
        atom=np.concatenate([np.ones(len(lead), bool), cells.atom]),
        jitter=np.concatenate([np.ones(len(lead)), jitter]),
    )


def _nearest(values: np.ndarray, points: tuple[float, ...]) -> np.ndarray:
    """Undo the rounding of ``point / step * step``."""
    known = np.asarray(points or (np.nan,))
    return known[np.abs(values[:, None] - known[None, :]).argmin(axis=1)]


def _labels(column: Column, lower: np.ndarray, upper: np.ndarray) -> list[str]:
    if column.kind == "datetime":
        return [f"from {str(moment).replace('T', ' ')}" for moment in from_ticks(lower, column)]
    return [
        _short(low) if low == high else f"[{_short(low)}, {_short(high)})"
        for low, high in zip(lower, upper, strict=True)
    ]


def _short(value: float) -> str:
    return str(int(value)) if value == int(value) else f"{value:.6g}"
