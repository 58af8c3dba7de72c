"""One run at Weights & Biases: its identity, what is sent, and how long it may keep anyone waiting."""

from __future__ import annotations

import logging
import os
import re
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dpforge.experiment.tracking_calls import Calls
from dpforge.experiment.tracking_config import WandbConfig
from dpforge.experiment.tracking_csv import STEP

if TYPE_CHECKING:
    import pandas as pd

_log = logging.getLogger("dpforge.experiment.tracking")
_CREDENTIAL = re.compile(r"key|token|secret|password", re.IGNORECASE)
_URL_LOGIN = re.compile(r"://[^/@\s]+@")
_START_SECONDS = 30.0
_LOGIN_SECONDS = 30
# After a run whose W&B did not start, the others of this process wait no longer than this.
_AGAIN_SECONDS = 1.0
_AXES = {"step": STEP, "epsilon": "privacy/epsilon_rdp"}


class _Service:
    """What the runs of this process know of W&B."""

    absent = False


class WandbRun:
    """One W&B run that can neither stop the work nor hold it up: its calls run in a thread of their own.

    The first failure is logged and ends its use; so does a W&B that does not answer in time. Where W&B did
    not start for the run before, in the same process, this one waits a second instead of the full bounds.

    Args:
        config: Where to send.
        identity: ``id``, ``group``, ``name``, ``job_type`` and ``dir`` of the run.
        run_config: Resolved configuration; entries named like a credential are left out.
        label: A tag beside those of ``config``; empty for none.
    """

    def __init__(
        self,
        config: WandbConfig,
        *,
        identity: Mapping[str, str],
        run_config: Mapping[str, Any],
        label: str = "",
    ) -> None:
        self.sink = config.sink
        self._config = config
        self._identity: dict[str, Any] = dict(identity)
        self._tags = [*config.tags, *([label] if label else [])]
        self._run_config = without_credentials(run_config)
        self._module: Any = None
        self._run: Any = None
        self._given_up = False
        self._hurried = False
        self._calls = Calls("W&B")

    @property
    def active(self) -> bool:
        """Whether values are still sent."""
        return self._calls.started and not self._given_up

    def start(self) -> None:
        """Open the run; after thirty seconds the work goes on, and what is logged waits for W&B."""
        self._hurried = _Service.absent
        self._submit("start", self._open)
        self._calls.wait(self._bound(_START_SECONDS))
        _Service.absent = self._run is None

    def _bound(self, seconds: float) -> float:
        return min(seconds, _AGAIN_SECONDS) if self._hurried and self._run is None else seconds

    def log(self, values: Mapping[str, Any]) -> None:
        """Send the scalars of one step, including ``step`` itself."""
        copied = dict(values)
        self._submit("log", lambda: self._run.log(copied))

    def summary(self, values: Mapping[str, Any]) -> None:
        """Send final numbers."""
        copied = dict(values)
        self._submit("summary", lambda: self._run.summary.update(copied))

    def images(self, paths: Mapping[str, Path]) -> None:
        """Send pictures by name."""
        found = dict(paths)
        self._submit(
            "image", lambda: self._run.log({n: self._module.Image(str(p)) for n, p in found.items()})
        )

    def tables(self, frames: Mapping[str, pd.DataFrame]) -> None:
        """Send data frames by name."""
        found = dict(frames)
        self._submit("table", lambda: self._run.log({n: self._table(f) for n, f in found.items()}))

    def artifacts(self, paths: Mapping[str, Path]) -> None:
        """Send files by name."""
        for name, path in paths.items():
            self._submit("artifact", lambda name=name, path=path: self._artifact(name, path))

    def finish(self, *, failed: bool) -> None:
        """Close the run; an upload slower than ``patience_s`` is given up and stays in the run folder."""
        if self.active:
            self._submit("finish", lambda: self._run.finish(exit_code=int(failed)))
            patience = self._bound(self._config.patience_s)
            if not self._calls.wait(patience):
                self._give_up(f"W&B did not finish within {patience:g} s")
        self._given_up = True
        self._calls.stop()

    def _open(self) -> None:
        import wandb

        if self._config.release == "public":
            _work_away_from_home()
        self._module = wandb
        self._run = wandb.init(
            **self._identity,
            project=self._config.project,
            entity=self._config.entity,
            tags=self._tags,
            mode="offline" if self._config.offline else None,
            config=self._run_config,
            resume="allow",
            reinit="create_new",
            settings=wandb.Settings(**_settings(self._config.patience_s)),
        )
        _Service.absent = False
        # A resumed run logs some steps again; with W&B's own counter those would be dropped.
        self._run.define_metric("*", step_metric=_AXES[self._config.x_axis])

    def _table(self, frame: pd.DataFrame) -> Any:
        cells = frame.astype(object).where(frame.notna(), None)
        names = [str(name) for name in frame.columns]
        return self._module.Table(columns=names, data=cells.to_numpy().tolist())

    def _artifact(self, name: str, path: Path) -> None:
        safe = re.sub(r"[^A-Za-z0-9_.-]+", "-", f"{self._identity['id']}-{name}")
        artifact = self._module.Artifact(safe[-128:], type="run-file")
        artifact.add_file(str(path), policy="immutable")  # not copied below the home folder
        self._run.log_artifact(artifact)

    def _submit(self, what: str, action: Callable[[], Any]) -> None:
        def guarded() -> None:
            if self._given_up:
                return
            try:
                action()
            except Exception as error:
                # Later texts could quote a logged value; only those of the start are shown.
                text = _URL_LOGIN.sub("://", str(error))
                reason = f"{type(error).__name__}: {text}" if what == "start" else type(error).__name__
                self._give_up(f"W&B {what} failed ({reason})")

        if not self._given_up and not self._calls.submit(guarded):
            self._give_up(f"W&B takes no more calls (the last was {what})")

    def _give_up(self, reason: str) -> None:
        if not self._given_up:
            _log.warning("%s; the run goes on and its folder has everything.", reason)
        self._given_up = True


def without_credentials(config: Any) -> Any:
    """Copy of a configuration without entries named like a credential, and without logins in addresses."""
    if isinstance(config, Mapping):
        kept = {str(key): value for key, value in config.items() if not _CREDENTIAL.search(str(key))}
        return {key: without_credentials(value) for key, value in kept.items()}
    if isinstance(config, list | tuple):
        return [without_credentials(value) for value in config]
    return _URL_LOGIN.sub("://", config) if isinstance(config, str) else config


def _work_away_from_home() -> None:
    """Give W&B a place for staged files and logs, which it names in the record, unless the user chose one."""
    for variable in ("WANDB_DATA_DIR", "WANDB_CACHE_DIR"):
        if variable not in os.environ:
            os.environ[variable] = tempfile.mkdtemp(prefix="dpforge-wandb-")


def _settings(patience: float) -> dict[str, Any]:
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
        "init_timeout": _LOGIN_SECONDS,
        "login_timeout": _LOGIN_SECONDS,
        "finish_timeout": patience,
    }
