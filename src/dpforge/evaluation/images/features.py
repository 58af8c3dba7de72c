"""Checks of feature vectors that all feature metrics share."""

from __future__ import annotations

import numpy as np

from dpforge.errors import DataError


def checked_features(features: np.ndarray, *, least: int) -> np.ndarray:
    """Return features ``(n, d)`` in float64.

    Raises:
        DataError: Another shape, fewer than ``least`` vectors, or a value that is not finite.
    """
    points = np.asarray(features, dtype=np.float64)
    if points.ndim != 2 or points.shape[1] == 0:
        raise DataError(
            f"features of shape {points.shape}: expected (images, dimensions). Flatten each image's features."
        )
    if len(points) < least:
        raise DataError(f"{len(points)} images: this metric needs at least {least}. Sample more images.")
    wrong = int((~np.isfinite(points).all(axis=1)).sum())
    if wrong:
        raise DataError(
            f"{wrong} of {len(points)} images have features that are not finite; expected none."
            " Check the extractor's weights and the images."
        )
    return points
