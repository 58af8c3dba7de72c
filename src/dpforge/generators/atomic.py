"""Writing a file whole or not at all. Imports nothing heavy."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from dpforge.errors import RunError


def write_atomic(path: Path, data: bytes, *, private: bool = False) -> None:
    """Write a file so that a reader sees the old content or the new, never a part.

    Args:
        path: In a folder that exists.
        data: All of its content.
        private: Whether only its owner may read it.

    Raises:
        RunError: The disk is full or cannot be written.
    """
    temporary = path.with_name(path.name + ".tmp")
    try:
        if private:
            temporary.unlink(missing_ok=True)
        with open(temporary, "wb", opener=_owner_only if private else None) as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink()
        raise RunError(
            f"{path.name} cannot be written ({error.strerror}). Free the disk and start the same command"
            " again; the run continues where it was."
        ) from error


def _owner_only(name: str, flags: int) -> int:
    return os.open(name, flags, 0o600)


def _sync_folder(folder: Path) -> None:
    """Make a rename survive a loss of power, where the system can."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
