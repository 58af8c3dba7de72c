"""Kernel distance: unbiased squared maximum mean discrepancy with a cubic kernel."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from dpforge.errors import ConfigError, DataError
from dpforge.evaluation.images.features import checked_features

VERSION = "kernel-distance-1"
SUBSETS = 100
SUBSET_SIZE = 1_000


class KernelDistance(NamedTuple):
    """Mean and standard deviation of the estimate over subsets."""

    mean: float
    std: float


def squared_mmd(first: np.ndarray, second: np.ndarray) -> float:
    """Unbiased MMD² of features ``(n, d)`` with k(x, y) = (x·y/d + 1)³; about 0 for equal distributions.

    Raises:
        DataError: Fewer than 2 vectors, unequal d, or a feature that is not finite.

    References:
        Bińkowski et al., *Demystifying MMD GANs* (ICLR 2018).
    """
    a, b = _pair(first, second)
    within = [_off_diagonal_mean(_kernel(x, x)) for x in (a, b)]
    return within[0] + within[1] - 2.0 * float(_kernel(a, b).mean())


def kernel_distance(
    first: np.ndarray, second: np.ndarray, *, subsets: int = SUBSETS, size: int = SUBSET_SIZE, seed: int
) -> KernelDistance:
    """Mean and deviation of :func:`squared_mmd` over random subsets of both feature sets.

    Called KID with features of InceptionV3 alone. Subsets hold min(``size``, n) vectors each; a single
    subset, or subsets that are the whole sets, have deviation 0.

    Raises:
        DataError: See :func:`squared_mmd`.
        ConfigError: ``subsets`` below 1 or ``size`` below 2.
    """
    if subsets < 1 or size < 2:
        raise ConfigError(
            f"subsets={subsets}, size={size}: expected subsets >= 1 and size >= 2, for example 100 and 1000."
        )
    a, b = _pair(first, second)
    if size >= max(len(a), len(b)):
        return KernelDistance(squared_mmd(a, b), 0.0)
    rng = np.random.default_rng([seed, 54])
    found = np.array([squared_mmd(_subset(a, size, rng), _subset(b, size, rng)) for _ in range(subsets)])
    return KernelDistance(float(found.mean()), float(found.std(ddof=1)) if subsets > 1 else 0.0)


def _pair(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    a, b = checked_features(first, least=2), checked_features(second, least=2)
    if a.shape[1] != b.shape[1]:
        raise DataError(f"features of {a.shape[1]} and {b.shape[1]} dimensions: use one extractor for both.")
    return a, b


def _subset(points: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    return points[rng.choice(len(points), min(size, len(points)), replace=False)]


def _kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return (a @ b.T / a.shape[1] + 1.0) ** 3


def _off_diagonal_mean(kernel: np.ndarray) -> float:
    n = len(kernel)
    return float(kernel.sum() - np.trace(kernel)) / (n * (n - 1))
