"""How a command ends when something is wrong: one clean text, an exit code, never a traceback."""

from __future__ import annotations

import logging
import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dpforge.errors import ConfigError, DPForgeError, Interrupted

FAILED = 1
REFUSED = 2
INTERRUPTED = 130
DEBUG = "DPFORGE_DEBUG"


@contextmanager
def clean_errors() -> Iterator[None]:
    """Turn an exception into a message on stderr and an exit code.

    ``DPForgeError`` exits with 2, an interrupt or a run asked to stop with 130, anything else with 1. The
    text of an unexpected exception is withheld, since it may hold a cell of private data;
    ``DPFORGE_DEBUG=1`` shows it all.
    """
    # dp-accounting warns of every RDP order it leaves out, which is normal and changes no bound.
    logging.getLogger("absl").setLevel(logging.ERROR)
    try:
        yield
    except KeyboardInterrupt:
        _print("Interrupted. What is written stays; the same command goes on from there.")
        sys.exit(INTERRUPTED)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(FAILED)
    except Exception as error:
        report(error)
        sys.exit(exit_code(error))


def exit_code(error: BaseException) -> int:
    """Return 130 for a run asked to stop, 2 for another error raised on purpose, else 1."""
    if isinstance(error, Interrupted):
        return INTERRUPTED
    return REFUSED if isinstance(error, DPForgeError) else FAILED


def report(error: BaseException) -> None:
    """Print what went wrong to stderr, each mistake of a ``ConfigError`` on its own line."""
    if os.environ.get(DEBUG) == "1":
        traceback.print_exception(error)
    for line in describe(error):
        _print(line)


def describe(error: BaseException) -> list[str]:
    """Return the lines that tell a user about ``error``; safe to show for errors on private data."""
    if isinstance(error, ConfigError):
        return [f"ConfigError: {mistake}" for mistake in error.mistakes]
    if isinstance(error, DPForgeError):
        return [f"{type(error).__name__}: {error}"]
    if isinstance(error, OSError) and error.strerror:
        where = f" ({error.filename})" if error.filename else ""
        return [
            f"{type(error).__name__}: {error.strerror}{where}. Check the path, its rights and free space."
        ]
    return [
        f"Unexpected {type(error).__name__} in {_place(error)}; its text is withheld, as it could hold data. "
        f"See traceback.txt in the run folder, or repeat with {DEBUG}=1."
    ]


def _place(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if f"{os.sep}dpforge{os.sep}" in frame.filename] or frames
    return f"{Path(ours[-1].filename).name}:{ours[-1].lineno}" if ours else "an unknown place"


def _print(line: str) -> None:
    from rich.console import Console
    from rich.text import Text

    text = Text(line)
    text.highlight_regex(r"^\w+Error:", "bold red")
    Console(stderr=True, soft_wrap=True, highlight=False).print(text)
