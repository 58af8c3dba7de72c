"""What the public knows of the records of a training in three lines: a DataFrame or a tensor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd
from torch import Tensor

from dpforge.data import Schema
from dpforge.data.schema import schema_from_dict
from dpforge.errors import ConfigError, DataError, did_you_mean

DECLARED = "declared_public"
MOST_VALUES = 1000


def frame_schema(
    frame: pd.DataFrame,
    categories: str | Mapping[str, Sequence[str]] | None,
    nominal_rows: int,
    private: bool,
) -> Schema:
    """Return a schema in which every column is categorical.

    Args:
        frame: The table.
        categories: Values of each column by its name (rows with others are left out); ``declared_public``:
            those of the frame, and whether cells are missing; None: the same, without privacy only.
        nominal_rows: Public number of rows.
        private: Whether privacy is asked for.

    Raises:
        ConfigError: Privacy with values that nobody declared public, or values that are no categories.
    """
    if isinstance(categories, Mapping):
        values = {name: [str(value) for value in listed] for name, listed in categories.items()}
        _check_names(frame, values)
    else:
        _check_declared(categories, private)
        values = {str(name): _found(frame, name) for name in frame.columns}
    declared = isinstance(categories, Mapping)
    columns = {
        name: _column(listed, nullable=not declared and bool(frame[name].isna().any()))
        for name, listed in values.items()
    }
    return schema_from_dict(
        {"schema_version": 1, "name": "frame", "nominal_rows": nominal_rows, "columns": columns}
    )


def tensor_schema(nominal_rows: int) -> Schema:
    """Return the schema of records without columns: their public number alone."""
    columns = {"record": _column(["any"], nullable=False)}
    return schema_from_dict(
        {"schema_version": 1, "name": "tensor", "nominal_rows": nominal_rows, "columns": columns}
    )


def _check_declared(categories: str | None, private: bool) -> None:
    if categories not in (None, DECLARED):
        raise ConfigError(
            f"categories={categories!r}: expected a mapping of column names to values, or {DECLARED!r}."
            + did_you_mean(str(categories), [DECLARED])
        )
    if private and categories is None:
        raise ConfigError(
            "which values a column has is private: a rare one can reveal a person. Give categories={column:"
            " [values]} or schema=… from public knowledge, or declare that the values in the frame are public"
            f" with categories={DECLARED!r}."
        )


def _check_names(frame: pd.DataFrame, values: Mapping[str, Sequence[str]]) -> None:
    mistakes = [
        f"categories: the frame has no column '{name}'.{did_you_mean(name, list(frame.columns))}"
        for name in values
        if name not in frame.columns
    ]
    mistakes += [
        f"categories: column '{name}' has no values." for name in frame.columns if name not in values
    ]
    if mistakes:
        raise ConfigError(mistakes)


def _found(frame: pd.DataFrame, name: object) -> list[str]:
    column = pd.Series(frame[name])
    values = sorted(column.dropna().astype(str).unique())
    if pd.api.types.is_float_dtype(column) or not 0 < len(values) <= MOST_VALUES:
        raise ConfigError(
            f"column '{name}' does not look like categories (1 to {MOST_VALUES} values, no fractions)."
            " Describe the table with schema=…; dpforge-data schema drafts one."
        )
    return values


def _column(values: Sequence[str], *, nullable: bool) -> dict[str, object]:
    listed = {"provenance": "public", "values": list(values), "note": "declared with the call of train"}
    return {"kind": "categorical", "unseen": "drop", "nullable": nullable, "categories": listed}


def public_schema(
    data: pd.DataFrame | Tensor,
    private: bool,
    schema: Schema | None,
    categories: str | Mapping[str, Sequence[str]] | None,
    nominal_rows: int | None,
) -> Schema:
    """Return what the public knows of the records.

    Args:
        data, schema, categories, nominal_rows: Of :meth:`dpforge.gan.DPWGAN.train`.
        private: Whether the training is private.

    Raises:
        ConfigError: The public number of rows or public values are missing, or a value would be bought.
        DataError: Neither a DataFrame nor a tensor of records.
    """
    if nominal_rows is None and schema is None:
        if private:
            raise ConfigError(
                "privacy needs nominal_rows, a public number of records: their exact number is private too."
            )
        nominal_rows = max(len(data), 1)
    if isinstance(data, pd.DataFrame):
        public = frame_schema(data, categories, int(nominal_rows or 0), private) if schema is None else schema
    elif isinstance(data, Tensor) and data.dim() >= 2:
        public = tensor_schema(int(nominal_rows or 0))
    else:
        raise DataError(f"train({type(data).__name__}): expected a DataFrame, or a tensor (n, …).")
    public = public if nominal_rows is None else public.with_nominal_rows(nominal_rows)
    if public.private_columns or public.unit.kind != "row":
        raise ConfigError(
            f"schema '{public.name}' buys values or protects users; here every value must be public and every"
            " record a unit. Use the command: dpforge model=dpwgan dataset=csv."
        )
    return public
