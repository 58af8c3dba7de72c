"""Which columns a TabularARGN refines, and in which order it generates them: pure functions of the schema."""

from __future__ import annotations

from collections.abc import Sequence

from dpforge.data import Schema
from dpforge.data.constraints import derived_columns
from dpforge.errors import ConfigError, did_you_mean


def refined(choice: str | Sequence[str], schema: Schema) -> list[str]:
    """Return the names of the columns whose bins are cut: ``special``, ``all``, or those listed."""
    if choice == "all":
        return list(schema.names)
    if choice == "special":
        return [column.name for column in schema.columns if column.special_values]
    return [name for name in choice if name in schema.names]


def check_refined(choice: str | Sequence[str], schema: Schema) -> None:
    """Raise ``ConfigError`` if a listed column is not one of the schema's."""
    names = () if isinstance(choice, str) else choice
    unknown = [name for name in names if name not in schema.names]
    if unknown:
        hint = did_you_mean(unknown[0], schema.names)
        raise ConfigError(f"model.refine_columns: the schema has no column '{unknown[0]}'.{hint}")


def ordered(choice: str | Sequence[str], schema: Schema) -> list[int]:
    """Return the columns' order in which rows are generated, derived columns left out.

    Raises:
        ConfigError: A list that does not name every column once.
    """
    derived = derived_columns(schema)
    names = [name for name in schema.names if name not in derived]
    if isinstance(choice, str):
        return list(range(len(names)))
    wanted = [name for name in choice if name not in derived]
    if sorted(wanted) != sorted(names):
        raise ConfigError(f"model.column_order={list(choice)}: expected every column once: {names}.")
    return [names.index(name) for name in wanted]
