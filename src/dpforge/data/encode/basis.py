"""Basis functions on the pieces of a sub-column, from released masses: what an autoregressive model sees."""

from __future__ import annotations

import numpy as np
from numpy.polynomial import legendre

SCORE_LIMIT = 4.0


def basis_functions(
    masses: np.ndarray, *, ordered: bool, lone: np.ndarray, degree: int, decay: float, scale: float
) -> np.ndarray:
    """Return functions of mean 0 on the pieces, float64 ``(P, B)``.

    Unordered sub-columns, and those of at most ``degree + 1`` pieces, have one indicator a piece. Others have
    Legendre polynomials of the cumulative mass of the pieces that are not lone, orthonormal under the masses
    up to a factor ``scale * k ** -decay`` at degree k, and an indicator of every lone piece. The factor is a
    public prior: smooth dependence is learned first, and takes most of the clipped gradient.

    Args:
        masses: Probabilities ``(P,)``, summing to 1, every entry > 0.
        ordered: Whether the pieces have a natural order.
        lone: Pieces outside that order, bool ``(P,)``.
        degree: Highest degree, >= 1.
        decay: Exponent of the factor, >= 0.
        scale: Size of the polynomials next to the indicators, > 0.
    """
    if not ordered or masses.size <= degree + 1 or bool(lone.all()):
        return centred(np.eye(masses.size), masses)
    inside = np.where(lone, 0.0, masses)
    total = inside.sum()
    middle = (np.cumsum(inside) - inside / 2) / total
    k = np.arange(1, degree + 1)
    factor = np.sqrt((2 * k + 1) / total) * scale * k**-decay
    polynomials = legendre.legvander(2 * middle - 1, degree)[:, 1:] * factor
    polynomials[lone] = 0
    indicators = np.eye(masses.size)[:, np.flatnonzero(lone)]
    return centred(np.concatenate([polynomials, indicators], axis=1), masses)


def centred(functions: np.ndarray, masses: np.ndarray) -> np.ndarray:
    """Subtract the mean under ``masses`` from each column of ``functions``."""
    return functions - masses @ functions


def target_scores(counts: np.ndarray, deviations: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Return how the target's odds differ in each piece: a supervised feature from released counts.

    Column t − 1 is ``log(p_t / p_0)`` in the piece minus the same over all rows, for t = 1, …, T − 1; counts
    are shrunken towards the whole table by a pseudo-count of 5 and twice their noise, and the result is cut
    at ±4 and centred.

    Args:
        counts: Noisy counts of piece and target ``(P, T)``.
        deviations: Standard deviation of the noise of each piece's counts ``(P,)``.
        target: Released probabilities of the target ``(T,)``.
    """
    positive = np.maximum(counts, 0.0)
    pseudo = (2 * deviations + 5)[:, None]
    shares = (positive + pseudo * target) / (positive.sum(axis=1, keepdims=True) + pseudo)
    odds = np.log(shares[:, 1:] / shares[:, :1]) - np.log(target[1:] / target[0])
    weight = positive.sum(axis=1)
    weight = weight / weight.sum() if weight.sum() > 0 else np.full(len(counts), 1 / len(counts))
    return centred(np.clip(odds, -SCORE_LIMIT, SCORE_LIMIT), weight)
