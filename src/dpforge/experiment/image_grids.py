"""Images side by side as PNG: plain grids for files, and labelled figures for reports."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes

from dpforge.data import Images
from dpforge.experiment.plots_style import GREY, PRIVATE_NOTE, picture, plain
from dpforge.generators.storage import write_atomic

GAP = 2
SMALLEST = 56  # pixels on a side below which an image is enlarged
PER_CLASS = 8
MOST_ROWS = 12


def tile(rows: Sequence[np.ndarray]) -> np.ndarray:
    """Arrange images in rows on a grey ground.

    Args:
        rows: One uint8 array ``(n, height, width, 1 or 3)`` a row, all images of one size.

    Returns:
        uint8 ``(H, W, 3)``; images of less than 56 pixels are enlarged by a whole factor.
    """
    height, width = rows[0].shape[1:3]
    scale = max(1, -(-SMALLEST // max(height, width)))
    high, wide = height * scale + GAP, width * scale + GAP
    canvas = np.full((len(rows) * high + GAP, max(map(len, rows)) * wide + GAP, 3), 128, dtype=np.uint8)
    for i, row in enumerate(rows):
        for j, image in enumerate(row):
            large = np.kron(image, np.ones((scale, scale, 1), dtype=np.uint8))
            top, left = GAP + i * high, GAP + j * wide
            canvas[top : top + large.shape[0], left : left + large.shape[1]] = large
    return canvas


def save_grid(rows: Sequence[np.ndarray], path: Path) -> None:
    """Write a grid of images as PNG in one step; see :func:`tile`."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(tile(rows)).save(buffer, format="PNG", optimize=True)
    write_atomic(path, buffer.getvalue())


def class_rows(images: Images, names: Sequence[str]) -> dict[str, np.ndarray]:
    """The first images of each class, at most 12 classes; without classes, rows of any images."""
    if len(names) < 2:
        first = images.head(4 * PER_CLASS).pixels
        return {f"{i + 1}": first[i : i + PER_CLASS] for i in range(0, len(first), PER_CLASS)}
    rows = {
        name: images.pixels[np.flatnonzero(images.labels == label)[:PER_CLASS]]
        for label, name in enumerate(names[:MOST_ROWS])
    }
    return {name: row for name, row in rows.items() if len(row)}


def side_by_side(real: Images, synthetic: Images, names: Sequence[str], path: Path) -> None:
    """Draw real images on the left and synthetic ones on the right, a class a row. Private."""
    with picture(path, (9, 5.2), note=PRIVATE_NOTE) as figure:
        left, right = figure.subplots(1, 2)
        _panel(left, class_rows(real, names), "real")
        _panel(right, class_rows(synthetic, names), "synthetic")


def columns(groups: Sequence[tuple[str, np.ndarray]], path: Path, *, note: str = "") -> None:
    """Draw groups of images of one size, a named group a row: the i-th of each belong together."""
    shown = max(len(images) for _, images in groups)
    with picture(path, (max(4.0, 0.6 * shown + 1.2), 0.7 * len(groups) + 0.5), note=note) as figure:
        _panel(figure.subplots(), dict(groups), "")


def _panel(axes: Axes, rows: dict[str, np.ndarray], title: str) -> None:
    grid = tile(list(rows.values()))
    axes.imshow(grid, interpolation="nearest")
    step = (grid.shape[0] - GAP) / len(rows)
    axes.set_yticks([GAP + step * (i + 0.5) for i in range(len(rows))], [plain(name, 16) for name in rows])
    axes.set_xticks([])
    axes.tick_params(length=0, colors=GREY)
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.set_title(title)
