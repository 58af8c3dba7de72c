"""Epsilon of an event tree, and the noise that a target epsilon asks for.

Accountant of record: privacy loss distributions of dp-accounting, pessimistic estimate, discretisation
1e-4, add-or-remove-one relation. RDP is reported beside it. Other relations are handled by converting
the sensitivity, never by the accountant.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from typing import cast

import dp_accounting
from dp_accounting.pld import common
from dp_accounting.pld import privacy_loss_distribution as pld
from dp_accounting.rdp import RdpAccountant
from scipy import optimize, stats

from dpforge.errors import PrivacyError
from dpforge.privacy.events import (
    Composed,
    EpsilonDelta,
    Event,
    Gaussian,
    Laplace,
    NonPrivate,
    PoissonSampled,
    ZCDp,
    leaves,
)

DISCRETIZATION = 1e-4
COARSE = 1e-3
# Below it noise is no use; a plan that allows even less (sampling alone hides a record) gets this much.
LEAST_MULTIPLIER = 0.2
# Opacus' orders and a few large ones, which small epsilons need.
RDP_ORDERS = (*(1 + x / 10 for x in range(1, 100)), *range(12, 64), 96, 128, 256, 512, 1024)
_TINY = 1e-300
# dp-accounting warns about every order at which a series does not converge; it leaves those out by itself.
logging.getLogger("absl").setLevel(logging.ERROR)


_Key = tuple[Event, float, str, float]
_MOST_KNOWN = 4096
_known: dict[_Key, float] = {}


def epsilon(event: Event, delta: float, accountant: str = "pld", grid: float = DISCRETIZATION) -> float:
    """Return the epsilon of ``event`` at ``delta``; ``inf`` if there is none.

    Args:
        event: The whole composition.
        delta: Probability in (0, 1).
        accountant: ``"pld"`` (of record) or ``"rdp"``.
        grid: Discretisation of privacy losses; the default is the one of record.

    Raises:
        PrivacyError: PLD of a tree with a zCDP leaf, which only RDP can certify.
    """
    key = (event, delta, accountant, grid)
    if key not in _known:
        if len(_known) >= _MOST_KNOWN:
            _known.clear()
        _known[key] = _epsilon(*key)
    return _known[key]


def _epsilon(event: Event, delta: float, accountant: str, grid: float) -> float:
    if not has_noise(event):
        return math.inf
    flat = [(leaf, count) for leaf, count in leaves(event) if count > 0]
    return _epsilon_pld(flat, delta, grid) if accountant == "pld" else _epsilon_rdp(flat, delta)


def has_noise(event: Event) -> bool:
    """Return whether every access in a tree has noise; without it there is no finite epsilon."""
    return not any(_is_noiseless(leaf) for leaf, count in leaves(event) if count > 0)


def known_epsilons() -> dict[_Key, float]:
    """Return every epsilon this process has computed, to hand to processes that it starts itself."""
    return dict(_known)


def learn_epsilons(known: Mapping[_Key, float]) -> None:
    """Take over what :func:`known_epsilons` returned in the process that started this one."""
    _known.update(known)


def certifying_accountant(event: Event) -> str:
    """Return the accountant of record for a tree: PLD, or RDP where zCDP reservations occur."""
    return "rdp" if any(isinstance(leaf, ZCDp) for leaf, _ in leaves(event)) else "pld"


def _is_noiseless(leaf: Event) -> bool:
    inner = leaf.event if isinstance(leaf, PoissonSampled) else leaf
    return isinstance(inner, NonPrivate) or getattr(inner, "noise_multiplier", 1.0) == 0


def _epsilon_pld(flat: list[tuple[Event, int]], delta: float, grid: float) -> float:
    total = pld.identity(grid)
    for leaf, count in flat:
        total = total.compose(_leaf_pld(leaf, count, grid))
    return float(total.get_epsilon_for_delta(delta))


def _leaf_pld(leaf: Event, count: int, grid: float) -> pld.PrivacyLossDistribution:
    match leaf:
        case Gaussian(noise_multiplier):
            return pld.from_gaussian_mechanism(
                noise_multiplier / math.sqrt(count), value_discretization_interval=grid
            )
        case PoissonSampled(rate, Gaussian(noise_multiplier)):
            one = pld.from_gaussian_mechanism(
                noise_multiplier, value_discretization_interval=grid, sampling_prob=rate
            )
        case Laplace(noise_multiplier):
            one = pld.from_laplace_mechanism(noise_multiplier, value_discretization_interval=grid)
        case EpsilonDelta(brick_epsilon, brick_delta):
            one = pld.from_privacy_parameters(
                common.DifferentialPrivacyParameters(brick_epsilon, brick_delta),
                value_discretization_interval=grid,
            )
        case _:
            raise PrivacyError(
                f"PLD cannot certify {type(leaf).__name__}; use the RDP accountant for this tree."
            )
    return one.self_compose(count) if count > 1 else one


def best_order(event: Event, delta: float) -> float | None:
    """Return the order alpha of the Rényi bound that gives the smallest epsilon; None if none is finite.

    Raises:
        PrivacyError: RDP cannot certify the tree.

    References:
        Mironov, *Rényi Differential Privacy* (CSF 2017), proposition 3.
    """
    accountant, left = _rdp(list(leaves(event)), delta)
    if left <= 0:
        return None
    found, order = accountant.get_epsilon_and_optimal_order(left)
    return float(order) if math.isfinite(found) else None


def _epsilon_rdp(flat: list[tuple[Event, int]], delta: float) -> float:
    accountant, left = _rdp(flat, delta)
    return float(accountant.get_epsilon(left)) if left > 0 else math.inf


def _rdp(flat: list[tuple[Event, int]], delta: float) -> tuple[RdpAccountant, float]:
    """Return the composed accountant, and what is left of delta after the bricks that spend some."""
    accountant = RdpAccountant(orders=RDP_ORDERS)
    for leaf, count in flat:
        if isinstance(leaf, EpsilonDelta):
            delta -= count * leaf.delta
        accountant.compose(_to_dp_accounting(leaf), count)
    return accountant, delta


def _to_dp_accounting(leaf: Event) -> dp_accounting.DpEvent:
    match leaf:
        case Gaussian(noise_multiplier):
            return dp_accounting.GaussianDpEvent(noise_multiplier)
        case Laplace(noise_multiplier):
            return dp_accounting.LaplaceDpEvent(noise_multiplier)
        case ZCDp(rho):
            return dp_accounting.ZCDpEvent(rho)
        case EpsilonDelta(brick_epsilon, _):
            # Pure epsilon-DP is (epsilon^2 / 2)-zCDP; its delta is taken off the total (spec, section 3).
            return dp_accounting.ZCDpEvent(brick_epsilon**2 / 2)
        case PoissonSampled(rate, inner):
            return dp_accounting.PoissonSampledDpEvent(rate, _to_dp_accounting(inner))
        case _:
            raise PrivacyError(f"RDP cannot certify {type(leaf).__name__}.")


def gaussian_delta(mu: float, epsilon_: float) -> float:
    """Exact delta of one Gaussian mechanism of mean shift ``mu`` (Balle and Wang, 2018, Theorem 8)."""
    left = stats.norm.cdf(mu / 2 - epsilon_ / mu)
    right = math.exp(epsilon_ + stats.norm.logcdf(-mu / 2 - epsilon_ / mu))
    return max(float(left - right), _TINY)


def gaussian_noise_multiplier(epsilon_: float, delta: float) -> float:
    """Return z(epsilon, delta): one Gaussian mechanism of this multiplier is exactly (epsilon, delta)-DP."""

    def excess(log_mu: float) -> float:
        return math.log(gaussian_delta(math.exp(log_mu), epsilon_)) - math.log(delta)

    return math.exp(-_root(excess, math.log(1e-6), math.log(1e3), 1e-13))


def calibrate(event_of: Callable[[float], Event], target_epsilon: float, delta: float) -> float:
    """Return the smallest noise multiplier whose whole composition stays within the target.

    Args:
        event_of: Maps a noise multiplier to the complete event tree; epsilon must fall with it.
        target_epsilon: Positive.
        delta: In (0, 1).

    Raises:
        PrivacyError: No multiplier up to 1e6 suffices, because other events already spend the budget.
    """
    accountant = certifying_accountant(event_of(1.0))

    def excess(multiplier: float, grid: float = DISCRETIZATION) -> float:
        return epsilon(event_of(multiplier), delta, accountant, grid) - target_epsilon

    # A coarse grid costs a fraction of the final one and is off by little: it finds where to look.
    low, high = _bracket(lambda m: excess(m, COARSE), 1.0, 1.5)
    if low == high:
        return low
    near = _root(lambda m: excess(m, COARSE), low, high, 1e-5)
    if (found := _secant(excess, near, _slope(lambda m: excess(m, COARSE), near))) is not None:
        return found
    low, high = _bracket(excess, near, 1.0005)
    multiplier = _root(excess, low, high, 1e-7 * low)
    while excess(multiplier) > 0:
        multiplier *= 1 + 1e-7
    return multiplier


def _slope(excess: Callable[[float], float], multiplier: float) -> float:
    return (excess(multiplier * 1.001) - excess(multiplier)) / (multiplier * 0.001)


def _secant(excess: Callable[[float], float], multiplier: float, slope: float) -> float | None:
    """Return a multiplier at most 2e-7 of itself above the root, in few evaluations; None if none is met.

    A fine evaluation costs a second or so, and a bracketing search needs twice as many.
    """
    before: tuple[float, float] | None = None
    for _ in range(5):
        found = excess(multiplier)
        if before is not None and found != before[1]:
            slope = (found - before[1]) / (multiplier - before[0])
        if not -math.inf < slope < 0 or not math.isfinite(found):
            return None
        if 2e-7 * multiplier * slope <= found <= 0:
            return multiplier
        before = multiplier, found
        multiplier += 1e-7 * multiplier - found / slope
    return None


def _bracket(excess: Callable[[float], float], start: float, factor: float) -> tuple[float, float]:
    """Return multipliers between which the excess changes sign, stepping ever wider; equal ones if none."""
    low = high = start
    if excess(start) > 0:
        while excess(high) > 0:
            low, high, factor = high, high * factor, factor**1.5
            if high > 1e6:
                raise PrivacyError(
                    "the target_epsilon cannot be met at this delta: the other events of the plan already"
                    " spend it. Raise the target, or lower the epsilon of private bounds and categories."
                )
        return low, high
    while excess(low) <= 0:
        if low < LEAST_MULTIPLIER:
            return low, low
        high, low, factor = low, low / factor, factor**1.5
    return low, high


def _root(function: Callable[[float], float], low: float, high: float, tolerance: float) -> float:
    return float(cast(float, optimize.brentq(function, low, high, xtol=tolerance)))


def compose(*events: Event) -> Composed:
    """Return the composition of ``events``."""
    return Composed(tuple(events))


def central_limit_mu(sampling_rate: float, noise_multiplier: float, steps: int) -> float:
    """Gaussian-DP approximation of DP-SGD: mu = q sqrt(T (exp(1/sigma^2) - 1)).

    Used to divide a budget, never to certify one (Bu et al., *Deep Learning with Gaussian Differential
    Privacy*, 2020, corollary 4).
    """
    return sampling_rate * math.sqrt(steps * math.expm1(1 / noise_multiplier**2))
