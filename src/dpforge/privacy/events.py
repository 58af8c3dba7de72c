"""The vocabulary of privacy events: immutable values that a ledger can write down.

An event says what one access to private data costs, per unit of sensitivity. Arithmetic lives in
:mod:`dpforge.privacy.accounting`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dpforge.errors import PrivacyError


@dataclass(frozen=True)
class Event:
    """Base of all events."""

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object that :func:`event_from_json` reads back."""
        raise TypeError(f"{type(self).__name__} has no JSON form")


@dataclass(frozen=True)
class NonPrivate(Event):
    """An access without any noise: no finite epsilon."""

    def to_json(self) -> dict[str, Any]:
        return {"type": "non_private"}


@dataclass(frozen=True)
class Gaussian(Event):
    """Gaussian noise of standard deviation ``noise_multiplier`` times the L2 sensitivity."""

    noise_multiplier: float

    def to_json(self) -> dict[str, Any]:
        return {"type": "gaussian", "noise_multiplier": self.noise_multiplier}


@dataclass(frozen=True)
class Laplace(Event):
    """Laplace noise of scale ``noise_multiplier`` times the L1 sensitivity."""

    noise_multiplier: float

    def to_json(self) -> dict[str, Any]:
        return {"type": "laplace", "noise_multiplier": self.noise_multiplier}


@dataclass(frozen=True)
class EpsilonDelta(Event):
    """Any mechanism that is (epsilon, delta)-DP: exponential mechanism, threshold release."""

    epsilon: float
    delta: float = 0.0

    def to_json(self) -> dict[str, Any]:
        return {"type": "epsilon_delta", "epsilon": self.epsilon, "delta": self.delta}


@dataclass(frozen=True)
class ZCDp(Event):
    """Any (possibly adaptive) sequence that is ``rho``-zCDP (Bun and Steinke, 2016)."""

    rho: float

    def to_json(self) -> dict[str, Any]:
        return {"type": "zcdp", "rho": self.rho}


@dataclass(frozen=True)
class PoissonSampled(Event):
    """``event`` on a Poisson sample in which every unit appears with rate ``sampling_rate``."""

    sampling_rate: float
    event: Event

    def to_json(self) -> dict[str, Any]:
        return {"type": "poisson_sampled", "sampling_rate": self.sampling_rate, "event": self.event.to_json()}


@dataclass(frozen=True)
class SelfComposed(Event):
    """``event``, ``count`` times."""

    event: Event
    count: int

    def to_json(self) -> dict[str, Any]:
        return {"type": "self_composed", "event": self.event.to_json(), "count": self.count}


@dataclass(frozen=True)
class Composed(Event):
    """All of ``events``."""

    events: tuple[Event, ...]

    def to_json(self) -> dict[str, Any]:
        return {"type": "composed", "events": [event.to_json() for event in self.events]}


def event_from_json(data: Mapping[str, Any]) -> Event:
    """Read back an event; raises ``PrivacyError`` for a type outside the vocabulary."""
    match data.get("type"):
        case "non_private":
            return NonPrivate()
        case "gaussian":
            return Gaussian(float(data["noise_multiplier"]))
        case "laplace":
            return Laplace(float(data["noise_multiplier"]))
        case "epsilon_delta":
            return EpsilonDelta(float(data["epsilon"]), float(data["delta"]))
        case "zcdp":
            return ZCDp(float(data["rho"]))
        case "poisson_sampled":
            return PoissonSampled(float(data["sampling_rate"]), event_from_json(data["event"]))
        case "self_composed":
            return SelfComposed(event_from_json(data["event"]), int(data["count"]))
        case "composed":
            return Composed(tuple(event_from_json(event) for event in data["events"]))
        case other:
            raise PrivacyError(
                f"unknown event type {other!r} in a ledger; expected one of this version's events."
            )


def leaves(event: Event, count: int = 1) -> list[tuple[Event, int]]:
    """Flatten a tree into its leaf events with their multiplicities, in order."""
    if isinstance(event, SelfComposed):
        return leaves(event.event, count * event.count)
    if isinstance(event, Composed):
        return [leaf for part in event.events for leaf in leaves(part, count)]
    return [(event, count)]
