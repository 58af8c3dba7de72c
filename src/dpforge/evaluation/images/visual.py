"""Visual similarity of pairs of images: SSIM and PSNR."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import correlate1d

from dpforge.errors import DataError

VERSION = "visual-1"
WINDOW = 11
SIGMA = 1.5
# Half a window must find pixels to mirror.
LEAST_SIDE = WINDOW // 2 + 1
# Stabilising constants of the definition, for a data range of 1.
C1, C2 = 0.01**2, 0.03**2


def structural_similarity(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """SSIM of each pair of images, ``(n,)`` in [-1, 1], 1 for equal images.

    An 11×11 Gaussian window of σ = 1.5 around every pixel, data range 1, the mean over pixels and channels;
    images are mirrored at their edges, as torchmetrics does.

    Args:
        first, second: uint8 ``(n, h, w, c)`` of equal shape.

    Raises:
        DataError: Unequal shapes, or a side below 6 pixels.

    References:
        Wang et al., *Image Quality Assessment: From Error Visibility to Structural Similarity* (2004).
    """
    x, y = _units(first, second)
    if min(x.shape[1:3]) < LEAST_SIDE:
        raise DataError(
            f"images of {x.shape[1]}×{x.shape[2]} pixels: SSIM needs at least"
            f" {LEAST_SIDE}×{LEAST_SIDE}. Leave it out."
        )
    mean_x, mean_y = _blurred(x), _blurred(y)
    var_x, var_y = _blurred(x * x) - mean_x**2, _blurred(y * y) - mean_y**2
    covariance = _blurred(x * y) - mean_x * mean_y
    above = (2 * mean_x * mean_y + C1) * (2 * covariance + C2)
    below = (mean_x**2 + mean_y**2 + C1) * (var_x + var_y + C2)
    return (above / below).mean(axis=(1, 2, 3))


def peak_signal_to_noise(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """PSNR of each pair of images in dB, ``(n,)``; infinite for equal images.

    Args:
        first, second: uint8 ``(n, h, w, c)`` of equal shape.

    Raises:
        DataError: Unequal shapes.
    """
    x, y = _units(first, second)
    error = ((x - y) ** 2).mean(axis=(1, 2, 3))
    return -10.0 * np.log10(error, out=np.full_like(error, -np.inf), where=error > 0)


def _units(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if first.shape != second.shape or first.ndim != 4:
        raise DataError(f"images of shapes {first.shape} and {second.shape}: expected equal (n, h, w, c).")
    return first / 255.0, second / 255.0


def _blurred(x: np.ndarray) -> np.ndarray:
    """Weighted means of the window around every pixel."""
    half = WINDOW // 2
    kernel = np.exp(-(np.arange(-half, half + 1) ** 2) / (2 * SIGMA**2))
    kernel /= kernel.sum()
    return correlate1d(correlate1d(x, kernel, axis=1, mode="mirror"), kernel, axis=2, mode="mirror")
