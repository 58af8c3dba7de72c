"""A table on disk as a data set: its public schema, and its rows split into training and holdout part."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd

from dpforge.data.fetch import Located, fetch
from dpforge.data.filespec import FileSpec, file_spec
from dpforge.data.places import plain, schema_path
from dpforge.data.schema import Schema, load_schema
from dpforge.data.split import keyed_split, split_units
from dpforge.data.table import TableFormat, read_table
from dpforge.data.transport import SourceFailed, digest
from dpforge.errors import ConfigError, DataError, did_you_mean

_ROLES = ("train", "holdout")


@dataclass(frozen=True)
class Dataset:
    """The private records and what the public knows about them.

    Args:
        schema: Public schema of the training part.
        train: Typed table of the training rows.
        holdout: Typed table of rows that no generator sees; for evaluation.
        units: User number of each training row, int64 ``(n,)``; ``None`` when the privacy unit is a row.
        public_benchmark: Whether the records are published benchmark data.
        fingerprint: Sha256 over the content of the files. **Private**: never log or print it.
    """

    schema: Schema
    train: pd.DataFrame
    holdout: pd.DataFrame
    units: np.ndarray | None = field(repr=False)
    public_benchmark: bool
    fingerprint: str = field(repr=False)


@dataclass(frozen=True)
class TabularSource:
    """A table read from data files that are fetched (``files``) or lie at a path of the user (``path``).

    Args:
        name: Name of the data set.
        schema: Name of a file in ``conf/dataset/schema``, or the path of a schema YAML.
        files: ``{train: …, holdout: …}``; keys of :class:`~dpforge.data.filespec.FileSpec`.
        path: The user's own table, instead of ``files``.
        holdout_path: The user's own holdout table.
        format: Fields of :class:`~dpforge.data.table.TableFormat`.
        holdout_format: The fields that differ for the holdout file.
        holdout_fraction: Share of the records held out when there is no holdout file, in [0, 1); 0 for none.
        split_seed: Public seed of that split.
        nominal_rows: Public row count of the file, where it differs from the schema's.
        public_benchmark: Whether the records are published benchmark data.
        about: Texts for people: ``title``, ``source``, ``licence``, ``notes``.

    Raises:
        ConfigError: Lists every mistake of the configuration.
    """

    modality: ClassVar[str] = "table"

    name: str
    schema: str
    files: Mapping[str, Any] | None = None
    path: str | None = None
    holdout_path: str | None = None
    format: Mapping[str, Any] = field(default_factory=dict)
    holdout_format: Mapping[str, Any] = field(default_factory=dict)
    holdout_fraction: float = 0.2
    split_seed: int = 0
    nominal_rows: int | None = None
    public_benchmark: bool = False
    about: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for key in ("files", "format", "holdout_format", "about"):
            object.__setattr__(self, key, plain(getattr(self, key)))
        mistakes = [*self._place_mistakes(), *split_mistakes(self.holdout_fraction, self.split_seed)]
        if self.nominal_rows is not None and not _whole(self.nominal_rows, 1):
            mistakes.append(f"dataset.nominal_rows={self.nominal_rows!r} is not a whole number above 0")
        for key in ("format", "holdout_format"):
            mistakes += _format_mistakes(getattr(self, key), f"dataset.{key}")
        mistakes += _file_mistakes(self.files or {})
        if mistakes:
            raise ConfigError(mistakes)

    def file_specs(self) -> dict[str, FileSpec]:
        """The files to fetch, by role (``train``, ``holdout``); empty for a table of the user."""
        entries = self.files or {}
        return {role: file_spec(entry, f"dataset.files.{role}") for role, entry in entries.items() if entry}

    def public_schema(self) -> Schema:
        """The schema of the training part, from YAML alone; no data is read.

        Raises:
            ConfigError: The schema file is missing or has mistakes.
        """
        schema = load_schema(schema_path(self.schema))
        if self.nominal_rows is not None:
            schema = scaled(schema, self.nominal_rows / schema.nominal_rows)
        return schema if self._has_holdout_file() else scaled(schema, 1 - self.holdout_fraction)

    def load(self) -> Dataset:
        """Fetch, check, read and split the table.

        Raises:
            DataError: A file cannot be fetched or is not the table that the schema describes.
            ConfigError: The schema file is missing or has mistakes.
        """
        schema = self.public_schema()
        places = self._places()
        train, units = read_table(places["train"].path, schema, self._table_format(schema, "train"))
        fingerprint = hashlib.sha256("".join(place.sha256 for place in places.values()).encode()).hexdigest()
        if "holdout" in places:
            holdout, _ = read_table(places["holdout"].path, schema, self._table_format(schema, "holdout"))
        else:
            train, holdout, units = split_table(train, units, self.holdout_fraction, self.split_seed)
        wanted = self._has_holdout_file() or self.holdout_fraction > 0
        _require_rows({"training": train, "holdout": holdout} if wanted else {"training": train})
        return Dataset(schema, train, holdout, units, self.public_benchmark, fingerprint)

    def _places(self) -> dict[str, Located]:
        if self.path is None:
            return {role: fetch(spec) for role, spec in self.file_specs().items()}
        own = {"train": self.path, "holdout": self.holdout_path}
        return {role: own_file(path) for role, path in own.items() if path}

    def _table_format(self, schema: Schema, role: str) -> TableFormat:
        entries = {**self.format, **(self.holdout_format if role == "holdout" else {})}
        chosen = TableFormat(**entries)
        if chosen.header or chosen.names:
            return chosen
        if schema.unit.kind == "user":
            raise ConfigError(
                "a table without a header and with a user column needs dataset.format.names: "
                "list the file's columns in order, the user column included"
            )
        return replace(chosen, names=schema.names)

    def _has_holdout_file(self) -> bool:
        return bool(self.holdout_path if self.path else (self.files or {}).get("holdout"))

    def _place_mistakes(self) -> list[str]:
        if self.path is not None and self.files:
            return ["dataset.path and dataset.files are both given; keep one of them"]
        if self.path is None and not (self.files or {}).get("train"):
            return ["dataset has no data: give dataset.path=<file> or dataset.files.train"]
        if self.holdout_path is not None and self.path is None:
            return ["dataset.holdout_path needs dataset.path"]
        return [
            f"unknown key 'dataset.files.{role}'.{did_you_mean(role, _ROLES)}"
            for role in self.files or {}
            if role not in _ROLES
        ]


def own_table(
    path: str,
    schema: str,
    *,
    name: str = "csv",
    holdout_path: str | None = None,
    format: str = "auto",
    separator: str = ",",
    header: bool = True,
    encoding: str = "utf-8",
    rename: Mapping[str, str] | None = None,
    holdout_fraction: float = 0.2,
    split_seed: int = 0,
) -> TabularSource:
    """A CSV or Parquet table of the user as a data set, with flat keys for the command line.

    Args:
        path: ``.csv``, ``.csv.gz`` or ``.parquet`` file.
        schema: Path of a schema YAML, or the name of a file in ``conf/dataset/schema``.
        name: Name of the data set in run folders.
        holdout_path: A second file for evaluation.
        format: ``auto`` (by ending), ``csv`` or ``parquet``.
        separator: Field separator of a CSV.
        header: Whether the first line of a CSV holds names; otherwise columns are those of the schema.
        encoding: Text encoding of a CSV.
        rename: File column to schema column.
        holdout_fraction: Share of the records held out when there is no ``holdout_path``, in [0, 1).
        split_seed: Public seed of that split.

    Raises:
        ConfigError: Lists every mistake of the configuration.
    """
    return TabularSource(
        name=name,
        schema=schema,
        path=path,
        holdout_path=holdout_path,
        format={
            "kind": format,
            "separator": separator,
            "header": header,
            "encoding": encoding,
            "rename": plain(rename) or {},
        },
        holdout_fraction=holdout_fraction,
        split_seed=split_seed,
    )


def own_file(path: str) -> Located:
    """A file of the user with the sha256 of its content.

    Raises:
        DataError: It does not exist or cannot be read.
    """
    place = Path(path).expanduser()
    if not place.is_file():
        what = "is a folder, not a file" if place.is_dir() else "does not exist"
        raise DataError(f"dataset.path: {place} {what}; give the path of a CSV or Parquet file")
    try:
        return Located(place, "own file", digest(place, TableFormat.max_bytes))
    except SourceFailed as error:
        raise DataError(f"{place}: {error}; check that it is whole, or give it as Parquet") from error


def split_table(
    frame: pd.DataFrame, units: np.ndarray | None, fraction: float, seed: int
) -> tuple[pd.DataFrame, pd.DataFrame, np.ndarray | None]:
    """Keyed split into training and holdout rows; all rows of a user stay together.

    Returns:
        Training table, holdout table, user key of each training row or ``None``.
    """
    held = keyed_split(frame, fraction, seed) if units is None else split_units(units, fraction, seed)
    train, holdout = (frame.loc[side].reset_index(drop=True) for side in (~held, held))
    return train, holdout, None if units is None else units[~held]


def scaled(schema: Schema, share: float) -> Schema:
    """The schema with its public row counts multiplied by ``share`` and rounded, at least 1."""
    rows = schema.rows
    if rows.value is not None:
        rows = replace(rows, value=max(1, round(rows.value * share)))
    nominal = max(1, round(schema.nominal_rows * share)) if schema.nominal_rows else 0
    return replace(schema, nominal_rows=nominal, rows=rows)


def split_mistakes(fraction: Any, seed: Any) -> list[str]:
    """What is wrong with a holdout fraction and a split seed."""
    mistakes = []
    if isinstance(fraction, bool) or not isinstance(fraction, int | float) or not 0 <= fraction < 1:
        mistakes.append(f"dataset.holdout_fraction={fraction!r} is not in [0, 1); 0.2 holds out a fifth")
    if not _whole(seed, 0):
        mistakes.append(f"dataset.split_seed={seed!r} is not a whole number of at least 0")
    return mistakes


def _format_mistakes(entries: Any, where: str) -> list[str]:
    if not isinstance(entries, Mapping):
        return [f"{where} must be a mapping such as {{separator: ';'}}, got a {type(entries).__name__}"]
    known = [item.name for item in fields(TableFormat)]
    unknown = [key for key in entries if key not in known]
    mistakes = [f"unknown key '{where}.{key}'.{did_you_mean(str(key), known)}" for key in unknown]
    try:
        TableFormat(**{key: value for key, value in entries.items() if key in known})
    except ConfigError as error:
        mistakes += [f"dataset.{mistake}" for mistake in error.mistakes]
    except (TypeError, AttributeError):
        mistakes.append(f"{where} holds a value of a wrong type; see the fields of TableFormat")
    return mistakes


def _file_mistakes(files: Mapping[str, Any]) -> list[str]:
    mistakes = []
    for role, entry in files.items():
        if role not in _ROLES or (role == "holdout" and entry is None):
            continue
        try:
            file_spec(entry, f"dataset.files.{role}")
        except ConfigError as error:
            mistakes += error.mistakes
    return mistakes


def _require_rows(parts: Mapping[str, pd.DataFrame]) -> None:
    for part, frame in parts.items():
        if frame.empty:
            raise DataError(
                f"the {part} part of the table has no rows. Give more rows, another dataset.holdout_fraction "
                "or dataset.split_seed, or a schema whose bounds and categories do not drop every record"
            )


def _whole(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least
