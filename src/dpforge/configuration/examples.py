"""One value for every key of a search, so that a search can be checked before its first run."""

from __future__ import annotations

import math
from collections.abc import Sequence

from hydra.core.override_parser.types import IntervalSweep, Override

from dpforge.configuration.composing import is_sweep, parse_overrides


def example_of(overrides: Sequence[Override]) -> list[Override]:
    """Replace every sweep by one of its values; one that has none is left out, its sweeper refuses it."""
    found: list[Override] = []
    for override in overrides:
        found += _example(override) if is_sweep(override) else [override]
    return found


def _example(override: Override) -> list[Override]:
    sweep = override.value()
    try:
        value = _middle(sweep) if isinstance(sweep, IntervalSweep) else next(override.sweep_string_iterator())
    except (ValueError, StopIteration):
        return []
    return parse_overrides([f"{override.get_key_element()}={value}"])[0]


def _middle(sweep: IntervalSweep) -> float | int:
    """A value inside: the ends of an interval are often no values of the key."""
    low, high = sweep.start or 0, sweep.end or 0
    middle = math.sqrt(low * high) if "log" in sweep.tags else (low + high) / 2
    return round(middle) if isinstance(low, int) and isinstance(high, int) else middle
