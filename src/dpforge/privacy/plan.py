"""The plan: the tree of events that a run is authorised to spend, a pure function of configuration."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from dpforge.errors import BudgetExceeded, PrivacyError, did_you_mean
from dpforge.privacy.accounting import (
    calibrate,
    central_limit_mu,
    certifying_accountant,
    compose,
    epsilon,
    gaussian_noise_multiplier,
)
from dpforge.privacy.events import (
    Composed,
    Event,
    Gaussian,
    Laplace,
    NonPrivate,
    PoissonSampled,
    SelfComposed,
    ZCDp,
    count_from_json,
    event_from_json,
)
from dpforge.privacy.spec import RELATIONS, PrivacySpec


@dataclass(frozen=True)
class Piece:
    """One kind of access to private data, authorised ``count`` times.

    Args:
        name: Unique within the plan; also the purpose of its noise stream.
        mechanism: ``gaussian``, ``rounded_gaussian``, ``dp_sgd``, ``exponential``, ``threshold``, …
        event: Cost of one use, per unit of sensitivity.
        count: Number of uses, >= 1.
        sensitivity: Bound on how far one unit moves the value released.
        reason: Why the bound holds.
    """

    name: str
    mechanism: str
    event: Event
    count: int
    sensitivity: float
    reason: str

    @property
    def noise_multiplier(self) -> float:
        """Noise scale per unit of sensitivity; 0 for a non-private access.

        For a zCDP reservation, that of the Gaussian mechanism of the same cost.
        """
        if isinstance(self.event, ZCDp):
            return 1 / math.sqrt(2 * self.event.rho)
        inner = self.event.event if isinstance(self.event, PoissonSampled) else self.event
        return inner.noise_multiplier if isinstance(inner, Gaussian | Laplace) else 0.0

    @property
    def sampling_rate(self) -> float:
        """Poisson sampling rate, 1 where every unit takes part."""
        return self.event.sampling_rate if isinstance(self.event, PoissonSampled) else 1.0

    def to_json(self) -> dict[str, Any]:
        """Return the piece as the ledger's header states it."""
        return {
            "name": self.name,
            "mechanism": self.mechanism,
            "event": self.event.to_json(),
            "count": self.count,
            "sensitivity": self.sensitivity,
            "reason": self.reason,
        }


@dataclass(frozen=True)
class Plan:
    """All pieces of a run with the guarantee they are meant to give."""

    pieces: tuple[Piece, ...]
    delta: float
    relation: str = "add_remove"
    unit: str = "row"
    target_epsilon: float | None = None

    def __post_init__(self) -> None:
        names = [piece.name for piece in self.pieces]
        if len(set(names)) != len(names):
            raise PrivacyError(f"a plan names a piece twice: {names}.")

    def event(self) -> Composed:
        """Return the whole tree."""
        return compose(*(SelfComposed(piece.event, piece.count) for piece in self.pieces))

    def epsilon(self, accountant: str | None = None) -> float:
        """Return the epsilon of the whole tree at the plan's delta (accountant of record by default)."""
        tree = self.event()
        return epsilon(tree, self.delta, accountant or certifying_accountant(tree))

    def piece(self, name: str) -> Piece:
        """Return the piece ``name``; raises ``PrivacyError`` if the plan does not authorise it."""
        for piece in self.pieces:
            if piece.name == name:
                return piece
        known = [piece.name for piece in self.pieces]
        raise PrivacyError(
            f"the plan does not authorise '{name}'; it authorises {known}.{did_you_mean(name, known)}"
        )

    def to_json(self) -> dict[str, Any]:
        """Return the plan as the ledger's header states it."""
        return {
            "delta": self.delta,
            "relation": self.relation,
            "unit": self.unit,
            "target_epsilon": self.target_epsilon,
            "pieces": [piece.to_json() for piece in self.pieces],
        }

    def describe(self) -> str:
        """Return one line a piece, for people."""
        return "\n".join(
            f"{piece.name}: {piece.mechanism}, noise multiplier {piece.noise_multiplier:.4g},"
            f" sampling rate {piece.sampling_rate:.4g}, {piece.count} times,"
            f" sensitivity {piece.sensitivity:.4g}"
            for piece in self.pieces
        )


def plan_from_json(data: Mapping[str, Any]) -> Plan:
    """Read back the plan of a ledger's header; raises ``PrivacyError`` for a value that no plan has."""
    delta, relation = data["delta"], data["relation"]
    if type(delta) is not float or not 0 < delta < 1 or relation not in RELATIONS:
        raise PrivacyError(f"delta={delta!r}, relation={relation!r} in a ledger: no plan has these.")
    return Plan(tuple(map(_piece, data["pieces"])), delta, relation, data["unit"], data["target_epsilon"])


def _piece(item: Mapping[str, Any]) -> Piece:
    if set(item) != {field.name for field in fields(Piece)}:
        raise PrivacyError(f"a piece of a ledger's plan has the fields {sorted(item)}.")
    event, sensitivity = event_from_json(item["event"]), float(item["sensitivity"])
    noiseless = getattr(event, "event", event) in (NonPrivate(), Gaussian(0.0), Laplace(0.0))
    if not noiseless and (item["mechanism"] == "none" or not 0 < sensitivity < math.inf):
        raise PrivacyError(f"'{item['name']}' has noise in a ledger, and no sensitivity or no mechanism.")
    return Piece(item["name"], item["mechanism"], event, count_from_json(item), sensitivity, item["reason"])


@dataclass(frozen=True)
class Release:
    """A vector to be released once with Gaussian (or Laplace) noise, before its noise is known."""

    name: str
    sensitivity: float
    reason: str
    mechanism: str = "gaussian"


