"""Between bytes and the normalised images of the networks, and random views of images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dpforge.data import Images, ImageSchema
from dpforge.errors import ConfigError
from dpforge.nets.images import to_pixels, to_unit

_GREY_DIGITS, _GREY_CLOTHES = ((0.1307,), (0.3081,)), ((0.2860,), (0.3530,))
_CIFAR = ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))
_FACES = ((0.5064, 0.4258, 0.3832), (0.3080, 0.2876, 0.2870))
# Constants that are published with the data sets: means and deviations of values in [0, 1].
PUBLISHED: Mapping[str, tuple[Sequence[float], Sequence[float]]] = {
    "mnist": _GREY_DIGITS,
    "fashion_mnist": _GREY_CLOTHES,
    "cifar10": _CIFAR,
    "cifar10_10k": _CIFAR,
    "celeba_hair": _FACES,
    "celeba_gender": _FACES,
    "imagenette": ((0.4625, 0.4580, 0.4295), (0.2813, 0.2774, 0.3006)),
}
LEAST_DEVIATION = 1e-3


@dataclass(frozen=True)
class Normalization:
    """Channelwise ``(x − mean) / std`` of values in [0, 1]; public constants.

    Args:
        mean, std: One number a channel.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def normalized(self, pixels: np.ndarray) -> Tensor:
        """Turn uint8 ``(n, H, W, C)`` into float32 ``(n, C, H, W)``."""
        return (to_unit(pixels) - _channels(self.mean)) / _channels(self.std)

    def pixels(self, x: Tensor) -> np.ndarray:
        """Turn normalised ``(n, C, H, W)`` back into uint8 ``(n, H, W, C)``, rounded and cut off."""
        return to_pixels(x.detach().cpu() * _channels(self.std) + _channels(self.mean))

    def clamped(self, x: Tensor) -> Tensor:
        """Cut normalised images off to those of [0, 1]."""
        low, high = (self._image_of(value).to(x.device) for value in (0.0, 1.0))
        return torch.maximum(torch.minimum(x, high), low)

    def _image_of(self, value: float) -> Tensor:
        return (value - _channels(self.mean)) / _channels(self.std)


def _channels(values: Sequence[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float32).view(1, -1, 1, 1)


def normalization_of(
    given: str | Mapping[str, Sequence[float]], schema: ImageSchema, public: Images
) -> Normalization:
    """Return the constants to use: given, published with the data set (``auto``), or of public images.

    Raises:
        ConfigError: Given constants are not one a channel.
    """
    if isinstance(given, Mapping):
        found = Normalization(tuple(map(float, given["mean"])), tuple(map(float, given["std"])))
        if not len(found.mean) == len(found.std) == schema.channels:
            raise ConfigError(
                f"model.normalization has {len(found.mean)} means and {len(found.std)} deviations; expected"
                f" {schema.channels}, one a channel."
            )
        return found
    known = PUBLISHED.get(schema.name)
    if given == "auto" and known is not None and len(known[0]) == schema.channels:
        return Normalization(tuple(known[0]), tuple(known[1]))
    values = public.pixels.reshape(-1, schema.channels).astype(np.float32) / 255
    std = np.maximum(values.std(0, dtype=np.float64), LEAST_DEVIATION)
    return Normalization(tuple(values.mean(0, dtype=np.float64).tolist()), tuple(std.tolist()))


def random_views(
    pixels: np.ndarray, rng: np.random.Generator, *, views: int = 1, shift: int = 0, flip: bool = False
) -> np.ndarray:
    """Return moved and mirrored copies of images: uint8 ``(n, views, H, W, C)``.

    The draws of an image do not depend on the images after it.

    Args:
        pixels: uint8 ``(n, H, W, C)``.
        views: Copies of each image.
        shift: Largest movement in pixels along each side; black moves in.
        flip: Mirror each copy left to right with probability 1/2.
    """
    count, height, width, _ = pixels.shape
    draws = rng.random((count, views, 3))
    if flip:
        mirrored = draws[..., 2, None, None, None] < 0.5
        copies = np.where(mirrored, pixels[:, None, :, ::-1], pixels[:, None])
    else:
        copies = np.repeat(pixels[:, None], views, axis=1)
    if not shift:
        return copies
    edges = ((0, 0), (0, 0), (shift, shift), (shift, shift), (0, 0))
    padded = np.pad(copies, edges)
    top, left = np.moveaxis(np.floor(draws[..., :2] * (2 * shift + 1)).astype(np.int64), -1, 0)
    rows = (top[..., None] + np.arange(height))[..., None]
    columns = (left[..., None] + np.arange(width))[..., None, :]
    image = np.arange(count)[:, None, None, None]
    return padded[image, np.arange(views)[:, None, None], rows, columns]
