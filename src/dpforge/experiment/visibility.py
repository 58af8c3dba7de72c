"""Every value that leaves a run says who may see it: ``public``, ``dp`` or ``private``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from dpforge.errors import PrivacyError

PRIVATE_PREFIX = "private/"


class Visibility(StrEnum):
    """Who may see a value: everyone, everyone at the run's epsilon, or only the data's owner."""

    PUBLIC = "public"
    DP = "dp"
    PRIVATE = "private"


class UntypedValueError(PrivacyError, TypeError):
    """A value was logged without saying whether it is public, dp or private."""


@dataclass(frozen=True)
class Value:
    """A value and who may see it; build it with ``public``, ``dp`` or ``private``."""

    value: Any
    visibility: Visibility

    def __post_init__(self) -> None:
        if isinstance(self.value, Value):
            raise UntypedValueError(
                f"a {self.value.visibility} value was wrapped again as {self.visibility}: pass it as it is"
            )
        object.__setattr__(self, "visibility", Visibility(self.visibility))

    @property
    def scalar(self) -> Any:
        """The value as a plain Python object; a one-element array or tensor becomes its number."""
        return self.value.item() if hasattr(self.value, "item") else self.value


def public(value: Any) -> Value:
    """Mark a value that no private record influenced."""
    return Value(value, Visibility.PUBLIC)


def dp(value: Any) -> Value:
    """Mark a value computed only from released values and public data."""
    return Value(value, Visibility.DP)


def private(value: Any) -> Value:
    """Mark a value that private records influenced without noise (training loss, fidelity, …)."""
    return Value(value, Visibility.PRIVATE)


def without_guarantee(value: Value) -> Value:
    """Return a value as a run without a finite epsilon must type it: what would be ``dp`` is private."""
    return private(value.value) if value.visibility is Visibility.DP else value


def scalars(values: Mapping[str, Value]) -> dict[str, Value]:
    """Return the values as plain Python scalars.

    Raises:
        UntypedValueError: If a value does not say who may see it.
    """
    for name, value in values.items():
        if not isinstance(value, Value):
            raise UntypedValueError(f"untyped value '{name}': wrap it in public(), dp() or private()")
    return {name: Value(value.scalar, value.visibility) for name, value in values.items()}


def private_names(values: Mapping[str, Value]) -> list[str]:
    """Names of the private values, in order."""
    return [name for name, value in values.items() if value.visibility is Visibility.PRIVATE]


def by_sink_name(values: Mapping[str, Value]) -> dict[str, Any]:
    """The bare values under the names that sinks show: private ones below ``private/``."""
    return {_sink_name(name, value.visibility): value.value for name, value in values.items()}


def _sink_name(name: str, visibility: Visibility) -> str:
    if visibility is not Visibility.PRIVATE or name.startswith(PRIVATE_PREFIX):
        return name
    return PRIVATE_PREFIX + name
