"""The public description of a table: everything a generator may know before it looks at a row."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Hashable, Mapping
from dataclasses import MISSING, dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import yaml

from dpforge.data.columns import Bins, Bounds, Categories, Column, Rows, Unit
from dpforge.data.constraints import constraint_mistakes
from dpforge.data.schema_check import column_mistakes
from dpforge.data.schema_parse import UNCONFIRMED_ROWS, parse_schema
from dpforge.errors import ConfigError, did_you_mean

__all__ = [
    "Bins",
    "Bounds",
    "Categories",
    "Column",
    "Rows",
    "Schema",
    "Unit",
    "load_schema",
    "schema_from_dict",
]

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Schema:
    """Columns, privacy unit and public constants of a table.

    Args:
        name: Name of the table.
        nominal_rows: Public number of rows; never replaced by ``len(data)``.
        columns: The generated columns in order; the unit column of a user-level schema is not one of them.
        unit: What differential privacy protects.
        rows: How the size of the synthetic table is chosen.
        target: Column that downstream models predict, if any.
        constraints: Public predicates on rows.
    """

    modality: ClassVar[str] = "table"

    name: str
    nominal_rows: int
    columns: tuple[Column, ...]
    unit: Unit = field(default_factory=Unit)
    rows: Rows = field(default_factory=Rows)
    target: str | None = None
    constraints: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """The column names in order."""
        return tuple(column.name for column in self.columns)

    def column(self, name: str) -> Column:
        """The column called ``name``. Raises ``ConfigError`` if there is none."""
        for column in self.columns:
            if column.name == name:
                return column
        raise ConfigError(f"schema '{self.name}' has no column '{name}'.{did_you_mean(name, self.names)}")

    @property
    def private_columns(self) -> tuple[str, ...]:
        """The parts that a run must buy, as ``column.bounds`` or ``column.categories``."""
        return self._parts_with("private")

    @property
    def unconfirmed(self) -> tuple[str, ...]:
        """The parts whose provenance a person has still to state; a run with any is refused."""
        rows = ("nominal_rows",) if self.nominal_rows == UNCONFIRMED_ROWS else ()
        return (*rows, *self._parts_with("unconfirmed"))

    def _parts_with(self, provenance: str) -> tuple[str, ...]:
        parts = ((column.name, key, getattr(column, key)) for column in self.columns for key in _PARTS)
        return tuple(f"{name}.{key}" for name, key, part in parts if part and part.provenance == provenance)

    def to_dict(self) -> dict[str, Any]:
        """A mapping for JSON or YAML that ``schema_from_dict`` turns back into an equal schema."""
        return {
            "schema_version": SCHEMA_VERSION,
            **_plain(self),
            "nominal_rows": self.nominal_rows or "unconfirmed",
            "columns": [_plain_column(column) for column in self.columns],
        }

    @property
    def digest(self) -> str:
        """sha256 (hex) of the canonical JSON text of the schema."""
        text = json.dumps(self.to_dict(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    def with_column(self, column: Column) -> Schema:
        """This schema with the column of the same name replaced, e.g. after its bounds were bought."""
        self.column(column.name)
        return replace(
            self, columns=tuple(column if old.name == column.name else old for old in self.columns)
        )

    def with_nominal_rows(self, n: int) -> Schema:
        """This schema with another public number of rows. Raises ``ConfigError`` for ``n < 1``."""
        if n < 1:
            raise ConfigError(f"nominal_rows={n}: expected a whole number >= 1")
        return replace(self, nominal_rows=n)


_PARTS = ("bounds", "categories", "bins")


def load_schema(path: Path) -> Schema:
    """Read a schema file.

    Args:
        path: A YAML (or JSON) file.

    Raises:
        ConfigError: The file cannot be read, or with every mistake in it.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8 text"
        raise ConfigError(f"cannot read the schema file {path}: {reason}") from error
    try:
        raw = yaml.load(text, Loader=_UniqueKeys)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise ConfigError(f"the schema file {path} is not plain YAML: {_yaml_reason(error)}") from error
    if isinstance(raw, Mapping) and "name" not in raw:
        raw = {"name": path.stem, **raw}
    try:
        return schema_from_dict(raw)
    except ConfigError as error:
        raise ConfigError([f"in {path}:", *(f"  {mistake}" for mistake in error.mistakes)]) from error


def schema_from_dict(d: Mapping[str, Any]) -> Schema:
    """Build a schema from a mapping as in a schema file. Raises ``ConfigError`` with every mistake."""
    mistakes: list[str] = []
    schema = Schema(**parse_schema(d, mistakes))
    mistakes += _table_mistakes(schema)
    for column in schema.columns:
        mistakes += column_mistakes(column)
    for text in schema.constraints:
        mistakes += constraint_mistakes(text, schema.columns)
    if mistakes:
        raise ConfigError(list(dict.fromkeys(mistakes)))
    return schema


def _table_mistakes(schema: Schema) -> list[str]:
    mistakes = []
    repeated = sorted({name for name in schema.names if schema.names.count(name) > 1})
    if repeated:
        mistakes.append(f"columns named more than once: {', '.join(repeated)}")
    if schema.target is not None and schema.target not in schema.names:
        hint = did_you_mean(schema.target, schema.names)
        mistakes.append(f"target='{schema.target}' is not a column.{hint} Columns: {', '.join(schema.names)}")
    if schema.unit.kind == "user" and schema.unit.column in schema.names:
        mistakes.append(
            f"unit.column='{schema.unit.column}' must not be one of the generated columns; remove it there"
        )
    return mistakes


def _plain_column(column: Column) -> dict[str, Any]:
    plain = _plain(column)
    if column.unseen == "map":
        plain["unseen"] = {"map": plain.pop("unseen_map")}
    return plain


def _plain(value: Any) -> Any:
    """Nested data classes as mappings without the fields that equal their default."""
    if is_dataclass(value):
        return {
            f.name: _plain(getattr(value, f.name))
            for f in fields(value)
            if getattr(value, f.name) != _default(f)
        }
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return value


def _default(f: Any) -> Any:
    return (
        f.default
        if f.default is not MISSING
        else f.default_factory()
        if f.default_factory is not MISSING
        else MISSING
    )


class _UniqueKeys(yaml.SafeLoader):
    """YAML's safe loader, which here refuses a mapping that names a key twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """Build the mapping after checking that no plain key repeats."""
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode) and key.value != "<<"]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.constructor.ConstructorError(None, None, f"'{key}' appears twice", node.start_mark)
        return super().construct_mapping(node, deep)


def _yaml_reason(error: Exception) -> str:
    problem = getattr(error, "problem", None) or str(error).split("\n")[0]
    mark = getattr(error, "problem_mark", None)
    return f"{problem} (line {mark.line + 1})" if mark else str(problem)
