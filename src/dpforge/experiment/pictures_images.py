"""The pictures of a run that makes images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from dpforge.data import ImageDataset, Images
from dpforge.evaluation import Results
from dpforge.experiment.image_grids import columns, side_by_side
from dpforge.experiment.plots_style import PRIVATE_NOTE
from dpforge.generators.base import FittedImages

PAIRS = 16


def draw_images(
    folder: Path, data: ImageDataset, fitted: FittedImages, synthetic: Images, results: Results
) -> None:
    """Draw real beside synthetic images, and the synthetic images nearest to real ones. All private."""
    side_by_side(data.train, synthetic, fitted.schema.classes, folder / "images.png")
    pairs = results.tables.get("nearest_pairs")
    if pairs is not None and len(pairs):
        closest_pairs(pairs, data, synthetic, folder / "nearest.png")


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
