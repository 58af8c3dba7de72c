"""What a check of a command line returns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig

from dpforge.configuration.building import Experiment
from dpforge.identity import Identity


@dataclass(frozen=True)
class CheckedRun:
    """One run that passed every check.

    Args:
        overrides: The words that compose it.
        config: The composed configuration.
        experiment: Its components.
        schema: The public schema of its training data.
        plan: What it is authorised to spend.
        identity: Where it will live.
    """

    overrides: tuple[str, ...]
    config: DictConfig
    experiment: Experiment
    schema: Any
    plan: Any
    identity: Identity


@dataclass(frozen=True)
class Checked:
    """The runs a command line stands for.

    Args:
        runs: Those that were checked, at most 256, less the finished ones.
        multirun: Whether they are a sweep.
        total: All of them.
        finished: Words and identity of those that a caller's ``finished`` knew.
        enumerable: Whether the sweep is a list known before it starts.
    """

    runs: tuple[CheckedRun, ...]
    multirun: bool
    total: int
    finished: tuple[tuple[tuple[str, ...], Identity], ...] = ()
    enumerable: bool = True

    @property
    def nothing_left(self) -> bool:
        """Whether every run is finished."""
        return self.enumerable and len(self.finished) == self.total
