"""The public images that synthesis starts from: which ones, in which order."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dpforge.data import Images, ImageSchema
from dpforge.data.public_images import load_public_images
from dpforge.errors import DataError, RunError
from dpforge.generators.base import RunContext
from dpforge.generators.storage import write_atomic

PUBLIC = "public.json"
POOL = 4  # candidates an image wanted, where they are balanced


def public_images(
    public: str | Mapping[str, Any] | Any, schema: ImageSchema
) -> tuple[Images, tuple[str, ...]]:
    """Return all images of a public set in the size and colours of the private one, and its class names."""
    return load_public_images(public, size=(schema.height, schema.width), channels=schema.channels)


def check_same_public(run: RunContext, public: Images, classes: Sequence[str], order: np.ndarray) -> None:
    """Note which public images a run uses, and refuse others once it has begun.

    The teacher starts from them, and the statistics are centred by them: with others, the same noise would
    hide other sums.

    Raises:
        RunError: They changed since the run began.
    """
    content = hashlib.sha256()
    for array in (public.pixels, public.labels, order):
        content.update(f"{array.dtype.str}{array.shape}".encode() + np.ascontiguousarray(array).tobytes())
    noted = {"images": len(public), "classes": list(classes), "sha256": content.hexdigest()}
    path = run.checkpoints / PUBLIC
    text = json.dumps(noted, indent=1)
    if not run.access.ledger.begun or not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, text.encode())
    elif path.read_text(encoding="utf-8") != text:
        raise RunError(
            f"the run began with other public images than there are now (checkpoints/{PUBLIC}): its noise was"
            " drawn for those. Bring model.public, and model.public_index_file if there is one, back to"
            " continue, or use another study=… for a new run."
        )


def candidates(count: int, total: int, seed: int, index_file: str | None) -> np.ndarray:
    """Return the order in which public images are taken, int64; at least ``count`` positions.

    Args:
        count: Images wanted.
        total: Images there are.
        seed: Of the permutation.
        index_file: Positions instead of a permutation: ``.npy``, ``.txt`` (one a line), or ``.pt``.

    Raises:
        DataError: Too few images, or a file that does not hold different positions below ``total``.
    """
    if index_file is None:
        order = torch.randperm(total, generator=torch.Generator().manual_seed(seed)).numpy()
    else:
        order = _read_positions(Path(index_file).expanduser())
        if len(np.unique(order)) < len(order) or not (
            0 <= order.min(initial=0) <= order.max(initial=-1) < total
        ):
            raise DataError(
                f"{Path(index_file).name}: expected different positions from 0 to {total - 1}, the images of"
                " model.public."
            )
    if len(order) < count:
        raise DataError(
            f"model.num_samples={count}, but there are {len(order)} public images. Lower it, or choose a"
            " larger model.public."
        )
    return order.astype(np.int64)


def balanced(
    order: np.ndarray, count: int, predict: Callable[[np.ndarray], np.ndarray], classes: int
) -> np.ndarray:
    """Return ``count`` positions with classes as equally frequent as the first candidates allow.

    Args:
        order: Candidates; ``POOL`` times ``count`` of them are looked at.
        count: Positions to return.
        predict: ``positions -> classes`` of the released teacher.
        classes: Number of classes.
    """
    pool = order[: POOL * count]
    labels = predict(pool)
    rank = np.empty(len(pool), dtype=np.int64)
    for label in range(classes):
        members = np.flatnonzero(labels == label)
        rank[members] = np.arange(len(members))
    chosen = np.lexsort((np.arange(len(pool)), rank))[:count]
    return pool[np.sort(chosen)]


def _read_positions(path: Path) -> np.ndarray:
    readers: Mapping[str, Callable[[Path], Any]] = {
        ".npy": lambda p: np.load(p, allow_pickle=False),
        ".txt": lambda p: np.loadtxt(p, dtype=np.int64, ndmin=1),
        ".pt": lambda p: torch.as_tensor(torch.load(p, weights_only=True)).numpy(),
    }
    if path.suffix not in readers:
        raise DataError(f"model.public_index_file={path.name}: expected a .npy, .txt or .pt file.")
    try:
        found = np.asarray(readers[path.suffix](path))
    except Exception as error:  # what torch and numpy raise depends on the bytes
        raise DataError(f"{path.name} cannot be read as positions ({type(error).__name__}).") from error
    if found.ndim != 1 or not np.issubdtype(found.dtype, np.integer):
        raise DataError(f"{path.name}: expected a list of whole numbers, got {found.dtype} {found.shape}.")
    return found
