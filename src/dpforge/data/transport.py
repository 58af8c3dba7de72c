"""Getting the bytes of a data file: official address, unpacking, checking."""

from __future__ import annotations

import gzip
import hashlib
import importlib
import io
import lzma
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import IO, Protocol

from dpforge.data.filespec import FileSpec, Mirror

Progress = Callable[[str, int, int | None], None]
"""Called with a label, the bytes so far and the bytes in all (``None``: not known)."""

CHUNK = 1 << 20
ARCHIVE_BYTES = 2**33  # a tar archive that unpacks to more is refused before its member is reached
DEB_MAGIC = b"!<arch>\n"
_BROKEN = (
    zipfile.BadZipFile, tarfile.TarError, gzip.BadGzipFile, lzma.LZMAError, EOFError, zlib.error,
    RuntimeError, NotImplementedError, ValueError,
)  # fmt: skip
CONNECT_SECONDS, READ_SECONDS = 15, 60


class SourceFailed(Exception):
    """One source did not give the file; the text says why and never contains file content."""


class Keeper(Protocol):
    """Keeps downloaded archives while several files are taken from them."""

    def get(self, key: str, download: Callable[[Path], None]) -> Path:
        """The file of this key; downloaded to the path that ``download`` is told, the first time."""
        ...


def digest(path: Path, max_bytes: int) -> str:
    """Sha256 of a file's content, after a gzip wrapper is removed.

    Raises:
        SourceFailed: The file cannot be read, is a broken gzip, or is larger than ``max_bytes``.
    """
    try:
        with open(path, "rb") as raw, unwrapped(raw) as content:
            return _copy(content, None, max_bytes)
    except (OSError, EOFError, zlib.error) as error:
        raise SourceFailed(f"cannot be read ({type(error).__name__})") from error


def from_mirror(
    mirror: Mirror, spec: FileSpec, target: Path, progress: Progress | None, shelf: Keeper | None = None
) -> str:
    """Download, unpack and convert one official file into ``target``; return the sha256 of its content.

    Raises:
        SourceFailed: The address does not answer, or serves something that is not the file.
    """
    tick = partial(progress, spec.name) if progress else None

    def download(place: Path) -> None:
        _download(mirror.url, place, spec.max_bytes, tick)

    packed = target.with_name(f"{target.name}.packed")
    if mirror.member and shelf:
        packed = shelf.get(mirror.url, download)
    else:
        download(packed)
    unpacked = target.with_name(f"{target.name}.unpacked") if mirror.convert else target
    found = unpack(packed, mirror.member, unpacked, spec.max_bytes)
    if not mirror.convert:
        return found
    module = importlib.import_module(f"dpforge.data.sources.{mirror.convert}")
    module.convert(unpacked, target)
    return digest(target, spec.max_bytes)


def unpack(packed: Path, member: str, target: Path, max_bytes: int) -> str:
    """Copy a file, a gzip's content, or one member of an archive to ``target``; return the content's sha256.

    Archives are zip, tar (also gzipped or xz) and Debian packages. A member that is a gzip stays one.
    Only the named member is read and only ``target`` is written, so names inside the archive have no effect.

    Raises:
        SourceFailed: Broken archive, missing member, or more than ``max_bytes`` of content.
    """
    try:
        with open(target, "wb") as out:
            if not member:
                with open(packed, "rb") as raw, unwrapped(raw) as content:
                    return _copy(content, out, max_bytes)
            with open(packed, "rb") as raw, _member(raw, member) as content:
                _copy(content, out, max_bytes)
    except KeyError as error:
        raise SourceFailed(f"the archive has no member '{member}'") from error
    except _BROKEN as error:
        raise SourceFailed(f"the archive is broken ({type(error).__name__})") from error
    return digest(target, max_bytes)


@contextmanager
def _member(raw: IO[bytes], member: str) -> Iterator[IO[bytes]]:
    magic = raw.read(8)
    raw.seek(0)
    if magic == DEB_MAGIC:
        with _tar_member(_deb_data(raw), member) as content:
            yield content
    elif magic.startswith(b"\x1f\x8b"):
        with _tar_member(raw, member) as content:
            yield content
    else:
        with zipfile.ZipFile(raw) as archive, archive.open(member) as content:
            yield content


@contextmanager
def _tar_member(raw: IO[bytes], member: str) -> Iterator[IO[bytes]]:
    with tarfile.open(fileobj=raw, mode="r:*") as archive:
        done = 0
        for info in archive:
            done += info.size
            if done > ARCHIVE_BYTES:
                raise SourceFailed(f"the archive holds more than the limit of {ARCHIVE_BYTES:,} bytes")
            if info.isfile() and info.name.removeprefix("./") == member:
                yield archive.extractfile(info)  # type: ignore[misc]
                return
        raise KeyError(member)


def _deb_data(raw: IO[bytes]) -> IO[bytes]:
    """The data archive of a Debian package: an ``ar`` file of headers of 60 bytes and padded contents."""
    raw.seek(len(DEB_MAGIC))
    while len(header := raw.read(60)) == 60:
        size = int(header[48:58])
        if header.startswith(b"data.tar"):
            return io.BytesIO(raw.read(size))
        raw.seek(size + size % 2, io.SEEK_CUR)
    raise KeyError("data.tar")


def unwrapped(raw: IO[bytes]) -> IO[bytes]:
    """The stream, or the content of the gzip that it is."""
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
