"""User-level privacy: which rows belong to which user, and how many of each are kept."""

from __future__ import annotations

import numpy as np
import pandas as pd
from pandas.util import hash_array

from dpforge.data.conform import texts
from dpforge.data.split import scattered
from dpforge.errors import DataError


def user_names(series: pd.Series) -> np.ndarray:
    """The name of each row\'s user as text, ``None`` where it is missing; object ``(n,)``."""
    codes, uniques = texts(series)
    return np.array([*((text.strip() or None) for text in uniques), None], dtype=object)[codes]


def rows_by_user(table: pd.DataFrame, users: np.ndarray, max_rows: int) -> tuple[pd.DataFrame, np.ndarray]:
    """Group rows by user and keep at most ``max_rows`` of each.

    A hash of the user's name and the row's position among its rows chooses which, so what other users
    do changes nothing. A record without a user cannot be bounded and is dropped.

    Args:
        table: Typed table of ``n`` rows.
        users: Name of each row's user, or ``None``; object ``(n,)``.
        max_rows: Rows kept of one user, >= 1.

    Returns:
        The kept rows, a user's rows adjacent, and their users' keys, int64: a hash of the name, so that a
        user's key does not depend on other users.

    Raises:
        DataError: No row names its user.
    """
    numbers, names = pd.factorize(users)
    named = np.flatnonzero(numbers >= 0)
    order = named[np.argsort(numbers[named], kind="stable")]
    units = numbers[order].astype(np.int64)
    starts = np.flatnonzero(np.diff(units, prepend=-1))
    position = np.arange(len(units)) - np.repeat(starts, np.bincount(units))
    user_keys: np.ndarray = hash_array(np.asarray(names, dtype=object), categorize=False)  # type: ignore[operator]
    keys = (
        scattered(user_keys[units] ^ scattered(position.astype(np.uint64)))
        if len(units)
        else np.zeros(0, np.uint64)
    )
    rank = np.empty(len(units), dtype=np.int64)
    rank[np.lexsort((keys, units))] = position
    keep = rank < max_rows
    if not keep.any():
        raise DataError("no record names its user; check unit.column")
    return table.iloc[order[keep]].reset_index(drop=True), user_keys[units[keep]].astype(np.int64)
