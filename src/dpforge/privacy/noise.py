"""Noise from uniforms: pure functions, so that a test can compare each with its law."""

from __future__ import annotations

import math

import numpy as np
from scipy import special

EULER = 0.5772156649015329


def rounded_gaussian(uniforms: np.ndarray, scale: float) -> np.ndarray:
    """Map uniforms in (0, 1) to Gaussian noise of standard deviation ``scale``, rounded to integers.

    Added to integer counts it is the Gaussian mechanism followed by rounding, so its cost is exactly that
    of the continuous mechanism, and no floating-point residue of the count is left in the output.
    """
    return np.rint(scale * special.ndtri(uniforms))


def discrete_gaussian(uniforms: np.ndarray, scale: float) -> np.ndarray:
    """Map uniforms in (0, 1) to the discrete Gaussian: P(x) proportional to exp(−x² / (2 scale²)), x whole.

    Inverse of the distribution, from tails that are summed from the far end, so that small ones keep their
    digits.

    References:
        Canonne, Kamath and Steinke, *The Discrete Gaussian for Differential Privacy* (NeurIPS 2020).
    """
    reach = math.ceil(9 * scale) + 4
    weights = np.exp(-0.5 * (np.arange(reach + 1) / scale) ** 2)
    tails = np.cumsum(weights[:0:-1])[::-1] / (2 * weights.sum() - 1)  # P(X >= 1), P(X >= 2), …
    tail = np.minimum(uniforms, 1 - uniforms)
    magnitude = len(tails) - np.searchsorted(tails[::-1], tail, side="right")
    return np.where(uniforms < 0.5, -magnitude, magnitude).astype(float)


def rounded_laplace(uniforms: np.ndarray, scale: float) -> np.ndarray:
    """Laplace noise rounded to integers: on counts, the Laplace mechanism followed by rounding."""
    return np.rint(laplace(uniforms, scale))


def laplace(uniforms: np.ndarray, scale: float) -> np.ndarray:
    """Map uniforms in (0, 1) to the Laplace distribution of the given scale."""
    centred = uniforms - 0.5
    return -scale * np.sign(centred) * np.log1p(-2 * np.abs(centred))


def discrete_laplace(uniforms: np.ndarray, epsilon: float) -> np.ndarray:
    """Map uniforms to the two-sided geometric distribution with P(x) proportional to exp(-epsilon |x|)."""
    ratio = math.exp(-epsilon)
    left = uniforms < 0.5
    tail = np.where(left, uniforms, 1 - uniforms)
    magnitude = np.floor(np.log(tail * (1 + ratio)) / -epsilon).clip(min=0)
    return np.where(left, -magnitude, magnitude)


def gumbel(uniforms: np.ndarray, scale: float) -> np.ndarray:
    """Map uniforms in (0, 1) to the Gumbel distribution of the given scale, centred at mean 0."""
    return scale * (-np.log(-np.log(uniforms)) - EULER)
