"""Nearest neighbours and exact copies: did a generator repeat its training images?

Numbers that find nothing are no evidence of privacy; the guarantee is in the certificate.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from scipy.stats import binomtest, norm

from dpforge.errors import DataError
from dpforge.evaluation.distances import closer_share
from dpforge.evaluation.images.features import checked_features
from dpforge.evaluation.images.manifold import nearest

VERSION = "nearest-neighbour-1"
PAIRS = 16
PERCENTILE = 1.0
LOW_PERCENTILE = 5.0
# A p-value below this counts as a finding; several tests are made on each run.
ALPHA = 1e-3


@dataclass(frozen=True, eq=False)
class Neighbours:
    """Distances from synthetic to real images in one feature space.

    Args:
        to_train, to_holdout: Two smallest distances of each synthetic image, shape ``(m, 2)``.
        in_train, in_holdout: Positions of the nearest images, shape ``(m,)``.
        fresh: Distance of each training image to the nearest holdout image, shape ``(n,)``.
    """

    to_train: np.ndarray = field(repr=False)
    to_holdout: np.ndarray = field(repr=False)
    in_train: np.ndarray = field(repr=False)
    in_holdout: np.ndarray = field(repr=False)
    fresh: np.ndarray = field(repr=False)


def neighbours(
    train: np.ndarray, holdout: np.ndarray, synthetic: np.ndarray, *, cosine: bool = False
) -> Neighbours:
    """Nearest training and holdout neighbours of synthetic images.

    Args:
        train, holdout: Features ``(n, d)`` of equally many images.
        synthetic: Features ``(m, d)``.
        cosine: Scale features to length 1 first; L2 then ranks like the cosine.

    Raises:
        DataError: Train and holdout of unequal size, no image, or a feature that is not finite.
    """
    points = [checked_features(x, least=1) for x in (train, holdout, synthetic)]
    if len(points[0]) != len(points[1]):
        raise DataError(
            f"{len(points[0])} training and {len(points[1])} holdout images: expected equally many, as the"
            " larger set is closer to anything. Cut both to one size."
        )
    if cosine:
        points = [_unit(x) for x in points]
    to_train, in_train = nearest(points[0], points[2], 2)
    to_holdout, in_holdout = nearest(points[1], points[2], 2)
    fresh = nearest(points[1], points[0])[0][:, 0]
    return Neighbours(to_train, to_holdout, in_train[:, 0], in_holdout[:, 0], fresh)


def nearest_neighbor(found: Neighbours) -> dict[str, float]:
    """What the distances of :func:`neighbours` say about copying.

    Returns:
        ``near_duplicates`` in [0, 1]: share of synthetic images closer to a training image than 99 % of the
        training images are to the holdout (about .01 without copying), ``near_duplicates_p`` its one-sided
        binomial p-value; ``closer_to_train`` in [0, 1]: share nearer to train than to holdout, ties half
        (.5 without copying), ``closer_to_train_p``; ``train_p5``, ``holdout_p5``: 5th percentiles of the
        distances, and ``p5_ratio`` (1 without copying); ``nearest_ratio`` and ``nearest_ratio_holdout`` in
        [0, 1]: 5th percentile of nearest over second nearest distance. Binomial p-values take synthetic
        images as independent, which those of a generator with few modes are not; ``…_exchange_p`` ask instead
        whether train and holdout could be exchanged, which holds for any generator that copies nothing.
    """
    to_train, to_holdout = found.to_train[:, 0], found.to_holdout[:, 0]
    limit = float(np.percentile(found.fresh, PERCENTILE))
    close = int((to_train < limit).sum())
    closer = closer_share(to_train, to_holdout)
    low = [float(np.percentile(d, LOW_PERCENTILE)) for d in (to_train, to_holdout)]
    m = len(to_train)
    return {
        "near_duplicates": close / m,
        "near_duplicates_p": _p_value(close, m, PERCENTILE / 100),
        "near_duplicates_exchange_p": _near_exchange(found, limit),
        "closer_to_train": closer,
        "closer_to_train_p": _p_value(int(np.floor(closer * m)), m, 0.5),
        "closer_to_train_exchange_p": _closer_exchange(found),
        "train_p5": low[0],
        "holdout_p5": low[1],
        "p5_ratio": low[0] / low[1] if low[1] > 0 else float("nan"),
        "nearest_ratio": _low_ratio(found.to_train),
        "nearest_ratio_holdout": _low_ratio(found.to_holdout),
    }


def exact_duplicates(reference: np.ndarray, synthetic: np.ndarray) -> int:
    """Number of synthetic images ``(m, h, w, c)`` that are, byte for byte, an image of the reference."""
    known = set(image_hashes(reference))
    return sum(name in known for name in image_hashes(synthetic))


def image_hashes(pixels: np.ndarray) -> list[bytes]:
    """Sha256 of each uint8 image of ``(n, h, w, c)``; equal images of equal shape have equal hashes."""
    return [hashlib.sha256(np.ascontiguousarray(image).tobytes()).digest() for image in pixels]


def copying_sentence(
    measures: dict[str, float], copies_of_train: int, copies_of_holdout: int, train_share: float = 0.5
) -> str:
    """Whether anything points to copying, in words for a report; never that the images are private.

    Duplicates of holdout images show how often equal images occur without copying.

    Args:
        measures: Of :func:`nearest_neighbor`.
        train_share: Share of training images among the real ones that were searched for duplicates.
    """
    reasons: list[str] = []
    together = copies_of_train + copies_of_holdout
    alone = copies_of_holdout == 0 and copies_of_train > 0
    if alone or _p_value(copies_of_train, together, train_share) < ALPHA:
        reasons.append(
            f"{copies_of_train} exact copies of training images against {copies_of_holdout} of holdout images"
        )
    for name, text in (
        ("near_duplicates", "images very near to a training image"),
        ("closer_to_train", "images nearer to train than to holdout"),
    ):
        p = measures[f"{name}_exchange_p"]
        if p < ALPHA:
            reasons.append(f"{text}: {measures[name]:.1%} (p = {p:.1g})")
    return f"signs of copying: {'; '.join(reasons)}" if reasons else "no copying found at this resolution"


def closest_pairs(found: Neighbours, count: int = PAIRS) -> pd.DataFrame:
    """The ``count`` synthetic images closest to training images, one row each, closest first.

    Columns: ``synthetic``, ``train``, ``holdout`` (positions of the image and of its nearest neighbours),
    ``to_train``, ``to_holdout`` (distances).
    """
    order = np.argsort(found.to_train[:, 0], kind="stable")[:count]
    return pd.DataFrame(
        {
            "synthetic": order,
            "train": found.in_train[order],
            "holdout": found.in_holdout[order],
            "to_train": found.to_train[order, 0],
            "to_holdout": found.to_holdout[order, 0],
        }
    )


def _near_exchange(found: Neighbours, limit: float) -> float:
    """P-value of as many different training images with a synthetic one nearer than ``limit``."""
    train = len(np.unique(found.in_train[found.to_train[:, 0] < limit]))
    holdout = len(np.unique(found.in_holdout[found.to_holdout[:, 0] < limit]))
    return _p_value(train, train + holdout, 0.5)


def _closer_exchange(found: Neighbours) -> float:
    """P-value of as many synthetic images nearer to train, had train and holdout been drawn anew.

    Each real image weighs as much as the synthetic images it is nearest to. The sum of the training
    images' weights is compared with that of half of all real images, drawn at random (normal approximation).
    """
    to_train, to_holdout = found.to_train[:, 0], found.to_holdout[:, 0]
    n = len(found.fresh)
    weights = [
        np.bincount(found.in_train[to_train < to_holdout], minlength=n),
        np.bincount(found.in_holdout[to_holdout < to_train], minlength=n),
    ]
    pooled = np.concatenate(weights).astype(float)
    variance = n * n / (2 * n * max(2 * n - 1, 1)) * float(((pooled - pooled.mean()) ** 2).sum())
    if variance == 0:
        return 1.0
    return float(norm.sf((weights[0].sum() - pooled.sum() / 2) / np.sqrt(variance)))


def _unit(points: np.ndarray) -> np.ndarray:
    length = np.linalg.norm(points, axis=1, keepdims=True)
    return points / np.where(length > 0, length, 1.0)


def _p_value(hits: int, trials: int, share: float) -> float:
    return float(binomtest(hits, trials, share, alternative="greater").pvalue) if trials else 1.0


def _low_ratio(distances: np.ndarray) -> float:
    first, second = distances.T
    ratios = np.divide(first, second, out=np.ones_like(first), where=second > 0)
    return float(np.percentile(ratios, LOW_PERCENTILE))
