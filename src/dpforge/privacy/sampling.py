"""Poisson sampling of units in time proportional to the sample."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from dpforge.errors import PrivacyError
from dpforge.privacy.rng import KeyedRandom


@dataclass(frozen=True)
class PoissonSampler:
    """Independent inclusion of every unit with probability ``sampling_rate`` at every step.

    The gaps between included units are geometric, so one step costs O(qN) whatever N is, and a unit
    appended at the end changes nothing about the others.

    Args:
        units: Number of units in the private data.
        sampling_rate: q in (0, 1].
        random: Keyed streams; the purpose is ``<name>/sampling``.
        name: Name of the plan's piece.
    """

    units: int
    sampling_rate: float
    random: KeyedRandom
    name: str = "train"

    def __post_init__(self) -> None:
        if not 0 < self.sampling_rate <= 1:
            raise PrivacyError(f"sampling_rate={self.sampling_rate}: expected 0 < q <= 1.")

    def sample(self, step: int) -> np.ndarray:
        """Return the sorted indices of the units of ``step``, int64; often fewer, possibly none."""
        if self.sampling_rate == 1:
            return np.arange(self.units)
        mean = self.units * self.sampling_rate
        block = int(mean + 6 * math.sqrt(mean) + 16)
        chunks: list[np.ndarray] = []
        last, part = -1, 0
        while last < self.units:
            uniforms = self.random.uniform(f"{self.name}/sampling/{part}", step, block)
            gaps = np.floor(np.log(uniforms) / math.log1p(-self.sampling_rate)).astype(np.int64) + 1
            positions = last + np.cumsum(gaps)
            chunks.append(positions)
            last, part = int(positions[-1]), part + 1
        positions = np.concatenate(chunks)
        return positions[: np.searchsorted(positions, self.units)]
