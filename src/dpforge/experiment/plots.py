"""Pictures of a run. Each function writes one PNG (or a folder of them) and returns nothing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from dpforge.errors import RunError
from dpforge.experiment.display import ScoreRow
from dpforge.experiment.plots_columns import histograms
from dpforge.experiment.plots_dependence import correlation_difference, latent_marginals, latent_pairs
from dpforge.experiment.plots_style import (
    BLUE,
    DARK,
    GREEN,
    GREY,
    ORANGE,
    PRIVATE_NOTE,
    VERMILION,
    light_grid,
    picture,
    plain,
)

__all__ = [
    "correlation_difference", "epsilon_over_steps", "histograms", "latent_marginals",
    "latent_pairs", "learning_curve", "scores",
]  # fmt: skip


def epsilon_over_steps(
    steps: Sequence[int],
    epsilon_pld: Sequence[float],
    epsilon_rdp: Sequence[float],
    target: float | None,
    path: Path,
) -> None:
    """Draw the epsilon spent after each step by both accountants, with the target as a line."""
    with picture(path, (7, 4.2)) as figure:
        axes = figure.add_subplot()
        axes.plot(steps, epsilon_rdp, color=ORANGE, linewidth=2, linestyle="--", label="RDP (looser)")
        axes.plot(steps, epsilon_pld, color=BLUE, linewidth=2.4, label="PLD (of record)")
        if target is not None:
            label = f"target ε = {target:g}"
            axes.axhline(target, color=VERMILION, linewidth=1.2, linestyle=":", label=label)
        axes.set(xlabel="training step", ylabel="ε spent so far", title="Privacy spent over training")
        axes.set_xlim(left=0)
        axes.set_ylim(bottom=0)
        light_grid(axes)
        axes.legend(loc="lower right")


def learning_curve(frame: pd.DataFrame, path: Path, *, column: str = "private/loss") -> None:
    """Draw the loss of each step and its running mean.

    Args:
        frame: The rows of ``metrics.csv``: ``step`` and ``column``; rows without a loss are skipped.
        path: PNG to write.
        column: Name of the loss column.

    Raises:
        RunError: If the frame lacks a column.
    """
    missing = {"step", column} - set(frame.columns)
    if missing:
        raise RunError(f"the step log has no column {sorted(missing)[0]!r}; it has {list(frame.columns)}")
    rows = frame.loc[np.isfinite(frame[column].astype(float)), ["step", column]]
    steps, loss = rows["step"], pd.Series(rows[column], dtype=float)
    smooth = loss.rolling(max(3, len(loss) // 20), center=True, min_periods=1).mean()
    with picture(path, (7, 4.2), note=PRIVATE_NOTE) as figure:
        axes = figure.add_subplot()
        axes.plot(steps, loss, color=BLUE, alpha=0.25, linewidth=0.8, label="each step")
        axes.plot(steps, smooth, color=BLUE, linewidth=2.2, label="running mean")
        axes.set(xlabel="training step", ylabel="loss of the batch", title="Learning curve")
        _limit_to_typical(axes, loss)
        light_grid(axes)
        axes.legend(loc="upper right")


def _limit_to_typical(axes: Axes, values: pd.Series) -> None:
    if len(values) < 20:
        return
    low, high = values.quantile([0.005, 0.995])
    margin = 0.1 * (high - low) or 1.0
    axes.set_ylim(low - margin, high + margin)


def scores(rows: Sequence[ScoreRow], path: Path) -> None:
    """Draw each score between its floor (left) and its ceiling (right), however each is scaled.

    The floor is a table with independent columns, the ceiling as many real rows that were held out.
    A score without both is listed by its number alone.
    """
    with picture(path, (8, 1.5 + 0.5 * max(1, len(rows))), note=PRIVATE_NOTE) as figure:
        axes = figure.add_subplot()
        for height, row in enumerate(reversed(rows)):
            _score_bar(axes, height, row)
        axes.set_yticks(range(len(rows)), [plain(row[0], 40) for row in reversed(rows)])
        axes.set_xlim(-0.34, 1.34)
        axes.set_ylim(-0.7, max(1, len(rows)) - 0.3)
        axes.set_xticks([0, 0.25, 0.5, 0.75, 1], ["floor", "25 %", "50 %", "75 %", "ceiling"])
        axes.set_title("Where each score lies between its floor and its ceiling")
        axes.tick_params(length=0)
        axes.spines[["left", "bottom"]].set_visible(False)


def _score_bar(axes: Axes, height: int, row: ScoreRow) -> None:
    _, score, floor, ceiling, _ = row
    place = _normalised(row)
    if place is None or floor is None or ceiling is None:
        axes.text(0.5, height, f"{score:.3f} (no range)", ha="center", va="center", color=GREY)
        return
    at = min(max(place, -0.12), 1.12)
    axes.barh(height, 1, color="#E8E8E8", height=0.36)
    axes.barh(height, at, color=GREEN, alpha=0.45, height=0.36)
    marker = "o" if at == place else (">" if place > 1 else "<")
    axes.plot(at, height, marker, color=GREEN, markersize=9, markeredgecolor="white")
    look = {"textcoords": "offset points", "ha": "center", "weight": "bold", "fontsize": 9}
    axes.annotate(f"{score:.3f}", (at, height), (0, 9), **look)
    axes.text(-0.15, height, f"{floor:.3f}", ha="right", va="center", color=DARK, fontsize=9)
    axes.text(1.15, height, f"{ceiling:.3f}", ha="left", va="center", color=DARK, fontsize=9)


def _normalised(row: ScoreRow) -> float | None:
    _, score, floor, ceiling, given = row
    if given is not None:
        place = float(given)
    elif floor is None or ceiling is None or floor == ceiling:
        return None
    else:
        place = (score - floor) / (ceiling - floor)
    return place if np.isfinite(place) else None
