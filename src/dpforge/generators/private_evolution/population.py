"""Candidates in class blocks, how many each class has, and which become parents."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

SELECTIONS = ("sample", "rank", "systematic")


@dataclass(frozen=True, eq=False)
class Population:
    """Released or public images, the images of a class adjacent, class 0 first.

    Args:
        pixels: uint8 ``(n, H, W, 3)``.
        labels: int64 ``(n,)``, ascending.
        info: Side information of the API, ``(n,)``, of any type but object.
    """

    pixels: np.ndarray = field(repr=False)
    labels: np.ndarray = field(repr=False)
    info: np.ndarray = field(repr=False)

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: np.ndarray) -> Population:
        """Return the images at these positions."""
        return Population(self.pixels[rows], self.labels[rows], self.info[rows])

    def blocks(self, classes: int) -> list[slice]:
        """Return the rows of each class."""
        edges = np.searchsorted(self.labels, np.arange(classes + 1)).tolist()
        return [slice(low, high) for low, high in pairwise(edges)]


def together(parts: Sequence[Population]) -> Population:
    """Return all images of several populations in class blocks; within a class in the order given."""
    labels = np.concatenate([part.labels for part in parts])
    order = np.argsort(labels, kind="stable")
    pixels = np.concatenate([part.pixels for part in parts])
    info = np.concatenate([part.info for part in parts])
    return Population(pixels[order], labels[order], info[order])


def allocate(total: int, shares: np.ndarray) -> np.ndarray:
    """Divide images among classes by largest remainder; ties go to the lower class.

    No class stays empty while there are enough images for all: it could never come back.

    Args:
        total: Images, >= 0.
        shares: Positive or zero, ``(K,)``, of any sum above 0.

    Returns:
        int64 ``(K,)`` that sums to ``total``.
    """
    exact = total * shares / shares.sum()
    counts = np.floor(exact).astype(np.int64)
    order = np.argsort(-(exact - counts), kind="stable")
    counts[order[: total - int(counts.sum())]] += 1
    while total >= len(counts) and (counts == 0).any():
        counts[np.argmax(counts)] -= 1
        counts[np.argmin(counts)] += 1
    return counts


def kept_votes(noisy: np.ndarray, threshold: float) -> np.ndarray:
    """Return max(votes − threshold, 0): what a candidate is worth."""
    return np.maximum(noisy - threshold, 0.0)


def parents(worth: np.ndarray, count: int, selection: str, rng: np.random.Generator) -> np.ndarray:
    """Choose the positions of ``count`` parents within one class.

    Args:
        worth: Non-negative, ``(m,)``; if all are 0, or one is infinite, every candidate is worth the same.
        count: Number of parents, >= 0.
        selection: ``sample`` (independent draws), ``systematic`` (one draw, equally spaced points: the same
            expectation with less variance) or ``rank`` (the most worth; ``count <= m``).
        rng: Public randomness.

    Returns:
        int64 ``(count,)``.
    """
    if not 0 < worth.sum() < np.inf:
        worth = np.ones(len(worth))
    if selection == "rank":
        return np.argsort(-worth, kind="stable")[:count]
    edges = np.cumsum(worth / worth.sum())
    spaced = (np.arange(count) + rng.random()) / max(count, 1)
    places = spaced if selection == "systematic" else rng.random(count)
    return np.searchsorted(edges / edges[-1], places, side="right").clip(max=len(worth) - 1)
