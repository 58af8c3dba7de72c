"""Calls to something slow, one after another in a thread of their own, so that nobody waits for them."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable

CAPACITY = 10_000
_POLL_SECONDS = 0.02


class Calls:
    """Runs what is submitted in order; a call that hangs holds up the calls behind it and nothing else.

    Args:
        name: Of the thread.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._waiting: queue.Queue[Callable[[], None] | None] = queue.Queue(CAPACITY)
        self._thread: threading.Thread | None = None

    @property
    def started(self) -> bool:
        """Whether anything was submitted."""
        return self._thread is not None

    def submit(self, call: Callable[[], None]) -> bool:
        """Add a call, which must raise nothing; False if too many wait already."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name=self._name, daemon=True)
            self._thread.start()
        try:
            self._waiting.put_nowait(call)
        except queue.Full:
            return False
        return True

    def wait(self, seconds: float) -> bool:
        """Wait until all calls are done; False if ``seconds`` were not enough."""
        end = time.monotonic() + seconds
        while self._waiting.unfinished_tasks:
            if time.monotonic() >= end:
                return False
            time.sleep(_POLL_SECONDS)
        return True

    def stop(self) -> None:
        """Let the thread end after the calls it has; nobody waits for it."""
        if self._thread is not None:
            try:
                self._waiting.put_nowait(None)
            except queue.Full:
                return

    def _work(self) -> None:
        while True:
            call = self._waiting.get()
            try:
                if call is None:
                    return
                call()
            finally:
                self._waiting.task_done()
