"""Pictures and tables of single columns and pairs, from the tables a run keeps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from dpforge.experiment import plots_dependence
from dpforge.experiment.plots_style import PRIVATE_NOTE, picture, plain
from dpforge.experiment.report.composition import drawn
from dpforge.experiment.report.page import Block, Cell, Figure, Table, Text

MOST_ROWS = 300
_FRESH = "TVD of a fresh sample"
_NOT_KEPT = (
    "This run kept no distances of single pairs. dpforge-evaluate with the run folder adds them; it costs no"
    " privacy."
)


def pair_blocks(tables: dict[str, pd.DataFrame], names: list[str]) -> list[Block]:
    """Heat-map and table of the 2-way distances, worst first."""
    if "pairs" not in tables or tables["pairs"].empty:
        return [Text([_NOT_KEPT], "note")]
    pairs = tables["pairs"].sort_values("score", ascending=False, kind="stable")
    return [_heatmap(pairs, names), _pair_table(pairs)]


def column_table(tables: dict[str, pd.DataFrame]) -> list[Table]:
    """Table of the 1-way distances, with accuracy and coverage where they were measured."""
    if "columns" not in tables:
        return []
    measured = tables["columns"]
    frame = pd.DataFrame({"column": measured["column"], "TVD": measured["score"], _FRESH: measured["noise"]})
    if "accuracy_columns" in tables:
        accuracy = dict(tables["accuracy_columns"][["column", "score"]].itertuples(index=False))
        frame["accuracy"] = [accuracy.get(name) for name in frame["column"]]
    caption = (
        "TVD: share of rows that would have to change cells. A fresh sample of as many real rows would show"
        " about the distance in the last columns by chance alone."
    )
    return [Table("Distance of every column", list(frame.columns), _cells(frame), caption, digits=4)]


def _pair_table(pairs: pd.DataFrame) -> Table:
    kept = {"first": "first", "second": "second", "score": "TVD", "floor": "floor", "ceiling": "ceiling"}
    worst = pairs.head(MOST_ROWS)
    frame = pd.DataFrame({shown: worst[name] for name, shown in kept.items() if name in worst})
    frame[_FRESH] = worst["noise"]
    caption = "Floor: shuffled columns. Ceiling: held-out real rows. "
    caption += f"The worst {MOST_ROWS} of {len(pairs)} pairs." if len(pairs) > MOST_ROWS else ""
    return Table("Distance of every pair", list(frame.columns), _cells(frame), caption.strip())


def _cells(frame: pd.DataFrame) -> list[list[Cell]]:
    return [
        [None if cell is pd.NA else cell for cell in row] for row in frame.to_numpy(dtype=object).tolist()
    ]


def _heatmap(pairs: pd.DataFrame, names: list[str]) -> Figure:
    def draw(path: Path) -> None:
        side = min(max(3.0, 0.34 * len(names)), 10)
        limit = max(float(pairs[["score", "floor"]].to_numpy(dtype=float).max()), 0.02)
        with picture(path, (2 * side + 2.6, side + 1.9), note=PRIVATE_NOTE) as figure:
            left, right = figure.subplots(1, 2)
            _matrix(left, _square(pairs, names, "score"), names, "Synthetic rows", limit)
            shown = _matrix(right, _square(pairs, names, "floor"), names, "Shuffled columns (floor)", limit)
            right.set_yticklabels([])
            figure.colorbar(shown, ax=[left, right], shrink=0.8, label="TVD of the pair")

    worst = pairs.iloc[0]
    alt = f"Total variation distance of every pair; the worst is {worst['first']} and {worst['second']}"
    caption = (
        "Left: how far each pair of columns is from the real rows. Right: the same if no column depended on"
        " another. Where the left is as dark as the right, the relation of the pair was not learnt."
    )
    return Figure("Total variation distance of every pair", drawn(draw), caption, alt, wide=True)


def _square(pairs: pd.DataFrame, names: list[str], column: str) -> np.ndarray:
    matrix = np.full((len(names), len(names)), np.nan)
    place = {name: i for i, name in enumerate(names)}
    for first, second, value in pairs[["first", "second", column]].itertuples(index=False):
        if first in place and second in place:
            matrix[place[first], place[second]] = matrix[place[second], place[first]] = value
    return matrix


def _matrix(axes: Axes, matrix: np.ndarray, names: list[str], title: str, limit: float) -> Any:
    image = axes.imshow(matrix, cmap="cividis_r", vmin=0, vmax=limit)
    size = 9 if len(names) <= 30 else 6
    labels = [plain(name, 20) for name in names]
    axes.set_xticks(range(len(names)), labels, rotation=90, fontsize=size)
    axes.set_yticks(range(len(names)), labels, fontsize=size)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_title(title)
    return image


def correlation_figure(tables: dict[str, pd.DataFrame], names: list[str]) -> bytes | None:
    """Picture of the association matrices of R, S and their difference; ``None`` if they were not kept."""
    if not {"correlation_real", "correlation_synthetic"} <= tables.keys():
        return None
    real, synthetic = (tables[f"correlation_{kind}"].to_numpy(dtype=float) for kind in ("real", "synthetic"))
    return drawn(lambda path: plots_dependence.correlation_difference(real, synthetic, names, path))
