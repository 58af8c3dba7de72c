"""One run of every generator in this process, so that the forks of it have everything in memory already."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from dpforge.experiment.runner import run

from .generators import case


def warm(names: Sequence[str], scratch: Path) -> None:
    """Run every generator once below ``scratch``, without a word."""
    place = scratch / "warm"
    place.mkdir()
    before = Path.cwd()
    os.chdir(place)
    try:
        with _silence():
            for name in names:
                of = case(name)
                run(of.config, identity=of.identity)
    finally:
        os.chdir(before)


@contextmanager
def _silence() -> Iterator[None]:
    kept = os.dup(1), os.dup(2)
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 1)
    os.dup2(nothing, 2)
    try:
        yield
    finally:
        for number, handle in zip((1, 2), kept, strict=True):
            os.dup2(handle, number)
            os.close(handle)
        os.close(nothing)
