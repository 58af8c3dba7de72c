"""The protocol of an image score: everything that must be equal for two numbers to be comparable."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

import numpy as np

from dpforge.errors import ConfigError

LIBRARIES = ("numpy", "scipy", "scikit-learn", "torch")


def environment(device: str) -> dict[str, str]:
    """Precision, device and library versions behind a score."""
    return {"dtype": "float64", "device": device, **{name: version(name) for name in LIBRARIES}}


def preprocessing(height: int, width: int, channels: int) -> dict[str, Any]:
    """How every set is brought to the real size and colours before an extractor sees it."""
    return {
        "color": "luma" if channels == 1 else "rgb",
        "size": [height, width],
        "resize_filter": "bilinear",
        "align_corners": False,
        "antialias": True,
    }


def index_hash(positions: np.ndarray) -> str:
    """Sha256 (hex) of the positions of the images that were drawn."""
    return hashlib.sha256(np.ascontiguousarray(positions, dtype="<i8").tobytes()).hexdigest()


def plain(content: Mapping[str, Any]) -> dict[str, Any]:
    """The mapping with tuples as lists and numpy scalars as numbers, as JSON would give it back."""
    return {str(key): _plain(value) for key, value in content.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return plain(value)
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    return value.item() if isinstance(value, np.generic) else value


def device_of(name: str) -> str:
    """Return ``cpu`` or ``cuda``; ``auto`` is a GPU where there is one.

    Raises:
        ConfigError: ``cuda`` without a GPU.
    """
    import torch

    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise ConfigError("evaluation.device='cuda', but PyTorch finds no GPU here; use auto or cpu.")
    return "cuda" if available and name != "cpu" else "cpu"
