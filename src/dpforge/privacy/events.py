"""The vocabulary of privacy events: immutable values that a ledger can write down.

An event says what one access to private data costs, per unit of sensitivity. Arithmetic lives in
:mod:`dpforge.privacy.accounting`.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dpforge.errors import PrivacyError

_FIELDS: dict[str, tuple[str, ...]] = {
    "non_private": (),
    "gaussian": ("noise_multiplier",),
    "laplace": ("noise_multiplier",),
    "epsilon_delta": ("epsilon", "delta"),
    "zcdp": ("rho",),
    "poisson_sampled": ("sampling_rate", "event"),
    "self_composed": ("event", "count"),
    "composed": ("events",),
}
_LEAST, _MOST = math.ulp(0.0), sys.float_info.max
# A noise multiplier of 0 is an access without noise: it has no finite epsilon.
_RANGES = {
    "noise_multiplier": (0.0, _MOST),
    "epsilon": (_LEAST, _MOST),
    "rho": (_LEAST, _MOST),
    "delta": (0.0, math.nextafter(1.0, 0.0)),
    "sampling_rate": (_LEAST, 1.0),
}


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
    """Read back an event.

    Raises:
        PrivacyError: A type outside the vocabulary, another set of fields than the type has, or a number out
            of its range: such an event would be accounted for by something else than it says.
    """
    kind = data.get("type")
    if kind not in _FIELDS:
        raise PrivacyError(f"unknown event type {kind!r} in a ledger; expected one of this version's events.")
    if set(data) != {"type", *_FIELDS[kind]}:
        raise PrivacyError(
            f"an event of type {kind!r} in a ledger has the fields {sorted(data)}; expected"
            f" {['type', *_FIELDS[kind]]}."
        )
    match kind:
        case "non_private":
            return NonPrivate()
        case "gaussian":
            return Gaussian(_number(data, "noise_multiplier"))
        case "laplace":
            return Laplace(_number(data, "noise_multiplier"))
        case "epsilon_delta":
            return EpsilonDelta(_number(data, "epsilon"), _number(data, "delta"))
        case "zcdp":
            return ZCDp(_number(data, "rho"))
        case "poisson_sampled":
            return PoissonSampled(_number(data, "sampling_rate"), event_from_json(data["event"]))
        case "self_composed":
            return SelfComposed(event_from_json(data["event"]), count_from_json(data))
        case _:
            return Composed(tuple(event_from_json(event) for event in data["events"]))


def count_from_json(data: Mapping[str, Any]) -> int:
    """Read back a number of uses; raises ``PrivacyError`` unless it is a whole number >= 1."""
    value = data["count"]
    if type(value) is not int or value < 1:
        raise PrivacyError(f"count={value!r} in a ledger: expected a whole number >= 1.")
    return value


def _number(data: Mapping[str, Any], name: str) -> float:
    value, (low, high) = data[name], _RANGES[name]
    if type(value) not in (int, float) or not low <= value <= high:
        raise PrivacyError(f"{name}={value!r} of a {data['type']} event in a ledger is out of its range.")
    return float(value)


def leaves(event: Event, count: int = 1) -> list[tuple[Event, int]]:
    """Flatten a tree into its leaf events with their multiplicities, in order."""
    if isinstance(event, SelfComposed):
        return leaves(event.event, count * event.count)
    if isinstance(event, Composed):
        return [leaf for part in event.events for leaf in leaves(part, count)]
    return [(event, count)]
