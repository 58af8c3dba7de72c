"""How every picture of a run looks, and how it reaches the disk."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Okabe and Ito (2008): distinguishable with every common colour blindness.
BLUE, ORANGE, GREEN, VERMILION = "#0072B2", "#E69F00", "#009E73", "#D55E00"
GREY, DARK = "#8C8C8C", "#333333"
REAL, SYNTHETIC = BLUE, ORANGE
DOTS_PER_INCH = 150
PRIVATE_NOTE = "Private: drawn from real rows, outside the guarantee."

_STYLE = {
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.labelsize": 10,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "legend.fontsize": 9,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": DARK,
    "axes.titlelocation": "left",
    "axes.titlepad": 8,
    "grid.color": "#E3E3E3",
    "grid.linewidth": 0.7,
    "axes.axisbelow": True,
    "figure.constrained_layout.use": True,
}


@contextmanager
def picture(path: Path, size: tuple[float, float], *, note: str = "") -> Iterator[Figure]:
    """Give an empty figure of ``size`` inches and write it to ``path`` as PNG in one step.

    Args:
        path: File to write; its folder is made.
        size: Width and height in inches.
        note: Small text under the picture.
    """
    with mpl.rc_context(_STYLE):  # pyright: ignore[reportArgumentType]
        figure = Figure(figsize=size)
        yield figure
        if note:
            figure.supxlabel(note, fontsize=8.5, color=GREY, x=0.01, ha="left")
        _write(figure, path)


def plain(text: object, length: int = 28) -> str:
    """A text from a schema made safe to draw: shortened to ``length``, never read as a formula."""
    line = " ".join(str(text).split()) or " "
    shown = line if len(line) <= length else line[: length - 1] + "…"
    return shown.replace("$", r"\$")


def light_grid(axes: Axes, axis: Any = "both") -> None:
    """Thin grid lines behind the data."""
    axes.grid(True, axis=axis)
    axes.tick_params(length=0)


def rows_and_columns(panels: int, widest: int = 4) -> tuple[int, int]:
    """Rows and columns of a grid with at least ``panels`` cells."""
    columns = panels if panels <= widest else widest
    return -(-panels // columns), columns


def _write(figure: Figure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.draft")
    try:
        _render(figure, draft)
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)


def _render(figure: Figure, path: Path) -> None:
    with warnings.catch_warnings():
        # A category may use letters that the bundled font lacks; it is drawn as boxes.
        warnings.filterwarnings("ignore", message=".*[Gg]lyph.*missing from.*")
        figure.savefig(path, format="png", dpi=DOTS_PER_INCH, metadata={"Software": None})
