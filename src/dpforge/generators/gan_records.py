"""Private records as tensors of a GAN, and a GAN's output as records again: tables and images."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from dpforge.data import Images, ImageSchema
from dpforge.data.constraints import repair
from dpforge.data.encode.cells import CellCodec
from dpforge.nets.gan import crop, pad


class Records(Protocol):
    """Private records that a GAN can read. ``labels``: int64 ``(n,)``, or None without classes."""

    labels: Tensor | None

    def __len__(self) -> int: ...

    def real(self, rows: Tensor) -> Tensor:
        """Return float32 records ``(B, …)`` at these rows."""
        ...


class TensorRecords:
    """Records that are tensors already.

    Args:
        values: float32 ``(n, …)``.
        labels: See :class:`Records`.
    """

    def __init__(self, values: Tensor, labels: Tensor | None = None) -> None:
        self.values, self.labels = values, labels

    def __len__(self) -> int:
        return len(self.values)

    def real(self, rows: Tensor) -> Tensor:
        """See :class:`Records`."""
        return self.values[rows]


class OneHotRecords:
    """Rows of a table as one-hot cells, made for one batch at a time.

    Args:
        codes: Cell of each value, int ``(n, d)``.
        sizes: Number of cells of each column.
    """

    labels: Tensor | None = None

    def __init__(self, codes: np.ndarray, sizes: tuple[int, ...]) -> None:
        offsets = np.concatenate([[0], np.cumsum(sizes)])
        self._places = torch.from_numpy(codes.astype(np.int64) + offsets[:-1])
        self._width = int(offsets[-1])

    def __len__(self) -> int:
        return len(self._places)

    def real(self, rows: Tensor) -> Tensor:
        """Return one-hot rows float32 ``(B, sum of sizes)``."""
        empty = torch.zeros(rows.numel(), self._width)
        return empty.scatter_(1, self._places[rows], 1.0)


class ImageRecords:
    """Images in [-1, 1], centred in the size of a network.

    Args:
        images: uint8 images; may be memory-mapped.
        size: Height and width of the network's images.
        conditional: Whether classes are learnt.
    """

    def __init__(self, images: Images, size: int, conditional: bool) -> None:
        self._images, self._size = images, size
        self.labels = torch.from_numpy(images.labels) if conditional else None

    def __len__(self) -> int:
        return len(self._images)

    def real(self, rows: Tensor) -> Tensor:
        """Return images float32 ``(B, C, size, size)``."""
        pixels = torch.from_numpy(self._images.pixels[rows.numpy()])
        return pad(pixels.permute(0, 3, 1, 2).contiguous().float() / 127.5 - 1, self._size)


def decode_images(x: Tensor, labels: np.ndarray, schema: ImageSchema) -> Images:
    """Turn a generator's images ``(n, C, size, size)`` in [-1, 1] into uint8 images of the schema's shape."""
    x = crop(x, schema.height, schema.width).clamp(-1, 1)
    pixels = ((x + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1)
    return Images(np.ascontiguousarray(pixels.numpy()), labels)


def cell_codes(x: Tensor, sizes: tuple[int, ...]) -> np.ndarray:
    """Return the largest entry of each block of ``(n, sum of sizes)``: the inverse of one-hot, ``(n, d)``."""
    return torch.stack([block.argmax(1) for block in x.split(list(sizes), dim=1)], dim=1).numpy()


def decode_table(x: Tensor, codec: CellCodec, rng: np.random.Generator) -> pd.DataFrame:
    """Turn a generator's one-hot rows into a typed table that satisfies the schema."""
    return repair(codec.decode(cell_codes(x, codec.sizes), rng), codec.schema)
