"""From noisy counts to probabilities."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def project_to_simplex(values: np.ndarray) -> np.ndarray:
    """Return the probability vector closest to ``values`` in L2, shape ``(K,)``.

    References:
        Duchi et al., *Efficient Projections onto the l1-Ball* (ICML 2008), figure 1.
    """
    ordered = np.sort(values)[::-1]
    excess = np.cumsum(ordered) - 1
    kept = np.nonzero(ordered - excess / np.arange(1, values.size + 1) > 0)[0][-1]
    projected = np.maximum(values - excess[kept] / (kept + 1), 0)
    return projected / projected.sum()


def noisy_total(histograms: Sequence[np.ndarray], scales: Sequence[float]) -> float:
    """Return the inverse-variance mean of the totals of noisy histograms, at least 1.

    Args:
        histograms: Noisy counts of every column.
        scales: Standard deviation of each column's noise; 0 means exact.
    """
    variances = np.array([max(h.size * s**2, 1e-12) for h, s in zip(histograms, scales, strict=True)])
    totals = np.array([h.sum() for h in histograms])
    return max(float((totals / variances).sum() / (1 / variances).sum()), 1.0)


def probabilities(histogram: np.ndarray, total: float, floor: float = 0.0) -> np.ndarray:
    """Return the simplex projection of ``histogram / total``, every cell at least ``floor``, rescaled."""
    projected = np.maximum(project_to_simplex(histogram / total), floor)
    return projected / projected.sum()
