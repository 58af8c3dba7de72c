"""Stage 2: means and variances of the private set in the teacher's layers, released once with noise.

Each image gives one vector: the mean and the mean square of every channel that a normalisation layer
receives, centred and scaled by public images, clipped jointly to the radius R, with a coordinate kappa that
counts images. All layers are one Gaussian release of the sum. It is divided by the square root of
R² + kappa², so its sensitivity is 1 whatever the radius is.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from dpforge.errors import ConfigError
from dpforge.generators.dp_imgsyn.transform import Normalization

STATISTICS = "statistics"
LEAST_SCALE = 1e-6
LEAST_VARIANCE_SHARE, LEAST_VARIANCE = 1e-3, 1e-12
RADIUS_QUANTILE = 0.95
LARGE_ERROR = 0.3
REFERENCE_IMAGES = 2000
CHUNK_VALUES = 256 * 32 * 32  # pixels in one pass through the network
_log = logging.getLogger("dpforge")


@dataclass(frozen=True, eq=False)
class LayerStatistics:
    """Mean and variance of every channel, layer after layer.

    Args:
        mean, variance: float64 ``(channels of all chosen layers,)``.
    """

    mean: np.ndarray
    variance: np.ndarray


@dataclass(frozen=True, eq=False)
class Reference:
    """How the moments of a record are centred and scaled: from public images only.

    Args:
        center, scale: float64 ``(D,)``; first moments of all channels, then second moments.
        radius: Clipping norm R of a record.
    """

    center: np.ndarray
    scale: np.ndarray
    radius: float

    @property
    def public_variance(self) -> np.ndarray:
        """Variance of every channel over the public images, ``(D/2,)``."""
        first, second = np.split(self.center, 2)
        return np.maximum(second - first**2, LEAST_VARIANCE)

    def standardized(self, moments: np.ndarray) -> np.ndarray:
        """Return ``(n, D)`` centred, scaled and divided by √D, so that public images have norm about 1."""
        with np.errstate(over="ignore", invalid="ignore"):
            u = (moments - self.center) / self.scale / math.sqrt(self.center.size)
        return np.where(np.isfinite(u), u, 0.0)

    def clipped(self, moments: np.ndarray) -> np.ndarray:
        """Return what each record adds, ``(n, D)``, in units of the radius: norm at most 1."""
        u = self.standardized(moments) / self.radius
        # The largest entry is divided out first: squares of large ones would overflow.
        peak = np.abs(u).max(axis=1, keepdims=True, initial=1.0)
        norms = peak * np.linalg.norm(u / peak, axis=1, keepdims=True)
        return u / np.maximum(norms * (1 + 1e-12), 1.0)


def norm_layers(net: nn.Module, chosen: str | Sequence[int] = "all") -> list[nn.GroupNorm]:
    """Return the normalisation layers in their order, or those with the numbers ``chosen``.

    Raises:
        ConfigError: A number that no layer has.
    """
    found = [layer for layer in net.modules() if isinstance(layer, nn.GroupNorm)]
    if isinstance(chosen, str):
        return found
    wrong = [number for number in chosen if number >= len(found)]
    if wrong:
        raise ConfigError(
            f"model.statistics.layers names {wrong[0]}; the teacher has layers 0 to {len(found) - 1}."
        )
    return [found[number] for number in chosen]


@contextmanager
def taps(layers: Sequence[nn.Module]) -> Iterator[list[Tensor]]:
    """Keep what each of ``layers`` received in the last forward pass, ``(n, C, H, W)``, in their order."""
    seen = [torch.empty(0)] * len(layers)

    def keep(number: int, _: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        seen[number] = inputs[0]

    handles = [layer.register_forward_pre_hook(partial(keep, i)) for i, layer in enumerate(layers)]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def moments_of(
    net: nn.Module, layers: Sequence[nn.Module], pixels: np.ndarray, normalization: Normalization, device: str
) -> Iterator[np.ndarray]:
    """Yield the moments of each image, in chunks: float64 ``(n, D)``, first moments, then second."""
    chunk = max(1, CHUNK_VALUES // (pixels.shape[1] * pixels.shape[2]))
    for start in range(0, len(pixels), chunk):
        with torch.no_grad(), taps(layers) as seen:
            net(normalization.normalized(pixels[start : start + chunk]).to(device))
            parts = [a.double().flatten(2) for a in seen]
            first = torch.cat([a.mean(2) for a in parts], 1)
            second = torch.cat([a.square().mean(2) for a in parts], 1)
        yield torch.cat([first, second], 1).cpu().numpy()


def public_reference(moments: np.ndarray, radius: str | float) -> Reference:
    """Return centre, scale and radius from the moments ``(n, D)`` of public images."""
    center, scale = moments.mean(0), np.maximum(moments.std(0), LEAST_SCALE)
    if isinstance(radius, str):
        norms = np.linalg.norm(Reference(center, scale, 1.0).standardized(moments), axis=1)
        radius = max(float(np.quantile(norms, RADIUS_QUANTILE)), LEAST_SCALE)
    return Reference(center, scale, float(radius))


def unit_sensitivity(relation: str, count_weight: float) -> float:
    """Return how far one record moves the release, whose scale makes it 1 for adding or removing one.

    Replacing a record moves the clipped part by up to twice the radius and leaves the count alone.
    """
    return 2 / math.hypot(1, count_weight) if relation == "replace" else 1.0


def count_coordinate(relation: str, count_weight: float) -> float:
    """Return kappa / R; none where a record is zeroed out, for the number of records is public then."""
    return 0.0 if relation == "zero_out" else count_weight


def release_vector(moments: Iterator[np.ndarray], reference: Reference, count: float) -> np.ndarray:
    """Return the sum over records before noise, ``(D + 1,)``: clipped vectors, then kappa for each.

    Args:
        moments: Chunks ``(n, D)``; how they are cut changes nothing but rounding.
        reference: From public images.
        count: kappa / R; 0 for none, the last entry is then 0.
    """
    total, rows = np.zeros(reference.center.size), 0
    for chunk in moments:
        total += reference.clipped(chunk).sum(0)
        rows += len(chunk)
    return np.append(total, rows * count) / math.hypot(1, count)


def released_statistics(
    noisy: np.ndarray, reference: Reference, count: float, nominal_rows: float
) -> LayerStatistics:
    """Turn a noisy :func:`release_vector` into means and variances; post-processing.

    Where a channel's variance would be too small, it becomes a thousandth of the public one.
    """
    vector = noisy * math.hypot(1, count)
    rows = max(vector[-1] / count, 1.0) if count else float(nominal_rows)
    mean_u = vector[:-1] * reference.radius * math.sqrt(reference.center.size) / rows
    first, second = np.split(reference.center + reference.scale * mean_u, 2)
    floor = np.maximum(LEAST_VARIANCE_SHARE * reference.public_variance, LEAST_VARIANCE)
    return LayerStatistics(first, np.maximum(second - first**2, floor))


def standard_error(scale: float, reference: Reference, count: float, nominal_rows: float) -> float:
    """Return the noise on a standardised coordinate of the mean, in public standard deviations.

    Args:
        scale: Standard deviation of the noise on an entry of :func:`release_vector`.
    """
    size = math.sqrt(reference.center.size)
    return scale * math.hypot(1, count) * reference.radius * size / max(nominal_rows, 1)


def warn_of_noise(error: float) -> None:
    """Say when the released statistics are mostly noise; a function of public numbers."""
    if error > LARGE_ERROR:
        _log.warning(
            "the noise on the layer statistics is %.2g of a public standard deviation (above %.1g): use fewer"
            " model.statistics.layers, a larger model.statistics.share, or model.statistics.kind=off.",
            error, LARGE_ERROR,
        )  # fmt: skip


def recorded_statistics(
    net: nn.Module,
    layers: Sequence[nn.GroupNorm],
    batches: Iterator[np.ndarray],
    normalization: Normalization,
    device: str,
) -> LayerStatistics:
    """Running moments of the layers over batches of images, as the original records them. NOT DP.

    Momentum 0.1 and the unbiased variance of each batch; no clipping and no noise.
    """
    width = sum(layer.num_channels for layer in layers)
    mean, variance = np.zeros(width), np.ones(width)
    for pixels in batches:
        if not len(pixels):
            continue
        with torch.no_grad(), taps(layers) as seen:
            net(normalization.normalized(pixels).to(device))
            values = [a.double().transpose(0, 1).flatten(1) for a in seen]
            mean = 0.9 * mean + 0.1 * torch.cat([a.mean(1) for a in values]).cpu().numpy()
            variance = 0.9 * variance + 0.1 * torch.cat([a.var(1) for a in values]).cpu().numpy()
    return LayerStatistics(mean, np.maximum(variance, LEAST_VARIANCE))
