"""One attempt at a run: alone in its folder, logged, and its end on record."""

from __future__ import annotations

import logging
import os
import platform
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from dpforge.config import conf_digest
from dpforge.errors import DPForgeError, Interrupted, RunError, RunLocked
from dpforge.experiment.environment import git_commit, source_digest
from dpforge.experiment.rundir import RunDir

HEARTBEAT_SECONDS = 10.0
# Someone who only asks whether the run is held holds it for an instant.
_PATIENCE_SECONDS = 0.3
_log = logging.getLogger("dpforge")


@contextmanager
def locked(folder: RunDir) -> Iterator[None]:
    """Hold the folder; its lock file is touched now and then, so that others see how fresh it is.

    Raises:
        RunLocked: Another process works on it.
    """
    lock = FileLock(folder.lock, timeout=_PATIENCE_SECONDS)
    try:
        lock.acquire()
    except Timeout as error:
        raise RunLocked(
            f"another process works on {folder.root}. Wait for it, or use another study=… or seed=…."
        ) from error
    try:
        with _heartbeat(folder.lock):
            yield
    finally:
        lock.release()


def is_held(folder: RunDir) -> bool:
    """Whether a process works on the run now; one that was killed holds nothing."""
    if not folder.lock.is_file():
        return False
    try:
        with FileLock(folder.lock, timeout=0):
            return False
    except Timeout:
        return True
    except OSError:  # a folder that may only be read: nobody here can work on it either
        return False


@contextmanager
def _heartbeat(path: Path) -> Iterator[None]:
    ended = threading.Event()

    def beat() -> None:
        while not ended.wait(HEARTBEAT_SECONDS):
            with suppress(OSError):
                os.utime(path)

    with suppress(OSError):
        os.utime(path)
    thread = threading.Thread(target=beat, name="dpforge heartbeat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()


@contextmanager
def recorded(folder: RunDir) -> Iterator[None]:
    """Log to the run folder; record with which code the attempt was made and how it ended."""
    with _logged(folder), _attempt(folder):
        yield


@contextmanager
def _attempt(folder: RunDir) -> Iterator[None]:
    earlier = list(folder.status().get("attempts", ()))
    this: dict[str, Any] = {
        "started": _now(),
        "source": source_digest(),
        "git": git_commit(),
        "conf_digest": conf_digest(),
        "host": platform.node(),
        "pid": os.getpid(),
    }

    def note(outcome: str) -> None:
        with suppress(OSError, RunError):  # a full disk must not hide what ended the attempt
            state = str(folder.status()["state"])
            folder.set_status(state, attempts=[*earlier, {**this, "outcome": outcome, "ended": _now()}])

    folder.set_status(str(folder.status()["state"]), attempts=[*earlier, this])
    try:
        yield
    except (Interrupted, KeyboardInterrupt):
        note("interrupted")
        raise
    except Exception:
        note("failed")
        raise
    note("done")


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


@contextmanager
def _logged(folder: RunDir) -> Iterator[None]:
    try:
        handler = _LogFile(folder.log, encoding="utf-8")
    except OSError as error:
        raise RunError(f"{folder.log} cannot be written ({error.strerror}). Free the disk.") from error
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    shown = logging.StreamHandler()
    shown.addFilter(lambda entry: entry.levelno < logging.ERROR)  # the command itself says what failed
    _log.addHandler(handler)
    _log.addHandler(shown)
    _log.setLevel(logging.INFO)
    propagate, _log.propagate = _log.propagate, False
    try:
        yield
    except (Interrupted, KeyboardInterrupt):
        _log.info("interrupted")
        raise
    except OSError as error:
        failure = _typed(folder, error)
        _record_failure(folder, failure)
        raise failure from error
    except Exception as error:
        _record_failure(folder, error)
        raise
    finally:
        _log.removeHandler(handler)
        _log.removeHandler(shown)
        _log.propagate = propagate
        handler.close()


class _LogFile(logging.FileHandler):
    """A log that goes quiet when the disk is full: the run itself says so."""

    def handleError(self, record: logging.LogRecord) -> None:
        """Say nothing; logging would print a traceback."""

    def close(self) -> None:
        """Close the file even if its last lines cannot be written."""
        with suppress(OSError):
            super().close()


def _typed(folder: RunDir, error: OSError) -> RunError:
    name = Path(str(error.filename)).name if error.filename else "a file of the run"
    return RunError(
        f"{name} cannot be read or written ({error.strerror or type(error).__name__}). Free the disk and"
        f" check the rights of {folder.root}, then start the same command again: it continues where it was."
    )


def _record_failure(folder: RunDir, error: Exception) -> None:
    """Keep the traceback for its owner; a disk that is full must not hide the error itself."""
    said = str(error) if isinstance(error, DPForgeError) else type(error).__name__
    _log.error("failed: %s", said)
    try:
        folder.set_status("failed", error=said)
        handle = os.open(folder.traceback, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write("".join(traceback.format_exception(error)))
    except (OSError, RunError):
        _log.warning("the failure could not be recorded in the run folder")
