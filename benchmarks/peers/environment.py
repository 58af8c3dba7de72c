"""Virtual environments of the systems that the benchmarks compare with, made once and kept in the cache."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import venv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock

from dpforge.data.fetch import cache_folder

ROOT = Path(__file__).parents[2]
MINUTES = 10
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


class PeerMissing(Exception):
    """The other system cannot be installed or run here; the text says why."""


@dataclass(frozen=True)
class Peer:
    """A system on PyPI.

    Args:
        name: Shown to the user.
        package: Pinned requirement, installed without its dependencies.
        needs: Those of its dependencies that it imports and that this environment lacks. All others (torch,
            numpy, pandas, …) are this environment's own, so that both systems run on the same libraries.
        module: What is imported to see whether it works.
    """

    name: str
    package: str
    needs: tuple[str, ...]
    module: str

    @property
    def folder(self) -> Path:
        """Where its environment lies; another package or another Python has another folder."""
        key = "\n".join([self.package, *self.needs, sys.version, str(_libraries())])
        return cache_folder() / "peers" / f"{self.name}-{hashlib.sha256(key.encode()).hexdigest()[:12]}"


def python_of(peer: Peer) -> Path:
    """Return the Python of a peer's environment, which is made if there is none.

    Raises:
        PeerMissing: It does not install, or cannot be imported.
    """
    folder = peer.folder
    python = folder / ("Scripts" if os.name == "nt" else "bin") / "python"
    ready = folder / "ready"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if ready.exists():
            return python
        shutil.rmtree(folder, ignore_errors=True)
        try:
            _install(peer, folder, python)
        except (OSError, subprocess.SubprocessError) as error:
            raise PeerMissing(f"{peer.package} left out: {_reason(error)}") from error
        ready.touch()
    return python


def ask(python: Path, module: str, arguments: Sequence[str], *, minutes: float = MINUTES) -> dict[str, Any]:
    """Run ``python -m module`` in a fresh process of one thread; return the JSON of its last line.

    Raises:
        PeerMissing: It failed or took too long.
    """
    try:
        said = _called([str(python), "-m", module, *arguments], one_thread(), minutes)
        return json.loads(said.strip().splitlines()[-1])
    except (OSError, subprocess.SubprocessError, ValueError, IndexError) as error:
        raise PeerMissing(f"{module} did not finish: {_reason(error)}") from error


def one_thread() -> dict[str, str]:
    """The environment variables of this process, with one thread for every numerical library."""
    return {**os.environ, **dict.fromkeys(THREADS, "1"), "TOKENIZERS_PARALLELISM": "false"}


def _install(peer: Peer, folder: Path, python: Path) -> None:
    venv.create(folder, with_pip=True)
    where = _called([str(python), "-c", "import sysconfig; print(sysconfig.get_paths()['purelib'])"]).strip()
    (Path(where) / "shared.pth").write_text(f"{_libraries()}\n", encoding="utf-8")
    pip = [str(python), "-m", "pip", "install", "--quiet"]
    if peer.needs:
        _called([*pip, *peer.needs])
    _called([*pip, "--no-deps", peer.package])
    _called([str(python), "-c", f"import {peer.module}"])


def _libraries() -> Path:
    return Path(np.__file__).parents[1]


def _called(
    words: Sequence[str], variables: Mapping[str, str] | None = None, minutes: float = MINUTES
) -> str:
    done = subprocess.run(
        words, check=True, capture_output=True, text=True, timeout=60 * minutes, cwd=ROOT, env=variables
    )
    return done.stdout


def _reason(error: Exception) -> str:
    """The last line of what a failed command said, or the error itself."""
    said = getattr(error, "stderr", None) or ""
    lines = [line for line in (said if isinstance(said, str) else said.decode()).splitlines() if line.strip()]
    return lines[-1].strip()[:300] if lines else f"{type(error).__name__}: {error}"[:300]
