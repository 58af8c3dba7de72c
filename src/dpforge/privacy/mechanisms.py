"""The only door to private values: reserve, add noise, release.

Every generator receives one :class:`PrivateAccess`. What goes through it is in the ledger before its
noise exists; observers (tests, audits) see each value before and after.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy import special

from dpforge.errors import PrivacyError
from dpforge.privacy.access import BLOCK as BLOCK
from dpforge.privacy.access import Observation as Observation
from dpforge.privacy.events import EpsilonDelta
from dpforge.privacy.noise import (
    discrete_gaussian,
    discrete_laplace,
    gumbel,
    rounded_gaussian,
    rounded_laplace,
)
from dpforge.privacy.noise import laplace as laplace
from dpforge.privacy.plan import Piece
from dpforge.privacy.selection import GUMBEL_DEVIATION, ChoiceAccess, choice_scale

GRID_BITS = 10


@dataclass(frozen=True)
class Group:
    """Records of which a place is to be released that parts them.

    Args:
        values: Private, ascending.
        candidates: Public or released places, ascending, at least one.
        level: Share of the records that should lie below the place, in (0, 1).
    """

    values: np.ndarray
    candidates: np.ndarray
    level: float

    @property
    def scores(self) -> np.ndarray:
        """The negative rank error of every candidate; a record more or less moves each by at most 1.

        It moves |#{x < z} − level·n| by at most max(level, 1 − level), which is the unit here.
        """
        below = np.searchsorted(self.values, self.candidates)
        return -np.abs(below - self.level * self.values.size) / max(self.level, 1 - self.level)


class PrivateAccess(ChoiceAccess):
    """Reserves, draws and adds noise for the pieces of one plan.

    Args:
        ledger: Open ledger of the run; its plan says what is authorised.
        random: Keyed streams of the run's secret key.
        observers: Called with every release; for tests and audits only, they see private values.
    """

    def gaussian(self, name: str, value: np.ndarray, *, step: int = 0, **details: object) -> np.ndarray:
        """Release a vector with Gaussian noise of scale sensitivity times noise multiplier.

        Args:
            name: Piece of the plan; its declared sensitivity bounds ``value``.
            value: Any shape, float64.
            step: Index of the use.
            details: For the ledger.

        A piece of the mechanism ``discrete_gaussian`` takes whole numbers and gets whole noise.
        """
        piece = self.piece(name)
        self.reserve(name, step + 1, **details)
        scale = piece.sensitivity * piece.noise_multiplier
        self._draw_once(name, step)
        if scale == 0:
            self._observe(piece, step, value.reshape(-1), np.zeros(value.size), scale)
            return value
        if piece.mechanism == "discrete_gaussian":
            if not np.array_equal(value, np.rint(value)):
                raise PrivacyError(f"'{name}': discrete Gaussian noise protects whole numbers only.")
            noise = discrete_gaussian(self.random.uniform(f"{name}/noise", step, value.size), scale)
            self._observe(piece, step, value.reshape(-1), noise, scale)
            return value + noise.reshape(value.shape)
        noise = scale * self.random.normal_double(f"{name}/noise", step, value.size)
        self._observe(piece, step, value.reshape(-1), noise, scale)
        # Rounding to a grid is post-processing; it leaves nothing of the value in the low bits of the sum.
        grid = 2.0 ** math.floor(math.log2(scale) - GRID_BITS)
        return np.rint((value + noise.reshape(value.shape)) / grid) * grid

    def histograms(
        self, name: str, counts: Sequence[np.ndarray], weights: Sequence[float], **details: object
    ) -> list[np.ndarray]:
        """Release several histograms as one vector with rounded Gaussian (or Laplace) noise.

        Args:
            name: Piece of the plan. Its sensitivity is that of the vector of all ``weights[j] counts[j]``.
            counts: One integer histogram a column, shapes ``(K_j,)``.
            weights: Positive; column j gets noise of scale sensitivity times multiplier over ``weights[j]``.

        Returns:
            Noisy counts as float64, same shapes; negative entries are possible.
        """
        piece = self.piece(name)
        self.reserve(name, 1, **details)
        self._draw_once(name, 0)
        scale = piece.sensitivity * piece.noise_multiplier
        noisy, values, noises = [], [], []
        for column, (count, weight) in enumerate(zip(counts, weights, strict=True)):
            noise = np.zeros(count.size)
            if scale > 0:
                uniforms = self.random.uniform(f"{name}/noise/{column}", 0, count.size)
                noise = _COUNT_NOISE[piece.mechanism](uniforms, scale / weight)
            noisy.append(count + noise)
            values.append(count * weight)
            noises.append(noise * weight)
        self._observe(piece, 0, np.concatenate(values), np.concatenate(noises), scale)
        return noisy

    def gaussian_sum(self, name: str, step: int, parts: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Add noise to a clipped sum in place; call :meth:`reserve` for its block first.

        Args:
            name: Piece of the plan.
            step: Index of the use.
            parts: The sum, one tensor a parameter.

        Returns:
            The same tensors, now noisy.

        Raises:
            PrivacyError: The step has not been reserved.
        """
        piece = self.piece(name)
        if step >= self.ledger.reserved(name):
            raise PrivacyError(f"step {step} of '{name}' has not been reserved; no noise was drawn.")
        self._draw_once(name, step)
        scale = piece.sensitivity * piece.noise_multiplier
        noise = self.random.normal(f"{name}/noise", step, sum(part.numel() for part in parts)).mul_(scale)
        if self._observers:
            value = torch.cat([part.reshape(-1) for part in parts]).double().cpu().numpy()
            self._observe(piece, step, value, noise.double().numpy(), scale)
        pieces = noise.split([part.numel() for part in parts])
        for part, addend in zip(parts, pieces, strict=True):
            part.add_(addend.to(part.device).view_as(part))
        return list(parts)

    def quantile(self, name: str, step: int, column: np.ndarray, grid: np.ndarray, level: float) -> float:
        """Release a quantile by the exponential mechanism over a public grid.

        Args:
            name: Piece of the plan, ``EpsilonDelta(epsilon, 0)``.
            step: Index of the use.
            column: Private values, missing ones left out; clipped to the grid's range.
            grid: Candidates, ascending.
            level: In (0, 1). Utility −|#{x < z} − level·N| has sensitivity max(level, 1−level).
        """
        piece = self.piece(name)
        self.reserve(name, step + 1)
        self._draw_once(name, step)
        below = np.searchsorted(np.sort(np.clip(column, grid[0], grid[-1])), grid)
        utility = -np.abs(below - level * column.size)
        scores = utility / max(level, 1 - level)
        scale, noisy = 0.0, scores
        if isinstance(piece.event, EpsilonDelta):
            scale = choice_scale(piece.event.epsilon, piece.sensitivity)
            logits = quantile_logits(utility, piece.event.epsilon, level)
            noisy = scale * (logits + gumbel(self.random.uniform(f"{name}/noise", step, grid.size), 1.0))
        self._observe_choice(piece, step, scores, noisy - scores, scale)
        return float(grid[int(np.argmax(noisy))])

    def split(self, name: str, step: int, groups: Sequence[Group]) -> list[float]:
        """Release one quantile of each of several groups that share no record, for the price of one.

        Args:
            name: Piece of the plan, ``EpsilonDelta(epsilon, 0)``; each use is one exponential mechanism.
            step: Index of the use.
            groups: Disjoint; which there are follows from released values alone. None is charged too.

        Returns:
            One candidate a group.
        """
        piece = self.piece(name)
        self.reserve(name, step + 1)
        self._draw_once(name, step)
        scores = np.concatenate([np.empty(0), *(group.scores for group in groups)])
        scale, noise = 0.0, np.zeros(scores.size)
        if isinstance(piece.event, EpsilonDelta):
            scale = choice_scale(piece.event.epsilon, piece.sensitivity)
            noise = gumbel(self.random.uniform(f"{name}/noise", step, scores.size), scale)
        self._observe_choice(piece, step, scores, noise, scale)
        ends = np.cumsum([group.candidates.size for group in groups])
        noisy = np.split(scores + noise, ends[:-1]) if groups else []
        pairs = zip(groups, noisy, strict=True)
        return [float(group.candidates[int(np.argmax(part))]) for group, part in pairs]

    def _observe_choice(
        self, piece: Piece, step: int, scores: np.ndarray, noise: np.ndarray, scale: float
    ) -> None:
        spread = scale * GUMBEL_DEVIATION
        self._report(
            Observation(piece.name, step, scores.copy(), noise.copy(), piece.sensitivity, spread, "choice")
        )

    def categories(
        self, name: str, values: Sequence[str], public: Sequence[str], limit: int | None
    ) -> list[str]:
        """Release the values that many units hold (partition selection with a threshold).

        Args:
            name: Piece of the plan, ``EpsilonDelta(epsilon, delta)``.
            values: One value per unit.
            public: Values that are always kept.
            limit: Largest number of values to keep, by noisy count.

        Returns:
            Kept values in lexicographic order.
        """
        piece = self.piece(name)
        self.reserve(name, 1)
        self._draw_once(name, 0)
        names, counts = np.unique(np.asarray(values, dtype=str), return_counts=True)
        noise, threshold, scale = np.zeros(names.size), 0.0, 0.0
        if isinstance(piece.event, EpsilonDelta):
            uniforms = self.random.uniform(f"{name}/noise", 0, names.size)
            noise = discrete_laplace(uniforms, piece.event.epsilon)
            threshold = category_threshold(piece.event.epsilon, piece.event.delta)
            scale = 1 / piece.event.epsilon
        self._observe(piece, 0, counts, noise, scale, tuple(names.tolist()))
        noisy = counts + noise
        kept = [(float(n), str(v)) for v, n in zip(names, noisy, strict=True) if n >= threshold]
        kept = sorted(kept, reverse=True)[: limit or len(kept)]
        return sorted({value for _, value in kept} | set(public))

    def log_histogram(self, name: str, counts: np.ndarray) -> np.ndarray:
        """Release one histogram of sensitivity 1 with discrete Laplace noise (piece is pure epsilon)."""
        piece = self.piece(name)
        self.reserve(name, 1)
        self._draw_once(name, 0)
        noise, scale = np.zeros(counts.size), 0.0
        if isinstance(piece.event, EpsilonDelta):
            uniforms = self.random.uniform(f"{name}/noise", 0, counts.size)
            noise, scale = discrete_laplace(uniforms, piece.event.epsilon), 1 / piece.event.epsilon
        self._observe(piece, 0, counts, noise, scale)
        return counts + noise


_COUNT_NOISE = {"rounded_gaussian": rounded_gaussian, "laplace": rounded_laplace}


def quantile_logits(utility: np.ndarray, epsilon: float, level: float) -> np.ndarray:
    """Exponents of the exponential mechanism: epsilon u / (2 max(level, 1 − level))."""
    return epsilon * utility / (2 * max(level, 1 - level))


def category_threshold(epsilon: float, delta: float) -> int:
    """Threshold for discrete Laplace counts so that a one-unit value is kept with probability <= delta.

    The noise exceeds an integer t with probability exp(−epsilon t)/(1 + exp(−epsilon)).
    """
    return 1 + math.ceil(math.log(1 / (delta * (1 + math.exp(-epsilon)))) / epsilon)


def gaussian_threshold(scale: float, delta: float) -> float:
    """Threshold 1 + sigma Phi^-1(1 − delta) for Gaussian noise of standard deviation ``scale``."""
    return 1 - scale * float(special.ndtri(delta))
