"""Reading run folders, and starting a run in a process of its own that dies where a test wants it to."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import signal
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pandas as pd

import dpforge.generators.storage as storage
import dpforge.generators.training as training
import dpforge.privacy.ledger as ledgers
from dpforge.cli.main import main
from dpforge.experiment import pictures
from dpforge.experiment.rundir import RunDir
from dpforge.experiment.tracking import Tracker
from dpforge.generators.maf_model import FittedMAF
from dpforge.privacy.mechanisms import PrivateAccess

WAIT = 120
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["whole_runs", "dpforge.experiment.runner"])


def only_run(place: Path) -> Path:
    """The one run folder below a working directory."""
    (config,) = place.glob("outputs/*/*/config.yaml")
    return config.parent


def certificate(run: Path) -> dict[str, Any]:
    """The certificate of a run."""
    return json.loads((run / "certificate.json").read_text())


def ledger(run: Path) -> list[dict[str, Any]]:
    """The records of a run's ledger; a torn last line is none."""
    whole = (run / "ledger.jsonl").read_text().rpartition("\n")[0]
    return [json.loads(line) for line in whole.splitlines()]


def reserved(run: Path) -> dict[str, list[int]]:
    """Every use that the ledger of a run counts, by piece; a use counted twice is listed twice."""
    uses: dict[str, list[int]] = defaultdict(list)
    for record in ledger(run):
        if record["kind"] == "reserve":
            uses[record["piece"]] += range(record["first"], record["first"] + record["count"])
    return dict(uses)


def results(run: Path) -> dict[str, Any]:
    """Everything about a finished run that a kill must not change."""
    metrics = json.loads((run / "metrics.json").read_text())["metrics"]
    stated = certificate(run)
    model = json.loads((run / "model" / "model.json").read_text())
    return {
        "parameters": hashlib.sha256((run / "model" / "model.safetensors").read_bytes()).hexdigest(),
        "statistics": model["arrays"],
        "synthetic": pd.read_parquet(run / "samples" / "synthetic.parquet").to_csv(),
        "epsilon": (stated["status"], stated["epsilon"], stated["delta"]),
        "reserved": reserved(run),
        "losses": pd.read_csv(run / "metrics.csv").filter(["step", "private/train/loss"]).to_csv(),
        "scores": {key: value for key, value in metrics.items() if not key.startswith("time/")},
    }


