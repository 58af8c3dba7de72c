"""Cells too rare to be told from noise are merged before pairs are measured, and split again in samples.

Everything here reads released one-way counts only: post-processing.

References:
    McKenna, Miklau and Sheldon, *Winning the NIST Contest* (2021), section 4.2, for categories. Neighbouring
    cells of an ordered column are merged with each other instead, which keeps their order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dpforge.data.encode.cells import CellCodec
from dpforge.data.encode.probabilities import probabilities


@dataclass(frozen=True)
class Domain:
    """The merged cells of a table.

    Args:
        groups: Group of every cell, one int64 array a column.
        masses: Released probability of every cell, one array a column.
    """

    groups: tuple[np.ndarray, ...]
    masses: tuple[np.ndarray, ...]

    @property
    def sizes(self) -> tuple[int, ...]:
        """Groups of each column."""
        return tuple(int(group.max()) + 1 for group in self.groups)

    def encode(self, codes: np.ndarray) -> np.ndarray:
        """Return the groups of cells, int32 ``(n, d)``, column after column in memory."""
        merged = np.empty(codes.shape, dtype=np.int32, order="F")
        for j, group in enumerate(self.groups):
            merged[:, j] = group[codes[:, j]]
        return merged

    def split(self, column: int) -> np.ndarray:
        """Return the probability of every cell given its group; alike where the group has none."""
        group, mass = self.groups[column], self.masses[column]
        total = np.bincount(group, weights=mass)[group]
        return np.where(total > 0, mass / np.where(total > 0, total, 1), 1 / np.bincount(group)[group])

    def decode(self, codes: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Draw a cell for every group, int64 ``(n, d)``."""
        cells = np.empty(codes.shape, dtype=np.int64)
        for j, group in enumerate(self.groups):
            order = np.argsort(group, kind="stable")
            upper = np.cumsum(self.split(j)[order])
            ends = upper[np.cumsum(np.bincount(group)) - 1]
            starts = np.concatenate([[0.0], ends[:-1]])
            drawn = starts[codes[:, j]] + rng.random(len(codes)) * (ends - starts)[codes[:, j]]
            place = np.searchsorted(upper, drawn, side="right")
            last = np.cumsum(np.bincount(group)) - 1
            cells[:, j] = order[np.minimum(place, last[codes[:, j]])]
        return cells

    def merged(self, counts: np.ndarray, column: int) -> tuple[np.ndarray, np.ndarray]:
        """Return counts summed by group, and the number of cells of each group."""
        group = self.groups[column]
        return np.bincount(group, weights=counts), np.bincount(group)


def compressed(
    codec: CellCodec, noisy: Sequence[np.ndarray], scales: Sequence[float], total: float, sigmas: float
) -> Domain:
    """Return groups whose noisy count stands at ``sigmas`` standard deviations, where that can be had.

    Args:
        codec: Cells of the schema.
        noisy: Released one-way counts.
        scales: Their standard deviations.
        total: Released number of rows.
        sigmas: Threshold; 0 keeps every cell.
    """
    groups = []
    for cells, counts, scale in zip(codec.columns, noisy, scales, strict=True):
        limit = sigmas * scale
        if limit == 0:
            groups.append(np.arange(counts.size))
        elif cells.kind == "categorical":
            groups.append(_pooled(counts < limit))
        else:
            groups.append(_adjacent(counts, cells.atom, np.isnan(cells.lower), limit))
    return Domain(tuple(groups), tuple(probabilities(counts, total) for counts in noisy))


def _pooled(rare: np.ndarray) -> np.ndarray:
    """Number the frequent cells; all rare ones share the last number."""
    numbers = np.cumsum(~rare) - 1
    return np.where(rare, int((~rare).sum()), numbers).astype(np.int64)


def _adjacent(counts: np.ndarray, atom: np.ndarray, missing: np.ndarray, limit: float) -> np.ndarray:
    """Number runs of neighbouring cells whose noisy count reaches the limit.

    A frequent atom and the cell of missing values stay alone.
    """
    alone = missing | (atom & (counts >= limit))
    numbers = np.empty(counts.size, dtype=np.int64)
    current, weight, members, full = -1, 0.0, 0, True
    for i, value in enumerate(counts):
        if full or alone[i]:
            current, weight, members = current + 1, 0.0, 0
        weight, members = weight + value, members + 1
        full = bool(alone[i]) or weight >= limit * members**0.5
        numbers[i] = current
    first = counts.size - members
    if not full and first > 0 and not alone[first - 1]:
        numbers[first:] = current - 1
    return numbers
