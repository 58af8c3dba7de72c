"""What all extractors share: checks, batches, and the way to the real size."""

from __future__ import annotations

import gzip
import hashlib
import io
import pickle
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dpforge.data.fetch import fetch
from dpforge.data.filespec import FileSpec
from dpforge.data.images import LUMA, with_channels
from dpforge.errors import ConfigError, DataError
from dpforge.features.registry import Request
from dpforge.nets.images import resize, to_unit

IMAGENET = ("imagenet", "imagenet_1k", "tiny_imagenet", "tiny_imagenet32")
"""Data sets whose images shaped weights trained on ImageNet; Tiny ImageNet is a part of it."""


@dataclass(frozen=True, eq=False)
class TensorExtractor:
    """An :class:`~dpforge.features.registry.Extractor` made of a function of tensors.

    Args:
        name: Its name.
        dim: Length of a vector.
        request: The real size, and where and in which portions to compute.
        embed: From float32 images ``(b, channels, height, width)`` in [0, 1] to features ``(b, dim)``.
        layer: Where in the network the features stand.
        weights_sha256: Of the file of the weights; ``None`` without weights.
        trained_on: Data sets whose images shaped the weights.
        preprocessing: What happens after the real size is reached.
        batch_size: Images at a time, unless the request says otherwise.
        head: From features to class scores ``(b, classes)``, where the network is a classifier.
    """

    name: str
    dim: int
    request: Request
    embed: Callable[[Tensor], Tensor] = field(repr=False)
    layer: str
    preprocessing: Mapping[str, Any]
    batch_size: int
    weights_sha256: str | None = None
    trained_on: tuple[str, ...] = ()
    head: Callable[[Tensor], Tensor] | None = field(default=None, repr=False)

    def describe(self) -> dict[str, Any]:
        """The part of a stored protocol that names this extractor; plain values for JSON."""
        request = self.request
        first = (
            {"color": "rgb", "grey": "repeated"}
            if request.channels == 3
            else {"color": "luma", "luma": list(LUMA)}
        )
        real = {"real_size": [request.height, request.width], "resize_filter": "bilinear", "antialias": True}
        return {
            "name": self.name,
            "weights_sha256": self.weights_sha256,
            "layer": self.layer,
            "dim": self.dim,
            "trained_on": list(self.trained_on),
            "preprocessing": first | real | dict(self.preprocessing),
        }

    @torch.inference_mode()
    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        """Features float32 ``(n, dim)`` of uint8 images ``(n, H, W, 1 or 3)``; see the protocol."""
        _check(pixels)
        request = self.request
        step = request.batch_size or self.batch_size
        out = np.empty((len(pixels), self.dim), dtype=np.float32)
        for start in range(0, len(pixels), step):
            x = to_unit(with_channels(pixels[start : start + step], request.channels)).to(request.device)
            out[start : start + step] = self.embed(resize(x, (request.height, request.width))).float().cpu()
        return out

    @torch.inference_mode()
    def class_probabilities(self, features: np.ndarray) -> np.ndarray:
        """Probabilities float64 ``(n, classes)`` that the network gives for features ``(n, dim)`` of its own.

        Raises:
            ConfigError: The extractor is no classifier.
        """
        if self.head is None:
            raise ConfigError(
                f"the extractor '{self.name}' is no classifier; use mobilenet_v2 or inception_v3"
            )
        scores = self.head(torch.as_tensor(features, dtype=torch.float32, device=self.request.device))
        return scores.double().softmax(dim=1).cpu().numpy()


def _check(pixels: np.ndarray) -> None:
    if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[3] not in (1, 3) or 0 in pixels.shape[1:]:
        raise DataError(
            f"images of type {pixels.dtype} and shape {pixels.shape}: expected uint8 (n, height, width, 1 or"
            " 3)"
        )


def frozen(net: nn.Module, device: str) -> nn.Module:
    """The network in evaluation mode, without gradients, on its device."""
    return net.requires_grad_(False).eval().to(device)


def normalised(x: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """Subtract the mean and divide by the deviation of each channel of ``(b, C, H, W)``."""
    place = partial(torch.tensor, dtype=x.dtype, device=x.device)
    return (x - place(mean)[:, None, None]) / place(std)[:, None, None]


def in_color(x: Tensor) -> Tensor:
    """Three channels ``(b, 3, H, W)``, grey repeated."""
    return x.expand(-1, 3, -1, -1) if x.shape[1] == 1 else x


def file_of_weights(spec: FileSpec, given: str | Path | None) -> Path:
    """The file given by the user, or the one that ``spec`` fetches; its content is checked either way.

    Raises:
        DataError: Missing, or of another content.
    """
    if given is None:
        return fetch(spec).path
    path = Path(given)
    if not path.is_file():
        raise DataError(f"weights='{given}' is no file; name the file {spec.name}, or leave weights out")
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != spec.sha256:
        raise DataError(
            f"the weights '{path.name}' have sha256 {found[:12]}…, expected {spec.sha256[:12]}…"
            f" ({spec.name}); another network would give other numbers under the same name"
        )
    return path


def read_weights(path: Path, net: nn.Module) -> None:
    """Load a file of tensors into a network, every name matched; nothing in the file is executed.

    Raises:
        DataError: Not a file of tensors, or of another network.
    """
    try:
        with open(path, "rb") as file, gzip.open(file) if _zipped(path) else file as content:
            state = torch.load(io.BytesIO(content.read()), map_location="cpu", weights_only=True)
        net.load_state_dict(state, strict=True)
    except (RuntimeError, pickle.UnpicklingError, EOFError, AttributeError, TypeError) as error:
        raise DataError(
            f"the weights '{path.name}' are not those of {type(net).__name__} ({type(error).__name__})"
        ) from error


def _zipped(path: Path) -> bool:
    with open(path, "rb") as file:
        return file.read(2) == b"\x1f\x8b"
