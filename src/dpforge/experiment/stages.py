"""The stages of a run: fit, sample, evaluate. Each is skipped if an earlier attempt finished it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from signal import SIGINT, SIGTERM, SIGUSR1, getsignal, signal
from typing import Any

import torch

from dpforge.configuration.building import Experiment
from dpforge.data import Dataset
from dpforge.errors import Interrupted
from dpforge.evaluation import Guarantee, Results
from dpforge.experiment.display import Display, Stage
from dpforge.experiment.rundir import RunDir
from dpforge.experiment.synthetic import read_synthetic, write_synthetic
from dpforge.experiment.tracking import Tracker, Value, Visibility
from dpforge.generators.base import Fitted, RunContext, Synthetic
from dpforge.generators.storage import load_state
from dpforge.privacy.mechanisms import PrivateAccess
from dpforge.privacy.rng import public_random

_ASKS_TO_STOP = (SIGTERM, SIGINT, SIGUSR1)


class StopFlag:
    """Becomes true on SIGTERM, SIGUSR1 or the first Ctrl-C; the run then ends at its next step."""

    def __init__(self) -> None:
        self.raised = False

    def __call__(self) -> bool:
        return self.raised

    def check(self) -> None:
        """Raise ``Interrupted`` if the run was asked to stop."""
        if self.raised:
            raise Interrupted("stopped between two stages; the same command continues the run.")

    def _handle(self, number: int, frame: Any) -> None:
        if self.raised and number == SIGINT:
            raise KeyboardInterrupt
        self.raised = True

    @contextmanager
    def installed(self) -> Iterator[StopFlag]:
        """Listen to signals while the block runs (main thread only)."""
        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        before = {number: getsignal(number) for number in _ASKS_TO_STOP}
        try:
            for number in before:
                signal(number, self._handle)
            yield self
        finally:
            for number, handler in before.items():
                signal(number, handler)


@dataclass(frozen=True)
class Work:
    """What the stages of one run share."""

    experiment: Experiment
    folder: RunDir
    access: PrivateAccess
    tracker: Tracker
    display: Display
    stopping: StopFlag
    load: Callable[[], Dataset]

    def seconds(self, stage: str) -> float | None:
        """Return how long a finished stage took."""
        return self.folder.stage_seconds(stage)


def fit(work: Work) -> Fitted:
    """Fit the generator, or load it if an earlier attempt finished."""
    model = work.experiment.model
    if work.experiment.runtime.threads:
        torch.set_num_threads(work.experiment.runtime.threads)
    if work.folder.fitted():
        return model.load(work.folder.model)
    start = time.perf_counter()
    earlier = float(work.folder.status().get("earlier_fit_seconds", 0.0))
    try:
        fitted = model.fit(work.load(), _context(work))
    except Interrupted:
        work.folder.set_status("running", earlier_fit_seconds=earlier + time.perf_counter() - start)
        raise
    fitted.save(work.folder.model)
    work.access.ledger.check_complete()
    work.folder.finish_stage("fit", earlier + time.perf_counter() - start)
    return fitted


def _context(work: Work) -> RunContext:
    state = load_state(work.folder.checkpoints)
    work.tracker.resume(int(state["step"]) + 1 if state else 1)
    stage = _LazyStage(work.display, f"fit {work.experiment.model.name}")

    def log(step: int, values: Mapping[str, float], visibility: str) -> None:
        kind = Visibility(visibility)
        work.tracker.log(step, {name: Value(value, kind) for name, value in values.items()})

    def progress(done: int, total: int, values: Mapping[str, float]) -> None:
        if "loss" in values:
            for sink in ("terminal", "log.txt"):
                work.tracker.taint("train/loss", sink)
        stage.move(done, total, values)

    return RunContext(
        access=work.access,
        spec=work.experiment.privacy,
        runtime=work.experiment.runtime,
        seed=work.experiment.seed,
        checkpoints=work.folder.checkpoints,
        log=log,
        progress=progress,
        stopping=work.stopping,
        samples=work.folder.synthetic.parent,
    )


class _LazyStage:
    """A stage on the display whose total is known at its first step only."""

    def __init__(self, display: Display, name: str) -> None:
        self._display, self._name = display, name
        self._stage: Stage | None = None
        self._done = 0

    def move(self, done: int, total: int, fields: Mapping[str, Any]) -> None:
        """Show that ``done`` of ``total`` steps are complete."""
        if self._stage is None:
            self._stage = self._display.task(self._name, total)
        self._stage.advance(done - self._done, **fields)
        self._done = done
        if done >= total:
            self._stage.finish()


def sample(work: Work, fitted: Fitted) -> Synthetic:
    """Write the synthetic table or images, or read them if an earlier attempt finished."""
    if work.seconds("sample") is not None and work.folder.sampled():
        return read_synthetic(work.folder, fitted.schema)
    work.stopping.check()
    start = time.perf_counter()
    rows = work.experiment.rows or default_rows(fitted)
    with work.display.task("sample", rows) as stage:
        made = fitted.sample(rows, public_random(work.experiment.seed).generator("sample"))
        stage.advance(rows)
    write_synthetic(work.folder, made, fitted.schema, work.access.ledger)
    work.folder.finish_stage("sample", time.perf_counter() - start)
    return made


def default_rows(fitted: Fitted) -> int:
    """Return how many rows or images to draw where nobody says: those released, or by the row policy."""
    schema = fitted.schema
    return getattr(fitted, "released_rows", None) or schema.rows.value or schema.nominal_rows


def evaluate(work: Work, fitted: Fitted, synthetic: Synthetic) -> Results:
    """Score the synthetic table or images against real ones; every score is private."""
    work.stopping.check()
    start = time.perf_counter()
    data = work.load()
    stage = _LazyStage(work.display, "evaluate")

    def progress(name: str, done: int, total: int) -> None:
        work.stopping.check()
        stage.move(done, total, {})

    plan = work.access.ledger.plan
    results = work.experiment.evaluation.evaluate(
        data.train,
        data.holdout if len(data.holdout) else None,
        synthetic,
        fitted.schema,
        seed=work.experiment.seed,
        progress=progress,
        model=fitted,
        guarantee=Guarantee(plan.epsilon(), plan.delta),
    )
    work.folder.finish_stage("evaluate", time.perf_counter() - start)
    return results
