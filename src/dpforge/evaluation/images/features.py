"""Checks of feature vectors that all feature metrics share."""

from __future__ import annotations

from collections import OrderedDict

import numpy as np

from dpforge.errors import DataError
from dpforge.features import Extractor
from dpforge.features.cache import feature_key

# Bytes of features of real images that a process keeps.
KEPT_BYTES = 512 * 2**20
_kept: OrderedDict[str, np.ndarray] = OrderedDict()


def remembered(extractor: Extractor, pixels: np.ndarray) -> np.ndarray:
    """``extractor(pixels)``, computed once a process for the same images and extractor; read-only.

    Meant for real images, which several evaluations share. Nothing is written to disk, where features of
    private images would be one more thing to protect. Beyond :data:`KEPT_BYTES` the oldest ones go.
    """
    key = feature_key(extractor, pixels)
    if key not in _kept:
        found = extractor(pixels)
        found.setflags(write=False)
        _kept[key] = found
    _kept.move_to_end(key)
    while len(_kept) > 1 and sum(x.nbytes for x in _kept.values()) > KEPT_BYTES:
        _kept.popitem(last=False)
    return _kept[key]


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
