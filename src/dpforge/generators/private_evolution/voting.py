"""Votes of private images for candidates: one vector for all classes, of which a unit moves at most 1.

References:
    Lin et al., *Differentially Private Synthetic Data via Foundation Model APIs 1: Images* (ICLR 2024),
    algorithm 2.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dpforge.generators.private_evolution.nearest import nearest


@dataclass(frozen=True)
class Electorate:
    """Private voters; nothing of it may be logged, written or shown.

    Args:
        features: float32 ``(n, d)``.
        labels: int64 ``(n,)``, below the number of classes.
        units: Unit number of each voter, int64 ``(n,)`` from 0; ``None`` if every voter is a unit.
    """

    features: np.ndarray
    labels: np.ndarray
    units: np.ndarray | None = None

    @property
    def unit_count(self) -> int:
        """Number of units."""
        return len(self.labels) if self.units is None else int(self.units.max(initial=-1)) + 1

    def of_units(self, chosen: np.ndarray) -> Electorate:
        """Return the voters of these units (sorted numbers)."""
        if self.units is None:
            return Electorate(self.features[chosen], self.labels[chosen])
        rows = np.flatnonzero(np.isin(self.units, chosen))
        return Electorate(self.features[rows], self.labels[rows], self.units[rows])


@dataclass(frozen=True)
class Ballot:
    """How votes are cast.

    Args:
        neighbors: Candidates that each voter names, k >= 1.
        packing: Points of each candidate, P >= 1.
        distance: See :func:`~dpforge.generators.private_evolution.nearest.nearest`.
        raw: Count every vote as 1 instead of scaling a voter's to norm 1: what the original does, NOT DP.
    """

    neighbors: int = 1
    packing: int = 1
    distance: str = "l2"
    raw: bool = False


def count_votes(
    electorate: Electorate,
    points: Sequence[np.ndarray],
    blocks: Sequence[slice],
    ballot: Ballot,
    device: str = "cpu",
) -> np.ndarray:
    """Return the votes of every candidate, before noise.

    A voter of class c names its nearest candidates of class c; what it gives has L2 norm 1, also where
    several points of one candidate are among them. The votes of a unit with several voters, over all classes
    together, are scaled down to norm 1.

    Args:
        electorate: The voters.
        points: Embedded candidates, one array ``(candidates, d)`` for each of the ``packing`` points.
        blocks: Rows of the candidates of each class.
        ballot: How votes are cast.
        device: Where distances are computed.

    Returns:
        float64 ``(candidates,)``; whole numbers where each voter has one vote and is a unit.
    """
    total = np.zeros(len(points[0]))
    voters, candidates, weights = [], [], []
    for label, block in enumerate(blocks):
        rows = np.flatnonzero(electorate.labels == label)
        named = _named(electorate.features[rows], [p[block] for p in points], ballot, device)
        shares = np.ones(named.shape) if ballot.raw else _shares(named, ballot.packing)
        if electorate.units is None:
            total[block] += np.bincount(named.reshape(-1), shares.reshape(-1), block.stop - block.start)
            continue
        voters.append(np.repeat(electorate.units[rows], named.shape[1]))
        candidates.append(named.reshape(-1) + block.start)
        weights.append(shares.reshape(-1))
    if electorate.units is None:
        return total
    return _joint(np.concatenate(voters), np.concatenate(candidates), np.concatenate(weights), len(total))


def _named(features: np.ndarray, points: Sequence[np.ndarray], ballot: Ballot, device: str) -> np.ndarray:
    """Candidates that each voter names, within the block; a packed candidate can be named repeatedly."""
    candidates = len(points[0])
    if not candidates or not len(features):
        return np.zeros((len(features), 0), dtype=np.int64)
    stacked = points[0] if len(points) == 1 else np.concatenate(points)
    count = min(ballot.neighbors, candidates)
    return nearest(features, stacked, count, distance=ballot.distance, device=device) % candidates


def _shares(named: np.ndarray, packing: int) -> np.ndarray:
    """Weight of each entry, so that the summed votes of a row have L2 norm 1.

    A candidate that stands c times in a row has c^2 of its squared norm: c for each of its entries.
    """
    if packing == 1 or named.shape[1] < 2:
        return np.full(named.shape, 1 / np.sqrt(max(named.shape[1], 1)))
    copies = (named[:, :, None] == named[:, None, :]).sum(2)
    norms = np.sqrt(copies.sum(1, keepdims=True))
    return np.broadcast_to(1 / np.maximum(norms, 1), named.shape)


def _joint(units: np.ndarray, candidates: np.ndarray, weights: np.ndarray, size: int) -> np.ndarray:
    """Sum votes over units, each scaled to joint norm at most 1."""
    pairs, place = np.unique(units * size + candidates, return_inverse=True)
    votes = np.bincount(place.reshape(-1), weights, len(pairs))
    owner, candidate = pairs // size, pairs % size
    norms = np.sqrt(np.bincount(owner, votes**2))
    return np.bincount(candidate, votes / np.maximum(norms[owner], 1), size)


def count_classes(electorate: Electorate, classes: int) -> np.ndarray:
    """Return the voters of every class before noise; those of a unit are scaled to norm at most 1."""
    if electorate.units is None:
        return np.bincount(electorate.labels, minlength=classes).astype(float)
    return _joint(electorate.units, electorate.labels, np.ones(len(electorate.labels)), classes)
