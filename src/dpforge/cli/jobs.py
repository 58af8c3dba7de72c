"""The jobs of a sweep: what one does, and what became of it, in whichever process it ran."""

from __future__ import annotations

import os
import pickle
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dpforge.cli.errors import FAILED, INTERRUPTED, describe, report
from dpforge.errors import Interrupted, RunLocked

CARRIED = "DPFORGE_"  # the variables that a job in another process or on another machine must share


@dataclass(frozen=True)
class Job:
    """What became of one job; plain values, so that any launcher can bring it back.

    Args:
        overrides: The words that compose it.
        state: ``ok``, ``skipped`` (finished already), ``elsewhere`` (another process works on it),
            ``interrupted``, ``failed``, or ``lost`` (its process died or was never started).
        folder: Its run folder; None if it never got one.
        said: What to tell the user, line by line; never a value of the data.
    """

    overrides: tuple[str, ...]
    state: str
    folder: str | None
    said: tuple[str, ...] = ()


class Jobs:
    """The task that Hydra calls for every job, here or in other processes; remembers what became of each.

    It does not raise, so that a failed job does not stop the others of a sweep.

    Args:
        multirun: Whether the jobs are a sweep.
    """

    def __init__(self, *, multirun: bool = False) -> None:
        self.multirun = multirun
        self.done: list[Job] = []
        self.error: Exception | None = None
        self.place = str(Path.cwd())
        self._environment: dict[str, str] = {}
        self._epsilons = b""
        self._here = True

    def __getstate__(self) -> dict[str, Any]:
        """Return what another process needs: place, our variables, what was calibrated, but no results."""
        carried = {name: value for name, value in os.environ.items() if name.startswith(CARRIED)}
        state = {**self.__dict__, "done": [], "error": None, "_here": False}
        return {**state, "_environment": carried, "_epsilons": _known_epsilons()}

    def __call__(self, config: Any) -> Job:
        """Run one job; returns what became of it."""
        from hydra.core.hydra_config import HydraConfig

        hydra = HydraConfig.get()
        overrides = tuple(hydra.overrides.task)
        if not self._here:
            self._settle(config)
        job = self._attempt(config, overrides, dict(hydra.runtime.choices))
        self.add(job)
        if self._here and self.multirun and job.state == "interrupted":
            sys.exit(INTERRUPTED)  # the signal was meant for the sweep, not for one job
        return job

    def add(self, job: Job) -> None:
        """Remember what became of a job; one that is known already changes nothing."""
        if not any(job is known for known in self.done):
            self.done.append(job)

    def exit_code(self) -> int:
        """Return 1 if a job failed or was lost, 130 if one was interrupted, else 0."""
        states = {job.state for job in self.done}
        if states & {"failed", "lost"}:
            return FAILED
        return INTERRUPTED if "interrupted" in states else 0

    def _settle(self, config: Any) -> None:
        """Be where the sweep was started, in a process that began elsewhere."""
        os.chdir(self.place)
        os.environ.update(self._environment)
        config.runtime.progress = False  # the bars of several runs would overwrite each other

    def _attempt(self, config: Any, overrides: tuple[str, ...], choices: Mapping[str, str]) -> Job:
        where: list[Path] = []
        try:
            state = _run(config, overrides, choices, where, self._epsilons)
            error: Exception | None = None
        except RunLocked as locked:
            state, error = "elsewhere", locked
        except Interrupted as stopped:
            state, error = "interrupted", stopped
        except Exception as failure:
            state, error = "failed", failure
        self.error = self.error or error
        if error is not None and self.multirun:
            report(error)
        said = tuple(describe(error)) if error is not None else ()
        return Job(overrides, state, str(where[0]) if where else None, said)


def _known_epsilons() -> bytes:
    """Pickle what the checks of this process have computed, so that no worker calibrates again."""
    accounting = sys.modules.get("dpforge.privacy.accounting")
    return pickle.dumps(accounting.known_epsilons()) if accounting is not None else b""


def _run(
    config: Any, overrides: Sequence[str], choices: Mapping[str, str], where: list[Path], epsilons: bytes
) -> str:
    """Make one run complete; returns its state, and leaves its folder in ``where`` as soon as it is known."""
    from dpforge.config import check_stamp, register
    from dpforge.experiment.rundir import RunDir
    from dpforge.experiment.skipping import SKIPPED, announce, finished
    from dpforge.identity import identify

    register()
    check_stamp()
    source = _source(config)
    identity = identify(config, source.public_schema(), choices)
    where.append(identity.folder)
    if finished(source, identity.folder):
        announce(RunDir(identity.folder), SKIPPED)
        return "skipped"
    from dpforge.experiment.runner import run
    from dpforge.privacy.accounting import learn_epsilons

    learn_epsilons(pickle.loads(epsilons) if epsilons else {})
    outcome = run(config, identity=identity, overrides=list(overrides))
    if not outcome.ok:
        return "failed"
    return "skipped" if outcome.skipped else "ok"


def _source(config: Any) -> Any:
    """Build the data source alone: enough to know where a run lives."""
    from dpforge.configuration.building import instantiate_components
    from dpforge.configuration.keys import COMPONENTS
    from dpforge.errors import ConfigError

    built, mistakes = instantiate_components(config, frozenset(COMPONENTS) - {"dataset"})
    if mistakes:
        raise ConfigError(mistakes)
    return built["dataset"]


def print_table(jobs: Sequence[Job]) -> None:
    """Print what became of every job, with the overrides that tell one from another."""
    if not jobs:  # a search whose trials were all done
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    studies = sorted({str(Path(job.folder).parent) for job in jobs if job.folder is not None})
    table = Table(title="Runs of this sweep", caption=", ".join(studies))
    for name in ("#", "state", "folder"):
        table.add_column(name, no_wrap=True)
    table.add_column("overrides", overflow="fold")
    shared = set.intersection(*(set(job.overrides) for job in jobs)) if len(jobs) > 1 else set()
    for number, job in enumerate(jobs):
        what = job.said[0] if job.said else " ".join(word for word in job.overrides if word not in shared)
        folder = Path(job.folder).name if job.folder is not None else "-"
        table.add_row(str(number), Text(job.state, _COLOURS[job.state]), Text(folder), Text(what))
    Console().print(table)


_COLOURS = {
    "ok": "green",
    "skipped": "cyan",
    "elsewhere": "cyan",
    "interrupted": "yellow",
    "failed": "red",
    "lost": "red",
}
