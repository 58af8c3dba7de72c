"""How a hostile case is judged: what came out, what was said, what appeared on disk."""

from __future__ import annotations

import pickle
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dpforge.errors import DPForgeError

CANARY = "c4n4ryv4lue"
MARK = "executed"


class Evil:
    """Makes a file in the working directory if it is unpickled."""

    def __reduce__(self) -> Any:
        return (open, (MARK, "w"))


def evil_pickle() -> bytes:
    """A pickle that would make the file ``executed``."""
    return pickle.dumps(Evil())


@dataclass(frozen=True)
class Examined:
    """What became of an action: its result, or the text of its typed error."""

    result: Any
    refused: str | None


def examined(action: Callable[[], Any], place: Path, *refusals: type[Exception]) -> Examined:
    """Run an action in ``place``.

    Anything but a result or an error meant for the user fails, and so do a file that appeared and a canary
    in the text of the error or of its causes.
    """
    before = listing(place)
    try:
        found = Examined(action(), None)
    except (DPForgeError, *refusals) as error:
        found = Examined(None, "".join(traceback.format_exception_only(error)))
    if found.refused is not None:
        assert CANARY not in found.refused, "a cell is quoted"
        assert len(found.refused) > 20, "the error says nothing"
    assert not (place / MARK).exists(), "a file was executed"
    assert listing(place) == before, "files appeared or vanished"
    return found


def listing(place: Path) -> list[str]:
    """Every path below a folder, links not followed."""
    return sorted(path.relative_to(place).as_posix() for path in place.rglob("*"))
