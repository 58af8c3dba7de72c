"""Parts of a set of images: room for pixels, keyed splits and subsets, other sizes, content digests."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from dpforge.data.fetch import cache_folder
from dpforge.data.images import Images, with_channels
from dpforge.data.split import scattered, split_units
from dpforge.errors import DataError

MEMORY_LIMIT_MB = 2048
BLOCK = 1024
_SUBSET = np.uint64(0x5B5E7)  # keeps the draws of a subset apart from those of the holdout


def room(shape: Sequence[int], limit_mb: int = MEMORY_LIMIT_MB) -> np.ndarray:
    """An uninitialised uint8 array of this shape; above ``limit_mb`` mebibytes it is mapped to a file.

    The file lies in the cache folder, is readable by its owner alone and has no name: it is gone when the
    array is, also after a crash. So private pixels never stay on the disk.

    Raises:
        DataError: The array does not fit, in memory or on the disk.
    """
    size = int(np.prod(shape, dtype=np.int64))
    try:
        if size <= limit_mb * 2**20:
            return np.empty(shape, np.uint8)
        folder = cache_folder()
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            _reserve(file.fileno(), size)
            return np.memmap(file, np.uint8, "r+", shape=tuple(shape))
    except (OSError, MemoryError) as error:
        raise DataError(
            f"{size:,} bytes of pixels do not fit ({type(error).__name__}). Choose a smaller "
            "dataset.image_size or dataset.max_records, or name a folder with room in DPFORGE_CACHE"
        ) from error


def _reserve(handle: int, size: int) -> None:
    """Claim the bytes on the disk now: a mapped file that runs out of room later would end the process."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(handle, 0, size)
    else:
        os.truncate(handle, size)


def taken(images: Images, rows: np.ndarray, limit_mb: int = MEMORY_LIMIT_MB) -> Images:
    """The images at these positions, copied block by block into :func:`room`."""
    pixels = room((len(rows), *images.pixels.shape[1:]), limit_mb)
    for start in range(0, len(rows), BLOCK):
        pixels[start : start + BLOCK] = images.pixels[rows[start : start + BLOCK]]
    return Images(pixels, images.labels[rows])


def record_hash(content: Any, class_name: str) -> int:
    """A 64-bit hash of the bytes of a record and the name of its class."""
    digest = hashlib.blake2b(content, digest_size=8)
    digest.update(class_name.encode())
    return int.from_bytes(digest.digest(), "little")


def record_keys(hashes: np.ndarray) -> np.ndarray:
    """A key of each record: its hash and its number among the records of equal hash.

    Args:
        hashes: uint64 ``(n,)`` of :func:`record_hash`.

    Returns:
        uint64 ``(n,)``. Adding or removing a record changes the key of no other one, wherever it stands.
    """
    series = pd.Series(hashes)
    twins = series.groupby(series).cumcount().to_numpy().astype(np.uint64)
    return hashes ^ scattered(twins)


def pixel_hashes(images: Images, classes: Sequence[str] = ()) -> np.ndarray:
    """:func:`record_hash` of the pixels and the class of each image; ``classes`` is empty without labels."""
    names = list(classes) or [""]
    pairs = zip(images.pixels, images.labels, strict=True)
    hashes = (record_hash(np.ascontiguousarray(pixels).data, names[label]) for pixels, label in pairs)
    return np.fromiter(hashes, np.uint64, len(images))


@dataclass(frozen=True)
class Division:
    """How records become training and holdout part: independent keyed draws, a pure function of each record.

    Args:
        holdout_fraction: Chance of a record to be held out, in [0, 1).
        share: Chance of a training record to be kept, in (0, 1].
        seed: Public seed of the draws.
    """

    holdout_fraction: float
    share: float
    seed: int

    def rows(self, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Positions of the training and of the holdout records among these keys, in their order."""
        held = split_units(keys, self.holdout_fraction, self.seed)
        left_out = split_units(scattered(keys ^ _SUBSET), 1.0 - self.share, self.seed)
        return np.flatnonzero(~held & ~left_out), np.flatnonzero(held)

    @property
    def keeps_all(self) -> bool:
        """Whether every record is a training record."""
        return self.holdout_fraction == 0 and self.share == 1


def converted(
    images: Images, size: tuple[int, int], channels: int, limit_mb: int = MEMORY_LIMIT_MB
) -> Images:
    """The images at another size (covering, bicubic, centre-cropped) and with another number of channels."""
    if images.pixels.shape[1:] == (*size, channels):
        return images
    from dpforge.data.image_reading import fitted

    pixels = room((len(images), *size, channels), limit_mb)
    for row, image in enumerate(images.pixels):
        pixels[row] = with_channels(fitted(image, size), channels)
    return Images(pixels, images.labels)


def content_digest(images: Images) -> str:
    """Sha256 (hex) of shape, pixels and labels; equal for equal images, however they were stored."""
    digest = hashlib.sha256(f"{images.pixels.shape} uint8 int64\n".encode())
    for start in range(0, len(images), BLOCK):
        digest.update(np.ascontiguousarray(images.pixels[start : start + BLOCK]).data)
    digest.update(images.labels.astype("<i8").tobytes())
    return digest.hexdigest()


def joined(parts: Sequence[Images], limit_mb: int = MEMORY_LIMIT_MB) -> Images:
    """The images of several parts in one."""
    parts = [part for part in parts if len(part)] or list(parts[:1])
    if len(parts) == 1:
        return parts[0]
    pixels = room((sum(map(len, parts)), *parts[0].pixels.shape[1:]), limit_mb)
    np.concatenate([part.pixels for part in parts], out=pixels)
    return Images(pixels, np.concatenate([part.labels for part in parts]))
