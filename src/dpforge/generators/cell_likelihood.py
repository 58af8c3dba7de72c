"""Probabilities of a row's cells: what models with one codec can be compared by."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from dpforge.data.encode.cells import CellCodec


def log_cell_mass(codec: CellCodec, masses: Sequence[np.ndarray], frame: pd.DataFrame) -> np.ndarray:
    """Log-probability ``(n,)`` in nats of the cells of rows under independent columns; −∞ for empty cells.

    Args:
        codec: Cells of the schema.
        masses: One probability vector a column.
        frame: Typed table of ``n`` rows.
    """
    codes = codec.encode(frame).codes + codec.offsets[:-1]
    with np.errstate(divide="ignore"):
        return np.log(np.concatenate(masses))[codes].sum(axis=1)


def cells_name(codec: CellCodec) -> str:
    """Name of a codec: equal for equal cells of equal schemas."""
    return f"cells of schema {codec.schema.name} {codec.schema.digest[:8]}, {sum(codec.sizes)} in all"
