"""Where the values of a run go: the local CSV always, W&B on request, each by its visibility.

A sink that receives a private value is tainted, and the run's ledger is told before the value leaves.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from dpforge.errors import PrivacyError
from dpforge.experiment.tracking_config import CsvConfig, TrackerConfig, WandbConfig
from dpforge.experiment.tracking_csv import STEP, MetricsCsv
from dpforge.experiment.tracking_wandb import WandbRun, without_credentials
from dpforge.experiment.visibility import (
    UntypedValueError,
    Value,
    Visibility,
    by_sink_name,
    dp,
    private,
    private_names,
    public,
    scalars,
    without_guarantee,
)

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "CsvConfig", "Tracker", "UntypedValueError", "Value", "Visibility", "WandbConfig", "WandbRun",
    "dp", "private", "public", "without_credentials",
]  # fmt: skip


class Tracker:
    """Sends the values of one run to its sinks and remembers which sinks saw private ones.

    Use as a context manager; leaving it closes the CSV and the W&B run, also after an error. W&B never
    stops a run, and delays it by no more than ``WandbConfig`` allows: if it fails, one warning is logged and
    the CSV goes on. Use from one thread.

    Args:
        config: ``CsvConfig`` or ``WandbConfig``.
        run_dir: Run folder; W&B writes under ``run_dir/wandb``.
        csv_path: The per-step log.
        run_id: Identity of the run and its W&B id, so that a resumed run continues there.
        study: W&B group.
        name: Name shown to people.
        run_config: Resolved configuration; entries named like a credential are not sent.
        job_type: W&B job type; that of ``config`` if None.
        on_taint: Called with ``(name, sink)`` before a private value first reaches a sink.
        guaranteed: Whether the run has a finite epsilon. Without one, what is computed from released values
            is as private as the rows, and W&B gets it as such.
        label: What stands beside every epsilon of the run, such as ``RESEARCH NOISE``: a W&B tag.
    """

    def __init__(
        self,
        config: TrackerConfig,
        *,
        run_dir: Path,
        csv_path: Path,
        run_id: str,
        study: str,
        name: str,
        run_config: Mapping[str, Any],
        job_type: str | None = None,
        on_taint: Callable[[str, str], None] | None = None,
        guaranteed: bool = True,
        label: str = "",
    ) -> None:
        self._run_dir = run_dir
        self._csv = MetricsCsv(csv_path)
        self._csv_sink = _relative(csv_path, run_dir)
        self._on_taint = on_taint
        self._tainted: dict[str, list[str]] = {}
        self._sends_private, self._guaranteed = config.release == "all", guaranteed
        self._wandb: WandbRun | None = None
        if isinstance(config, WandbConfig):
            identity = {"id": run_id, "group": study, "name": name, "dir": str(run_dir)}
            identity["job_type"] = job_type or config.job_type
            self._wandb = WandbRun(config, identity=identity, run_config=run_config, label=label)

    def __enter__(self) -> Self:
        if self._wandb is not None:
            self._wandb.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            self._csv.close()
        finally:
            if self._wandb is not None:
                self._wandb.finish(failed=kind is not None)

    @property
    def tainted(self) -> dict[str, list[str]]:
        """Names of the private values that each sink received, by sink."""
        return {sink: list(names) for sink, names in self._tainted.items()}

    def taint(self, name: str, sink: str) -> None:
        """Record that ``sink`` is about to receive the private value ``name``; a repeat is ignored."""
        if name in self._tainted.get(sink, ()):
            return
        if self._on_taint is not None:
            self._on_taint(name, sink)
        self._tainted.setdefault(sink, []).append(name)

    def log(self, step: int, values: Mapping[str, Value]) -> None:
        """Log the scalars of one step; a second call for the same step adds to its row.

        Raises:
            PrivacyError: If a value does not say who may see it; then nothing is logged.
            RunError: If the CSV cannot be written.
        """
        typed = scalars(values)
        for name in private_names(typed):
            self.taint(name, self._csv_sink)
        self._csv.write(int(step), by_sink_name(typed))
        self._send(typed, lambda run, sent: run.log({STEP: int(step), **sent}))

    def resume(self, step: int) -> None:
        """Forget the logged steps from ``step`` on, because a checkpoint continues there."""
        self._csv.rewind(step)

    def summary(self, values: Mapping[str, Value]) -> None:
        """Send the final numbers of the run to W&B; the run folder has them in ``metrics.json``."""
        self._send(scalars(values), lambda run, sent: run.summary(sent))

    def image(self, name: str, path: Path, visibility: Visibility) -> None:
        """Register a picture of the run folder, and send it if it may leave."""
        self._register(name, path, visibility)
        self._send({name: Value(path, visibility)}, lambda run, sent: run.images(sent))

    def table(self, name: str, frame: pd.DataFrame, visibility: Visibility) -> None:
        """Send a data frame to W&B if it may leave; no file is written."""
        self._send({name: Value(frame, visibility)}, lambda run, sent: run.tables(sent))

    def artifact(self, path: Path, visibility: Visibility) -> None:
        """Register a file of the run folder, and send it if it may leave.

        Raises:
            PrivacyError: If the file received private values and is declared public or dp.
        """
        name = _relative(path, self._run_dir)
        self._register(name, path, visibility)
        self._send({name: Value(path, visibility)}, lambda run, sent: run.artifacts(sent))

    def _register(self, name: str, path: Path, visibility: Visibility) -> None:
        sink = _relative(path, self._run_dir)
        if Visibility(visibility) is Visibility.PRIVATE:
            self.taint(name, sink)
        elif sink in self._tainted:
            raise PrivacyError(f"'{sink}' received private values: register it as private, not {visibility}")

    def _send(self, values: Mapping[str, Value], send: Callable[[WandbRun, dict[str, Any]], None]) -> None:
        run = self._wandb
        if run is None or not run.active:
            return
        if not self._guaranteed:
            values = {name: without_guarantee(value) for name, value in values.items()}
        held_back = () if self._sends_private else private_names(values)
        allowed = {name: value for name, value in values.items() if name not in held_back}
        for name in private_names(allowed):
            self.taint(name, run.sink)
        if allowed:
            send(run, by_sink_name(allowed))


def _relative(path: Path, folder: Path) -> str:
    return path.relative_to(folder).as_posix() if path.is_relative_to(folder) else path.name
