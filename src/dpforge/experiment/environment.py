"""Where a run was made: versions, commit, configuration tree, device."""

from __future__ import annotations

import hashlib
import platform
import subprocess
from collections.abc import Mapping
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import dpforge
from dpforge.config import conf_digest
from dpforge.errors import RunError

PACKAGES = ("torch", "opacus", "lightning", "dp-accounting", "numpy", "pandas", "scipy", "scikit-learn")


def environment(device: str) -> dict[str, Any]:
    """Return what a reader needs to repeat a run: versions, commit, digest of the configuration tree."""
    return {
        "dpforge": dpforge.__version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "packages": {name: version(name) for name in PACKAGES},
        "git": git_commit(),
        "source": source_digest(),
        "conf_digest": conf_digest(),
        "device": device,
    }


def check_same_numerics(then: Mapping[str, Any]) -> None:
    """Refuse to replay steps that were made in another environment: one noise would hide two different sums.

    Args:
        then: What :func:`environment` returned when the run was started.

    Raises:
        RunError: A package or the code of dpforge is another one now.
    """
    packages = {name: (then["packages"].get(name), version(name)) for name in PACKAGES}
    changed = [f"{name} {before} → {now}" for name, (before, now) in packages.items() if before != now]
    if then.get("source") != source_digest():
        changed.append("the code of dpforge")
    if changed:
        raise RunError(
            f"the run was interrupted under other versions ({', '.join(changed)}); its steps cannot be"
            " replayed exactly. Install the versions of its environment.json, or delete the run folder to"
            " start anew."
        )


@cache
def source_digest() -> str:
    """Return a SHA-256 over the code of dpforge."""
    root, digest = Path(dpforge.__file__).parent, hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


@cache
def git_commit() -> str | None:
    """Return the commit of the source tree, ``+changes`` if it was edited; ``None`` outside a checkout."""
    here = Path(__file__).parent
    try:
        commit = _git(here, "rev-parse", "HEAD")
        return commit + ("+changes" if _git(here, "status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def _git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", *arguments], cwd=folder, capture_output=True, text=True, check=True, timeout=10
    )
    return done.stdout.strip()
