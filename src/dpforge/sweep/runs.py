"""The runs of a search: where each lives, what it may spend, and what became of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any

from omegaconf import DictConfig

from dpforge.config import build
from dpforge.configuration.composing import COMPOSITION_ERRORS, compose_all, explain
from dpforge.errors import ConfigError, DPForgeError
from dpforge.experiment.attempt import is_held
from dpforge.experiment.rundir import RunDir
from dpforge.experiment.study_status import json_or_empty
from dpforge.identity import Identity, identify
from dpforge.privacy.plan import Plan


@dataclass(frozen=True)
class Candidate:
    """One configuration of a search.

    Args:
        words: Overrides that compose it.
    """

    words: tuple[str, ...]

    @staticmethod
    @lru_cache(maxsize=1024)
    def of(*words: str) -> Candidate:
        """The candidate of these words, the same object each time: composing one takes a while."""
        return Candidate(words)

    @cached_property
    def config(self) -> DictConfig:
        """The composed configuration; raises ``ConfigError`` if the words do not fit."""
        return self._composition.config

    @cached_property
    def _composition(self) -> Any:
        try:
            return compose_all(self.words)
        except COMPOSITION_ERRORS as error:
            raise ConfigError(explain(error)) from None

    @cached_property
    def _experiment(self) -> Any:
        return build(self.config)

    @cached_property
    def identity(self) -> Identity:
        """Where the run lives."""
        schema = self._experiment.dataset.public_schema()
        return identify(self.config, schema, self._composition.choices)

    @cached_property
    def plan(self) -> Plan:
        """What the run may spend."""
        return self._experiment.model.plan(self.schema, self._experiment.privacy)

    @property
    def schema(self) -> Any:
        """The public schema of its data."""
        return self._experiment.dataset.public_schema()

    @property
    def public_data(self) -> bool:
        """Whether its data set is declared a public one."""
        return bool(self.config.dataset.get("public_benchmark", False))

    @property
    def folder(self) -> RunDir:
        """The run folder."""
        return RunDir(self.identity.folder)

    @property
    def folder_if_any(self) -> RunDir | None:
        """The run folder; None for values that no run can have."""
        try:
            return self.folder
        except DPForgeError:
            return None


@dataclass(frozen=True)
class Outcome:
    """What became of a run.

    Args:
        state: ``done``, ``failed``, ``elsewhere`` (another process works on it) or ``interrupted``.
        values: The objectives of a finished run.
        public: Whether every objective says that it is public.
    """

    state: str
    values: Mapping[str, float] = field(default_factory=dict)
    public: bool = False


def outcome(candidate: Candidate, objectives: Sequence[str]) -> Outcome:
    """Read what became of a run that was launched.

    Raises:
        ConfigError: The run is finished and lacks an objective; says which metrics it has.
    """
    folder = candidate.folder_if_any
    if folder is None:
        return Outcome("failed")
    if not folder.complete():
        if is_held(folder):
            return Outcome("elsewhere")
        return Outcome("interrupted" if folder.status()["state"] == "running" else "failed")
    entries = json_or_empty(folder.metrics).get("metrics", {})
    missing = [name for name in objectives if entries.get(name, {}).get("value") is None]
    if missing:
        known = ", ".join(
            name for name in entries if not name.startswith(("floor/", "ceiling/", "normalised/"))
        )
        raise ConfigError(
            f"hydra.sweeper.objectives: the runs have no value of {', '.join(missing)}. There is: {known}."
        )
    return Outcome(
        "done",
        {name: float(entries[name]["value"]) for name in objectives},
        all(entries[name].get("visibility") == "public" for name in objectives),
    )
