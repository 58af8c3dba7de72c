"""The search space in Hydra's override grammar: ``interval``, ``range``, ``choice``, ``tag(log, …)``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from dpforge.configuration.composing import is_sweep, parse_overrides
from dpforge.errors import ConfigError
from dpforge.identity import NOT_IDENTITY, canonical

_EXAMPLE = "'model.learning_rate=tag(log, interval(1e-3, 1e-1))' or model.hidden='[32,32],[64,64]'"


@dataclass(frozen=True)
class Space:
    """What stays the same in every run of a search, and what varies.

    Args:
        fixed: Words of the command line without a sweep.
        axes: Distribution of every swept key.
    """

    fixed: tuple[str, ...]
    axes: Mapping[str, BaseDistribution]

    def words(self, params: Mapping[str, Any]) -> list[str]:
        """The overrides of the run that has these values."""
        return [*self.fixed, *(f"{key}={_text(params[key])}" for key in self.axes)]

    def content(self) -> str:
        """Text that is equal for two searches over the same runs."""
        words = sorted(
            word for word in self.fixed if word.lstrip("+~").split("=")[0].split(".")[0] not in _OUTSIDE
        )
        return canonical({"fixed": words, "axes": {key: repr(axis) for key, axis in self.axes.items()}})


_OUTSIDE = frozenset(NOT_IDENTITY)


def parse_space(words: Sequence[str]) -> Space:
    """Read the space out of the words of a command line; a later word for a key replaces an earlier one.

    Raises:
        ConfigError: Nothing is swept, or a sweep cannot be searched; all mistakes at once.
    """
    parsed, mistakes = parse_overrides(words)
    latest = {override.get_key_element(): override for override in parsed}
    axes: dict[str, BaseDistribution] = {}
    for key, override in latest.items():
        if is_sweep(override):
            try:
                axes[key] = _axis(override)
            except (ValueError, ConfigError) as error:
                mistakes.append(f"'{override.input_line}' cannot be searched: {error}")
    if not axes and not mistakes:
        mistakes.append(f"the search has nothing to vary. Add a range, such as {_EXAMPLE}.")
    if mistakes:
        raise ConfigError(mistakes)
    fixed = [str(override.input_line) for key, override in latest.items() if key not in axes]
    return Space(tuple(fixed), axes)


def _axis(override: Override) -> BaseDistribution:
    sweep: Any = override.value()
    unknown = sorted(set(sweep.tags) - {"log", "int", "float"})
    if unknown:
        raise ConfigError(f"unknown tag {', '.join(unknown)}; only 'log' is read.")
    log = "log" in sweep.tags
    if isinstance(sweep, IntervalSweep):
        low, high = sweep.start, sweep.end
        if isinstance(low, int) and isinstance(high, int):
            return IntDistribution(low, high, log=log)
        return FloatDistribution(float(low or 0.0), float(high or 0.0), log=log)
    if isinstance(sweep, RangeSweep) and not sweep.shuffle:
        return _range_axis(sweep, log)
    if log:
        raise ConfigError("'log' needs an interval(low, high).")
    return CategoricalDistribution(list(override.sweep_string_iterator()))


def _range_axis(sweep: RangeSweep, log: bool) -> BaseDistribution:
    """``range(a, b, c)`` excludes b, as in Hydra."""
    values = [float(value) for value in sweep.range()]
    if not values or log:
        raise ConfigError("a range needs at least one value, and no 'log'; use interval(low, high).")
    if len(values) == 1:
        return CategoricalDistribution([str(value) for value in sweep.range()])
    low, high = min(values), max(values)
    if all(value.is_integer() for value in (*values, float(sweep.step))):
        return IntDistribution(int(low), int(high), step=abs(int(sweep.step)))
    return FloatDistribution(low, high, step=abs(float(sweep.step)))


def _text(value: Any) -> str:
    return repr(value) if isinstance(value, float) else str(value)
