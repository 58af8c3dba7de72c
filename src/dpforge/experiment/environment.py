"""Where a run was made: versions, commit, configuration tree, device."""

from __future__ import annotations

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
        "conf_digest": conf_digest(),
        "device": device,
    }


def check_same_numerics(then: Mapping[str, Any]) -> None:
    """Refuse to replay steps that were made in another environment: one noise would hide two different sums.

    Args:
        then: What :func:`environment` returned when the run was started.

    Raises:
        RunError: The version of torch or numpy is another one now.
    """
    names = ("torch", "numpy")
    changed = [f"{name} {then['packages'].get(name)} → {version(name)}" for name in names]
    if any(then["packages"].get(name) != version(name) for name in names):
        raise RunError(
            f"the run was interrupted under other versions ({', '.join(changed)}); its steps cannot be"
            " replayed exactly. Install the versions of its environment.json, or delete the run folder to"
            " start anew."
        )


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
