"""The distribution of greatest entropy among those closest to noisy marginals, by mirror descent.

References:
    McKenna, Sheldon and Miklau, *Graphical-model based estimation and inference for differential privacy*
    (ICML 2019), algorithm 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from dpforge.generators.marginals.graphical import GraphicalModel, calibrated, expanded
from dpforge.generators.marginals.junction import Clique, JunctionTree, junction_tree, shape
from dpforge.generators.marginals.sums import shared_sums

Potentials = dict[Clique, np.ndarray]
WINDOW = 20


@dataclass(frozen=True)
class Measurement:
    """Noisy counts of one marginal.

    Args:
        clique: Columns, ascending.
        values: Noisy counts, float64 ``(cells,)``; the last column moves fastest.
        variances: Variance of each, float64 ``(cells,)``, positive.
    """

    clique: Clique
    values: np.ndarray
    variances: np.ndarray


@dataclass(frozen=True)
class Estimate:
    """A fitted model with the potentials that a later estimation may start from."""

    model: GraphicalModel
    potentials: Potentials
    loss: float


def combined(measurements: Sequence[Measurement]) -> dict[Clique, Measurement]:
    """Return one measurement a clique: the inverse-variance mean of those of the same clique."""
    found: dict[Clique, Measurement] = {}
    for new in measurements:
        old = found.get(new.clique)
        if old is not None:
            variances = 1 / (1 / old.variances + 1 / new.variances)
            values = variances * (old.values / old.variances + new.values / new.variances)
            new = Measurement(new.clique, values, variances)
        found[new.clique] = new
    return found


def estimate(
    sizes: Sequence[int],
    measurements: Sequence[Measurement],
    total: float,
    *,
    iterations: int,
    tolerance: float = 1e-3,
    start: Mapping[Clique, np.ndarray] | None = None,
) -> Estimate:
    """Minimise half the sum of squared residuals over variances.

    Args:
        sizes: Cells of every column.
        measurements: At least one.
        total: Number of rows, > 0.
        iterations: Most steps.
        tolerance: Stop when the loss fell by less than this share over 20 steps.
        start: Potentials of an earlier estimate; cliques without one start at 0.
    """
    known = combined(measurements)
    tree = junction_tree(sizes, known)
    problem = _Problem(tree, tuple(known.values()), total)
    theta = [
        np.array(start[clique]) if start and clique in start else np.zeros(shape(sizes, clique))
        for clique in known
    ]
    theta, beliefs, loss = _descend(problem, theta, iterations, tolerance)
    model = GraphicalModel(tree, tuple(beliefs))
    return Estimate(model, dict(zip(known, theta, strict=True)), loss)


def fitted_by(
    sizes: Sequence[int], measurements: Sequence[Measurement], total: float, potentials: Potentials
) -> Estimate:
    """Return the model that given potentials define, with its loss.

    Every measurement must lie inside one of the cliques of ``potentials``.
    """
    tree = junction_tree(sizes, potentials)
    logits = [np.zeros(shape(tree.sizes, clique)) for clique in tree.cliques]
    for clique, table in potentials.items():
        home = tree.home(clique) or 0
        logits[home] += expanded(table, clique, tree.cliques[home])
    beliefs = calibrated(tree, logits)
    problem = _Problem(tree, measurements, total)
    loss, _ = problem.loss(problem.tables(beliefs))
    return Estimate(GraphicalModel(tree, tuple(beliefs)), potentials, loss)


def _descend(
    problem: _Problem, theta: list[np.ndarray], iterations: int, tolerance: float
) -> tuple[list[np.ndarray], list[np.ndarray], float]:
    beliefs = problem.beliefs(theta)
    tables = problem.tables(beliefs)
    loss, gradient = problem.loss(tables)
    step, marks = problem.first_step, [loss]
    for _ in range(iterations):
        ahead = [t - step * g for t, g in zip(theta, gradient, strict=True)]
        seen = problem.beliefs(ahead)
        new_tables = problem.tables(seen)
        new_loss, new_gradient = problem.loss(new_tables)
        gain = sum(float((g * (a - b)).sum()) for g, a, b in zip(gradient, tables, new_tables, strict=True))
        if loss - new_loss < 0.5 * gain or not np.isfinite(new_loss):
            step *= 0.5
            continue
        theta, beliefs, tables, loss, gradient = ahead, seen, new_tables, new_loss, new_gradient
        step *= 1.2
        marks.append(loss)
        if len(marks) > WINDOW and marks[-1 - WINDOW] - loss <= tolerance * max(loss, 1.0):
            break
    return theta, beliefs, loss


class _Problem:
    """Loss and gradient of one set of measurements on one tree."""

    def __init__(self, tree: JunctionTree, measurements: Sequence[Measurement], total: float) -> None:
        self.tree, self.measurements, self.total = tree, measurements, total
        self.homes = [tree.home(m.clique) or 0 for m in measurements]
        self.first_step = 1 / (total * max(float((1 / m.variances).max()) for m in measurements))
        served = [
            [m.clique for home, m in zip(self.homes, measurements, strict=True) if home == i]
            for i in range(len(tree.cliques))
        ]
        self.sums = [
            shared_sums(tree.sizes, clique, wanted)
            for clique, wanted in zip(tree.cliques, served, strict=True)
        ]

    def beliefs(self, theta: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Return the marginals of all cliques under potentials ``theta``, one a measurement."""
        parts: list[Potentials] = [{} for _ in self.sums]
        for home, measurement, table in zip(self.homes, self.measurements, theta, strict=True):
            parts[home][measurement.clique] = table
        logits = [
            sums.adjoint(part, shape(self.tree.sizes, sums.clique))
            for sums, part in zip(self.sums, parts, strict=True)
        ]
        return calibrated(self.tree, logits)

    def tables(self, beliefs: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Return the expected counts of every measured marginal."""
        found = [sums.forward(belief) for sums, belief in zip(self.sums, beliefs, strict=True)]
        return [
            self.total * found[home][m.clique] for home, m in zip(self.homes, self.measurements, strict=True)
        ]

    def loss(self, tables: Sequence[np.ndarray]) -> tuple[float, list[np.ndarray]]:
        """Return the loss and its derivative by every expected count."""
        loss, gradient = 0.0, []
        for table, m in zip(tables, self.measurements, strict=True):
            residual = table.reshape(-1) - m.values
            scaled = residual / m.variances
            loss += 0.5 * float(residual @ scaled)
            gradient.append(scaled.reshape(table.shape))
        return loss, gradient
