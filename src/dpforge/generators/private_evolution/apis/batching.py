"""Noise of each image and batches that fit into memory: the images do not depend on the batch size."""

from __future__ import annotations

import logging
from collections.abc import Callable
from importlib import import_module
from typing import Any

import numpy as np
import torch

from dpforge.errors import ConfigError

_TALKATIVE = ("diffusers", "transformers")
_log = logging.getLogger("dpforge")
PRECISIONS = ("auto", "float32", "float16", "bfloat16")


def image_seeds(rng: np.random.Generator, n: int) -> np.ndarray:
    """Draw the seed of each image, int64 ``(n,)``."""
    return rng.integers(2**63 - 1, size=n, dtype=np.int64)


def noise_of(seeds: np.ndarray, shape: tuple[int, ...]) -> torch.Tensor:
    """Standard normal noise, float32 ``(n, *shape)``; that of an image depends on its seed alone."""
    drawn = [np.random.default_rng(int(seed)).standard_normal(shape, dtype=np.float32) for seed in seeds]
    return torch.from_numpy(np.stack(drawn)) if drawn else torch.zeros(0, *shape)


def in_batches(make: Callable[[slice], np.ndarray], n: int, size: int) -> np.ndarray:
    """Call ``make`` on slices of ``size`` images and join the results.

    When the accelerator's memory is too small, the batch is halved, and stays so.

    Args:
        make: Returns the images of a slice; may be called again for a part of it.
        n: Images in all, >= 1.
        size: Images at once to begin with, >= 1.
    """
    parts, at = [], 0
    while at < n:
        try:
            parts.append(make(slice(at, min(at + size, n))))
        except torch.cuda.OutOfMemoryError:
            if size == 1:
                raise
            size = (size + 1) // 2
            torch.cuda.empty_cache()
            _log.warning("the accelerator's memory is full; batches of images are now %d", size)
            continue
        at += len(parts[-1])
    return np.concatenate(parts)


def torch_dtype(precision: str, device: str) -> torch.dtype:
    """The type of numbers to compute with; ``auto`` is float16 on an accelerator and float32 elsewhere."""
    if precision == "auto":
        return torch.float16 if device.startswith("cuda") else torch.float32
    return getattr(torch, precision)


def import_optional(library: str, extra: str) -> Any:
    """Import a library of an extra; raises ``ConfigError`` that names the extra when it is missing."""
    try:
        module = import_module(library)
    except ImportError as error:
        raise ConfigError(
            f"{library} is not installed. Install the extra: pip install 'dpforge[{extra}]'."
        ) from error
    if library in _TALKATIVE:
        # Their advice and bars would break ours; what matters is raised.
        logs = import_module(f"{library}.utils.logging")
        logs.set_verbosity_error()
        logs.disable_progress_bar()
    return module
