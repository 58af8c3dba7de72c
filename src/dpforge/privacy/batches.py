"""Batches for DP-SGD: exact numbers of Poisson samples, and their division into microbatches."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import IterableDataset

from dpforge.privacy.sampling import PoissonSampler

Tensors = tuple[Tensor, ...]


class StepBatch(NamedTuple):
    """The private rows of one logical step: ``tensors`` have the rows in their first dimension."""

    step: int
    tensors: Tensors


class PoissonSteps(IterableDataset[StepBatch]):
    """An exact number of Poisson batches, each drawn by one index operation.

    Args:
        sampler: Draws the units of a step.
        rows_of: Maps sorted unit indices to row indices (the identity for row-level privacy).
        gather: ``(rows, step) -> tensors``; called once a step with int64 row indices.
        steps: Range of steps to yield; starts after 0 on resume.
    """

    def __init__(
        self,
        sampler: PoissonSampler,
        rows_of: Callable[[np.ndarray], np.ndarray],
        gather: Callable[[Tensor, int], Tensors],
        steps: range,
    ) -> None:
        self.sampler = sampler
        self.steps = steps
        self._rows_of = rows_of
        self._gather = gather

    def __len__(self) -> int:
        return len(self.steps)

    def __iter__(self) -> Iterator[StepBatch]:
        for step in self.steps:
            rows = torch.from_numpy(self._rows_of(self.sampler.sample(step)))
            yield StepBatch(step, self._gather(rows, step))


def microbatches(tensors: Tensors, size: int | None) -> Iterator[Tensors]:
    """Split tensors along their first dimension into parts of at most ``size`` rows; no rows, no parts."""
    rows = row_count(tensors)
    size = size or max(rows, 1)
    for start in range(0, rows, size):
        yield tuple(tensor[start : start + size] for tensor in tensors)


def row_count(tensors: Tensors) -> int:
    """Return the number of rows of a batch."""
    return int(tensors[0].shape[0])
