"""Where every run of a study stands, read in milliseconds while the runs go on."""

from __future__ import annotations

import fnmatch
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dpforge.errors import RunError, did_you_mean
from dpforge.experiment.attempt import is_held
from dpforge.experiment.rundir import RunDir
from dpforge.experiment.study import run_folders

STATES = ("running", "interrupted", "failed", "incomplete", "planned", "done")
STAGES = ("fit", "sample", "evaluate")
_TAIL_BYTES = 4096


@dataclass(frozen=True)
class RunState:
    """Where one run stands.

    Args:
        path: Its folder.
        state: ``running`` (a process holds it), ``interrupted`` (begun, and nobody works on it), ``failed``,
            ``done``, ``incomplete`` (finished, but files are gone) or ``planned``.
        stage: What it does or would do next; empty when done.
        step: Last step logged, and how many the plan has; None where nothing is counted.
        model: Choice of generator.
        dataset: Choice of data set.
        budget: As in the name of the folder: ``eps3``, ``sigma1.1`` or ``nodp``.
        seed: Public seed.
        epsilon: Of the certificate; None without one, or where none is finite.
        label: Status of the certificate.
        age: Seconds since the last sign of life; None without any.
        error: Why the last attempt failed, in one line.
        traceback: Where the traceback lies; it may quote private values.
        attempts: How often it was started.
        codes: With how many versions of the code.
    """

    path: Path
    state: str
    stage: str
    step: tuple[int, int] | None
    model: str
    dataset: str
    budget: str
    seed: str
    epsilon: float | None
    label: str
    age: float | None
    error: str
    traceback: Path | None
    attempts: int
    codes: int

    @property
    def retryable(self) -> bool:
        """Whether starting it again would do something."""
        return self.state in ("failed", "interrupted", "incomplete", "planned")


def read_states(folder: Path) -> list[RunState]:
    """Read where every run at or below ``folder`` stands, sorted by name.

    Raises:
        RunError: ``folder`` is missing or holds no run.
    """
    if not folder.is_dir():
        raise RunError(f"'{folder}' is not a folder. Name the folder of a study, such as outputs/<study>.")
    found = [read_state(path) for path in run_folders(folder)]
    if not found:
        raise RunError(f"no run below '{folder}': a run folder holds config.yaml and status.json.")
    return found


def read_state(path: Path) -> RunState:
    """Read where one run stands; what is missing or damaged is left out."""
    folder = RunDir(path)
    status, certificate = folder.status(), json_or_empty(folder.certificate)
    state = _state(folder, str(status["state"]))
    finished = [stage for stage in STAGES if stage in status["stages"]]
    attempts = status.get("attempts") or []
    model, dataset, budget, seed = _named(path.name)
    return RunState(
        path=path,
        state=state,
        stage="" if state == "done" else next((s for s in STAGES if s not in finished), "certify"),
        step=None if "fit" in finished else _steps(folder),
        model=model,
        dataset=dataset,
        budget=budget,
        seed=seed,
        epsilon=certificate.get("epsilon"),
        label=str(certificate.get("status", "")),
        age=_age(folder),
        error=" ".join(str(status.get("error") or "").split()),
        traceback=folder.traceback if folder.traceback.is_file() else None,
        attempts=len(attempts),
        codes=len({attempt.get("source") for attempt in attempts}),
    )


def named(states: Sequence[RunState], words: Sequence[str]) -> list[RunState]:
    """Return the runs that ``words`` name, each once.

    A word is a path, a pattern such as ``dp_maf*``, or the beginning of a folder's name or of a run id that
    only one run has.

    Raises:
        RunError: A word names no run, or is the beginning of several.
    """
    found: dict[Path, RunState] = {}
    for word in words:
        found |= {state.path: state for state in _matching(states, word.rstrip("/").rpartition("/")[2])}
    return list(found.values())


def _matching(states: Sequence[RunState], word: str) -> list[RunState]:
    names = {state.path.name: state for state in states}
    if word in names:
        return [names[word]]
    if any(mark in word for mark in "*?["):
        found = [state for name, state in names.items() if fnmatch.fnmatchcase(name, word)]
    else:
        found = [s for name, s in names.items() if word and word in _beginnings(name, len(word))]
        if len(found) > 1:
            listed = ", ".join(state.path.name for state in found[:4]) + (", …" if len(found) > 4 else "")
            raise RunError(f"'{word}' begins {len(found)} runs: {listed}. Write more of it, or '{word}*'.")
    if not found:
        raise RunError(f"no run is called '{word}'.{did_you_mean(word, names)} 'status' lists all.")
    return found


def _beginnings(name: str, length: int) -> tuple[str, str]:
    return name[:length], name.rpartition("-")[2][:length]


def _state(folder: RunDir, written: str) -> str:
    if is_held(folder):
        return "running"
    if written == "running":
        return "interrupted"
    return "incomplete" if written == "done" and not _all_there(folder) else written


def _all_there(folder: RunDir) -> bool:
    """Whether the files of a finished run are there; unlike ``complete`` this reads none of them."""
    made = (folder.ledger, folder.certificate, folder.metrics, folder.model / "model.json")
    return folder.sampled() and all(path.is_file() for path in made)


def _named(name: str) -> tuple[str, str, str, str]:
    parts = name.split("-")
    if len(parts) != 5:
        return name, "", "", ""
    return parts[0], parts[1], parts[2], parts[3].removeprefix("seed")


def _age(folder: RunDir) -> float | None:
    signs = (folder.lock, folder.status_file, folder.metrics_csv, folder.log)
    times = [path.stat().st_mtime for path in signs if path.is_file()]
    return max(0.0, time.time() - max(times)) if times else None


def _steps(folder: RunDir) -> tuple[int, int] | None:
    """Last step in the log, and the largest count in the plan."""
    try:
        with folder.ledger.open("rb") as file:
            plan = json.loads(file.readline())["plan"]
        total = max(int(piece["count"]) for piece in plan["pieces"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return None if total <= 1 else (_last_step(folder.metrics_csv), total)


def _last_step(path: Path) -> int:
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - _TAIL_BYTES))
            lines = file.read().decode("utf-8", errors="replace").splitlines()
    except OSError:
        return 0
    steps = [line.partition(",")[0] for line in lines]
    return next((int(step) for step in reversed(steps) if step.isdecimal()), 0)


def json_or_empty(path: Path) -> dict[str, Any]:
    """The JSON object in a file; empty if the file is missing, damaged or holds something else."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
