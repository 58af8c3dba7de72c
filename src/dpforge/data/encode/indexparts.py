"""A cell number of a large column in two halves, so that no softmax or table is as long as the column."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from dpforge.data.encode.layout import ColumnCells


@dataclass(frozen=True)
class IndexParts:
    """Cell ``i`` of ``K`` cells as ``i = high * L + low`` with ``L = ceil(sqrt(K))``.

    The cells are those of the column without ``missing``, in their order: ``unknown`` stays an ordinary one.

    Args:
        cells: The cells of the column.
        lead: 1 if the first cell is ``missing``, else 0.
    """

    cells: ColumnCells
    lead: int

    @property
    def count(self) -> int:
        """Number ``K`` of cells that are split."""
        return self.cells.size - self.lead

    @property
    def width(self) -> int:
        """Number ``L`` of low codes."""
        return math.isqrt(self.count - 1) + 1

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the sub-columns."""
        return ("high", "low")

    @property
    def labels(self) -> tuple[tuple[str, ...], ...]:
        """First and last cell of each high code; the numbers of the low codes."""
        texts = self.cells.labels[self.lead :]
        starts = range(0, self.count, self.width)
        ends = [min(start + self.width, self.count) - 1 for start in starts]
        high = tuple(f"{texts[start]} … {texts[end]}" for start, end in zip(starts, ends, strict=True))
        return high, tuple(map(str, range(self.width)))

    @property
    def ordered(self) -> tuple[bool, ...]:
        """Whether the codes have a natural order: those of numbers and dates have."""
        return (self.cells.kind != "categorical",) * 2

    def split(self, values: np.ndarray) -> np.ndarray:
        """Codes int64 ``(n, 2)`` of cell numbers ``(n,)`` in ``[0, K)``."""
        return np.stack(np.divmod(values.astype(np.int64), self.width), axis=1)

    def join(self, codes: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Cell numbers int64 ``(n,)`` of codes ``(n, 2)``.

        A low code that the last block does not have is drawn anew, uniformly from those it has: the mass of
        the block stays in the block and no single cell collects it.
        """
        index = codes[:, 0].astype(np.int64) * self.width + codes[:, 1]
        beyond = index >= self.count
        start = (self.count - 1) // self.width * self.width
        index[beyond] = start + rng.integers(self.count - start, size=int(beyond.sum()))
        return index
