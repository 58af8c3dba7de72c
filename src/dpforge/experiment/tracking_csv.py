"""The local log: one row per step in ``metrics.csv``, kept whole through kills and resumes."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from dpforge.errors import RunError

STEP = "step"


class MetricsCsv:
    """A CSV with one row per step, steps not decreasing, and columns that may grow.

    Every row reaches the operating system before ``write`` returns, so a killed process loses nothing
    and leaves at most one torn line, which the next opening drops. The first row after an opening, at
    step ``s``, removes the rows at ``s`` and later that an earlier attempt left. Use from one thread.

    Args:
        path: File to append to; created, with its folder, by the first row.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._columns: list[str] = [STEP]
        self._row: dict[str, Any] = {}
        self._row_start = 0
        self._file: BinaryIO | None = None

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """Add the values of a step; a second call for the same step fills the same row.

        Raises:
            RunError: If the file cannot be written, for example because the disk is full.
        """
        try:
            self._write(step, values)
        except OSError as error:
            raise _unwritable(self.path, error) from error

    def rewind(self, step: int) -> None:
        """Drop the rows at ``step`` and later, because that step is about to run again.

        Raises:
            RunError: If the file cannot be rewritten.
        """
        try:
            self._rebuild(step)
        except OSError as error:
            raise _unwritable(self.path, error) from error

    def close(self) -> None:
        """Close the file. A later ``write`` opens it again as a new attempt."""
        file, self._file, self._row = self._file, None, {}
        if file is not None:
            file.close()

    def _write(self, step: int, values: Mapping[str, Any]) -> None:
        last = self._row.get(STEP, -1)
        same = step == last and self._file is not None
        merged = {**self._row, **values} if same else {STEP: step, **values}
        if self._file is None or step < last or not merged.keys() <= set(self._columns):
            self._rebuild(step, merged.keys())
            same = False
        self._append(merged, over_last=same)

    def _append(self, row: Mapping[str, Any], *, over_last: bool) -> None:
        if self._file is None:
            self._file = self.path.open("r+b")
        if over_last:
            self._file.truncate(self._row_start)
        self._row_start = self._file.seek(0, os.SEEK_END)
        self._file.write(_line(row.get(name, "") for name in self._columns).encode())
        self._file.flush()
        self._row = dict(row)

    def _rebuild(self, step: int, names: Iterable[str] = ()) -> None:
        self.close()
        found, rows = _load(self.path)
        self._columns = list(dict.fromkeys([*found, *self._columns, *names]))
        kept = (row for row in rows if int(row[STEP]) < step)
        lines = [_line(row.get(name) or "" for name in self._columns) for row in kept]
        self.path.parent.mkdir(parents=True, exist_ok=True)
        draft = self.path.with_name(f".{self.path.name}.draft")
        draft.write_text("".join([_line(self._columns), *lines]), encoding="utf-8", newline="")
        os.replace(draft, self.path)


def _load(path: Path) -> tuple[list[str], list[dict[str, str]]]:
    if not path.exists():
        return [], []
    text = path.read_bytes().decode("utf-8", errors="replace")
    reader = csv.DictReader(io.StringIO(text[: text.rfind("\n") + 1], newline=""))
    rows = [row for row in reader if (row.get(STEP) or "").isdecimal()]
    return [name for name in reader.fieldnames or () if name], rows


def _line(cells: Iterable[Any]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerow(list(cells))
    return buffer.getvalue()


def _unwritable(path: Path, error: OSError) -> RunError:
    return RunError(
        f"cannot write '{path}': {error.strerror or type(error).__name__}. "
        "Free space or make the run folder writable, then start the same command again: it resumes."
    )
