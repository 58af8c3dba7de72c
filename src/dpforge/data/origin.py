"""Where released images came from: noted in files that leave a run, and asked before images pass as public.

Images of a private run depend on private ones. Read as public ones, their cost would be paid by nobody.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dpforge.data.image_arrays import read_npz
from dpforge.errors import ConfigError

ORIGIN = "origin"
SIDECAR = "origin.json"
LEDGER = "ledger.jsonl"
_MAX_BYTES = 2**16


@dataclass(frozen=True)
class Origin:
    """The run that made images; public facts only.

    Args:
        dataset: Name of its private set.
        status: As in its certificate: ``DP``, ``RESEARCH NOISE`` or ``NOT DP``.
        epsilon, delta: Of the whole run; epsilon is ``None`` where there is none.
        ledger: :func:`header_digest` of its ledger; empty if that is not at hand.
    """

    dataset: str
    status: str
    epsilon: float | None
    delta: float
    ledger: str = ""

    def text(self) -> str:
        """Return it as one line of JSON."""
        return json.dumps(asdict(self), sort_keys=True)

    def array(self) -> np.ndarray:
        """Return it as an array of an npz file."""
        return np.asarray([self.text()], np.str_)


def header_digest(header: Mapping[str, Any]) -> str:
    """Return the SHA-256 that names a run by the header of its ledger."""
    return hashlib.sha256(json.dumps(header, sort_keys=True).encode()).hexdigest()


def run_folder(place: Path) -> Path | None:
    """Return the run folder that a file or folder is or lies in, links followed; ``None`` for none."""
    real = place.expanduser().resolve()
    return next((folder for folder in (real, *real.parents) if (folder / LEDGER).exists()), None)


def reached(place: Path) -> Iterator[Path]:
    """Yield the real place of a file or folder, of all folders below it, and of the files it links to."""
    root = place.expanduser().resolve()
    yield root
    seen: set[Path] = set()
    for here, folders, files in os.walk(root, followlinks=True):
        real = Path(here).resolve()
        if real in seen:  # a link back
            folders.clear()
            continue
        seen.add(real)
        yield real
        yield from (path.resolve() for name in files if (path := real / name).is_symlink())


def refuse_released(place: Path, key: str = "public images") -> None:
    """Refuse images that a run on private data made.

    Args:
        place: An ``npz`` file, or a folder of pictures.
        key: Setting that names it, for the error.

    Raises:
        ConfigError: It lies in a run folder or holds one, or it says that it comes from a run.
    """
    for real in reached(place):
        run = run_folder(real)
        if run is not None:
            raise ConfigError(
                f"{key}: {place} leads into the run folder {run}. What a run made depends on its private"
                f" images and is not public.{_REMEDY.format(run)}"
            )
        refuse_outside(real, key)


def refuse_outside(place: Path, key: str) -> None:
    """Raise ``ConfigError`` for a file or folder that says it comes from a run, wherever it lies now."""
    said = _said(place)
    if said is None:
        return
    epsilon = said.get("epsilon")
    cost = "no epsilon" if epsilon is None else f"epsilon={epsilon}, delta={said.get('delta')}"
    run = _found(str(said.get("ledger", "")))
    raise ConfigError(
        f"{key}: {place} was made by a run on the private set '{said.get('dataset', '?')}'"
        f" ({said.get('status', 'of unknown status')}, {cost}) and is not public."
        + _REMEDY.format(run or f"whose ledger header has the digest {str(said.get('ledger', ''))[:10]}…")
    )


_REMEDY = (
    " Name public images; or, to start Private Evolution from that run, set model.initial_samples to the"
    " samples.npz inside its run folder {}, which charges what it spent."
)


def _said(place: Path) -> dict[str, Any] | None:
    """What a file or its folder says of its origin, ``{}`` if that cannot be read; ``None`` for nothing."""
    if place.suffix.lower() == ".npz" and place.is_file():
        found = read_npz(place, {ORIGIN: ORIGIN}, _MAX_BYTES, optional=(ORIGIN,))
        return _parsed(str(found[ORIGIN].reshape(-1)[0]) if found[ORIGIN].size else "") if found else None
    note = (place if place.is_dir() else place.parent) / SIDECAR
    return _parsed(note.read_text(encoding="utf-8", errors="replace")) if note.is_file() else None


def _parsed(text: str) -> dict[str, Any]:
    try:
        content = json.loads(text)
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}


def _found(digest: str) -> Path | None:
    """The run below ``outputs`` whose ledger has this header."""
    for path in sorted(Path("outputs").glob(f"*/*/{LEDGER}")) if digest else ():
        with path.open(encoding="utf-8", errors="replace") as lines:
            if header_digest(_parsed(lines.readline())) == digest:
                return path.parent
    return None
