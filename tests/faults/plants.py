"""What happens inside an attempt: at a named point, for the n-th time, something goes wrong."""

from __future__ import annotations

import errno
import json
import os
import resource
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dpforge.experiment.runner as runner
import dpforge.experiment.stages as stages
import dpforge.privacy.ledger as ledgers
from dpforge.experiment.rundir import RunDir
from dpforge.privacy.access import Access

Action = Callable[[], None]
NOBODY = 65534


def _signal(number: signal.Signals) -> Action:
    return lambda: os.kill(os.getpid(), number)


def _out_of_memory() -> None:
    raise MemoryError("no memory left")


def _no_space() -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "a file")


ACTIONS: dict[str, Action] = {
    "SIGKILL": _signal(signal.SIGKILL),
    "SIGTERM": _signal(signal.SIGTERM),
    "SIGUSR1": _signal(signal.SIGUSR1),
    "SIGINT": _signal(signal.SIGINT),
    "out of memory": _out_of_memory,
    "disk full": _no_space,
}


def _around(owner: Any, name: str, before: Callable[..., None], after: Callable[..., None]) -> None:
    original = getattr(owner, name)

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        before(*args, **kwargs)
        result = original(*args, **kwargs)
        after(*args, **kwargs)
        return result

    setattr(owner, name, wrapped)


def _nothing(*_: Any, **__: Any) -> None:
    pass


def _before(owner: Any, name: str) -> Callable[[Action], None]:
    return lambda hit: _around(owner, name, lambda *_, **__: hit(), _nothing)


def _after(owner: Any, name: str) -> Callable[[Action], None]:
    return lambda hit: _around(owner, name, _nothing, lambda *_, **__: hit())


def _renaming(target: str, *, before: bool) -> Callable[[Action], None]:
    def check(hit: Action) -> Callable[..., None]:
        return lambda source, to, *_, **__: hit() if Path(to).name == target else None

    def plant(hit: Action) -> None:
        _around(os, "replace", check(hit) if before else _nothing, _nothing if before else check(hit))

    return plant


def _torn_line(hit: Action) -> None:
    def tear(path: Path, line: str) -> None:
        whole = path.read_bytes() if path.exists() else b""
        with path.open("ab") as file:
            file.write(line.encode()[: len(line) // 2])
        hit()
        path.write_bytes(whole)

    _around(ledgers, "_append_line", tear, _nothing)


def _in_evaluation(hit: Action) -> None:
    def check(stage: Any, *_: Any) -> None:
        if stage._name == "evaluate":
            hit()

    _around(stages._LazyStage, "move", check, _nothing)


POINTS: dict[str, Callable[[Action], None]] = {
    "before a ledger line": _before(ledgers, "_append_line"),
    "within a ledger line": _torn_line,
    "after a ledger line": _after(ledgers, "_append_line"),
    "after noise": _after(Access, "_report"),
    "before a checkpoint": _renaming("state.pt", before=True),
    "between two checkpoints": _renaming("state.previous.pt", before=False),
    "after a checkpoint": _renaming("state.pt", before=False),
    "before the key": _before(RunDir, "write_secret"),
    "after the key": _after(RunDir, "write_secret"),
    "before the configuration": _renaming("config.yaml", before=True),
    "before the model": _renaming("model.safetensors", before=True),
    "within the model": _renaming("model.json", before=True),
    "before a stage is recorded": _before(RunDir, "finish_stage"),
    "after a stage is recorded": _after(RunDir, "finish_stage"),
    "in sampling": _before(stages, "public_random"),
    "before the samples": _before(stages, "write_synthetic"),
    "after the samples": _after(stages, "write_synthetic"),
    "in evaluation": _in_evaluation,
    "before the scores": _renaming("metrics.json", before=True),
    "before the ledger is closed": _before(ledgers.Ledger, "close"),
    "before the certificate": _before(runner, "make_certificate"),
    "after the certificate": _renaming("certificate.json", before=False),
}
FILES = ("fsync", "replace", "write")


def at(point: str, action: str, number: int) -> Callable[[], None]:
    """Plan an action for the ``number``-th time (from 1) that the run passes a point."""

    def plant() -> None:
        left = [number]

        def hit() -> None:
            left[0] -= 1
            if left[0] == 0:
                ACTIONS[action]()

        POINTS[point](hit)

    return plant


def full_disk(call: str, number: int, *, stays: bool) -> Callable[[], None]:
    """From the ``number``-th call of ``os.<call>`` there is no space: that once, or until the end."""

    def plant() -> None:
        left = [number]

        def fail(*arguments: Any, **_: Any) -> None:
            if call == "write" and arguments[0] <= 2:
                return
            left[0] -= 1
            if left[0] == 0 or (stays and left[0] < 0):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        _around(os, call, fail, _nothing)

    return plant


def small_files(size: int) -> Callable[[], None]:
    """No file may grow beyond ``size`` bytes: the kernel's own refusal."""

    def plant() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    return plant


def little_memory(extra: int) -> Callable[[], None]:
    """The process may take ``extra`` bytes more than it has; then allocations fail."""

    def plant() -> None:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + extra
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))

    return plant


def no_rights() -> None:
    """The run folder may be read, not written (an administrator becomes nobody first)."""
    if os.geteuid() == 0:
        os.setegid(NOBODY)
        os.seteuid(NOBODY)
        return
    for path in Path("outputs").rglob("*"):
        if path.is_dir():
            path.chmod(0o555)


def no_wandb() -> None:
    """Weights & Biases is not installed."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "wandb"]:
        del sys.modules[name]
    sys.modules["wandb"] = None  # type: ignore[assignment]


def skewed_clock(start: float, stride: float) -> Callable[[], None]:
    """The clock begins at ``start`` and moves by ``stride`` seconds at every look, backwards if negative."""

    def plant() -> None:
        now = [start]

        def told() -> float:
            now[0] = max(now[0] + stride, 0.0)
            return now[0]

        time.time = told
        time.time_ns = lambda: int(told() * 1e9)

    return plant


def counting(path: Path) -> Callable[[], None]:
    """Count how often the run passes each point and makes each call; written to ``path`` at every change."""

    def plant() -> None:
        passed: Counter[str] = Counter()

        def note(name: str) -> Callable[..., None]:
            return lambda *_, **__: passed.update([name])

        for name, point in POINTS.items():
            if name != "within a ledger line":
                point(note(name))
        for name in FILES:
            _around(os, name, note(name), _nothing)

        def save(*_: Any, **__: Any) -> None:
            passed["within a ledger line"] = passed["before a ledger line"]
            path.write_text(json.dumps(passed))

        _around(RunDir, "set_status", _nothing, save)

    return plant
