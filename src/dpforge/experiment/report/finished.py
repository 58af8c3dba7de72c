"""A finished run as its folder shows it, and what a reader of the report may see of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import OmegaConf

from dpforge.errors import RunError
from dpforge.experiment.rundir import RunDir
from dpforge.experiment.runner import stored_config
from dpforge.experiment.visibility import Visibility

_NEEDED = ("certificate", "metrics", "ledger", "schema", "config")
_ROLES = ("floor", "ceiling", "normalised")
_STAGES = ("fit", "sample", "evaluate")


class Score(NamedTuple):
    """One score with its context; what is missing is ``None``."""

    name: str
    value: float | None
    floor: float | None
    ceiling: float | None
    normalised: float | None
    std: float | None
    version: str


@dataclass(frozen=True)
class FinishedRun:
    """Everything a report needs of a run.

    Args:
        folder: Run folder.
        certificate: Content of ``certificate.json``.
        metrics: Content of ``metrics.json``.
        config: Resolved configuration.
        public: Whether only charged values and public ones may be shown.
    """

    folder: RunDir
    certificate: Mapping[str, Any]
    metrics: Mapping[str, Any]
    config: Mapping[str, Any]
    public: bool

    @property
    def status(self) -> str:
        """``DP``, ``RESEARCH NOISE`` or ``NOT DP``, as the certificate says."""
        return str(self.certificate["status"])

    @property
    def shows_private(self) -> bool:
        """Whether values computed from real rows without noise are shown."""
        return not self.public

    @property
    def shows_released(self) -> bool:
        """Whether the synthetic table and the model are shown; in public only under a guarantee."""
        return not self.public or self.status == "DP"

    @property
    def model(self) -> str:
        """Name of the generator."""
        target = str(self.config["model"]["_target_"])
        return target.split(".")[-2] if "." in target else target

    @property
    def dataset(self) -> str:
        """Name of the dataset."""
        return str(self.config["dataset"].get("name") or "data")

    def sees(self, visibility: str) -> bool:
        """Whether a value of this visibility is shown; an unknown one counts as private."""
        if visibility == Visibility.PUBLIC:
            return True
        return self.shows_released if visibility == Visibility.DP else self.shows_private

    def scores(self) -> dict[str, Score]:
        """Every score that may be shown, in the order of ``metrics.json``."""
        entries = {
            name: entry
            for name, entry in self.metrics["metrics"].items()
            if self.sees(str(entry.get("visibility")))
        }
        return {
            name: Score(
                name,
                _number(entries[name]),
                _number(entries.get(f"floor/{name}")),
                _number(entries.get(f"ceiling/{name}")),
                _number(entries.get(f"normalised/{name}")),
                entries[name].get("std"),
                str(entries[name].get("version", "")),
            )
            for name in entries
            if name.split("/")[0] not in (*_ROLES, "privacy", "time")
        }

    def seconds(self, stage: str) -> float | None:
        """How long a stage took, which depends on the number of private rows; ``None`` if not shown."""
        return self.folder.stage_seconds(stage) if self.shows_private else None

    def notes(self) -> list[str]:
        """Remarks on the scores, as far as they may be shown."""
        shown = self.sees(str(self.metrics.get("notes_visibility", "private")))
        return [str(note) for note in self.metrics.get("notes", ())] if shown else []

    def rows(self) -> dict[str, int]:
        """Rows of each table that entered the scores, as far as they may be shown."""
        shown = self.sees(str(self.metrics.get("rows_visibility", "private")))
        return dict(self.metrics.get("rows", {})) if shown else {}

    def records(self) -> list[dict[str, Any]]:
        """The records of the ledger."""
        lines = self.folder.ledger.read_text(encoding="utf-8").rpartition("\n")[0].splitlines()
        return [json.loads(line) for line in lines]

    def file(self, path: Path) -> bytes | None:
        """Bytes of a file of the run, ``None`` if it is not there."""
        return path.read_bytes() if path.is_file() else None


def is_run(path: Path) -> bool:
    """Whether a folder is a run's, finished or not."""
    folder = RunDir(path)
    return folder.config.is_file() and (folder.status_file.is_file() or folder.ledger.is_file())


def read_finished(run: Path, *, public: bool) -> FinishedRun:
    """Read the folder of a finished run.

    Raises:
        RunError: It is no run folder, the run is not finished, or a file is missing or damaged; the text
            says how to go on.
    """
    folder = RunDir(run)
    if not is_run(run):
        raise RunError(f"'{run}' is not a run folder. Name one, such as outputs/<study>/<run>.")
    if folder.status()["state"] != "done":
        raise RunError(_unfinished(folder))
    missing = [name for name in _NEEDED if not getattr(folder, name).is_file()]
    if missing:
        raise RunError(
            f"{run} has no {getattr(folder, missing[0]).name}. Start its command again: {command(folder)};"
            " what is missing is made anew."
        )
    config = OmegaConf.to_container(stored_config(folder), resolve=True)
    if not isinstance(config, dict) or not {"model", "dataset", "privacy"} <= config.keys():
        raise RunError(f"{folder.config} names no model, dataset and privacy. Restore the file.")
    certificate, metrics = folder.read_json(folder.certificate), folder.read_json(folder.metrics)
    if "metrics" not in metrics or "pieces" not in certificate:
        raise RunError(f"the scores or the certificate of {run} are damaged. Start its command again.")
    return FinishedRun(folder, certificate, metrics, {str(k): v for k, v in config.items()}, public)


def command(folder: RunDir) -> str:
    """The command that made a run, as far as the folder knows it."""
    path = folder.root / ".hydra" / "overrides.yaml"
    words = OmegaConf.to_container(OmegaConf.load(path)) if path.is_file() else []
    return " ".join(["dpforge", *(str(word) for word in words)] if isinstance(words, list) else ["dpforge"])


def _unfinished(folder: RunDir) -> str:
    state = folder.status()
    done = [stage for stage in _STAGES if folder.stage_seconds(stage) is not None]
    reached = f"finished stages: {', '.join(done)}" if done else "no stage is finished"
    return (
        f"{folder.root} is {state['state']}, not done ({reached}). Start its command again:"
        f" {command(folder)}; it continues where it was, at no further cost of privacy."
    )


def _number(entry: Mapping[str, Any] | None) -> float | None:
    value = None if entry is None else entry.get("value")
    return None if value is None else float(value)
