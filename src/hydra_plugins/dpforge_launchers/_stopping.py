"""How a sweep over worker processes ends on a signal: its runs save, and the sweep tells what became of each.

joblib would kill its workers as soon as an exception leaves its loop, and loky kills all when one dies. So no
signal raises anything here: workers that work on a run are asked, again until they listen, and those that
begin another find a note.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

from hydra.core.utils import JobReturn

INTERRUPTED = 130
_SAVE_SECONDS = 60.0
_AGAIN_SECONDS = 0.5
_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_STOP = "stop"


def stopped(overrides: Sequence[str], why: str, state: str = "interrupted") -> JobReturn:
    """Return the result of a job that a signal cut short."""
    from dpforge.cli.jobs import Job
    from dpforge.cli.launching import finished_return

    return finished_return(Job(tuple(overrides), state, None, (why,)))


def listen_in_worker(notes: Path) -> bool:
    """Make a worker outlive signals, and say that it works; returns whether the sweep was stopped before.

    A run listens itself as soon as it can save. Before and between runs a signal would only end the process,
    and loky the others with it.
    """
    for number in _SIGNALS:
        signal.signal(number, _ignore)
    (notes / f"working-{os.getpid()}").touch()
    return (notes / _STOP).exists()


def _ignore(_number: int, _frame: FrameType | None) -> None:
    """SIG_IGN itself would be inherited by the children of a worker."""


class Stopping:
    """Passes a signal on to the workers and waits for them, for a bounded time.

    Args:
        notes: Folder of the notes of this sweep.
    """

    def __init__(self, notes: Path) -> None:
        self.asked = False
        self._notes = notes
        self._impatient = False
        self._over = threading.Event()

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Turn SIGTERM and Ctrl-C into a request to the workers; a second Ctrl-C kills them."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self._handle) for number in _SIGNALS}
        self._over.clear()
        try:
            yield
        finally:
            self._over.set()
            for number, handler in before.items():
                signal.signal(number, handler)

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        if self.asked:
            self._impatient = self._impatient or number == signal.SIGINT
            return
        self.asked = True
        (self._notes / _STOP).touch()
        threading.Thread(target=self._pass_on, name="dpforge stopping", daemon=True).start()

    def _pass_on(self) -> None:
        print(f"Stopping: the runs have {_SAVE_SECONDS:g} s to save.", file=sys.stderr, flush=True)
        end = time.monotonic() + _SAVE_SECONDS
        while not self._over.is_set():
            late = self._impatient or time.monotonic() > end
            for pid in self._workers():
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL if late else signal.SIGTERM)
            if late:
                return
            self._over.wait(_AGAIN_SECONDS)

    def _workers(self) -> list[int]:
        """Those that listen; a process that is still starting would die of the signal."""
        mine = [child.pid for child in multiprocessing.active_children()]
        return [pid for pid in mine if pid is not None and (self._notes / f"working-{pid}").exists()]
