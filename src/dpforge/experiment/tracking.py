"""Where the values of a run go: the local CSV always, W&B on request, each by its visibility.

A sink that receives a private value is tainted, and the run's ledger is told before the value leaves.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from dpforge.errors import PrivacyError
from dpforge.experiment.tracking_config import CsvConfig, TrackerConfig, WandbConfig
from dpforge.experiment.tracking_csv import STEP, MetricsCsv
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
)

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "CsvConfig", "Tracker", "UntypedValueError", "Value", "Visibility", "WandbConfig", "WandbRun",
    "dp", "private", "public",
]  # fmt: skip

_log = logging.getLogger(__name__)
_CREDENTIAL = re.compile(r"key|token|secret|password", re.IGNORECASE)
_START_SECONDS = 30
_FINISH_SECONDS = 120


class Tracker:
    """Sends the values of one run to its sinks and remembers which sinks saw private ones.

    Use as a context manager; leaving it closes the CSV and the W&B run, also after an error. W&B never
    stops a run: if it fails, one warning is logged and the CSV goes on. Use from one thread.

    Args:
        config: ``CsvConfig`` or ``WandbConfig``.
        run_dir: Run folder; W&B writes under ``run_dir/wandb``.
        csv_path: The per-step log.
        run_id: Identity of the run and its W&B id, so that a resumed run continues there.
        study: W&B group.
        name: Name shown to people.
        run_config: Resolved configuration; entries named like a credential are not sent.
        job_type: W&B job type.
        on_taint: Called with ``(name, sink)`` before a private value first reaches a sink.
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
        job_type: str = "run",
        on_taint: Callable[[str, str], None] | None = None,
    ) -> None:
        self._run_dir = run_dir
        self._csv = MetricsCsv(csv_path)
        self._csv_sink = _relative(csv_path, run_dir)
        self._on_taint = on_taint
        self._tainted: dict[str, list[str]] = {}
        self._sends_private = config.release == "all"
        identity = {"id": run_id, "group": study, "name": name, "job_type": job_type, "dir": str(run_dir)}
        use_wandb = isinstance(config, WandbConfig)
        self._wandb = WandbRun(config, identity=identity, run_config=run_config) if use_wandb else None

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
        held_back = () if self._sends_private else private_names(values)
        allowed = {name: value for name, value in values.items() if name not in held_back}
        for name in private_names(allowed):
            self.taint(name, run.sink)
        if allowed:
            send(run, by_sink_name(allowed))


class WandbRun:
    """One W&B run that can never stop the work: the first failure is logged and ends its use.

    Args:
        config: Where to send.
        identity: ``id``, ``group``, ``name``, ``job_type`` and ``dir`` of the run.
        run_config: Resolved configuration; entries named like a credential are left out.
    """

    def __init__(
        self, config: WandbConfig, *, identity: Mapping[str, str], run_config: Mapping[str, Any]
    ) -> None:
        self.sink = config.sink
        self._config = config
        self._identity: dict[str, Any] = dict(identity)
        self._run_config = without_credentials(run_config)
        self._module: Any = None
        self._run: Any = None

    @property
    def active(self) -> bool:
        """Whether values are still sent."""
        return self._run is not None

    def start(self) -> None:
        """Open the run, in at most about half a minute."""
        self._guard("start", self._open)

    def log(self, values: Mapping[str, Any]) -> None:
        """Send the scalars of one step, including ``step`` itself."""
        self._guard("log", lambda: self._run.log(dict(values)))

    def summary(self, values: Mapping[str, Any]) -> None:
        """Send final numbers."""
        self._guard("summary", lambda: self._run.summary.update(dict(values)))

    def images(self, paths: Mapping[str, Path]) -> None:
        """Send pictures by name."""
        self._guard("image", lambda: self._run.log({n: self._module.Image(str(p)) for n, p in paths.items()}))

    def tables(self, frames: Mapping[str, pd.DataFrame]) -> None:
        """Send data frames by name."""
        self._guard("table", lambda: self._run.log({n: self._table(f) for n, f in frames.items()}))

    def artifacts(self, paths: Mapping[str, Path]) -> None:
        """Send files by name."""
        for name, path in paths.items():
            self._guard("artifact", lambda name=name, path=path: self._artifact(name, path))

    def finish(self, *, failed: bool) -> None:
        """Close the run; a slow upload is given up after two minutes and stays in the run folder."""
        run = self._run
        if run is not None:
            self._guard("finish", lambda: run.finish(exit_code=int(failed)))
        self._run = None

    def _open(self) -> None:
        import wandb

        self._module = wandb
        self._run = wandb.init(
            **self._identity,
            project=self._config.project,
            entity=self._config.entity,
            tags=list(self._config.tags),
            mode="offline" if self._config.offline else None,
            config=self._run_config,
            resume="allow",
            reinit="create_new",
            settings=wandb.Settings(**_settings()),
        )
        # A resumed run logs some steps again; with W&B's own counter those would be dropped.
        self._run.define_metric("*", step_metric=STEP)

    def _table(self, frame: pd.DataFrame) -> Any:
        cells = frame.astype(object).where(frame.notna(), None)
        names = [str(name) for name in frame.columns]
        return self._module.Table(columns=names, data=cells.to_numpy().tolist())

    def _artifact(self, name: str, path: Path) -> None:
        safe = re.sub(r"[^A-Za-z0-9_.-]+", "-", f"{self._identity['id']}-{name}")
        artifact = self._module.Artifact(safe[-128:], type="run-file")
        artifact.add_file(str(path))
        self._run.log_artifact(artifact)

    def _guard(self, what: str, action: Callable[[], Any]) -> None:
        if what != "start" and self._run is None:
            return
        try:
            action()
        except Exception as error:
            # Later texts could quote a logged value; only those of the start are shown.
            reason = f"{type(error).__name__}: {error}" if what == "start" else type(error).__name__
            _log.warning("W&B %s failed (%s); the run goes on and its folder has everything.", what, reason)
            self._run = None


def without_credentials(config: Any) -> Any:
    """Copy of a nested configuration without the entries whose name looks like a credential's."""
    if isinstance(config, Mapping):
        kept = {str(key): value for key, value in config.items() if not _CREDENTIAL.search(str(key))}
        return {key: without_credentials(value) for key, value in kept.items()}
    if isinstance(config, list | tuple):
        return [without_credentials(value) for value in config]
    return config


def _settings() -> dict[str, Any]:
    return {
        "silent": True,
        "quiet": True,
        "console": "off",
        "save_code": False,
        "disable_git": True,
        "disable_code": True,
        "x_disable_stats": True,
        "x_disable_meta": True,
        "x_disable_machine_info": True,
        "init_timeout": _START_SECONDS,
        "login_timeout": _START_SECONDS,
        "finish_timeout": _FINISH_SECONDS,
    }


def _relative(path: Path, folder: Path) -> str:
    return path.relative_to(folder).as_posix() if path.is_relative_to(folder) else path.name
