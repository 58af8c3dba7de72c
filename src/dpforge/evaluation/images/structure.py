"""Class structure of synthetic images: which classes there are, and how varied the images are."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dpforge.errors import ConfigError, DataError
from dpforge.evaluation.images.manifold import nearest
from dpforge.evaluation.images.memorisation import image_hashes

VERSION = "class-structure-1"


def class_prior(prior: Sequence[float] | None, classes: int) -> np.ndarray:
    """Return the public share of each class, ``(classes,)``; equal shares if ``prior`` is None.

    Raises:
        ConfigError: Another number of shares, a negative one, or shares that do not sum to 1.
    """
    if prior is None:
        return np.full(classes, 1.0 / classes)
    shares = np.asarray(prior, dtype=np.float64)
    if shares.shape != (classes,) or shares.min() < 0 or abs(shares.sum() - 1.0) > 1e-6:
        raise ConfigError(
            f"evaluation.prior={prior!r}: expected {classes} shares of at least 0 that sum to 1, in the order"
            " of the classes, or null for equal shares."
        )
    return shares


def shares_of(labels: np.ndarray, classes: int) -> np.ndarray:
    """Return the share of each class among labels ``(n,)``. Raises ``DataError`` for no label."""
    if len(labels) == 0:
        raise DataError("0 labels: class shares need at least 1. Sample more images.")
    return np.bincount(labels, minlength=classes) / len(labels)


def class_distance(labels: np.ndarray, prior: np.ndarray) -> float:
    """Total variation distance of the labels' histogram from the public ``prior``, in [0, 1], best 0."""
    return float(np.abs(shares_of(labels, len(prior)) - prior).sum() / 2)


def class_entropy(labels: np.ndarray, classes: int) -> float:
    """Entropy in nats of the histogram of predicted classes ``(n,)``, in [0, ln classes]."""
    shares = shares_of(labels, classes)
    present = shares[shares > 0]
    return float(abs(-(present * np.log(present)).sum()))


def mode_coverage(labels: np.ndarray, prior: np.ndarray) -> int:
    """Number of classes predicted with at least half of their share of the ``prior``.

    Classes whose prior is 0 do not count.
    """
    shares = shares_of(labels, len(prior))
    return int(((shares >= prior / 2) & (prior > 0)).sum())


def distinct_share(pixels: np.ndarray) -> float:
    """Number of different images over the number of images ``(n, h, w, c)``, in (0, 1]."""
    if len(pixels) == 0:
        raise DataError("0 images: this metric needs at least 1. Sample more images.")
    return len(set(image_hashes(pixels))) / len(pixels)


def near_duplicate_share(features: np.ndarray, distance: float) -> float:
    """Share of images whose nearest other image of the set is closer than ``distance``, in [0, 1].

    Args:
        features: Shape ``(n, d)``, at least 2 images.
        distance: For example the 1st percentile of :func:`within` of real images.
    """
    return float((within(features) < distance).mean())


def within(features: np.ndarray) -> np.ndarray:
    """Distance of each image to the nearest other image of its set, ``(n,)``.

    Raises:
        DataError: Fewer than 2 images.
    """
    if len(features) < 2:
        raise DataError(f"{len(features)} images: distances within a set need at least 2.")
    distances, positions = nearest(features, features, 2)
    # Among equal images the search may return another one than the image itself first.
    own = positions[:, 0] == np.arange(len(features))
    return np.where(own, distances[:, 1], distances[:, 0])
