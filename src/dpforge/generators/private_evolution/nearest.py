"""The nearest candidates of every voter, by blocked matrix products whose memory does not grow."""

from __future__ import annotations

from hashlib import blake2b

import numpy as np
import torch
from torch import Tensor

DISTANCES = ("l2", "ip", "cosine")
# Scores held at once, 16 MB of float32: enough for a fast product, whatever the numbers of rows are.
SCORES = 1 << 22
LEAST_ROWS = 64
CACHED = 1 << 17
SKETCH = 16  # columns that tell points apart


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
    """First position of each distinct point, in order; and which of them every point is.

    A few columns tell most points apart; only those that agree in them are compared as a whole.
    """
    columns = np.linspace(0, points.shape[1] - 1, min(points.shape[1], SKETCH)).astype(np.int64)
    # -0.0 and 0.0 are one value with two spellings.
    sketch = np.ascontiguousarray(points[:, columns] + 0.0)
    keys = sketch.view(np.dtype((np.void, sketch.itemsize * len(columns)))).reshape(-1)
    _, which, counts = np.unique(keys, return_inverse=True, return_counts=True)
    same, seen = np.arange(len(points)), {}
    for position in np.flatnonzero(counts[which] > 1):
        digest = blake2b(points[position] + 0.0, digest_size=32).digest()
        same[position] = seen.setdefault(digest, position)
    first = np.flatnonzero(same == np.arange(len(points)))
    return first, np.searchsorted(first, same)


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
    squares = _squares(candidates)
    columns = None if group is None else torch.from_numpy(group).to(device)
    out = np.empty((len(voters), count), dtype=np.int64)
    step = max(LEAST_ROWS, SCORES // len(points if group is None else group))
    # One buffer for all blocks: fresh memory costs more to touch than the scores to compute.
    buffer = torch.empty(min(step, len(voters)), len(points), device=device)
    for start in range(0, len(voters), step):
        block = torch.from_numpy(voters[start : start + step]).to(device)
        # |x - e|^2 without |x|^2, in the one call that multiplies.
        scores = buffer[: len(block)]
        torch.addmm(squares, block, candidates.T, beta=int(distance == "l2"), alpha=-2, out=scores)
        if columns is not None:
            scores = scores[:, columns]
        out[start : start + step] = _smallest(scores, count)
    return out


def _squares(points: Tensor) -> Tensor:
    """Squared lengths of the rows, in parts that stay in the processor's cache."""
    parts = [part.square().sum(1) for part in points.split(max(1, CACHED // points.shape[1]))]
    return torch.cat(parts)


def _smallest(scores: Tensor, count: int) -> np.ndarray:
    """Columns of the smallest entries of each row in order, ties to the lowest column; uses up ``scores``.

    A pass for each is faster than a partial sort for the few that are asked for, and numpy's pass over a
    contiguous row faster than torch's.
    """
    place = _first_on_cpu if scores.device.type == "cpu" else _first_on_gpu
    found = [place(scores)]
    for _ in range(count - 1):
        scores.scatter_(1, torch.from_numpy(found[-1]).to(scores.device)[:, None], torch.inf)
        found.append(place(scores))
    return np.stack(found, axis=1)


def _first_on_cpu(scores: Tensor) -> np.ndarray:
    return scores.numpy().argmin(1)


def _first_on_gpu(scores: Tensor) -> np.ndarray:
    return scores.argmin(1).cpu().numpy()
