"""Inception score: confident and varied predictions of a named classifier."""

from __future__ import annotations

import numpy as np

from dpforge.errors import ConfigError, DataError

VERSION = "inception-score-1"
# Probabilities of one image may miss 1 by this much.
ROUNDING = 1e-3


def inception_score(probabilities: np.ndarray, *, splits: int = 1) -> float:
    """exp of the mean KL divergence of each image's class probabilities from their mean, in [1, classes].

    May be called "IS" with InceptionV3 alone; with another classifier, by that classifier's name.

    Args:
        probabilities: Of a classifier, shape ``(n, classes)``, rows that sum to 1.
        splits: Parts the images are cut into, in their order; the mean of the parts' scores is returned.

    Raises:
        DataError: Fewer images than splits, or rows that are no probabilities.
        ConfigError: ``splits`` below 1.

    References:
        Salimans et al., *Improved Techniques for Training GANs* (NeurIPS 2016).
    """
    if splits < 1:
        raise ConfigError(f"splits={splits}: expected a whole number of at least 1, usually 1 or 10.")
    p = np.asarray(probabilities, dtype=np.float64)
    if p.ndim != 2 or len(p) < splits:
        raise DataError(f"probabilities of shape {p.shape}: expected (images, classes), images >= {splits}.")
    if not np.isfinite(p).all() or p.min() < 0 or np.abs(p.sum(axis=1) - 1).max() > ROUNDING:
        raise DataError("rows that are no probabilities: expected values >= 0 with sum 1. Apply a softmax.")
    return float(np.mean([_score(part) for part in np.array_split(p, splits)]))


def _score(p: np.ndarray) -> float:
    mean = p.mean(axis=0, keepdims=True)
    ratio = np.divide(p, mean, out=np.ones_like(p), where=p > 0)
    return float(np.exp((p * np.log(ratio)).sum(axis=1).mean()))
