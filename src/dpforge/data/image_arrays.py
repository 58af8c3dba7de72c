"""Published files that hold a whole set of images: idx, npz, digits, binary and picture batches, a pickle.

Nothing in a file is executed, and no file can ask for more memory than its limit allows.
"""

from __future__ import annotations

import gzip
import io
import json
import pickle
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy

from dpforge.data.image_parts import joined, room
from dpforge.data.images import Images
from dpforge.data.transport import unwrapped
from dpforge.errors import DataError

MAX_BYTES = 2**33
_TEXT_BYTES = 2**24
Parts = dict[str, Images]
_IDX_UINT8 = 0x08
_LAST_LETTER = 0x10FFFF
_BROKEN = (
    OSError, EOFError, ValueError, KeyError, TypeError, SyntaxError, zlib.error, gzip.BadGzipFile,
    struct.error, zipfile.BadZipFile, pickle.UnpicklingError, RuntimeError, AttributeError, IndexError,
    tokenize.TokenError,
)  # fmt: skip


@contextmanager
def _reading(path: Path) -> Iterator[IO[bytes]]:
    """The content of a file, gzipped or not; every defect becomes a ``DataError`` without content."""
    try:
        with open(path, "rb") as raw, unwrapped(raw) as content:
            yield content
    except DataError:
        raise
    except _BROKEN as error:
        raise DataError(
            f"{path.name} is not a readable file of its format ({type(error).__name__}); fetch it again"
        ) from error


def read_idx(path: Path, max_bytes: int = MAX_BYTES) -> np.ndarray:
    """An array of an idx file: uint8 of the shape that its header states.

    Raises:
        DataError: Not an idx file of bytes, truncated, or larger than ``max_bytes``.
    """
    with _reading(path) as content:
        magic = content.read(4)
        if len(magic) < 4 or magic[:2] != b"\0\0" or magic[2] != _IDX_UINT8:
            raise DataError(f"{path.name} is not an idx file of bytes; check which file was given")
        shape = struct.unpack(f">{magic[3]}I", content.read(4 * magic[3]))
        return _filled(content, shape, path.name, max_bytes)


def _filled(content: IO[bytes], shape: tuple[int, ...], name: str, max_bytes: int) -> np.ndarray:
    """The next bytes of a stream as a uint8 array in :func:`~dpforge.data.image_parts.room`."""
    size = int(np.prod(shape, dtype=object))
    if size > max_bytes:
        raise DataError(f"{name} announces {size:,} bytes, more than the limit of {max_bytes:,}")
    array = room(shape)
    view, done = array.reshape(-1), 0
    while done < size:
        block = content.read(min(size - done, 1 << 22))
        if not block:
            raise DataError(f"{name} is truncated: it holds fewer bytes than its header announces")
        view[done : done + len(block)] = np.frombuffer(block, np.uint8)
        done += len(block)
    return array


def read_npz(
    path: Path, keys: Mapping[str, str], max_bytes: int = MAX_BYTES, optional: Sequence[str] = ()
) -> dict[str, np.ndarray]:
    """Arrays of an npz file, by role.

    Args:
        path: The file.
        keys: Role to the name of the array in the file.
        max_bytes: Refuse arrays larger than this.
        optional: Roles that may be missing.

    Raises:
        DataError: Not an npz file, an array is missing, holds Python objects, or is too large.
    """
    arrays = {}
    with _reading(path) as content, zipfile.ZipFile(content) as archive:
        for role, key in keys.items():
            if f"{key}.npy" not in archive.namelist():
                if role in optional:
                    continue
                raise DataError(f"{path.name} has no array '{key}'; set the names in keys")
            with archive.open(f"{key}.npy") as member:
                arrays[role] = _npy(member, f"{path.name}: {key}", max_bytes)
    return arrays


def _npy(member: IO[bytes], name: str, max_bytes: int) -> np.ndarray:
    version = npy.read_magic(member)
    header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, fortran, dtype = header(member)
    if dtype.hasobject:
        raise DataError(f"{name} holds Python objects, which are not read; store numbers")
    flat: np.ndarray = _filled(member, (int(np.prod(shape, dtype=object)) * dtype.itemsize,), name, max_bytes)
    if (
        dtype.kind == "U"
        and flat.view(np.dtype("u4").newbyteorder(dtype.byteorder)).max(initial=0) > _LAST_LETTER
    ):
        raise DataError(f"{name} holds text that is none; write the file again")
    return flat.view(dtype).reshape(shape, order="F" if fortran else "C")


class _Array:
    """What a pickle of numpy arrays may build: plain records of the arrays, never numpy's own objects."""

    def __init__(self, *start: Any) -> None:
        self.start = start
        self.state: tuple[Any, ...] = ()

    def __setstate__(self, state: Any) -> None:
        self.state = tuple(state)

    def value(self) -> np.ndarray:
        """The array; raises ``ValueError`` for a state that is none of a plain numeric array."""
        _, shape, dtype, fortran, data = self.state
        code = f"{dtype.state[1]}{dtype.start[0]}"
        if code not in ("<f4", "<i8", "|u1"):
            raise ValueError("not a plain numeric array")
        flat = np.frombuffer(data.encode("latin-1") if isinstance(data, str) else data, code)
        return flat.reshape(shape, order="F" if fortran else "C")


