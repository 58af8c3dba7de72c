"""Extractors by name."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from dpforge.errors import ConfigError, did_you_mean

EXTRACTORS = {
    "pixels": "dpforge.features.pixels",
    "lenet_public": "dpforge.features.lenet",
    "mobilenet_v2": "dpforge.features.mobilenet",
    "inception_v3": "dpforge.features.inception",
    "clip_vit_b_32": "dpforge.features.clip",
}
"""Module of each extractor, which has ``build(request)``."""


def trained_on(name: str) -> tuple[str, ...]:
    """Return the data sets whose images shaped the weights of an extractor; loads none of them."""
    return tuple(getattr(importlib.import_module(EXTRACTORS[name]), "TRAINED_ON", ()))


class Extractor(Protocol):
    """Turns images into vectors. Needs no private data: its parameters are public."""

    @property
    def name(self) -> str:
        """A key of :data:`EXTRACTORS`."""
        ...

    @property
    def dim(self) -> int:
        """Length of a vector."""
        ...

    def describe(self) -> dict[str, Any]:
        """Plain values that a stored number names.

        ``name``, ``weights_sha256`` (or ``None``), ``layer``, ``dim``, ``preprocessing``, and ``trained_on``:
        the list of data sets whose images shaped the weights.
        """
        ...

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        """Features float32 ``(n, dim)`` of uint8 images ``(n, H, W, 1 or 3)`` of any height and width.

        Images are first brought to the extractor's number of channels and to its real size.

        Raises:
            DataError: Another type or shape.
        """
        ...


@dataclass(frozen=True)
class Request:
    """What an extractor is asked to be.

    Args:
        height: Pixels of the real images, to which others are brought first.
        width: The same.
        channels: 1 (others become grey by their luma) or 3 (grey is repeated).
        device: Where networks run, as PyTorch names it.
        batch_size: Images that pass at a time; ``None`` takes the extractor's own.
        weights: File or folder of the weights; ``None`` looks in the usual places.
        size: Side of the images that the network sees; ``None`` takes its own.
        pool: Side of the squares of pixels that are averaged; ``None`` decides by the real size.
    """

    height: int
    width: int
    channels: int
    device: str = "cpu"
    batch_size: int | None = None
    weights: str | Path | None = None
    size: int | None = None
    pool: int | None = None

    def refuse(self, name: str, *options: str) -> None:
        """Raise ``ConfigError`` if one of these options is given though the extractor has none."""
        given = [option for option in options if getattr(self, option) is not None]
        if given:
            raise ConfigError([f"the extractor '{name}' takes no {option}; leave it out" for option in given])


def extractor(
    name: str,
    *,
    height: int,
    width: int,
    channels: int,
    device: str = "cpu",
    batch_size: int | None = None,
    weights: str | Path | None = None,
    size: int | None = None,
    pool: int | None = None,
) -> Extractor:
    """Make an extractor for images of this real size; the arguments are those of :class:`Request`.

    ``pixels`` and ``lenet_public`` need nothing; ``mobilenet_v2`` fetches its weights (13 MB) once;
    ``inception_v3`` takes the weights of the Fréchet Inception distance from a file, ``DPFORGE_DATA`` or
    their official address; ``clip_vit_b_32`` takes a local folder of the ``transformers`` model.

    Raises:
        ConfigError: Unknown name, a device that is not there, or a value that cannot be.
        DataError: The weights are missing or not the expected ones; says how to get them.
    """
    if name not in EXTRACTORS:
        known = ", ".join(EXTRACTORS)
        raise ConfigError(f"unknown extractor '{name}'.{did_you_mean(name, EXTRACTORS)} Available: {known}")
    if min(height, width) < 1 or channels not in (1, 3):
        raise ConfigError(
            f"extractor '{name}' for images of {height}x{width}x{channels}: expected sides of at least 1 and"
            " 1 or 3 channels"
        )
    for option, value in (("batch_size", batch_size), ("size", size), ("pool", pool)):
        if value is not None and value < 1:
            raise ConfigError(f"extractor '{name}': {option}={value}, expected a whole number of at least 1")
    _check_device(device)
    request = Request(height, width, channels, device, batch_size, weights, size, pool)
    return importlib.import_module(EXTRACTORS[name]).build(request)


def _check_device(device: str) -> None:
    import torch

    try:
        kind = torch.device(device).type
    except RuntimeError as error:
        raise ConfigError(f"device='{device}' is not one that PyTorch knows; use cpu or cuda") from error
    if kind == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"device='{device}' was asked for, but PyTorch finds no GPU here; use device=cpu")
