"""Pictures of a study: scores over epsilon, and generators side by side at equal epsilon."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import NullFormatter, NullLocator

from dpforge.experiment.intervals import Interval, t_interval
from dpforge.experiment.plots_style import (
    BLUE,
    DARK,
    GREEN,
    GREY,
    ORANGE,
    VERMILION,
    light_grid,
    picture,
    plain,
)
from dpforge.experiment.study_cells import Cell
from dpforge.experiment.study_metrics import direction, shortfall, shown_name

# Okabe and Ito (2008), without the yellow that white paper swallows; the marker tells colours apart in grey.
COLOURS = (BLUE, VERMILION, GREEN, ORANGE, "#CC79A7", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
FAR = 4.0  # times the median of the lines' best shortfalls
MOST_LINES = len(COLOURS)
WIDTH = 4.8  # inches: still legible when a phone shows it
_LABEL_GAP = 0.075
NO_DP = "no DP"
_LEVELS = {"floor": "shuffled columns", "ceiling": "real rows"}


@dataclass(frozen=True)
class Line:
    """Scores of one generator.

    Args:
        generator: Name with its settings.
        budgets: Epsilon of each point, increasing; infinite without privacy.
        scores: Mean and interval of each point.
    """

    generator: str
    budgets: tuple[float, ...]
    scores: tuple[Interval, ...]


def lines_of(cells: Sequence[Cell], metric: str) -> list[Line]:
    """The generators of one data set as lines over epsilon; cells without the metric are left out."""
    grouped: dict[str, list[tuple[float, Interval]]] = {}
    for cell in cells:
        interval = cell.interval(metric)
        if interval.n and not math.isnan(cell.budget):
            grouped.setdefault(cell.first.generator, []).append((cell.budget, interval))
    return [
        Line(name, *zip(*sorted(points, key=lambda point: point[0]), strict=True))
        for name, points in grouped.items()
    ]


def best_lines(lines: Sequence[Line], metric: str, most: int = MOST_LINES) -> list[Line]:
    """At most ``most`` lines, those with the best single mean; in their own order."""
    if len(lines) <= most:
        return list(lines)

    def rank(line: Line) -> float:
        return min(shortfall(metric, score.mean) for score in line.scores)

    kept = sorted(lines, key=rank)[:most]
    return [line for line in lines if line in kept]


def frontier(datasets: Mapping[str, Sequence[Cell]], metric: str, path: Path, *, note: str = "") -> None:
    """Draw a metric over epsilon, one line a generator and one panel a data set.

    Bars are 95 % t-intervals over seeds; a hollow marker has one seed and no interval. Floor and ceiling
    are means over the runs of the data set.

    Args:
        datasets: Cells by data set; one without the metric has no panel.
        metric: Name of the metric.
        path: PNG to write.
        note: Small text under the picture.
    """
    panels = _panels(datasets, metric)
    with picture(path, (WIDTH, 0.3 + 3.3 * max(1, len(panels))), note=note) as figure:
        for number, (name, lines) in enumerate(panels.items(), start=1):
            axes = figure.add_subplot(len(panels), 1, number)
            title = shown_name(metric) + (f", {name}" if len(panels) > 1 else "")
            axes.set_title(plain(title, 60), pad=10)
            _frontier_panel(axes, lines, metric)
            _levels(axes, datasets[name], metric, upright=False)
            _label_lines(axes, lines, _zoom(axes, lines, metric))


def _panels(datasets: Mapping[str, Sequence[Cell]], metric: str) -> dict[str, list[Line]]:
    found = {name: best_lines(lines_of(cells, metric), metric) for name, cells in datasets.items()}
    return {name: lines for name, lines in found.items() if lines}


def _frontier_panel(axes: Axes, lines: Sequence[Line], metric: str) -> None:
    finite = sorted({budget for line in lines for budget in line.budgets if math.isfinite(budget)})
    beyond = (finite[-1] if finite else 1.0) * 2.5
    axes.set_xscale("log")
    for number, line in enumerate(lines):
        dodge = 1 + 0.03 * (number - (len(lines) - 1) / 2)
        _draw_line(axes, line, number, beyond, dodge)
    ticks = {budget: f"{budget:.3g}" for budget in finite}
    if any(math.isinf(line.budgets[-1]) for line in lines):
        axes.axvline(beyond / 1.6, color=GREY, linewidth=0.8, linestyle=(0, (1, 3)))
        ticks[beyond] = NO_DP
    axes.set_xticks(list(ticks), list(ticks.values()))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlim(min(ticks) / 1.35, max(ticks) * 1.35)
    axes.set(xlabel="ε of one run (log scale)", ylabel=f"{direction(metric)}")
    axes.margins(y=0.12)
    light_grid(axes, "y")


def _zoom(axes: Axes, lines: Sequence[Line], metric: str) -> list[Line]:
    """Leave lines that are far worse than most off the scale, so that the others can be told apart."""
    best = {line.generator: min(shortfall(metric, s.mean) for s in line.scores) for line in lines}
    limit = FAR * float(np.median(list(best.values()))) if best else 0.0
    off = [line for line in lines if best[line.generator] > limit]
    near = [score for line in lines if line not in off for score in line.scores]
    if off and len(lines) - len(off) >= 2:
        halves = [0.0 if math.isnan(score.half) else score.half for score in near]
        low = min(score.mean - half for score, half in zip(near, halves, strict=True))
        high = max(score.mean + half for score, half in zip(near, halves, strict=True))
        axes.set_ylim(low - 0.12 * (high - low), high + 0.25 * (high - low))
        return off
    return []


def _draw_line(axes: Axes, line: Line, number: int, beyond: float, dodge: float) -> None:
    colour, marker = COLOURS[number % len(COLOURS)], MARKERS[number % len(MARKERS)]
    x = np.array([beyond if math.isinf(budget) else budget for budget in line.budgets]) * dodge
    means = np.array([score.mean for score in line.scores])
    halves = np.array([0.0 if math.isnan(score.half) else score.half for score in line.scores])
    private = np.isfinite(line.budgets)
    axes.plot(x[private], means[private], color=colour, linewidth=1.8)
    axes.errorbar(x, means, yerr=halves, fmt="none", ecolor=colour, elinewidth=1.4, capsize=3)
    for at, mean, score in zip(x, means, line.scores, strict=True):
        fill = colour if score.n > 1 else "white"
        axes.plot(at, mean, marker, color=colour, markerfacecolor=fill, markersize=6.5)


def _label_lines(axes: Axes, lines: Sequence[Line], off: Sequence[Line]) -> None:
    """Write each generator's name to the right, beside its last point, without overlap."""
    low, high = axes.get_ylim()
    wanted = [min(max((line.scores[-1].mean - low) / (high - low), 0.0), 1.0) for line in lines]
    for number, (line, place) in enumerate(zip(lines, spread_out(wanted, _LABEL_GAP), strict=True)):
        colour = COLOURS[number % len(COLOURS)]
        text = plain(line.generator, 22) + _off_scale(line, off)
        axes.text(
            1.02, place, text, color=colour, transform=axes.transAxes, va="center",
            fontsize=9, weight="bold",
        )  # fmt: skip


