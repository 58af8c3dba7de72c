"""A distribution over cells in the form of a junction tree: marginals, samples, probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dpforge.generators.marginals.junction import Clique, JunctionTree, cells, shape

SMALLEST = 1e-200


def expanded(values: np.ndarray, columns: Clique, clique: Clique) -> np.ndarray:
    """View a table over ``columns`` as one over ``clique``, with length 1 where a column is absent."""
    sizes = iter(values.shape)
    return values.reshape([next(sizes) if c in columns else 1 for c in clique])


def summed(values: np.ndarray, clique: Clique, columns: Clique) -> np.ndarray:
    """Sum a table over ``clique`` down to ``columns``."""
    gone = tuple(axis for axis, c in enumerate(clique) if c not in columns)
    return values.sum(axis=gone) if gone else values


def calibrated(tree: JunctionTree, logits: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Return the marginal of every clique under probability proportional to exp of the sum of ``logits``.

    One pass from the leaves turns each table into its conditional given the separator; one pass back
    multiplies by the separator's marginal. Each cell is exponentiated once.

    Args:
        tree: Its cliques.
        logits: One table a clique.

    Returns:
        One probability table a clique, each summing to 1; overlapping ones agree.
    """
    messages: list[np.ndarray] = [np.zeros(())] * len(logits)
    beliefs, masses = list(logits), list(messages)
    for i in range(len(logits) - 1, -1, -1):
        clique, separator = tree.cliques[i], tree.separators[i]
        table = logits[i]
        for child in tree.children[i]:
            table = table + expanded(messages[child], tree.separators[child], clique)
        beliefs[i], masses[i], peak = _exponentiated(table, clique, separator)
        messages[i] = (peak + np.log(masses[i])).reshape(shape(tree.sizes, separator))
    beliefs[0] = beliefs[0] / masses[0]
    for i in range(1, len(logits)):
        parent, separator = tree.parents[i], tree.separators[i]
        known = summed(beliefs[parent], tree.cliques[parent], separator)
        beliefs[i] *= expanded(known, separator, tree.cliques[i]) / masses[i]
    return beliefs


