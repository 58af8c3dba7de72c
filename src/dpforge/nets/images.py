"""Images as tensors: between bytes and floats, and from one size to another."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional


def resize(x: Tensor, size: tuple[int, int], mode: Literal["bilinear", "bicubic"] = "bilinear") -> Tensor:
    """Bring float images ``(n, C, H, W)`` to ``size = (height, width)`` in pixels.

    Pixel centres are aligned as areas (``align_corners=False``). An axis that shrinks is averaged over the
    pixels that fall together (antialiasing), so nothing is dropped. Bilinear results stay within the range
    of ``x``; bicubic ones (a = −0.5, as Pillow's) may leave it by a little.

    Raises:
        ValueError: A side below 1, or ``x`` is no float tensor of four dimensions.
    """
    if x.ndim != 4 or not x.is_floating_point():
        raise ValueError(f"resize got {x.dtype} of shape {tuple(x.shape)}; expected float (n, C, H, W)")
    if min(size) < 1:
        raise ValueError(f"resize to size={size}: expected a height and a width of at least 1")
    if tuple(x.shape[2:]) == tuple(size) or not len(x):
        return x if len(x) else x.new_zeros(0, x.shape[1], *size)
    # Only torch's antialiasing kernel has Pillow's bicubic constant; it does not smooth growing axes.
    shrinks = size[0] < x.shape[2] or size[1] < x.shape[3]
    antialias = shrinks or mode == "bicubic"
    return functional.interpolate(x, size=size, mode=mode, align_corners=False, antialias=antialias)


def to_unit(pixels: np.ndarray | Tensor) -> Tensor:
    """Turn uint8 ``(n, H, W, C)`` into float32 ``(n, C, H, W)`` in [0, 1].

    Raises:
        ValueError: Another type or number of dimensions.
    """
    if isinstance(pixels, np.ndarray):
        # A read-only (memory-mapped) array is copied: torch has no read-only tensors.
        pixels = torch.from_numpy(pixels if pixels.flags.writeable else pixels.copy())
    if pixels.dtype != torch.uint8 or pixels.ndim != 4:
        raise ValueError(f"got {pixels.dtype} of shape {tuple(pixels.shape)}; expected uint8 (n, H, W, C)")
    # The same values must come in the same layout: convolutions sum in an order that depends on it.
    return pixels.contiguous().permute(0, 3, 1, 2).contiguous().float().div_(255.0)


def to_pixels(x: Tensor) -> np.ndarray:
    """Turn float ``(n, C, H, W)`` in [0, 1] into uint8 ``(n, H, W, C)``: rounded, values outside cut off.

    Raises:
        ValueError: Another number of dimensions, or a value that is not finite.
    """
    if x.ndim != 4:
        raise ValueError(f"got shape {tuple(x.shape)}; expected (n, C, H, W)")
    x = x.detach().float()
    if not torch.isfinite(x).all():
        raise ValueError("an image has values that are not finite; expected numbers in [0, 1]")
    rounded = x.clamp(0, 1).mul(255.0).round().to(torch.uint8)
    return rounded.permute(0, 2, 3, 1).contiguous().cpu().numpy()
