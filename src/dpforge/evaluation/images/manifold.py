"""Precision, recall, density and coverage: do synthetic images lie where real ones do, and everywhere there?

Distance matrices are made a block of rows at a time, so memory grows with n and not with n².
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from sklearn.neighbors import NearestNeighbors

from dpforge.errors import ConfigError, DataError
from dpforge.evaluation.images.features import checked_features

VERSION = "manifold-1"
NEIGHBOURS = 4
# Distances held in memory at once.
CELLS = 4_000_000
# Squared distances are differences of products; equal ones differ by this share of the products.
ROUNDING = 1e-12


def precision_recall(
    real: np.ndarray, synthetic: np.ndarray, *, k: int = NEIGHBOURS, recall_k: int | None = None
) -> dict[str, float]:
    """Shares of points within the balls around the other set's points; a ball reaches the k-th neighbour.

    Args:
        real, synthetic: Features ``(n, d)`` and ``(m, d)``, Euclidean; compare only at equal sizes.
        k: Neighbour of the own set that sets a ball's radius.
        recall_k: The same for the balls around synthetic points; ``k`` if None.

    Returns:
        ``precision`` in [0, 1], share of synthetic points inside a real ball; ``recall`` in [0, 1], share of
        real points inside a synthetic ball; ``density`` >= 0, mean number of real balls around a synthetic
        point over k; ``coverage`` in [0, 1], share of real balls that hold a synthetic point.

    Raises:
        DataError: No more than k points, unequal d, or a feature that is not finite.
        ConfigError: ``k`` below 1.

    References:
        Kynkäänniemi et al., *Improved Precision and Recall Metric* (NeurIPS 2019); Naeem et al., *Reliable
        Fidelity and Diversity Metrics* (ICML 2020).
    """
    other_k = k if recall_k is None else recall_k
    if min(k, other_k) < 1:
        raise ConfigError(f"k={k}, recall_k={recall_k}: expected whole numbers of at least 1, for example 4.")
    a, b = checked_features(real, least=k + 1), checked_features(synthetic, least=other_k + 1)
    if a.shape[1] != b.shape[1]:
        raise DataError(f"features of {a.shape[1]} and {b.shape[1]} dimensions: use one extractor for both.")
    a, b = a - a.mean(axis=0), b - a.mean(axis=0)
    around_real, around_synthetic = _squared_radii(a, k), _squared_radii(b, other_k)
    held, covered, recalled = np.zeros(len(b)), np.zeros(len(a), bool), np.zeros(len(a), bool)
    for rows, distances, slack in _blocks(a, b):
        inside = distances <= around_real[rows, None] + slack
        held += inside.sum(axis=0)
        covered[rows] = inside.any(axis=1)
        recalled[rows] = (distances <= around_synthetic[None, :] + slack).any(axis=1)
    return {
        "precision": float((held > 0).mean()),
        "recall": float(recalled.mean()),
        "density": float(held.mean() / k),
        "coverage": float(covered.mean()),
    }


def nearest(reference: np.ndarray, queries: np.ndarray, count: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Distances and positions of the ``count`` nearest reference points of each query, both ``(n, count)``.

    Distances are computed from differences, so equal points are exactly 0 apart. Of fewer reference points
    than ``count`` the last one is repeated.
    """
    found = NearestNeighbors(n_neighbors=min(count, len(reference)), algorithm="brute").fit(reference)
    positions = found.kneighbors(queries, return_distance=False)
    missing = count - positions.shape[1]
    positions = np.pad(positions, ((0, 0), (0, missing)), mode="edge")
    columns = [np.linalg.norm(reference[p] - queries, axis=1) for p in positions.T]
    return np.stack(columns, axis=1), positions


def _squared_radii(points: np.ndarray, k: int) -> np.ndarray:
    """Squared distance of each point to its k-th nearest other point."""
    found = np.empty(len(points))
    for rows, distances, _ in _blocks(points, points):
        distances[np.arange(len(distances)), np.arange(rows.start, rows.stop)] = np.inf
        found[rows] = np.partition(distances, k - 1, axis=1)[:, k - 1]
    return found


def _blocks(a: np.ndarray, b: np.ndarray) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
    """Rows of ``a``, their squared distances to ``b`` of shape ``(rows, m)``, and the rounding of these."""
    step = max(1, CELLS // len(b))
    squares_a, squares_b = (np.einsum("ij,ij->i", x, x) for x in (a, b))
    for start in range(0, len(a), step):
        rows = slice(start, min(start + step, len(a)))
        total = squares_a[rows, None] + squares_b[None, :]
        distances = np.maximum(total - 2.0 * (a[rows] @ b.T), 0.0)
        yield rows, distances, ROUNDING * total