def _off_scale(line: Line, off: Sequence[Line]) -> str:
    return f"\n(off the scale, {line.scores[-1].mean:.2f})" if line in off else ""


def spread_out(places: Sequence[float], gap: float) -> list[float]:
    """Move places apart until neighbours are at least ``gap`` from each other; their order stays."""
    order = sorted(range(len(places)), key=lambda i: places[i])
    moved = list(places)
    for below, above in itertools.pairwise(order):
        moved[above] = max(moved[above], moved[below] + gap)
    drift = sum(moved) / len(moved) - sum(places) / len(places) if places else 0.0
    return [place - drift for place in moved]


def _levels(axes: Axes, cells: Sequence[Cell], metric: str, *, upright: bool) -> None:
    """Draw floor and ceiling as lines with their names, and make room for them."""
    found = {
        part: t_interval([value for cell in cells for value in cell.values(metric, part)]).mean
        for part in ("floor", "ceiling")
    }
    found = {part: level for part, level in found.items() if not math.isnan(level)}
    for part, level in found.items():
        # The names of two close lines stand on their far sides.
        above = level == max(found.values()) and (part == "ceiling" or len(set(found.values())) > 1)
        look: dict[str, Any] = {
            "color": DARK,
            "linewidth": 1.1,
            "linestyle": "--" if part == "floor" else "-.",
            "zorder": 1,
        }
        if upright:
            axes.axvline(level, **look)
            axes.text(
                level, 1.0, part, transform=axes.get_xaxis_transform(), fontsize=8, color=DARK,
                va="bottom", ha="left" if above else "right",
            )  # fmt: skip
        else:
            axes.axhline(level, **look)
            axes.text(
                0.01, level, f"{part}: {_LEVELS[part]}", transform=axes.get_yaxis_transform(), fontsize=8,
                color=DARK, va="bottom" if above else "top", clip_on=True,
            )  # fmt: skip


