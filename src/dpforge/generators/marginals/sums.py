"""Many marginals of one table at once: columns are summed out one at a time, and partial sums are shared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from dpforge.generators.marginals.junction import Clique, cells


@dataclass(frozen=True)
class SharedSums:
    """The linear map from a table over ``clique`` to tables over subsets of it.

    Args:
        clique: Columns of the large table.
        operations: ``(from, axis, to)``, in the order in which they can be done.
    """

    clique: Clique
    operations: tuple[tuple[Clique, int, Clique], ...]

    def forward(self, table: np.ndarray) -> dict[Clique, np.ndarray]:
        """Return the table summed to every subset that was asked for, and to those on the way."""
        found = {self.clique: table}
        for source, axis, target in self.operations:
            found[target] = found[source].sum(axis=axis)
        return found

    def adjoint(self, tables: Mapping[Clique, np.ndarray], shape: tuple[int, ...]) -> np.ndarray:
        """Return the table that repeats every given one along the columns it lacks, and adds them up."""
        total = dict(tables)
        for source, axis, target in reversed(self.operations):
            if target in total:
                spread = np.expand_dims(total[target], axis)
                total[source] = total[source] + spread if source in total else spread
        return np.broadcast_to(total[self.clique], shape) if self.clique in total else np.zeros(shape)


def shared_sums(sizes: Sequence[int], clique: Clique, wanted: Sequence[Clique]) -> SharedSums:
    """Plan the sums: from the smallest table at hand, the widest column first.

    Args:
        sizes: Cells of every column.
        clique: Columns of the large table, ascending.
        wanted: Subsets of it, ascending.
    """
    known, operations = {clique}, []
    for target in sorted(set(wanted), key=lambda c: (-len(c), c)):
        source = min((c for c in known if set(target) <= set(c)), key=lambda c: (cells(sizes, c), c))
        while source != target:
            spare = max((c for c in source if c not in target), key=lambda c: (sizes[c], c))
            smaller = tuple(c for c in source if c != spare)
            if smaller not in known:
                operations.append((source, source.index(spare), smaller))
                known.add(smaller)
            source = smaller
    return SharedSums(clique, tuple(operations))
