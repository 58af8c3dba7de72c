"""What a search looks for, how long, and what its choice may cost."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dpforge.errors import ConfigError, did_you_mean

SELECTIONS = ("none", "public_proxy", "repeat_and_select")
SAMPLERS = ("tpe", "random")
DIRECTIONS = ("minimize", "maximize")
# Computed from the configuration alone.
PUBLIC_PREFIX = "privacy/"


@dataclass(frozen=True)
class SearchSettings:
    """The keys of ``hydra.sweeper`` under ``sweep=optuna``.

    Args:
        objectives: Keys of ``metrics.json``; with several the search looks for the Pareto front.
        directions: ``minimize`` or ``maximize`` for each objective; None goes towards the best value that the
            metric can take.
        selection: ``none``: every run is composed, and the choice itself is not private unless its scores
            are noisy. ``public_proxy``: only public scores decide. ``repeat_and_select``: a secret random
            number of random candidates runs, and only the winner may be released.
        n_trials: Runs of an adaptive search; size of the public pool of candidates under
            ``repeat_and_select``.
        n_jobs: Runs handed to the launcher at once.
        sampler: ``tpe`` or ``random``.
        seed: Public seed of the sampler.
        mean_runs: Expected number of runs under ``repeat_and_select``, >= 1.
        shape: Shape of the law of that number, >= 0; see ``RepeatAndSelect``.
        score_sensitivity: How far one unit of privacy can move the objective, > 0; a fact about the metric
            that the user asserts.
        score_noise: Standard deviation of the Gaussian noise on every score over ``score_sensitivity``, > 0;
            the noisy score decides, and its cost is in the books.

    Raises:
        ConfigError: With every mistake among the values.
    """

    objectives: tuple[str, ...] = ("fidelity/tvd_2way",)
    directions: tuple[str, ...] | None = None
    selection: str = "none"
    n_trials: int = 20
    n_jobs: int = 1
    sampler: str = "tpe"
    seed: int = 0
    mean_runs: float = 10.0
    shape: float = 0.0
    score_sensitivity: float | None = None
    score_noise: float | None = None

    def __post_init__(self) -> None:
        for name in ("objectives", "directions"):
            value = getattr(self, name)
            if isinstance(value, Sequence) and not isinstance(value, str):
                object.__setattr__(self, name, tuple(value))
        mistakes = [*self._choice_mistakes(), *self._number_mistakes(), *self._objective_mistakes()]
        if mistakes:
            raise ConfigError(mistakes)

    @property
    def noisy(self) -> bool:
        """Whether scores get noise before they decide."""
        return self.score_noise is not None

    @property
    def public_by_name(self) -> bool:
        """Whether every objective is computed from the configuration alone."""
        return all(name.startswith(PUBLIC_PREFIX) for name in self.objectives)

    def _choice_mistakes(self) -> list[str]:
        found = []
        for name, choices in (("selection", SELECTIONS), ("sampler", SAMPLERS)):
            value = getattr(self, name)
            if value not in choices:
                hint = did_you_mean(str(value), choices)
                found.append(_mistake(name, value, f"one of {', '.join(choices)}.{hint}"))
        return found

    def _number_mistakes(self) -> list[str]:
        found = [
            _mistake(name, getattr(self, name), "an integer >= 1.")
            for name in ("n_trials", "n_jobs")
            if not isinstance(getattr(self, name), int) or getattr(self, name) < 1
        ]
        for name, least in (("mean_runs", 1.0), ("shape", 0.0)):
            if not _is_number(getattr(self, name)) or getattr(self, name) < least:
                found.append(_mistake(name, getattr(self, name), f"a finite number >= {least:g}."))
        for name in ("score_sensitivity", "score_noise"):
            value = getattr(self, name)
            if value is not None and not (_is_number(value) and value > 0):
                found.append(_mistake(name, value, "a finite number > 0, or null."))
        if (self.score_noise is None) != (self.score_sensitivity is None):
            found.append(
                f"hydra.sweeper.score_noise={self.score_noise},"
                f" hydra.sweeper.score_sensitivity={self.score_sensitivity}: a noisy score needs both, an"
                " exact one neither."
            )
        return found

    def _objective_mistakes(self) -> list[str]:
        if not isinstance(self.objectives, tuple) or not all(_is_key(name) for name in self.objectives):
            return [
                _mistake("objectives", self.objectives, "a list of metrics, such as [fidelity/tvd_2way].")
            ]
        if not self.objectives:
            return [_mistake("objectives", self.objectives, "at least one metric.")]
        found = []
        ways = self.directions
        if ways is not None and (len(ways) != len(self.objectives) or any(w not in DIRECTIONS for w in ways)):
            found.append(_mistake("directions", ways, "minimize or maximize for each objective, or null."))
        several = len(self.objectives) > 1
        if several and (self.selection == "repeat_and_select" or self.noisy):
            found.append(
                f"hydra.sweeper.objectives has {len(self.objectives)} metrics; a private selection and noisy"
                " scores have one winner. Name one metric."
            )
        return found + self._selection_mistakes()

    def _selection_mistakes(self) -> list[str]:
        if self.selection == "repeat_and_select" and not (self.noisy or self.public_by_name):
            return [
                f"privacy.selection=repeat_and_select with the exact private score"
                f" '{self.objectives[0]}': the proof asks that a run pays for the score that chooses it. Give"
                " hydra.sweeper.score_sensitivity=<how far one row can move the score> and"
                " hydra.sweeper.score_noise=<noise multiplier>."
            ]
        return []


def _is_key(name: Any) -> bool:
    return isinstance(name, str) and "/" in name


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _mistake(name: str, value: Any, expected: str) -> str:
    return f"hydra.sweeper.{name}={value!r}: expected {expected}"
