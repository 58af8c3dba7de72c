"""Typed access to one mapping of a schema file, collecting mistakes instead of raising at the first."""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Iterable, Mapping
from typing import Any

from dpforge.errors import did_you_mean


class Section:
    """A mapping of the file together with its place and the shared list of mistakes.

    Args:
        raw: The mapping as read from YAML; anything else is one mistake and reads as empty.
        place: Where it stands in the file, for messages.
        keys: The keys it may have.
        mistakes: List that mistakes are appended to.
    """

    def __init__(self, raw: Any, place: str, keys: Iterable[str], mistakes: list[str]) -> None:
        self.place = place
        self.mistakes = mistakes
        known = tuple(keys)
        self.raw: dict[str, Any] = {}
        if not isinstance(raw, Mapping):
            self._say(f"'{place}' is a {type(raw).__name__}; give a mapping with the keys {', '.join(known)}")
            return
        self.raw = {str(key): value for key, value in raw.items()}
        for key in self.raw:
            if key not in known:
                self._say(
                    f"unknown key '{self.at(key)}'.{did_you_mean(key, known)} Known: {', '.join(known)}"
                )

    def at(self, key: str) -> str:
        """The dotted place of a key."""
        return f"{self.place}.{key}" if self.place else key

    def _say(self, text: str) -> None:
        self.mistakes.append(text)

    def reject(self, key: str, expected: str) -> None:
        """Record that the value of ``key`` is not what was expected."""
        self._say(f"{self.at(key)}={self.raw.get(key)!r}: expected {expected}")

    def has(self, key: str) -> bool:
        """Whether the file gives a value for ``key``."""
        return self.raw.get(key) is not None

    def text(self, key: str, default: str = "") -> str:
        """A text; numbers are written out."""
        value = self.raw.get(key, default)
        if value is None:
            return default
        if isinstance(value, str | int | float) and not isinstance(value, bool):
            return str(value)
        self.reject(key, "a text (put it in quotes)")
        return default

    def choice(self, key: str, choices: tuple[str, ...], default: str) -> str:
        """One word out of ``choices``."""
        value = self.raw.get(key, default)
        if isinstance(value, str) and value in choices:
            return value
        hint = did_you_mean(str(value), choices)
        self.reject(key, f"one of {', '.join(choices)}.{hint}")
        return default

    def flag(self, key: str, default: bool = False) -> bool:
        """``true`` or ``false``."""
        value = self.raw.get(key, default)
        if isinstance(value, bool):
            return value
        self.reject(key, "true or false")
        return default

    def number(self, key: str, *, above: float | None = None) -> float | None:
        """A finite number, strictly above ``above`` if given; ``None`` when absent."""
        if not self.has(key):
            return None
        value = _as_number(self.raw[key])
        if value is None or (above is not None and value <= above):
            self.reject(key, "a finite number" + ("" if above is None else f" > {above:g}"))
            return None
        return value

    def whole(self, key: str, *, least: int = 1) -> int | None:
        """A whole number of at least ``least``; ``None`` when absent."""
        if not self.has(key):
            return None
        value = _as_number(self.raw[key])
        if value is None or value != int(value) or value < least:
            self.reject(key, f"a whole number >= {least}")
            return None
        return int(value)

    def items(self, key: str) -> list[Any]:
        """A list; empty when absent."""
        value = self.raw.get(key)
        if value is None:
            return []
        if isinstance(value, list | tuple):
            return list(value)
        self.reject(key, "a list")
        return []

    def numbers(self, key: str, *, length: int | None = None) -> tuple[float, ...]:
        """A list of finite numbers; empty when absent or wrong (which is recorded)."""
        parsed = [_as_number(item) for item in self.items(key)]
        short = length is not None and self.has(key) and len(parsed) != length
        if short or any(item is None for item in parsed):
            self.reject(key, f"a list of {'' if length is None else f'{length} '}finite numbers")
            return ()
        return tuple(item for item in parsed if item is not None)

    def words(self, key: str) -> tuple[str, ...]:
        """A list of texts; numbers are written out; YAML booleans and nulls are refused with a hint."""
        items = self.items(key)
        for item in items:
            if item is None or isinstance(item, bool | list | dict):
                self._say(
                    f"{self.at(key)} contains {item!r}, which YAML read from an unquoted word; "
                    "put texts such as No, Yes, on, off, null in quotes"
                )
        return tuple(str(item) for item in items)

    def moment(self, key: str) -> str | None:
        """An ISO 8601 date or time without a zone, as a text; a bare date keeps no time part."""
        value = self.raw.get(key)
        if value is None:
            return None
        try:
            parsed = dt.datetime.fromisoformat(str(value))
        except ValueError:
            self.reject(key, "an ISO 8601 date or time, for example 2006-12-16 17:24:00")
            return None
        if parsed.tzinfo is not None:
            self.reject(key, "a time without a zone")
            return None
        bare = len(str(value)) == len("2006-12-16")
        return parsed.date().isoformat() if bare else parsed.replace(microsecond=0).isoformat()


def _as_number(value: Any) -> float | None:
    """A finite int or float, or a text that YAML did not recognise as one (``1e6``); else ``None``."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    if not math.isfinite(number):
        return None
    return value if isinstance(value, int) else number
