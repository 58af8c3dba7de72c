"""The nearest candidates of every voter, by blocked matrix products whose memory does not grow."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

DISTANCES = ("l2", "ip", "cosine")
# Scores held at once, 16 MB of float32: enough for a fast product, whatever the numbers of rows are.
SCORES = 1 << 22
LEAST_ROWS = 64


def nearest(
    voters: np.ndarray,
    points: np.ndarray,
    count: int = 1,
    *,
    distance: str = "l2",
    device: str = "cpu",
) -> np.ndarray:
    """Return the positions of the ``count`` nearest points of every voter, nearest first.

    Equal points are compared once and take their places in order of position, so that equal distances go to
    the lowest position on every machine.

    Args:
        voters: float32 ``(n, d)``.
        points: float32 ``(m, d)``, ``m >= 1``.
        count: Capped at ``m``.
        distance: ``l2`` (smallest Euclidean distance), ``ip`` (largest inner product) or ``cosine``.
        device: Where the products are computed.

    Returns:
        int64 ``(n, min(count, m))``.
    """
    if distance == "cosine":
        voters, points = unit_rows(voters), unit_rows(points)
    first, group = _distinct(points)
    count = min(count, len(points))
    if len(first) == len(points):
        return _ranked(voters, points, count, distance, device)
    if count == 1:
        return first[_ranked(voters, points[first], 1, distance, device)]
    return _ranked(voters, points[first], count, distance, device, group)


def unit_rows(vectors: np.ndarray) -> np.ndarray:
    """Return the rows at length 1; a row of zeros stays."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.where(lengths > 0, lengths, 1)


def _distinct(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """First position of each distinct point, in order; and which of them every point is."""
    # -0.0 and 0.0 are one value with two spellings.
    keys = np.fromiter((hash((row + 0.0).tobytes()) for row in points), dtype=np.int64, count=len(points))
    _, start, inverse = np.unique(keys, return_index=True, return_inverse=True)
    if not np.array_equal(points[start[inverse]], points):  # two points with one hash
        _, start, inverse = np.unique(points, axis=0, return_index=True, return_inverse=True)
    order = np.argsort(start)
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    return start[order], rank[inverse.reshape(-1)]


def _ranked(
    voters: np.ndarray,
    points: np.ndarray,
    count: int,
    distance: str,
    device: str,
    group: np.ndarray | None = None,
) -> np.ndarray:
    """Positions of the ``count`` best of distinct points, best first; or of the points they stand for."""
    candidates = torch.from_numpy(points).to(device)
    squares = candidates.square().sum(1)
    columns = None if group is None else torch.from_numpy(group).to(device)
    out = np.empty((len(voters), count), dtype=np.int64)
    step = max(LEAST_ROWS, SCORES // len(points if group is None else group))
    for start in range(0, len(voters), step):
        block = torch.from_numpy(voters[start : start + step]).to(device)
        # |x - e|^2 without |x|^2, in the one call that multiplies.
        scores = torch.addmm(squares, block, candidates.T, beta=int(distance == "l2"), alpha=-2)
        if columns is not None:
            scores = scores[:, columns]
        out[start : start + step] = _smallest(scores, count).cpu().numpy()
    return out


def _smallest(scores: Tensor, count: int) -> Tensor:
    """Columns of the smallest entries of each row in order, ties to the lowest column; uses up ``scores``.

    A pass for each is faster than a partial sort for the few that are asked for.
    """
    found = [scores.argmin(1, keepdim=True)]
    for _ in range(count - 1):
        scores.scatter_(1, found[-1], torch.inf)
        found.append(scores.argmin(1, keepdim=True))
    return torch.cat(found, dim=1)
