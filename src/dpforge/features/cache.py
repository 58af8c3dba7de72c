"""Features computed once for the same images and the same extractor."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import tempfile
from contextlib import suppress
from pathlib import Path

import numpy as np

from dpforge.errors import RunError
from dpforge.features.registry import Extractor

_log = logging.getLogger(__name__)


def cached_features(extractor: Extractor, pixels: np.ndarray, folder: Path) -> np.ndarray:
    """``extractor(pixels)``, kept in ``folder`` under a hash of the images and of the extractor.

    A damaged file is computed anew. Features of private images are private: give a folder that is not
    released. Files can be read by their owner alone and are written in one step.

    Args:
        extractor: Any extractor.
        pixels: uint8 ``(n, H, W, 1 or 3)``.
        folder: Made if missing.

    Raises:
        RunError: The folder cannot be written.
    """
    path = Path(folder) / f"{extractor.name}-{feature_key(extractor, pixels)}.npy"
    found = _read(path, (len(pixels), extractor.dim))
    if found is not None:
        return found
    features = extractor(pixels)
    _write(path, features)
    return features


def feature_key(extractor: Extractor, pixels: np.ndarray) -> str:
    """Hex digest of the images, their shape, and the extractor with its preprocessing."""
    digest = hashlib.sha256(json.dumps(extractor.describe(), sort_keys=True).encode())
    digest.update(f"{pixels.dtype} {pixels.shape}".encode())
    for start in range(0, len(pixels), 4096):
        digest.update(pixels[start : start + 4096].tobytes())
    return digest.hexdigest()[:40]


def _read(path: Path, shape: tuple[int, int]) -> np.ndarray | None:
    if not path.is_file():
        return None
    try:
        found = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        found = None
    if found is None or found.shape != shape or found.dtype != np.float32:
        _log.warning("a cached file of features is damaged and is computed again")
        return None
    return found


def _write(path: Path, features: np.ndarray) -> None:
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # mkstemp gives files that only their owner can read.
        handle, temporary = tempfile.mkstemp(prefix=".features-", dir=path.parent)
        with os.fdopen(handle, "wb") as file:
            np.save(file, features, allow_pickle=False)
        os.replace(temporary, path)
    except OSError as error:
        if temporary:
            with suppress(OSError):
                os.unlink(temporary)
        raise RunError(
            f"features cannot be kept in {path.parent.name} ({error.strerror}); free the disk and start again"
        ) from error
