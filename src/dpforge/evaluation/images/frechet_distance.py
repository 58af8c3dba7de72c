"""Fréchet distance between feature sets: means and covariances of two normal distributions compared."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from dpforge.errors import DataError
from dpforge.evaluation.images.features import checked_features

VERSION = "frechet-1"
# Rounding may push an eigenvalue of a covariance this far below 0, relative to the largest one.
NEGATIVE = -1e-8
SIZES = 5


@dataclass(frozen=True, eq=False)
class Moments:
    """Mean ``(d,)`` and unbiased covariance ``(d, d)`` of ``n`` feature vectors, float64."""

    mean: np.ndarray = field(repr=False)
    covariance: np.ndarray = field(repr=False)
    n: int

    @property
    def rank_deficient(self) -> bool:
        """Whether fewer than d + 1 vectors make the covariance singular, which biases the distance."""
        return self.n < len(self.mean) + 1


def moments(features: np.ndarray) -> Moments:
    """Return the moments of features ``(n, d)``.

    Raises:
        DataError: Fewer than 2 vectors, or a feature that is not finite.
    """
    points = checked_features(features, least=2)
    covariance = np.cov(points, rowvar=False).reshape(points.shape[1], points.shape[1])
    return Moments(points.mean(axis=0), covariance, len(points))


def frechet(first: np.ndarray | Moments, second: np.ndarray | Moments) -> float:
    """Squared Fréchet distance of normal distributions fitted to two feature sets, at least 0, best 0.

    ‖μ₁−μ₂‖² + Tr(Σ₁ + Σ₂ − 2(Σ₁^{1/2} Σ₂ Σ₁^{1/2})^{1/2}), square roots by symmetric eigendecomposition,
    no ridge. Compare only distances of equal extractor and equal n: the estimate is biased upwards.

    Args:
        first, second: Features ``(n, d)``, or their :func:`moments`.

    Raises:
        DataError: Fewer than 2 vectors, unequal d, a feature that is not finite, or a covariance that is
            not positive semidefinite.

    References:
        Dowson and Landau, *The Fréchet Distance between Multivariate Normal Distributions* (1982); Heusel
        et al., *GANs Trained by a Two Time-Scale Update Rule* (NeurIPS 2017).
    """
    a, b = (x if isinstance(x, Moments) else moments(x) for x in (first, second))
    if len(a.mean) != len(b.mean):
        raise DataError(
            f"features of {len(a.mean)} and {len(b.mean)} dimensions: use one extractor for both."
        )
    shift = a.mean - b.mean
    total = float(np.trace(a.covariance) + np.trace(b.covariance))
    distance = float(shift @ shift) + total - 2.0 * _root_trace(a.covariance, b.covariance)
    return max(distance, 0.0)


def frechet_inf(first: np.ndarray, second: np.ndarray, *, seed: int) -> float:
    """Fréchet distance extrapolated to infinitely many images: the intercept of a line in 1/n.

    Five sizes between n/2 and n, nested random subsets of both sets. May fall below 0.

    Args:
        first, second: Features ``(n, d)``; the smaller n counts.

    Raises:
        DataError: Fewer than 10 vectors, or what :func:`frechet` refuses.

    References:
        Chong and Forsyth, *Effectively Unbiased FID and Inception Score and where to find them* (CVPR 2020).
    """
    a, b = checked_features(first, least=10), checked_features(second, least=10)
    n = min(len(a), len(b))
    orders = [np.random.default_rng([seed, 50 + i]).permutation(len(x)) for i, x in enumerate((a, b))]
    sizes = np.linspace(n / 2, n, SIZES).astype(int)
    found = [frechet(a[orders[0][:size]], b[orders[1][:size]]) for size in sizes]
    return float(np.polyfit(1.0 / sizes, found, 1)[1])


def frechet_spread(first: np.ndarray, second: np.ndarray, *, repeats: int, seed: int) -> float:
    """Standard deviation of :func:`frechet` over bootstraps of both feature sets ``(n, d)``."""
    a, b = checked_features(first, least=2), checked_features(second, least=2)
    rng = np.random.default_rng([seed, 52])
    found = [
        frechet(a[rng.integers(len(a), size=len(a))], b[rng.integers(len(b), size=len(b))])
        for _ in range(repeats)
    ]
    return float(np.std(found, ddof=1))


def _root_trace(first: np.ndarray, second: np.ndarray) -> float:
    """Tr((Σ₁^{1/2} Σ₂ Σ₁^{1/2})^{1/2})."""
    values, vectors = np.linalg.eigh(first)
    root = (vectors * np.sqrt(_not_negative(values))) @ vectors.T
    product = root @ second @ root
    scale = float(np.abs(values).max(initial=0.0)) * float(np.abs(second).max(initial=0.0)) * len(second)
    middle = np.linalg.eigvalsh((product + product.T) / 2)
    return float(np.sqrt(_not_negative(middle, scale)).sum())


def _not_negative(values: np.ndarray, scale: float = 0.0) -> np.ndarray:
    lowest, limit = float(values.min()), NEGATIVE * max(float(values.max()), scale)
    if lowest < min(limit, 0.0):
        raise DataError(
            f"a covariance has the eigenvalue {lowest:.3g}, expected none below {limit:.3g}: the features are"
            " not those of one extractor in double precision. Compute them again."
        )
    return np.clip(values, 0.0, None)
