"""Histograms of every column, real against synthetic, on the public cells of the schema."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib.dates as dates
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.patches import Patch
from matplotlib.ticker import EngFormatter, FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from dpforge.data.columns import RESOLUTION_SECONDS, Column
from dpforge.data.encode.cells import CellCodec, ColumnCells
from dpforge.data.schema import Schema
from dpforge.experiment.plots_style import PRIVATE_NOTE, REAL, SYNTHETIC, light_grid, picture, plain

FOLD_AT, _FOLD_AT_SMALL = 20, 8
_OVERVIEW_PANELS = 24
_OVERVIEW_WIDTH = 4
_SHARE_TICKS = (1.0, 0.7, 0.5, 0.3, 0.2, 0.1, 0.05, 0.02, 0.01, 0.005, 0.001, 0.0001)
_NICE_STEPS = [1, 2, 2.5, 5, 10]


@dataclass(frozen=True)
class Bars:
    """Shares of named cells: labels and one share per label and table, each in [0, 1]."""

    labels: tuple[str, ...]
    shares: tuple[np.ndarray, ...]


@dataclass(frozen=True)
class ColumnShares:
    """How the rows of each table spread over the cells of one column.

    ``tables`` holds (label, colour, shares of the K cells) per table; shares sum to one.
    """

    column: Column
    cells: ColumnCells
    tables: tuple[tuple[str, str, np.ndarray], ...]

    @property
    def title(self) -> str:
        """Column name, with the total variation distance of two tables."""
        name = plain(self.column.name)
        if len(self.tables) < 2:
            return name
        distance = 0.5 * float(np.abs(self.tables[0][2] - self.tables[1][2]).sum())
        return f"{name}: TVD {distance:.3f}"

    @property
    def axis_label(self) -> str:
        """Column name with its unit of measurement."""
        units = f" [{plain(self.column.units)}]" if self.column.units else ""
        return plain(self.column.name) + units

    def bars(self, chosen: np.ndarray) -> Bars:
        """The chosen cells, a boolean mask (K,), as bars, without empty null and unknown ones."""
        empty = np.sum([shares for _, _, shares in self.tables], axis=0) == 0
        leading = np.arange(self.cells.size) < self.column.nullable + self.column.has_unknown
        chosen = chosen & ~(empty & leading)
        labels = tuple(label for label, keep in zip(self.cells.labels, chosen, strict=True) if keep)
        return Bars(labels, tuple(shares[chosen] for _, _, shares in self.tables))


def histograms(real: pd.DataFrame | None, synthetic: pd.DataFrame, schema: Schema, folder: Path) -> None:
    """Write one PNG per column and overview grids into ``folder``.

    Files are ``NN-<column>.png`` and ``overview.png`` (``overview-2.png``, … for wide tables). Both tables
    are binned by the schema's public cells and normalised separately.

    Args:
        real: Typed table of real rows, which makes the pictures private; ``None`` draws a dp picture of
            the synthetic table alone.
        synthetic: Typed table of synthetic rows.
        schema: Schema without unresolved private bounds or categories.
        folder: Where the pictures go.

    Raises:
        ConfigError: If bounds or categories are still private.
    """
    views = _column_shares(real, synthetic, schema)
    note = PRIVATE_NOTE if real is not None else ""
    for number, view in enumerate(views, start=1):
        safe = re.sub(r"[^A-Za-z0-9_-]+", "_", view.column.name)[:60]
        with picture(folder / f"{number:02d}-{safe}.png", (6, 6), note=note) as figure:
            _draw(figure, view, small=False)
            _legend(figure, view)
    for page, start in enumerate(range(0, len(views), _OVERVIEW_PANELS), start=1):
        name = "overview.png" if page == 1 else f"overview-{page}.png"
        overview(views[start : start + _OVERVIEW_PANELS], folder / name, note)


def _column_shares(
    real: pd.DataFrame | None, synthetic: pd.DataFrame, schema: Schema
) -> tuple[ColumnShares, ...]:
    codec = CellCodec(schema)
    tables = [] if real is None else [("real", REAL, codec.encode(real).codes)]
    tables.append(("synthetic", SYNTHETIC, codec.encode(synthetic).codes))
    return tuple(
        ColumnShares(
            schema.column(cells.name),
            cells,
            tuple((label, colour, _shares(codes[:, i], cells.size)) for label, colour, codes in tables),
        )
        for i, cells in enumerate(codec.columns)
    )


def _shares(codes: np.ndarray, size: int) -> np.ndarray:
    return np.bincount(codes, minlength=size) / max(1, len(codes))


def overview(views: tuple[ColumnShares, ...], path: Path, note: str) -> None:
    columns = min(_OVERVIEW_WIDTH, len(views))
    rows = -(-len(views) // columns)
    with picture(path, (3.6 * columns, 2.7 * rows + 0.7), note=note) as figure:
        panels = figure.subfigures(rows, columns, squeeze=False).ravel()
        for panel, view in zip(panels, views, strict=False):
            _draw(panel, view, small=True)
        _legend(figure, views[0])


def _legend(figure: Figure, view: ColumnShares) -> None:
    handles = [Patch(facecolor=colour, alpha=0.75, label=label) for label, colour, _ in view.tables]
    figure.legend(handles=handles, loc="outside upper right", ncols=2)


def _draw(figure: Figure | SubFigure, view: ColumnShares, *, small: bool) -> None:
    cells, fold_at = view.cells, _FOLD_AT_SMALL if small else FOLD_AT
    values = np.isfinite(cells.lower)
    binned = values & ~cells.atom
    body = binned if binned.any() else values
    if view.column.kind == "categorical" or (not binned.any() and body.sum() < fold_at):
        axes = figure.subplots()
        _horizontal_bars(axes, view, fold_at)
    else:
        axes = _atoms_and_body(figure, view, ~body, body, small=small)
    _title(axes, view, small=small)


def _title(axes: Axes, view: ColumnShares, *, small: bool) -> None:
    if not small:
        axes.set_title(view.title)
        return
    axes.set_title(view.title, fontsize=9, pad=4)
    for every in axes.figure.axes:
        every.tick_params(labelsize=7)
        every.set(xlabel="", ylabel="")


def _horizontal_bars(axes: Axes, view: ColumnShares, fold_at: int) -> None:
    bars = _fold(view.bars(np.ones(view.cells.size, dtype=bool)), fold_at)
    places = np.arange(len(bars.labels))
    height = 0.8 / len(bars.shares)
    for i, ((_, colour, _), shares) in enumerate(zip(view.tables, bars.shares, strict=True)):
        axes.barh(places - 0.4 + (i + 0.5) * height, shares, height, color=colour, alpha=0.75)
    axes.set_yticks(places, [plain(label) for label in bars.labels])
    axes.invert_yaxis()
    scale = _share_axis(axes.xaxis, axes.set_xscale, axes.set_xlim, np.concatenate(bars.shares))
    axes.set(xlabel=f"share of rows{scale}", ylabel=view.axis_label)
    light_grid(axes, "x")


def _fold(bars: Bars, fold_at: int) -> Bars:
    if len(bars.labels) < fold_at:
        return bars
    order = np.argsort(-bars.shares[0], kind="stable")
    kept, rest = order[: fold_at - 1], order[fold_at - 1 :]
    labels = (*(bars.labels[i] for i in kept), f"other ({len(rest)} levels)")
    return Bars(labels, tuple(np.append(shares[kept], shares[rest].sum()) for shares in bars.shares))


def _share_axis(axis: Any, set_scale: Any, set_limit: Any, shares: np.ndarray) -> str:
    """Percent axis, square-root scaled where one share dominates; returns what its label must add."""
    peak = max(float(shares.max(initial=0.0)), 1e-6)
    positive = shares[shares > 0]
    dominated = positive.size > 2 and peak > 12 * float(np.median(positive))
    if dominated:
        set_scale("function", functions=(_signed_root, np.square))
        axis.set_major_locator(FixedLocator(_root_ticks(peak)))
        axis.set_minor_locator(NullLocator())
    else:
        axis.set_major_locator(MaxNLocator(5, steps=_NICE_STEPS, min_n_ticks=2))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.3g} %"))
    set_limit(0, 1.06 * peak)
    return " (square-root scale)" if dominated else ""


def _root_ticks(peak: float) -> list[float]:
    """Round shares that are at least a sixth of a square-root axis apart."""
    ticks: list[float] = []
    for share in _SHARE_TICKS:
        above = ticks[-1] ** 0.5 if ticks else 1.03 * peak**0.5 + peak**0.5 / 6
        if min(above - share**0.5, share**0.5) >= peak**0.5 / 6:
            ticks.append(share)
    return [0.0, *ticks]


def _signed_root(values: np.ndarray) -> np.ndarray:
    return np.sqrt(np.clip(values, 0, None))


def _atoms_and_body(
    figure: Figure | SubFigure, view: ColumnShares, atoms: np.ndarray, body: np.ndarray, *, small: bool
) -> Axes:
    bars = view.bars(atoms)
    if not bars.labels:
        axes = figure.subplots()
        _stairs(axes, view, body)
        return axes
    ratio = min(0.25 + 0.12 * len(bars.labels), 1.0)
    left, right = figure.subplots(1, 2, width_ratios=[ratio, 1.0 if small else 1.4])
    _vertical_bars(left, bars, view)
    _stairs(right, view, body)
    return left


def _vertical_bars(axes: Axes, bars: Bars, view: ColumnShares) -> None:
    bars = _fold(bars, _FOLD_AT_SMALL)
    places = np.arange(len(bars.labels))
    width = 0.8 / len(bars.shares)
    for i, ((_, colour, _), shares) in enumerate(zip(view.tables, bars.shares, strict=True)):
        axes.bar(places - 0.4 + (i + 0.5) * width, shares, width, color=colour, alpha=0.75)
    rotation = 90 if len(places) > 2 else 0
    axes.set_xticks(places, [plain(label, 14) for label in bars.labels], rotation=rotation)
    axes.set_xlim(-0.7, len(places) - 0.3)
    scale = _share_axis(axes.yaxis, axes.set_yscale, axes.set_ylim, np.concatenate(bars.shares))
    axes.set(xlabel="single values", ylabel=f"share of rows{scale}")
    light_grid(axes, "y")


def _stairs(axes: Axes, view: ColumnShares, body: np.ndarray) -> None:
    edges, filled = _edges(view.cells.lower[body], view.cells.upper[body])
    widths = np.diff(edges)
    wide_range = widths[filled].max() > 20 * widths[filled].min()
    unit = float(np.median(widths[filled]))
    heights = []
    for i, (_, colour, shares) in enumerate(view.tables):
        height = np.zeros(len(widths))
        height[filled] = shares[body]
        heights.append(height if wide_range else height / widths * unit)
        solid = i == 0 and len(view.tables) > 1
        look: dict[str, Any] = {"fill": True, "alpha": 0.4} if solid else {"linewidth": 1.6}
        axes.stairs(heights[-1], _positions(view.column, edges), color=colour, **look)
    scale = _share_axis(axes.yaxis, axes.set_yscale, axes.set_ylim, np.concatenate(heights))
    _value_axis(axes, view, edges, log=bool(wide_range))
    axes.set_ylabel(("share of rows per bin" if wide_range else _per_unit(view.column, unit)) + scale)
    light_grid(axes)


def _edges(lower: np.ndarray, upper: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Edges that cover all cells, and which intervals are cells (gaps are left by single values)."""
    if (lower == upper).all():
        middle = (lower[1:] + lower[:-1]) / 2
        ends = lower[:1] * 2 - middle[:1], lower[-1:] * 2 - middle[-1:]
        return np.concatenate([ends[0], middle, ends[1]]), np.ones(len(lower), dtype=bool)
    edges = np.unique(np.concatenate([lower, upper]))
    filled = np.isin(edges[:-1], lower)
    return edges, filled