def comparison(
    datasets: Mapping[str, Sequence[Cell]], metrics: Sequence[str], path: Path, *, note: str = ""
) -> None:
    """Draw generators side by side at each epsilon, a panel for each data set and metric.

    Args:
        datasets: Cells by data set.
        metrics: Names of the metrics; one that a data set lacks has no panel.
        path: PNG to write.
        note: Small text under the picture.
    """
    panels = [
        (name, metric, rows)
        for name, cells in datasets.items()
        for metric in metrics
        if (rows := _rows_of(cells, metric))
    ]
    heights = [1.0 + 0.27 * len(rows) for _, _, rows in panels] or [1.0]
    with picture(path, (WIDTH, sum(heights) + 0.2), note=note) as figure:
        grid = figure.add_gridspec(max(1, len(panels)), 1, height_ratios=heights)
        for number, (name, metric, rows) in enumerate(panels):
            axes = figure.add_subplot(grid[number, 0])
            several = len(datasets) > 1
            axes.set_title(plain(shown_name(metric) + (f", {name}" if several else ""), 60), pad=18)
            _comparison_panel(axes, rows)
            axes.set_xlabel(direction(metric))
            _levels(axes, datasets[name], metric, upright=True)


Row = tuple[str, Interval | None, int]
"""Label, its score (None for the heading of a group), number of the generator."""


def _rows_of(cells: Sequence[Cell], metric: str) -> list[Row]:
    """Rows from top to bottom: a heading for each epsilon, then its generators."""
    lines = lines_of(cells, metric)
    rows: list[Row] = []
    for budget in sorted({budget for line in lines for budget in line.budgets}):
        rows.append((NO_DP if math.isinf(budget) else f"ε = {budget:.3g}", None, 0))
        for number, line in enumerate(lines):
            rows += [
                (line.generator, score, number)
                for at, score in zip(line.budgets, line.scores, strict=True)
                if at == budget
            ]
    return rows


def _comparison_panel(axes: Axes, rows: Sequence[Row]) -> None:
    for place, (_, score, number) in enumerate(rows):
        if score is None:
            axes.axhline(place, color="#E3E3E3", linewidth=0.7)
            continue
        colour, marker = COLOURS[number % len(COLOURS)], MARKERS[number % len(MARKERS)]
        half = 0.0 if math.isnan(score.half) else score.half
        axes.errorbar(score.mean, place, xerr=half, fmt="none", ecolor=colour, elinewidth=1.6, capsize=3)
        fill = colour if score.n > 1 else "white"
        axes.plot(score.mean, place, marker, color=colour, markerfacecolor=fill, markersize=6.5)
    axes.set_yticks(range(len(rows)), [plain(label, 26) for label, _, _ in rows])
    for text, (_, score, _) in zip(axes.get_yticklabels(), rows, strict=True):
        text.set_fontweight("bold" if score is None else "normal")
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.margins(x=0.12)
    light_grid(axes, "x")
    axes.spines["left"].set_visible(False)
