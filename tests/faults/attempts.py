"""One attempt at a run in a forked process, and everything a finished run folder can be compared by."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import signal
import sys
import time
import traceback
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dpforge.cli.errors import clean_errors
from dpforge.experiment.rundir import RunDir
from dpforge.experiment.runner import run
from dpforge.privacy.access import Access, Observation

from .generators import Case

LONGEST = 90.0
ESCAPED = 99
HUNG = -99


def start(case: Case, place: Path, plant: Callable[[], None] | None = None, config: Any = None) -> int:
    """Fork an attempt at the run in ``place``; ``plant`` is called in it first. Returns its process id."""
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        return pid
    code = ESCAPED
    try:
        code = _attempt(case, place, plant, config)
    finally:
        os._exit(code)


def _attempt(case: Case, place: Path, plant: Callable[[], None] | None, config: Any) -> int:
    os.chdir(place)
    said = os.open("terminal.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    os.dup2(said, 1)
    os.dup2(said, 2)
    note_noise(place / "noise.txt")
    try:
        if plant is not None:
            plant()
        with clean_errors():
            run(case.config if config is None else config, identity=case.identity)
    except SystemExit as stop:
        return int(stop.code or 0)
    except BaseException:
        traceback.print_exc()
        return ESCAPED
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
    return 0


def ended(pid: int, longest: float = LONGEST) -> int:
    """Wait for an attempt; returns its exit code, negative for a signal, ``HUNG`` if it had to be killed."""
    deadline = time.monotonic() + longest
    while time.monotonic() < deadline:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return HUNG


def attempt(case: Case, place: Path, plant: Callable[[], None] | None = None, config: Any = None) -> int:
    """Make one attempt and wait for it."""
    return ended(start(case, place, plant, config))


def terminal(place: Path) -> str:
    """What the attempts in ``place`` printed."""
    path = place / "terminal.txt"
    return path.read_text(errors="replace") if path.exists() else ""


def note_noise(path: Path) -> None:
    """Write down every release of this process: piece, use, key, and digests of value and noise."""
    original = Access.__init__

    def noted(self: Access, ledger: Any, random: Any, observers: Any = ()) -> None:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)

        def note(seen: Observation) -> None:
            value = hashlib.sha256(seen.value.tobytes()).hexdigest()[:16]
            noise = hashlib.sha256(seen.noise.tobytes()).hexdigest()[:16]
            os.write(handle, f"{seen.name}|{seen.step}|{random.key_id}|{value}|{noise}\n".encode())

        original(self, ledger, random, (*observers, note))

    Access.__init__ = noted


def releases(place: Path) -> dict[tuple[str, int], set[tuple[str, str, str]]]:
    """Of every use of a piece, the (key, value, noise) that any attempt released under it."""
    found: dict[tuple[str, int], set[tuple[str, str, str]]] = defaultdict(set)
    path = place / "noise.txt"
    for line in path.read_text().splitlines() if path.exists() else ():
        name, step, *rest = line.split("|")
        found[name, int(step)].add((rest[0], rest[1], rest[2]))
    return dict(found)


def records(folder: RunDir) -> list[dict[str, Any]]:
    """The whole lines of the ledger; a torn last line is none."""
    if not folder.ledger.is_file():
        return []
    whole = folder.ledger.read_bytes().rpartition(b"\n")[0]
    return [json.loads(line) for line in whole.splitlines()]


def uses(lines: list[dict[str, Any]]) -> dict[str, list[Any]]:
    """What the ledger counts: the uses of every piece, and each rho spent inside one."""
    found: dict[str, list[Any]] = defaultdict(list)
    for record in lines:
        if record["kind"] == "reserve":
            found[record["piece"]] += range(record["first"], record["first"] + record["count"])
        elif record["kind"] == "spend":
            found[f"{record['piece']} rho"].append(record["rho"])
    return dict(found)


def results(folder: RunDir) -> dict[str, Any]:
    """Everything about a finished run that no fault may change."""
    stated = json.loads(folder.certificate.read_text())
    scores = json.loads(folder.metrics.read_text())["metrics"]
    logged: list[Any] = []
    if folder.metrics_csv.is_file():
        rows = csv.DictReader(folder.metrics_csv.read_text().splitlines())
        logged = [(row["step"], row.get("private/train/loss")) for row in rows]
    return {
        "files": folder.released(),
        "stated": (stated["status"], stated["epsilon"], stated["delta"]),
        "uses": uses(records(folder)),
        "scores": {name: score for name, score in scores.items() if not name.startswith("time/")},
        "logged": logged,
    }