def _exponentiated(
    table: np.ndarray, clique: Clique, separator: Clique
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return exp(table − peak), its sum given the separator, and the peak; sums are never 0."""
    inside = tuple(axis for axis, c in enumerate(clique) if c not in separator)
    peak = table.max()
    scaled = np.exp(table - peak)
    mass = scaled.sum(axis=inside, keepdims=True)
    if mass.min() < SMALLEST:  # a slice lies so low that one peak for all would lose it
        peak = table.max(axis=inside, keepdims=True)
        scaled = np.exp(table - peak)
        mass = scaled.sum(axis=inside, keepdims=True)
    return scaled, mass, peak


@dataclass(frozen=True)
class GraphicalModel:
    """A fitted distribution.

    Args:
        tree: Its cliques.
        beliefs: One probability table a clique, as :func:`calibrated` returns them.
    """

    tree: JunctionTree
    beliefs: tuple[np.ndarray, ...]

    def marginal(self, columns: Clique) -> np.ndarray:
        """Return the probabilities of ``columns`` (ascending), one axis each, by variable elimination."""
        home = self.tree.home(columns)
        if home is not None:
            return summed(self.beliefs[home], self.tree.cliques[home], columns)
        root = self.tree.home(columns[:1])
        table, axes = self._message(root or 0, -1, frozenset(columns))
        return _contracted((table, axes), columns)

    def _message(self, node: int, origin: int, wanted: frozenset[int]) -> tuple[np.ndarray, Clique]:
        """Probabilities of the wanted columns behind ``node``, given its separator towards ``origin``."""
        clique = self.tree.cliques[node]
        given = tuple(c for c in clique if origin >= 0 and c in self.tree.cliques[origin])
        table = self.beliefs[node]
        branches = []
        for near in self.tree.near(node):
            if near != origin and (self.tree.behind[near, node] & wanted) - set(clique):
                branches.append(self._message(near, node, wanted - set(clique)))
        kept = {*given, *(wanted & set(clique)), *(c for _, axes in branches for c in axes)}
        axes = tuple(c for c in clique if c in kept)
        table = summed(table, clique, axes)
        if given:
            table = _ratio(table, expanded(summed(table, axes, given), given, axes))
        for other, other_axes in branches:
            last = (other, other_axes) is branches[-1]
            joined = tuple(dict.fromkeys((*axes, *other_axes)))
            left = {c for o, a in branches if o is not other for c in a}
            out = tuple(c for c in joined if c in wanted or c in given or (not last and c in left))
            table = _contracted((table, axes), out, (other, other_axes))
            axes = out
        return table, axes

    def sample(self, rows: int, rng: np.random.Generator) -> np.ndarray:
        """Draw cells, int64 ``(rows, d)``, one clique after the other.

        Within each group of equal parents the draws are stratified: their counts differ from the expected
        ones by less than one a cell, so rows of one sample are not independent of each other.
        """
        codes = np.zeros((rows, len(self.tree.sizes)), dtype=np.int64)
        for clique, separator, table in zip(
            self.tree.cliques, self.tree.separators, self.beliefs, strict=True
        ):
            fresh = tuple(c for c in clique if c not in separator)
            order = [clique.index(c) for c in (*separator, *fresh)]
            flat = table.transpose(order).reshape(cells(self.tree.sizes, separator), -1)
            group = mixed_radix(codes, self.tree.sizes, separator)
            drawn = _stratified(flat, group, rng)
            codes[:, list(fresh)] = np.stack(np.unravel_index(drawn, shape(self.tree.sizes, fresh)), axis=1)
        return codes

    def log_prob(self, codes: np.ndarray) -> np.ndarray:
        """Return the log-probability ``(n,)`` in nats of rows of cells, −∞ for impossible ones."""
        total = np.zeros(len(codes))
        with np.errstate(divide="ignore", invalid="ignore"):
            for clique, separator, table in zip(
                self.tree.cliques, self.tree.separators, self.beliefs, strict=True
            ):
                total += np.log(table[tuple(codes[:, c] for c in clique)])
                known = summed(table, clique, separator)
                total -= np.log(known[tuple(codes[:, c] for c in separator)])
        return np.where(np.isnan(total), -np.inf, total)


def mixed_radix(codes: np.ndarray, sizes: Sequence[int], columns: Clique) -> np.ndarray:
    """Return one number a row for its cells in ``columns``, int64 ``(n,)``; the last column moves fastest."""
    index = np.zeros(len(codes), dtype=np.int64)
    for column in columns:
        index = index * sizes[column] + codes[:, column]
    return index


def _contracted(one: tuple[np.ndarray, Clique], out: Clique, *more: tuple[np.ndarray, Clique]) -> np.ndarray:
    """Multiply tables and sum to ``out``; ``einsum`` itself knows 52 axis names, a model has more columns."""
    factors = (one, *more)
    names = {c: i for i, c in enumerate(dict.fromkeys(c for _, axes in factors for c in axes))}
    operands = [part for table, axes in factors for part in (table, [names[c] for c in axes])]
    return np.einsum(*operands, [names[c] for c in out], optimize=len(factors) > 1)


def _ratio(table: np.ndarray, mass: np.ndarray) -> np.ndarray:
    return np.divide(table, mass, out=np.zeros_like(table), where=mass > 0)


def _stratified(weights: np.ndarray, group: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draw a column of ``weights[group]`` for every row, stratified inside each group."""
    order = np.argsort(group + rng.random(group.size), kind="stable")
    counts = np.bincount(group, minlength=len(weights))
    starts = np.cumsum(counts) - counts
    rank = np.empty(group.size)
    rank[order] = np.arange(group.size) - starts[group[order]]
    place = (rank + rng.random(group.size)) / counts[group]
    mass = weights.sum(axis=1, keepdims=True)
    chances = np.where(mass > 0, weights / np.where(mass > 0, mass, 1), 1 / weights.shape[1])
    upper = np.cumsum(chances, axis=1)
    upper /= upper[:, -1:]
    ladder = (upper + np.arange(len(weights))[:, None]).reshape(-1)
    drawn = np.searchsorted(ladder, group + place, side="right") - group * weights.shape[1]
    return np.clip(drawn, 0, weights.shape[1] - 1)
