"""Typed access to the columns of a DataFrame."""

from __future__ import annotations

import numpy as np
import pandas as pd


def series_of(frame: pd.DataFrame, name: str) -> pd.Series:
    """The column called ``name``, whose name is known to be unique."""
    return frame[name]  # type: ignore[return-value]


def float_values(series: pd.Series) -> np.ndarray:
    """A number column as float64 with NaN for missing."""
    return series.to_numpy(dtype=np.float64, na_value=np.nan)