@dataclass(frozen=True)
class Training:
    """DP-SGD steps, before their noise is known."""

    sampling_rate: float
    steps: int
    reason: str
    sensitivity: float
    name: str = "train"


def make_plan(
    spec: PrivacySpec,
    *,
    releases: Sequence[Release] = (),
    training: Training | None = None,
    bricks: Sequence[Piece] = (),
    shares: Mapping[str, float] | None = None,
    unit: str = "row",
) -> Plan:
    """Divide a budget: bricks as given, releases by their shares of squared mu, training by bisection.

    Args:
        spec: Target epsilon or noise multiplier (with the largest epsilon, if any), delta, relation.
        releases: Gaussian releases; each gets the multiplier 1 / (mu(epsilon, delta) sqrt(share)).
        training: DP-SGD; its sigma makes the joint composition meet the target.
        bricks: Pieces whose events are fixed already (noisy bounds, category thresholds).
        shares: Default share of each release and of the training.
        unit: What one unit of privacy is, for the record.

    Returns:
        A plan with every noise multiplier known. Without DP (``spec.enabled`` false) every event is
        non-private.

    Raises:
        BudgetExceeded: ``spec.max_epsilon`` does not pay for one step.
    """
    if not spec.enabled:
        return Plan(_without_noise(releases, training, bricks), spec.delta, spec.relation, unit)
    names = [release.name for release in releases] + ([training.name] if training else [])
    weights = spec.shares(shares if shares is not None else dict.fromkeys(names, 1.0))
    if training is None:
        pieces = _release_only(spec, releases, bricks, weights)
    else:
        pieces = _with_training(spec, releases, training, bricks, weights)
    plan = Plan(pieces, spec.delta, spec.relation, unit, spec.target_epsilon)
    return plan if spec.max_epsilon is None else _limited(plan, spec.max_epsilon, training)


def _limited(plan: Plan, limit: float, training: Training | None) -> Plan:
    """Return the plan with as many training steps as keep its epsilon at or below ``limit``, at least one."""

    def with_steps(steps: int) -> Plan:
        name = training.name if training is not None else None
        pieces = tuple(replace(p, count=steps) if p.name == name else p for p in plan.pieces)
        return replace(plan, pieces=pieces)

    if plan.epsilon() <= limit:
        return plan
    least = with_steps(1)
    if training is None or least.epsilon() > limit:
        what = "the plan costs" if training is None else "everything before training and its first step cost"
        raise BudgetExceeded(
            f"privacy.max_epsilon={limit:g}: {what} epsilon={least.epsilon():.4g} already, so nothing is"
            " trained. Raise max_epsilon or privacy.noise_multiplier."
        )
    too_many = bisect_right(range(training.steps), limit, key=lambda steps: with_steps(steps).epsilon(), lo=1)
    return with_steps(too_many - 1)


def _without_noise(
    releases: Sequence[Release], training: Training | None, bricks: Sequence[Piece]
) -> tuple[Piece, ...]:
    pieces = [Piece(b.name, b.mechanism, NonPrivate(), b.count, b.sensitivity, b.reason) for b in bricks]
    pieces += [Piece(r.name, "none", NonPrivate(), 1, r.sensitivity, r.reason) for r in releases]
    if training is not None:
        pieces.append(
            Piece(training.name, "none", NonPrivate(), 1, training.sensitivity, "training without noise")
        )
    return tuple(pieces)


def _release_pieces(releases: Sequence[Release], multipliers: Mapping[str, float]) -> tuple[Piece, ...]:
    kinds = {"laplace": Laplace}
    events = {r.name: kinds.get(r.mechanism, Gaussian)(multipliers[r.name]) for r in releases}
    return tuple(Piece(r.name, r.mechanism, events[r.name], 1, r.sensitivity, r.reason) for r in releases)


def _release_only(
    spec: PrivacySpec, releases: Sequence[Release], bricks: Sequence[Piece], weights: Mapping[str, float]
) -> tuple[Piece, ...]:
    def pieces(multiplier: float) -> tuple[Piece, ...]:
        scaled = {name: multiplier / share**0.5 for name, share in weights.items()}
        return (*bricks, *_release_pieces(releases, scaled))

    return pieces(_main_multiplier(spec, pieces))


def _with_training(
    spec: PrivacySpec,
    releases: Sequence[Release],
    training: Training,
    bricks: Sequence[Piece],
    weights: Mapping[str, float],
) -> tuple[Piece, ...]:
    if spec.target_epsilon is not None:
        mu = 1 / gaussian_noise_multiplier(spec.target_epsilon, spec.delta)
    else:
        sigma = float(spec.noise_multiplier or 0)
        mu = central_limit_mu(training.sampling_rate, sigma, training.steps) / weights[training.name] ** 0.5
    fixed = {release.name: 1 / (mu * weights[release.name] ** 0.5) for release in releases}

    def pieces(multiplier: float) -> tuple[Piece, ...]:
        event: Event = Gaussian(multiplier)
        if training.sampling_rate < 1:
            event = PoissonSampled(training.sampling_rate, event)
        train = Piece(training.name, "dp_sgd", event, training.steps, training.sensitivity, training.reason)
        return (*bricks, *_release_pieces(releases, fixed), train)

    return pieces(_main_multiplier(spec, pieces))


def _main_multiplier(spec: PrivacySpec, pieces: Any) -> float:
    if spec.target_epsilon is None:
        return float(spec.noise_multiplier or 0)
    return calibrate(
        lambda multiplier: Plan(pieces(multiplier), spec.delta).event(), spec.target_epsilon, spec.delta
    )
