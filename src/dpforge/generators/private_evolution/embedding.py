"""Private and candidate images in one public space."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from dpforge.data import ImageSchema
from dpforge.features import Extractor, cached_features, extractor


def make_extractor(name: str, schema: ImageSchema, device: str, weights: str | None) -> Extractor:
    """Return the extractor for images of the schema's shape; it brings candidates to that shape first.

    Raises:
        DataError: The weights are missing.
    """
    return extractor(
        name,
        height=schema.height,
        width=schema.width,
        channels=schema.channels,
        device=device,
        weights=weights,
    )


def private_features(extract: Extractor, pixels: np.ndarray, folder: Path) -> np.ndarray:
    """Embed the private images: once for all attempts of a run, if it has a private folder.

    Args:
        extract: For images of the shape of ``pixels``.
        pixels: uint8 ``(n, h, w, c)``.
        folder: ``private/`` of the run, readable by its owner only; nothing is kept unless it exists.

    Returns:
        float32 ``(n, d)``; never logged or released.
    """
    if extract.name == "pixels" or not len(pixels) or not folder.is_dir():
        return extract(pixels)
    return cached_features(extract, pixels, folder)


def mean_features(extract: Extractor, images: Callable[[int], np.ndarray], count: int) -> np.ndarray:
    """Return the mean over ``images(0) … images(count-1)`` of their features, float32 ``(n, d)``."""
    total = extract(images(0)).astype(np.float64)
    for number in range(1, count):
        total += extract(images(number))
    return (total / count).astype(np.float32)