def _positions(column: Column, edges: np.ndarray) -> np.ndarray:
    if column.kind != "datetime" or column.bounds is None:
        return edges
    start = dates.date2num(pd.Timestamp(str(column.bounds.min)).to_pydatetime())
    return start + edges * RESOLUTION_SECONDS[column.resolution] / 86400


def _value_axis(axes: Axes, view: ColumnShares, edges: np.ndarray, *, log: bool) -> None:
    axes.set_xlabel(view.axis_label)
    positions = _positions(view.column, edges)
    if view.column.kind == "datetime":
        locator = dates.AutoDateLocator(minticks=2, maxticks=8)
        axes.xaxis.set_major_locator(locator)
        axes.xaxis.set_major_formatter(dates.ConciseDateFormatter(locator))
    elif log:
        axes.set_xscale("symlog", linthresh=float(np.abs(edges[edges != 0]).min()))
    else:
        axes.xaxis.set_major_locator(MaxNLocator(5, steps=_NICE_STEPS))
        if np.abs(edges).max() >= 1e5:
            axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.set_xlim(positions[0], positions[-1])


def _per_unit(column: Column, unit: float) -> str:
    if column.kind == "datetime":
        return "share of rows per bin"
    if unit == 1:
        return "share of rows"
    width = f"{unit:,.0f}" if unit >= 1000 else f"{unit:.3g}"
    return f"share of rows per {width} {plain(column.units) if column.units else ''}".rstrip()
