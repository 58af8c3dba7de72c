"""The pictures of a run that makes images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from dpforge.data import ImageDataset, Images
from dpforge.evaluation import Results
from dpforge.experiment.image_grids import columns, side_by_side
from dpforge.experiment.plots_style import GREY, ORANGE, PRIVATE_NOTE, REAL, light_grid, picture
from dpforge.generators.base import FittedImages

PAIRS = 16
CHANGE_FACTOR = 4
ALIGNED = "aligned"  # the one picture of these that needs no private image


def draw_images(
    folder: Path, data: ImageDataset, fitted: FittedImages, synthetic: Images, results: Results
) -> None:
    """Draw real beside synthetic images, and the synthetic images nearest to real ones. All private."""
    side_by_side(data.train, synthetic, fitted.schema.classes, folder / "images.png")
    pairs = results.tables.get("nearest_pairs")
    if pairs is not None and len(pairs):
        closest_pairs(pairs, data, synthetic, folder / "nearest.png")
    start = getattr(fitted, "public_start", None)
    if isinstance(start, Images) and start.pixels.shape == synthetic.pixels.shape:
        aligned_pairs(start.pixels, synthetic.pixels, folder / f"{ALIGNED}.png")
    if "student_epochs" in results.tables:
        student_epochs(results, folder / "student.png")


def aligned_pairs(public: np.ndarray, aligned: np.ndarray, path: Path) -> None:
    """Draw public images above what became of them, and the change; all released or public.

    Args:
        public, aligned: uint8 ``(n, H, W, C)``, the i-th of each belonging together; some of all classes are
            shown where those of a class are adjacent.
        path: File to write.
    """
    shown = np.unique(np.linspace(0, len(public) - 1, PAIRS).astype(int))
    before, after = public[shown], aligned[shown]
    change = np.abs(after.astype(np.int64) - before) * CHANGE_FACTOR
    groups = [
        ("public", before),
        ("aligned", after),
        (f"change × {CHANGE_FACTOR}", np.minimum(change, 255).astype(np.uint8)),
    ]
    columns(groups, path, note="Public and released images only.")


def student_epochs(results: Results, path: Path) -> None:
    """Draw the accuracy of the student on test images after every epoch, beside its teacher. Private."""
    table = results.tables["student_epochs"]
    with picture(path, (6, 3.6), note=PRIVATE_NOTE) as figure:
        axes = figure.subplots()
        light_grid(axes, "y")
        lines = {"score": ("of aligned images", ORANGE), "floor": ("of public images (k = 0)", GREY)}
        for column, (label, color) in lines.items():
            axes.plot(table["epoch"], table[column], color=color, label=label)
        teacher = results.metrics["utility/teacher_accuracy"]
        axes.axhline(teacher, color=REAL, linestyle="--", label="teacher")
        axes.set(xlabel="epoch of the student", ylabel="accuracy on test images")
        axes.legend(loc="lower right")


def closest_pairs(pairs: pd.DataFrame, data: ImageDataset, synthetic: Images, path: Path) -> None:
    """Draw the synthetic images closest to training images above their neighbours.

    Args:
        pairs: Columns ``synthetic``, ``train`` and, where there is a holdout, ``holdout``: positions of the
            images, closest first.
        data: Real images.
        synthetic: Synthetic images.
        path: File to write.
    """
    shown = pairs.head(PAIRS)
    found = {"synthetic": synthetic, "nearest training": data.train, "nearest held out": data.holdout}
    keys = ("synthetic", "train", "holdout")
    groups = [
        (title, images.rgb()[shown[key].to_numpy(dtype=np.int64)])
        for (title, images), key in zip(found.items(), keys, strict=True)
        if key in shown
    ]
    columns(groups, path, note=PRIVATE_NOTE)
