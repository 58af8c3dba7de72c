"""Opening data files safely: bounded decompression, strict decoding, and errors without content."""

from __future__ import annotations

import csv
import gzip
import io
import os
import stat
import tempfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import pandas as pd

from dpforge.errors import DataError

LONGEST_LINE = 2**24
_BOMS = {b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}


def regular_file(path: Path, max_bytes: int) -> Path:
    """The path, if it is a readable, non-empty, regular file of at most ``max_bytes``; else ``DataError``."""
    try:
        status = path.stat()
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}; check the path") from error
    if stat.S_ISDIR(status.st_mode):
        raise DataError(f"{path} is a folder; give the path of a file in it")
    if not stat.S_ISREG(status.st_mode):
        raise DataError(f"{path} is not a regular file; copy the data into one")
    if not os.access(path, os.R_OK):
        raise DataError(f"{path} cannot be read: permission denied; change its permissions")
    if status.st_size == 0:
        raise DataError(f"{path.name} is empty; give a file with a header line and at least one record")
    if status.st_size > max_bytes:
        raise _too_large(path, max_bytes)
    return path


def _too_large(path: Path, max_bytes: int) -> DataError:
    return DataError(
        f"{path.name} holds more than {max_bytes:,} bytes (decompressed); if that is what you expect, "
        "raise format.max_bytes"
    )


class _Limited(io.RawIOBase):
    """A byte stream that refuses to deliver more than ``max_bytes``."""

    def __init__(self, stream: IO[bytes] | gzip.GzipFile, path: Path, max_bytes: int) -> None:
        self._stream = stream
        self._path = path
        self._max_bytes = max_bytes
        self._left = max_bytes

    def readable(self) -> bool:
        """Always true."""
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """Fill ``buffer``; raises ``DataError`` once the limit is passed."""
        data = self._stream.read(len(buffer))
        self._left -= len(data)
        if self._left < 0:
            raise _too_large(self._path, self._max_bytes)
        buffer[: len(data)] = data
        return len(data)


@contextmanager
def open_text(path: Path, encoding: str, max_bytes: int) -> Iterator[io.TextIOWrapper]:
    """Open a text file, gzipped or not; more than ``max_bytes`` decompressed raise ``DataError``."""
    with path.open("rb") as raw:
        magic = raw.read(4)
        raw.seek(0)
        if magic.startswith(b"PK\x03\x04"):
            raise DataError(f"{path.name} is a zip archive; unpack it and give the table file")
        zipped = magic.startswith(b"\x1f\x8b")
        if path.suffix.lower() == ".gz" and not zipped:
            raise DataError(f"{path.name} is not a gzip file although it ends in .gz; fetch or pack it again")
        source = gzip.GzipFile(fileobj=raw) if zipped else raw
        _refuse_other_unicode(path, magic, encoding)
        limited = io.BufferedReader(_Limited(source, path, max_bytes), 2**16)
        plain = encoding.lower().replace("_", "-") in ("utf-8", "utf8")
        yield io.TextIOWrapper(
            limited, encoding="utf-8-sig" if plain else encoding, errors="strict", newline=""
        )


def _refuse_other_unicode(path: Path, magic: bytes, encoding: str) -> None:
    found = _BOMS.get(magic[:2])
    if found and not encoding.lower().startswith("utf-16"):
        raise DataError(f"{path.name} is written in {found}; set format.encoding={found}")


def lines(stream: io.TextIOWrapper) -> Iterator[str]:
    """The lines of a text stream with their ends; raises ``DataError`` for one of more than 16 MiB."""
    while line := stream.readline(LONGEST_LINE):
        if len(line) == LONGEST_LINE and not line.endswith(("\n", "\r")):
            raise DataError("a line of the file is longer than 16 MiB; this is not a table of records")
        yield line


@contextmanager
def translated(path: Path, encoding: str) -> Iterator[None]:
    """Turn what reading can raise into a ``DataError``; its cause, which may quote the file, is cut off."""
    try:
        yield
    except UnicodeError:
        raise DataError(
            f"{path.name} is not {encoding} text; set format.encoding, for example to latin-1 or cp1252"
        ) from None
    except csv.Error:
        raise DataError(
            f"{path.name} holds a cell of more than 16 MiB: probably a quote that is never closed; remove it"
        ) from None
    except (gzip.BadGzipFile, EOFError, zlib.error):
        raise DataError(f"{path.name} is a damaged gzip file; fetch or pack it again") from None
    except OSError as error:
        raise DataError(f"cannot read {path.name}: {error.strerror or 'input error'}") from None


def parquet_batches(
    path: Path, max_bytes: int, size: int, select: Callable[[list[str]], list[str]]
) -> Iterator[pd.DataFrame]:
    """The columns that ``select`` picks from the file's names, ``size`` rows at a time, in that order."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    damaged = f"{path.name} is not a readable Parquet file; write or fetch it again, or set format.kind=csv"
    try:
        file = pq.ParquetFile(path)
    except (pa.ArrowException, OSError):
        raise DataError(damaged) from None
    with file:
        names = select(list(file.schema_arrow.names))
        nested = [name for name in names if pa.types.is_nested(file.schema_arrow.field(name).type)]
        if nested:
            raise DataError(
                f"{path.name}: {len(nested)} needed columns hold lists or structures; flatten them"
            )
        stored = sum(file.metadata.row_group(i).total_byte_size for i in range(file.metadata.num_row_groups))
        if max(stored, file.metadata.num_rows * len(names)) > max_bytes:
            raise _too_large(path, max_bytes)
        batches = file.iter_batches(batch_size=size, columns=names)
        while True:
            try:
                frame = next(batches, None)
                frame = None if frame is None else frame.to_pandas(integer_object_nulls=True)[names]
            except (pa.ArrowException, OSError):
                raise DataError(damaged) from None
            if frame is None:
                return
            if len(frame):
                yield frame


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary file beside ``path`` that takes its place if the block succeeds, else vanishes."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        os.close(handle)
    except OSError as error:
        raise DataError(
            f"cannot write {path}: {error.strerror}; choose a folder that can be written"
        ) from error
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb") as stream:
            os.fsync(stream.fileno())
        temporary.chmod(0o644)
        os.replace(temporary, path)
    except OSError as error:
        raise DataError(
            f"cannot write {path}: {error.strerror}; free space or choose another folder"
        ) from error
    finally:
        temporary.unlink(missing_ok=True)
