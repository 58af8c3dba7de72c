"""Choosing by private scores and measuring what was chosen, with fixed or adaptive costs in zCDP; and
choosing the best of a random number of whole runs.

A piece of the plan with mechanism ``adaptive`` is one reservation ``ZCDp(rho)``: inside it a generator may
choose and measure as often as it likes, with costs that depend on what it saw, as long as they sum to at
most rho. The ledger holds every such cost and refuses the one that would go over.

References:
    McSherry and Talwar, *Mechanism Design via Differential Privacy* (FOCS 2007); Cesar and Rogers,
    *Bounding, Concentrating, and Truncating* (ALT 2021) for the cost epsilon^2 / 8 of an exponential
    mechanism; Whitehouse et al., *Fully-Adaptive Composition in Differential Privacy* (ICML 2023) for
    the filter; Liu and Talwar, *Private Selection from Private Candidates* (STOC 2019) and Papernot and
    Steinke, *Hyperparameter Tuning with Renyi Differential Privacy* (ICLR 2022) for the best of several runs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from dp_accounting.rdp import compute_epsilon
from scipy import optimize

from dpforge.errors import PrivacyError
from dpforge.privacy.access import Access, Observation
from dpforge.privacy.accounting import RDP_ORDERS, _is_noiseless, _rdp
from dpforge.privacy.events import EpsilonDelta, Event, ZCDp, leaves
from dpforge.privacy.noise import gumbel, rounded_gaussian
from dpforge.privacy.plan import Piece

GUMBEL_DEVIATION = math.pi / math.sqrt(6)


def choice_epsilon(rho: float) -> float:
    """Return the epsilon of an exponential mechanism that costs ``rho``: sqrt(8 rho)."""
    return math.sqrt(8 * rho)


def choice_scale(epsilon: float, sensitivity: float) -> float:
    """Return the Gumbel scale with which the largest noisy score follows the exponential mechanism.

    The mechanism picks r with probability proportional to exp(epsilon q_r / (2 sensitivity)).
    """
    return 2 * sensitivity / epsilon


def measurement_scale(rho: float, sensitivity: float) -> float:
    """Return the standard deviation with which a vector of this L2 sensitivity costs ``rho``."""
    return sensitivity / math.sqrt(2 * rho)


def rdp_curve(event: Event) -> np.ndarray:
    """Return the Rényi DP of ``event`` at each of ``RDP_ORDERS``; infinite for an access without noise.

    Raises:
        PrivacyError: A piece holds only up to a delta of its own, which has no Rényi bound.
    """
    flat = [(leaf, count) for leaf, count in leaves(event) if count > 0]
    if any(isinstance(leaf, EpsilonDelta) and leaf.delta > 0 for leaf, _ in flat):
        raise PrivacyError(
            "a piece with a delta of its own (private categories) has no Rényi bound, which the selection"
            " among runs needs. Declare the categories in the schema, or use privacy.selection=none."
        )
    if any(_is_noiseless(leaf) for leaf, _ in flat):
        return np.full(len(RDP_ORDERS), math.inf)
    accountant, _ = _rdp(flat, 0.5)
    return np.asarray(accountant._rdp, dtype=float)


def epsilon_of_curve(curve: np.ndarray, delta: float) -> float:
    """Return the epsilon of a Rényi curve over ``RDP_ORDERS`` at ``delta``."""
    return float(compute_epsilon(RDP_ORDERS, list(curve), delta)[0]) if np.isfinite(curve).any() else math.inf


@dataclass(frozen=True)
class RepeatAndSelect:
    """Run a random number of times, each with a candidate drawn afresh, and release the best run alone.

    The number has a truncated negative binomial law on 1, 2, … and must be drawn, and kept secret, before
    the first run. A score that decides must itself be part of what each run pays for.

    Args:
        mean: Expected number of runs, >= 1.
        shape: >= 0; 1 is geometric, 0 logarithmic. The larger, the less the number varies and the more it
            costs.

    Raises:
        PrivacyError: A value is out of range.

    References:
        Papernot and Steinke (ICLR 2022), definition 1 and theorem 2.
    """

    mean: float
    shape: float = 0.0

    def __post_init__(self) -> None:
        if not (1 <= self.mean < math.inf and 0 <= self.shape < math.inf):
            raise PrivacyError(
                f"mean={self.mean}, shape={self.shape} of the number of runs: expected mean >= 1, shape >= 0."
            )

    @property
    def gamma(self) -> float:
        """Stopping parameter in (0, 1] that gives the mean."""
        if self.mean == 1:
            return 1.0

        def excess(log_gamma: float) -> float:
            return _mean_of(math.exp(log_gamma), self.shape) - self.mean

        return math.exp(float(optimize.brentq(excess, -60.0, -1e-12, xtol=1e-13)))  # type: ignore[arg-type]

    def draw(self, generator: np.random.Generator) -> int:
        """Draw the number of runs, at least 1."""
        gamma = self.gamma
        if gamma == 1:
            return 1
        if self.shape == 0:
            return int(generator.logseries(1 - gamma))
        while True:
            number = int(generator.negative_binomial(self.shape, gamma))
            if number >= 1:
                return number

    def curve(self, candidates: Sequence[Event]) -> np.ndarray:
        """Return the Rényi curve of releasing the winner.

        Args:
            candidates: What one run may cost, for every candidate that could have been drawn: a draw among
                them costs at most the worst at each order.
        """
        one = np.max([rdp_curve(event) for event in candidates], axis=0)
        orders, gamma = np.asarray(RDP_ORDERS), self.gamma
        constant = (1 + self.shape) * np.min((1 - 1 / orders) * one - math.log(gamma) / orders)
        found = one + constant + math.log(self.mean) / (orders - 1)
        # Rényi divergence grows with its order, so that a bound at a higher one holds below it.
        return np.minimum.accumulate(found[::-1])[::-1]

    def epsilon(self, candidates: Sequence[Event], delta: float) -> float:
        """Return the epsilon of releasing the winner at ``delta``."""
        return epsilon_of_curve(self.curve(candidates), delta)


def _mean_of(gamma: float, shape: float) -> float:
    if shape == 0:
        return (1 / gamma - 1) / -math.log(gamma)
    return shape * (1 - gamma) / (gamma * -math.expm1(shape * math.log(gamma)))


class ChoiceAccess(Access):
    """The exponential mechanism and noisy marginals."""

    def choose(
        self,
        name: str,
        scores: np.ndarray,
        *,
        step: int,
        sensitivity: float | None = None,
        rho: float | None = None,
        allowed: Callable[[int], bool] | None = None,
        **details: object,
    ) -> int:
        """Return the index of a large score, by the exponential mechanism.

        Args:
            name: Piece of the plan: ``exponential`` with ``ZCDp`` per use, or ``adaptive``.
            scores: Private, shape ``(candidates,)``; which candidates there are is public.
            step: Index of the use.
            sensitivity: Largest change of one score by one unit; default the piece's.
            rho: Cost of this use, for an adaptive piece.
            allowed: Which candidates take part, by public or released values alone. It is asked in the order
                of noisy scores until one is, which gives the same choice as asking for all beforehand.
            details: For the ledger.

        Raises:
            BudgetExceeded: The use is not covered by the plan; no noise was drawn.
            PrivacyError: No candidate is allowed.
        """
        piece = self.piece(name)
        bound = piece.sensitivity if sensitivity is None else sensitivity
        cost = self._charge(piece, step, rho, "exponential", bound, details)
        self._draw_once(name, step)
        scale, noise = 0.0, np.zeros(scores.size)
        if math.isfinite(cost):
            scale = choice_scale(choice_epsilon(cost), bound)
            noise = gumbel(self.random.uniform(f"{name}/noise", step, scores.size), scale)
        spread = scale * GUMBEL_DEVIATION
        self._report(Observation(name, step, scores.copy(), noise.copy(), bound, spread, "choice"))
        for index in np.argsort(-(scores + noise), kind="stable"):
            if allowed is None or allowed(int(index)):
                return int(index)
        raise PrivacyError(f"no candidate of '{name}' is allowed; there is nothing to choose.")

    def measure(
        self,
        name: str,
        counts: Sequence[np.ndarray],
        weights: Sequence[float] = (1.0,),
        *,
        step: int,
        sensitivity: float | None = None,
        rho: float | None = None,
        **details: object,
    ) -> tuple[list[np.ndarray], list[float]]:
        """Release integer histograms as one vector with rounded Gaussian noise.

        Args:
            name: Piece of the plan: ``rounded_gaussian`` or ``adaptive``.
            counts: Integer histograms, shapes ``(K_j,)``.
            weights: Positive; histogram j gets noise of the common scale over ``weights[j]``.
            step: Index of the use.
            sensitivity: L2 bound on the vector of all ``weights[j] counts[j]``; default the piece's.
            rho: Cost of this use, for an adaptive piece.
            details: For the ledger.

        Returns:
            Noisy counts (float64, integers unless exact), and the standard deviation of each histogram.

        Raises:
            BudgetExceeded: The use is not covered by the plan; no noise was drawn.
        """
        piece = self.piece(name)
        bound = piece.sensitivity if sensitivity is None else sensitivity
        cost = self._charge(piece, step, rho, "rounded_gaussian", bound, details)
        self._draw_once(name, step)
        scale = measurement_scale(cost, bound) if math.isfinite(cost) else 0.0
        scales = [scale / weight for weight in weights]
        noises = [np.zeros(count.size) for count in counts]
        if scale > 0:
            for j, (count, deviation) in enumerate(zip(counts, scales, strict=True)):
                uniforms = self.random.uniform(f"{name}/noise/{j}", step, count.size)
                noises[j] = rounded_gaussian(uniforms, deviation)
        pairs = list(zip(counts, noises, weights, strict=True))
        value = np.concatenate([count * weight for count, _, weight in pairs])
        noise = np.concatenate([noise * weight for _, noise, weight in pairs])
        self._report(Observation(name, step, value, noise, bound, scale))
        return [count + noise for count, noise, _ in pairs], scales

    def _charge(
        self,
        piece: Piece,
        step: int,
        rho: float | None,
        mechanism: str,
        sensitivity: float,
        details: dict[str, object],
    ) -> float:
        """Put the cost on disk and return it in zCDP; infinite for an access without noise."""
        if piece.mechanism == "none":
            self.reserve(piece.name, min(step + 1, piece.count))
            return math.inf
        if piece.mechanism == "adaptive" and rho is not None:
            self.reserve(piece.name, 1)
            said = {"mechanism": mechanism, "sensitivity": sensitivity, **details}
            self.ledger.spend(piece.name, step, rho, key_id=self.random.key_id, **said)
            return rho
        self.reserve(piece.name, step + 1, **details)
        if isinstance(piece.event, ZCDp):
            return piece.event.rho
        return 1 / (2 * piece.noise_multiplier**2)
