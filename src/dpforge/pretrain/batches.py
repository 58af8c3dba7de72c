"""Batches, noise and dropped labels as functions of the step, so that a resumed training repeats nothing."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import IterableDataset

from dpforge.data import Images
from dpforge.pretrain.settings import PretrainSettings

Batch = dict[str, Tensor]


def batch_of(images: Images, classes: int, settings: PretrainSettings, step: int) -> Batch:
    """Draw the batch of one step.

    Returns:
        ``clean`` float32 ``(B, C, H, W)`` in [-1, 1], ``noise`` of the same shape, ``times`` int64 ``(B,)``
        in [0, diffusion_steps) and ``labels`` int64 ``(B,)`` in [0, classes], where ``classes`` is "none".
    """
    rng = np.random.default_rng((settings.seed, step))
    rows = rng.integers(len(images), size=settings.batch_size)
    pixels = images.pixels[rows].astype(np.float32).transpose(0, 3, 1, 2) / 127.5 - 1
    if settings.flip:
        mirrored = rng.random(settings.batch_size) < 0.5
        pixels[mirrored] = pixels[mirrored, :, :, ::-1]
    labels = images.labels[rows].copy()
    labels[rng.random(settings.batch_size) < settings.label_dropout] = classes
    arrays = {
        "clean": pixels,
        "noise": rng.standard_normal(pixels.shape, dtype=np.float32),
        "times": rng.integers(settings.diffusion_steps, size=settings.batch_size),
        "labels": labels,
    }
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


class Batches(IterableDataset[Batch]):
    """The batches of the steps from ``start`` on."""

    def __init__(self, images: Images, classes: int, settings: PretrainSettings, start: int) -> None:
        self.images, self.classes, self.settings, self.start = images, classes, settings, start

    def __iter__(self) -> Iterator[Batch]:
        for step in range(self.start, self.settings.steps):
            yield batch_of(self.images, self.classes, self.settings, step)