def snapshot(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Time of change and content of every file, but the lock, which every look at a run touches."""
    return {
        str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.read_bytes())
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != ".lock"
    }


def start(place: Path, words: Sequence[str], fault: str = "", after: int = 0) -> BaseProcess:
    """Start a run in a process of its own; ``fault`` happens the ``after``-th time the run could have it."""
    process = FORKS.Process(target=_attempt, args=(str(place), list(words), fault, after), daemon=True)
    process.start()
    return process


def ended(process: BaseProcess) -> int:
    """Wait for a process; return its exit code, negative for the signal that ended it."""
    process.join(WAIT)
    if process.exitcode is None:
        process.kill()
        raise AssertionError(f"the run did not end within {WAIT} seconds")
    return process.exitcode


def wait_for(condition: Callable[[], bool], process: BaseProcess) -> None:
    """Wait until ``condition`` holds or the process ends."""
    end = time.monotonic() + WAIT
    while not condition() and process.is_alive():
        assert time.monotonic() < end
        time.sleep(0.002)


def terminal(place: Path) -> str:
    """What the runs started in ``place`` printed."""
    return (place / "terminal.txt").read_text()


def _attempt(place: str, words: list[str], fault: str, after: int) -> None:
    os.chdir(place)
    said = os.open("terminal.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(said, 1)
    os.dup2(said, 2)
    pictures.draw = lambda *_: None
    _note_noise(Path(place) / "noise.txt")
    if fault:
        _FAULTS[fault](_Countdown(after))
    main(words)


class _Countdown:
    """True the n-th time it is asked."""

    def __init__(self, n: int) -> None:
        self.left = n

    def __call__(self) -> bool:
        self.left -= 1
        return self.left == 0


def die() -> None:
    """End this process at once, as the kernel would."""
    os.kill(os.getpid(), signal.SIGKILL)


def _note_noise(path: Path) -> None:
    """Write down every noise that is drawn for a clipped sum: id, key, and what it was added to."""
    original = PrivateAccess.gaussian_sum

    def noted(self: PrivateAccess, name: str, step: int, parts: Any) -> Any:
        value = hashlib.sha256(b"".join(part.numpy().tobytes() for part in parts)).hexdigest()
        with path.open("a") as file:
            file.write(f"{name} {step} {self.random.key_id} {value}\n")
        return original(self, name, step, parts)

    PrivateAccess.gaussian_sum = noted


def noises(place: Path) -> dict[tuple[str, int], set[tuple[str, str]]]:
    """Of every noise id drawn in ``place``, the (key, sum) pairs it was used for."""
    found: dict[tuple[str, int], set[tuple[str, str]]] = defaultdict(set)
    for line in (place / "noise.txt").read_text().splitlines():
        name, step, key, value = line.split()
        found[name, int(step)].add((key, value))
    return dict(found)


def _around(
    owner: Any, name: str, before: Callable[..., None] | None, after: Callable[..., None] | None
) -> None:
    original = getattr(owner, name)

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        if before is not None:
            before(*args, **kwargs)
        result = original(*args, **kwargs)
        if after is not None:
            after(*args, **kwargs)
        return result

    setattr(owner, name, wrapped)


def _after_line(kind: str) -> Callable[[_Countdown], None]:
    def plant(due: _Countdown) -> None:
        def check(path: Path, line: str) -> None:
            if f'"kind":"{kind}"' in line and due():
                die()

        _around(ledgers, "_append_line", None, check)

    return plant


def _within_line(kind: str) -> Callable[[_Countdown], None]:
    def plant(due: _Countdown) -> None:
        def check(path: Path, line: str) -> None:
            if f'"kind":"{kind}"' in line and due():
                path.open("a").write(line[: len(line) // 2])
                die()

        _around(ledgers, "_append_line", check, None)

    return plant


def _between_checkpoints(due: _Countdown) -> None:
    def check(path: Path, data: bytes) -> None:
        if path.name == "state.pt" and due():
            path.with_name("state.pt.tmp").write_bytes(data[: len(data) // 2])
            die()

    _around(storage, "write_atomic", check, None)


def _at(owner: Any, name: str, *, before: bool = True) -> Callable[[_Countdown], None]:
    def plant(due: _Countdown) -> None:
        def check(*_: Any, **__: Any) -> None:
            if due():
                die()

        _around(owner, name, check if before else None, None if before else check)

    return plant


def _hold(due: _Countdown) -> None:
    """Stop in the middle of a step until the file ``go`` exists."""

    def check(*_: Any, **__: Any) -> None:
        if due():
            Path("held").touch()
            while not Path("go").exists():
                time.sleep(0.005)

    _around(Tracker, "log", None, check)


def _signal_between_steps(due: _Countdown) -> None:
    """Be asked to stop when the run has just looked whether it was asked to."""

    def check(*_: Any, **__: Any) -> None:
        if due():
            os.kill(os.getpid(), signal.SIGTERM)

    _around(training._Loop, "on_train_batch_end", None, check)


_FAULTS: dict[str, Callable[[_Countdown], None]] = {
    "before the key is there": _at(RunDir, "write_secret"),
    "within the header": _within_line("header"),
    "after a reservation": _after_line("reserve"),
    "within a reservation": _within_line("reserve"),
    "between two checkpoints": _between_checkpoints,
    "after a step was logged": _at(Tracker, "log", before=False),
    "before the model is saved": _at(FittedMAF, "save"),
    "before a stage is recorded": _at(RunDir, "finish_stage"),
    "after a stage was recorded": _at(RunDir, "finish_stage", before=False),
    "before the ledger is closed": _at(ledgers.Ledger, "close"),
    "after the ledger was closed": _at(ledgers.Ledger, "close", before=False),
    "hold": _hold,
    "a signal between two steps": _signal_between_steps,
}
