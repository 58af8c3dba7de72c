"""One attempt at a run: alone in its folder, logged, and its end on record."""

from __future__ import annotations

import logging
import os
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from dpforge.errors import DPForgeError, Interrupted, RunError
from dpforge.experiment.rundir import RunDir

_log = logging.getLogger("dpforge")


@contextmanager
def locked(folder: RunDir) -> Iterator[None]:
    """Hold the folder; raises ``RunError`` at once if another process works on it."""
    lock = FileLock(folder.lock, timeout=0)
    try:
        with lock:
            yield
    except Timeout as error:
        raise RunError(
            f"another process works on {folder.root}. Wait for it, or use another study=… or seed=…."
        ) from error


@contextmanager
def recorded(folder: RunDir) -> Iterator[None]:
    """Log to the run folder; record how the attempt ended."""
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
