"""Junction trees: which columns a graphical model must hold together, and how large that gets."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

Clique = tuple[int, ...]
CELL_BYTES = 8


@dataclass(frozen=True)
class JunctionTree:
    """Maximal cliques of a triangulated graph, joined in one tree.

    Args:
        sizes: Cells of every column, shape ``(d,)``.
        cliques: Columns of each clique, ascending; a parent stands before its children.
        parents: Index of each clique's parent; -1 for the first.
    """

    sizes: tuple[int, ...]
    cliques: tuple[Clique, ...]
    parents: tuple[int, ...]

    @cached_property
    def separators(self) -> tuple[Clique, ...]:
        """Columns that each clique shares with its parent."""
        return tuple(
            tuple(c for c in clique if parent >= 0 and c in self.cliques[parent])
            for clique, parent in zip(self.cliques, self.parents, strict=True)
        )

    @cached_property
    def children(self) -> tuple[tuple[int, ...], ...]:
        """Indices of each clique's children."""
        return tuple(
            tuple(j for j, parent in enumerate(self.parents) if parent == i) for i in range(len(self.cliques))
        )

    def near(self, node: int) -> tuple[int, ...]:
        """Return the cliques that share an edge with one."""
        parent = self.parents[node]
        return ((parent,) if parent >= 0 else ()) + self.children[node]

    @cached_property
    def behind(self) -> dict[tuple[int, int], frozenset[int]]:
        """All columns on the side of ``node`` of the edge from ``origin``, by ``(node, origin)``."""
        everything = {node: set(clique) for node, clique in enumerate(self.cliques)}
        for node in range(len(self.cliques) - 1, 0, -1):
            everything[self.parents[node]] |= everything[node]
        found = {(n, self.parents[n]): frozenset(everything[n]) for n in range(1, len(self.cliques))}
        for node in range(1, len(self.cliques)):  # upwards: the parent with all that is not below ``node``
            parent = self.parents[node]
            columns = set(self.cliques[parent])
            for near in self.near(parent):
                if near != node:
                    columns |= found[near, parent]
            found[parent, node] = frozenset(columns)
        return found

    def home(self, columns: Iterable[int]) -> int | None:
        """Return the smallest clique that holds ``columns``, or None."""
        wanted = set(columns)
        found = [i for i, clique in enumerate(self.cliques) if wanted <= set(clique)]
        return min(found, key=lambda i: cells(self.sizes, self.cliques[i])) if found else None

    @property
    def megabytes(self) -> float:
        """Size of all clique tables in float64."""
        return sum(cells(self.sizes, clique) for clique in self.cliques) * CELL_BYTES / 2**20


def cells(sizes: Sequence[int], clique: Iterable[int]) -> int:
    """Return the number of cells of a marginal."""
    return math.prod(sizes[c] for c in clique)


def shape(sizes: Sequence[int], clique: Iterable[int]) -> tuple[int, ...]:
    """Return the shape of a marginal."""
    return tuple(sizes[c] for c in clique)


def junction_tree(sizes: Sequence[int], cliques: Iterable[Clique]) -> JunctionTree:
    """Triangulate by eliminating, again and again, the column whose table is smallest.

    Args:
        sizes: Cells of every column; each column is in the tree even if no clique names it.
        cliques: Sets of columns that must lie in one clique.

    References:
        Koller and Friedman, *Probabilistic Graphical Models* (2009), sections 9.4 and 10.4.
    """
    maximal = _elimination_cliques(sizes, cliques)
    order, parents = [0], [-1]
    shared = [len(set(clique) & set(maximal[0])) for clique in maximal]
    nearest = [0] * len(maximal)
    rest = list(range(1, len(maximal)))
    while rest:
        i = max(rest, key=lambda clique: shared[clique])
        rest.remove(i)
        place, columns = len(order), set(maximal[i])
        order.append(i)
        parents.append(nearest[i])
        for other in rest:
            if (common := len(columns.intersection(maximal[other]))) > shared[other]:
                shared[other], nearest[other] = common, place
    return JunctionTree(tuple(sizes), tuple(maximal[i] for i in order), tuple(parents))


def _elimination_cliques(sizes: Sequence[int], cliques: Iterable[Clique]) -> list[Clique]:
    neighbours: dict[int, set[int]] = {column: set() for column in range(len(sizes))}
    for clique in cliques:
        for column in clique:
            neighbours[column] |= set(clique) - {column}
    cost = {c: sizes[c] * cells(sizes, near) for c, near in neighbours.items()}
    found: list[Clique] = []
    while neighbours:
        column = min(cost, key=lambda c: (cost[c], c))
        near = neighbours.pop(column)
        cost.pop(column)
        candidate = {column, *near}
        if not any(candidate <= set(other) for other in found):
            found.append(tuple(sorted(candidate)))
        for other in near:
            neighbours[other] = (neighbours[other] | near) - {column, other}
            cost[other] = sizes[other] * cells(sizes, neighbours[other])
    return found


def model_megabytes(sizes: Sequence[int], cliques: Iterable[Clique]) -> float:
    """Return the size of the junction tree that holds ``cliques``."""
    found = _elimination_cliques(sizes, cliques)
    return sum(cells(sizes, clique) for clique in found) * CELL_BYTES / 2**20