class _ArraysOnly(pickle.Unpickler):
    """An unpickler that builds tuples of :class:`_Array` and refuses everything else."""

    _allowed = frozenset(
        {("numpy.core.multiarray", "_reconstruct"), ("numpy", "ndarray"), ("numpy", "dtype")}
    )

    def find_class(self, module: str, name: str) -> Any:
        """Our record for numpy's three names; ``UnpicklingError`` for any other."""
        if (module, name) not in self._allowed:
            raise pickle.UnpicklingError("a name that is none of a numpy array")
        return _Array


def _idx(places: Mapping[str, Path], keys: Mapping[str, str]) -> Parts:
    parts = {}
    for part, stem in (("train", "train"), ("holdout", "test")):
        if f"{stem}_images" in places:
            parts[part] = _images(read_idx(places[f"{stem}_images"]), read_idx(places[f"{stem}_labels"]))
    return parts


def _npz(places: Mapping[str, Path], keys: Mapping[str, str]) -> Parts:
    arrays = read_npz(places["archive"], keys)
    parts = {}
    for part, stem in (("train", "train"), ("holdout", "test")):
        if f"{stem}_images" in arrays:
            pixels = arrays[f"{stem}_images"]
            labels = arrays.get(f"{stem}_labels", np.zeros(len(pixels), np.int64))
            parts[part] = _images(pixels, labels)
    return parts


def _digits(places: Mapping[str, Path], keys: Mapping[str, str]) -> Parts:
    """Rows of 64 values from 0 to 16 and a label, as text; 16 becomes 255."""
    with _reading(places["archive"]) as content:
        text = content.read(_TEXT_BYTES).decode("ascii")
        table = np.loadtxt(io.StringIO(text), delimiter=",", dtype=np.float64)
        values, labels = table[:, :64], table[:, 64]
    pixels = np.rint(values * (255.0 / 16.0)).astype(np.uint8)
    return {"train": _images(pixels.reshape(-1, 8, 8), labels.astype(np.int64))}


def _cifar_binary(places: Mapping[str, Path], keys: Mapping[str, str]) -> Parts:
    """Records of a label byte and 3,072 bytes, channel by channel."""
    return {"train": _batches(places, _binary_batch), "holdout": _binary_batch(places, "test_batch")}


def _binary_batch(places: Mapping[str, Path], role: str) -> Images:
    with _reading(places[role]) as content:
        records = np.frombuffer(content.read(MAX_BYTES), np.uint8).reshape(-1, 3073)
    return _images(records[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), records[:, 0])


def _cifar_strips(places: Mapping[str, Path], keys: Mapping[str, str]) -> Parts:
    """Pictures of 1,024 pixels a row, one row an image of 32 by 32; labels as a list in JSON."""
    train = _batches(places, _strip)
    return {
        "train": _images(train.pixels, _json_labels(places["train_labels"])),
        "holdout": _images(_strip(places, "test_batch").pixels, _json_labels(places["test_labels"])),
    }


def _strip(places: Mapping[str, Path], role: str) -> Images:
    from PIL import Image

    with _reading(places[role]) as content, Image.open(content, formats=("PNG",)) as image:
        pixels = np.array(image.convert("RGB")).reshape(-1, 32, 32, 3)
    return Images(pixels, np.zeros(len(pixels), np.int64))


def _json_labels(path: Path) -> np.ndarray:
    with _reading(path) as content:
        return np.asarray(json.load(content), np.int64)


def _batches(places: Mapping[str, Path], read: Callable[[Mapping[str, Path], str], Images]) -> Images:
    roles = sorted(role for role in places if role.startswith("data_batch_"))
    return joined([read(places, role) for role in roles])


def _mnist_pickle(places: Mapping[str, Path], keys: Mapping[str, str]) -> Parts:
    """Three pairs of arrays (50,000, 10,000 and 10,000 images): pixels as k/256 in float32, and labels."""
    with _reading(places["archive"]) as content:
        pairs = [(x.value(), y.value()) for x, y in _ArraysOnly(content, encoding="latin-1").load()]
    parts = [_images(_bytes_of(x).reshape(-1, 28, 28), y) for x, y in pairs]
    return {"train": joined(parts[:2]), "holdout": parts[2]}


def _bytes_of(values: np.ndarray) -> np.ndarray:
    return np.rint(values * np.float32(256)).astype(np.uint8)


def _images(pixels: np.ndarray, labels: np.ndarray) -> Images:
    if pixels.ndim not in (3, 4) or pixels.dtype != np.uint8:
        raise DataError("the file does not hold images of bytes, (n, height, width) or (n, height, width, 3)")
    if pixels.ndim == 3:
        pixels = pixels[..., None]
    return Images(np.ascontiguousarray(pixels, np.uint8), np.asarray(labels).reshape(-1).astype(np.int64))


READERS: dict[str, tuple[Callable[[Mapping[str, Path], Mapping[str, str]], Parts], tuple[str, ...]]] = {
    "idx": (_idx, ("train_images", "train_labels")),
    "npz": (_npz, ("archive",)),
    "digits": (_digits, ("archive",)),
    "cifar_binary": (_cifar_binary, ("data_batch_1", "test_batch")),
    "cifar_strips": (_cifar_strips, ("data_batch_1", "test_batch", "train_labels", "test_labels")),
    "mnist_pickle": (_mnist_pickle, ("archive",)),
}
"""Format: what reads it, and the files it needs at least."""
