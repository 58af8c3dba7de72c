"""Where the configuration files are, what they offer, and whether they changed."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import dpforge
from dpforge.errors import ConfigError

STAMP = "DPFORGE_CONF_DIGEST"
_PACKAGE = Path(dpforge.__file__).resolve().parent
_NOT_CHOICES = ("schema",)
# Groups inside a group: a choice of the outer one names the inner in its defaults list.
_NESTED = ("model/api",)


def conf_dir() -> Path:
    """Return the folder of ``config.yaml``: ``$DPFORGE_CONF``, the checkout's, or the installed one.

    Raises:
        ConfigError: No such folder holds a ``config.yaml``.
    """
    named = os.environ.get("DPFORGE_CONF")
    candidates = [Path(named).resolve()] if named else [_PACKAGE.parents[1] / "conf", _PACKAGE / "conf"]
    for candidate in candidates:
        if (candidate / "config.yaml").is_file():
            return candidate
    raise ConfigError(
        f"no config.yaml in {' or '.join(map(str, candidates))}. "
        "Unset DPFORGE_CONF, or point it to a folder that holds config.yaml."
    )


def experiments_dir() -> Path:
    """Return the folder of the groups ``paper`` and ``frontier``; it is beside the configuration."""
    beside = conf_dir().parent / "experiments"
    if beside.is_dir():
        return beside
    checkout = _PACKAGE.parents[1] / "experiments"
    return checkout if checkout.is_dir() else _PACKAGE / "experiments"


def groups() -> dict[str, tuple[str, ...]]:
    """Return the choices of every configuration group, sorted: ``{"model": ("dp_maf", ...), ...}``."""
    found: dict[str, set[str]] = {}
    for root in (conf_dir(), experiments_dir()):
        for folder in sorted(path for path in root.glob("*") if path.is_dir()):
            found.setdefault(folder.name, set()).update(_choices(folder))
        for group in _NESTED:
            found.setdefault(group, set()).update(_choices(root / group))
    return {group: tuple(sorted(choices)) for group, choices in sorted(found.items())}


def _choices(folder: Path) -> list[str]:
    paths = [path.relative_to(folder) for path in folder.rglob("*.yaml")]
    inner = [group.split("/")[1] for group in _NESTED if group.split("/")[0] == folder.name]
    return [path.with_suffix("").as_posix() for path in paths if path.parts[0] not in (*_NOT_CHOICES, *inner)]


def conf_digest() -> str:
    """Return a SHA-256 over the names and bytes of every YAML file a run may be composed from."""
    digest = hashlib.sha256()
    for root in (conf_dir(), experiments_dir()):
        for path in sorted(root.rglob("*.yaml")):
            content = hashlib.sha256(path.read_bytes()).hexdigest()
            digest.update(f"{path.relative_to(root).as_posix()}\0{content}\n".encode())
    return digest.hexdigest()


def stamp() -> None:
    """Remember the present digest for the jobs of this process and its children."""
    os.environ[STAMP] = conf_digest()


def check_stamp() -> None:
    """Refuse to go on when a configuration file changed after :func:`stamp`.

    Hydra reads the YAML again for every job of a sweep, so an edit would silently split the sweep in two.

    Raises:
        ConfigError: The files differ from those at the start. Nothing is checked without a stamp.
    """
    expected = os.environ.get(STAMP)
    if expected is not None and expected != conf_digest():
        raise ConfigError(
            f"a configuration file below {conf_dir()} changed after the sweep started. "
            "The jobs left would not be what was checked. Start the sweep again: finished runs are skipped."
        )
