"""Row operations that every metric shares: alignment, the floor table and seeded row draws."""

from __future__ import annotations

from typing import cast

import numpy as np
import pandas as pd

from dpforge.data.schema import Schema
from dpforge.errors import DataError


def series(frame: pd.DataFrame, name: str) -> pd.Series:
    """The column ``name`` (names of a typed table are unique, so this is never a table)."""
    return cast(pd.Series, frame[name])


def aligned(frame: pd.DataFrame, schema: Schema, role: str) -> pd.DataFrame:
    """The columns of ``schema`` in schema order with a fresh row index.

    Args:
        role: Name of the table in error texts, for example ``"synthetic"``.

    Raises:
        DataError: A column of the schema is missing, or the table has no row.
    """
    missing = [name for name in schema.names if name not in frame.columns]
    if missing:
        raise DataError(
            f"the {role} table lacks {len(missing)} of the {len(schema.names)} columns of schema "
            f"'{schema.name}': {', '.join(missing)}. Evaluate a table that was made with this schema."
        )
    if frame.empty:
        raise DataError(
            f"the {role} table has 0 rows; metrics need at least 1. "
            "Sample more rows, or check the filter that made the table."
        )
    return cast(pd.DataFrame, frame.loc[:, list(schema.names)]).reset_index(drop=True)


def permuted_columns(frame: pd.DataFrame, seed: int) -> pd.DataFrame:
    """The floor table P: each column permuted independently, so marginals stay and dependence goes."""
    rng = np.random.default_rng([seed, 1])
    columns = {name: series(frame, name).array.take(rng.permutation(len(frame))) for name in frame.columns}
    return pd.DataFrame(columns, index=frame.index)


def drawn_rows(frame: pd.DataFrame, rows: int | None, seed: int, stream: int = 2) -> pd.DataFrame:
    """At most ``rows`` rows, drawn without replacement; all rows in their order if there are no more.

    Args:
        stream: Separates draws that share a seed, so that two tables are not cut alike.
    """
    if rows is None or len(frame) <= rows:
        return frame.reset_index(drop=True)
    chosen = np.random.default_rng([seed, stream]).choice(len(frame), rows, replace=False)
    return frame.take(chosen).reset_index(drop=True)


def resized(frame: pd.DataFrame, rows: int, seed: int) -> pd.DataFrame:
    """Exactly ``rows`` rows: without replacement where there are enough, else a bootstrap."""
    if len(frame) >= rows:
        return drawn_rows(frame, rows, seed, stream=3)
    chosen = np.random.default_rng([seed, 4]).integers(len(frame), size=rows)
    return frame.take(chosen).reset_index(drop=True)
