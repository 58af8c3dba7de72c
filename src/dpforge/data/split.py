"""Keyed train/holdout splits: which side a record is on depends on the record, not on its place."""

from __future__ import annotations

import numpy as np
import pandas as pd
from pandas.util import hash_pandas_object

from dpforge.errors import ConfigError

_PURPOSE = np.uint64(0x5B117)  # keeps the split's stream apart from other uses of the same seed


def keyed_split(frame: pd.DataFrame, fraction: float, seed: int) -> np.ndarray:
    """Choose each record for the holdout with probability ``fraction``.

    The draw is keyed by the seed, the record's content and its number among identical records. So adding
    or removing a record, anywhere in the table, moves no other from one side to the other.

    Args:
        frame: Typed table of ``n`` records.
        fraction: In [0, 1).
        seed: Public seed, >= 0.

    Returns:
        Bool array of shape ``(n,)``; ``True`` means holdout.

    Raises:
        ConfigError: ``fraction`` is outside [0, 1), or ``seed`` is negative.
    """
    content: pd.Series = hash_pandas_object(frame, index=False)  # type: ignore[operator]
    twins = content.groupby(content).cumcount().to_numpy().astype(np.uint64)
    return _draws(content.to_numpy(dtype=np.uint64) ^ scattered(twins), seed, fraction) < fraction


def split_units(units: np.ndarray, fraction: float, seed: int) -> np.ndarray:
    """Split by user: all rows of one user land on the same side, which depends on the user's key alone.

    Args:
        units: Key of each row's user, int64 ``(n,)``.
        fraction: Share of the users in the holdout, in [0, 1).
        seed: Public seed of the split.

    Returns:
        Bool array of shape ``(n,)``; ``True`` means holdout.
    """
    return _draws(units.astype(np.uint64), seed, fraction) < fraction


def _draws(keys: np.ndarray, seed: int, fraction: float) -> np.ndarray:
    if not 0.0 <= fraction < 1.0:
        raise ConfigError(f"the holdout fraction is {fraction}; give a number in [0, 1), for example 0.2")
    if seed < 0:
        raise ConfigError(f"a split needs a seed >= 0, got {seed}")
    key = scattered(np.array([seed], dtype=np.uint64) ^ _PURPOSE)[0]
    return (scattered(keys ^ key) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def scattered(x: np.ndarray) -> np.ndarray:
    """The finaliser of splitmix64 (Steele et al., OOPSLA 2014): a bijection that scatters 64-bit words."""
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
