"""What Private Evolution spends: one Gaussian release of votes an iteration, and class counts if bought."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Sequence

from dpforge.errors import BudgetExceeded, ConfigError
from dpforge.privacy.accounting import calibrate, central_limit_mu
from dpforge.privacy.events import Event, Gaussian, NonPrivate, PoissonSampled, ZCDp
from dpforge.privacy.plan import Piece, Plan
from dpforge.privacy.spec import PrivacySpec, replace_factor

VOTES = "votes"
CLASS_COUNTS = "class_counts"
DEFAULT_SHARES = {VOTES: 0.95, CLASS_COUNTS: 0.05}


def evolution_plan(
    spec: PrivacySpec,
    *,
    iterations: int,
    sampling_rate: float = 1.0,
    schedule: Sequence[float] | None = None,
    class_counts: bool = False,
    unit: str = "row",
    noise: str = "gaussian",
    earlier: tuple[Piece, ...] = (),
) -> Plan:
    """Return the plan of a run; ``privacy.noise_multiplier`` is the sigma of the votes.

    Args:
        spec: Target epsilon or noise multiplier, delta, relation, shares of ``votes`` and ``class_counts``.
        iterations: T, >= 1. With ``spec.max_epsilon`` the plan has as many of them as stay below it.
        sampling_rate: Poisson rate of the units that vote in one iteration.
        schedule: sigma_t / sigma, one a iteration; ``None`` for the same noise always.
        class_counts: Whether noisy class counts are bought.
        unit: What one unit of privacy is, for the record.
        noise: ``gaussian`` or ``discrete_gaussian`` on the votes.
        earlier: What a run spent whose samples this one starts from.

    Raises:
        ConfigError: Sampled voters with the relation ``replace``, for which no accountant here is sound.
        BudgetExceeded: ``spec.max_epsilon`` does not pay for one iteration.
    """
    if sampling_rate < 1 and noise == "discrete_gaussian":
        raise ConfigError(
            f"model.noise=discrete_gaussian with model.subsample={sampling_rate:g}: no accountant here is"
            " sound for sampled zCDP. Use model.noise=auto, or model.subsample=1."
        )
    if sampling_rate < 1 and spec.relation == "replace":
        raise ConfigError(
            f"model.subsample={sampling_rate:g} is accounted for add_remove and zero_out only;"
            " got privacy.relation=replace. Use model.subsample=1."
        )
    weights = [1.0] * iterations if schedule is None else [float(weight) for weight in schedule]
    shares = spec.shares(DEFAULT_SHARES if class_counts else {VOTES: 1.0})

    def plan(sigma: float, count: int = iterations) -> Plan:
        kind = noise if spec.enabled else "none"
        votes = _vote_pieces(spec, sigma, weights[:count], sampling_rate, equal=schedule is None, kind=kind)
        pieces = (*earlier, *votes)
        if class_counts:
            scale = _count_multiplier(sigma, weights, sampling_rate, shares)
            pieces += (_count_piece(spec, scale),)
        return Plan(pieces, spec.delta, spec.relation, unit, spec.target_epsilon)

    if not spec.enabled:
        return plan(1.0)
    if spec.target_epsilon is not None:
        return plan(calibrate(lambda sigma: plan(sigma).event(), spec.target_epsilon, spec.delta))
    sigma = float(spec.noise_multiplier or 0)
    if spec.max_epsilon is None:
        return plan(sigma)
    return plan(sigma, _affordable(lambda count: plan(sigma, count), iterations, spec.max_epsilon))


def _affordable(plan: Callable[[int], Plan], iterations: int, limit: float) -> int:
    if plan(1).epsilon() > limit:
        raise BudgetExceeded(
            f"privacy.max_epsilon={limit:g}: one iteration costs epsilon={plan(1).epsilon():.4g} already, so"
            " nothing is released. Raise max_epsilon or privacy.noise_multiplier."
        )
    return bisect_right(range(iterations + 1), limit, key=lambda count: plan(count).epsilon(), lo=2) - 1


def _vote_pieces(
    spec: PrivacySpec, sigma: float, weights: Sequence[float], sampling_rate: float, *, equal: bool, kind: str
) -> tuple[Piece, ...]:
    reason = "a unit's votes over all classes have L2 norm at most 1"
    bound = replace_factor(spec.relation, histogram=True)

    def event(weight: float) -> Event:
        if kind == "none":
            return NonPrivate()
        if kind == "discrete_gaussian":
            # Canonne, Kamath and Steinke (NeurIPS 2020), theorem 4: whole votes with this noise are zCDP.
            return ZCDp(0.5 / (sigma * weight) ** 2)
        noise = Gaussian(sigma * weight)
        return PoissonSampled(sampling_rate, noise) if sampling_rate < 1 else noise

    if equal:
        return (Piece(VOTES, kind, event(1.0), len(weights), bound, reason),)
    return tuple(
        Piece(f"{VOTES}/{number}", kind, event(weight), 1, bound, reason)
        for number, weight in enumerate(weights, start=1)
    )


def _count_piece(spec: PrivacySpec, multiplier: float) -> Piece:
    event = Gaussian(multiplier) if spec.enabled else NonPrivate()
    bound = replace_factor(spec.relation, histogram=True)
    mechanism = "gaussian" if spec.enabled else "none"
    return Piece(CLASS_COUNTS, mechanism, event, 1, bound, "a unit's class counts have L2 norm at most 1")


def _count_multiplier(
    sigma: float, weights: Sequence[float], sampling_rate: float, shares: dict[str, float]
) -> float:
    """Noise of the class counts: the squared mu of votes and counts stand in the ratio of their shares."""
    noises = [sigma * weight for weight in weights]
    if sampling_rate < 1:  # divides the budget only; the whole is certified by the accountant
        squared = sum(central_limit_mu(sampling_rate, noise, 1) ** 2 for noise in noises)
    else:
        squared = sum(noise**-2 for noise in noises)
    return math.sqrt(shares[VOTES] / (shares[CLASS_COUNTS] * squared))


def iterations_of(plan: Plan) -> int:
    """Return how many iterations a plan authorises."""
    return sum(piece.count for piece in plan.pieces if piece.name.split("/")[0] == VOTES)


def vote_use(plan: Plan, iteration: int) -> tuple[str, int]:
    """Return the piece and the use of it that iteration 1, 2, … releases its votes with."""
    if any(piece.name == VOTES for piece in plan.pieces):
        return VOTES, iteration - 1
    return f"{VOTES}/{iteration}", 0
