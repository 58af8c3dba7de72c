"""Which marginals a measurement should serve, and their exact counts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from dpforge.generators.marginals.graphical import mixed_radix
from dpforge.generators.marginals.junction import Clique, cells, shape

BLOCK = 1 << 16  # rows


def workload(columns: int, order: int, target: int | None, target_weight: float) -> dict[Clique, float]:
    """Return all ``order``-way marginals with their weights (fewer columns: one marginal of all).

    Args:
        columns: Number of columns d.
        order: 2 or 3.
        target: Column whose marginals weigh ``target_weight`` instead of 1, or None.
        target_weight: Positive.
    """
    cliques = combinations(range(columns), min(order, columns))
    return {clique: target_weight if target in clique else 1.0 for clique in cliques}


def candidates(served: Mapping[Clique, float], sizes: Sequence[int], most: float) -> dict[Clique, float]:
    """Return all subsets of served marginals with at most ``most`` cells, weighted by what they help.

    A subset r weighs the sum over served marginals s of weight(s) times the columns they share.

    References:
        McKenna et al., *AIM* (VLDB 2022), section 4.
    """
    subsets = {
        part for clique in served for size in range(1, len(clique) + 1) for part in combinations(clique, size)
    }
    degree = [0.0] * len(sizes)
    for clique, weight in served.items():
        for column in clique:
            degree[column] += weight
    kept = sorted((len(s), s) for s in subsets if len(s) == 1 or cells(sizes, s) <= most)
    return {clique: sum(degree[c] for c in clique) for _, clique in kept}


def count(codes: np.ndarray, sizes: Sequence[int], clique: Clique) -> np.ndarray:
    """Count rows in the cells of a marginal in one pass: int64, shape ``(cells,)``.

    Blocks of rows keep the numbers of their cells in the processor's cache.
    """
    size = cells(sizes, clique)
    found, block = np.zeros(size, dtype=np.int64), max(BLOCK, 4 * size)
    for start in range(0, len(codes), block):
        found += np.bincount(mixed_radix(codes[start : start + block], sizes, clique), minlength=size)
    return found


@dataclass(frozen=True)
class Counts:
    """Exact marginals of all candidates, side by side. Private.

    Args:
        cliques: The candidates.
        values: All their counts, int64 ``(sum of cells,)``.
        starts: Where each candidate begins.
    """

    cliques: tuple[Clique, ...]
    values: np.ndarray
    starts: np.ndarray

    def distances(self, estimates: Iterable[np.ndarray]) -> np.ndarray:
        """Return the L1 distance of every candidate to its estimate, shape ``(candidates,)``."""
        estimate = np.concatenate([table.reshape(-1) for table in estimates])
        return np.add.reduceat(np.abs(self.values - estimate), self.starts)

    def of(self, index: int) -> np.ndarray:
        """Return the counts of one candidate."""
        ends = np.append(self.starts[1:], self.values.size)
        return self.values[self.starts[index] : ends[index]]


def count_all(codes: np.ndarray, sizes: Sequence[int], cliques: Iterable[Clique]) -> Counts:
    """Count every clique: one pass over the rows each."""
    names = tuple(cliques)
    tables = [count(codes, sizes, clique) for clique in names]
    lengths = np.array([0, *(table.size for table in tables)])
    return Counts(names, np.concatenate(tables), np.cumsum(lengths)[:-1])


def independent_marginal(masses: Sequence[np.ndarray], clique: Clique) -> np.ndarray:
    """Return the product of one-way probabilities over ``clique``."""
    table = np.ones(())
    for column in clique:
        table = np.multiply.outer(table, masses[column])
    return table.reshape(shape([mass.size for mass in masses], clique))
