"""Keyed train/holdout splits."""

from __future__ import annotations

import numpy as np

from dpforge.errors import ConfigError

_PURPOSE = 0x5B117  # keeps the split's stream apart from other streams of the same seed


def keyed_split(n: int, fraction: float, seed: int) -> np.ndarray:
    """Choose each of ``n`` records for the holdout with probability ``fraction``.

    Element ``i`` is the ``i``-th draw of a counter-based stream keyed by ``seed``: it depends on
    ``(seed, i)`` alone, so a record added at the end never moves another.

    Returns:
        Bool array of shape ``(n,)``; ``True`` means holdout.

    Raises:
        ConfigError: ``fraction`` is outside [0, 1), or ``n`` or ``seed`` is negative.
    """
    if not 0.0 <= fraction < 1.0:
        raise ConfigError(f"the holdout fraction is {fraction}; give a number in [0, 1), for example 0.2")
    if n < 0 or seed < 0:
        raise ConfigError(f"a split needs n >= 0 and seed >= 0, got n={n}, seed={seed}")
    stream = np.random.Generator(np.random.Philox(np.random.SeedSequence([_PURPOSE, seed])))
    return stream.random(n) < fraction


def split_units(units: np.ndarray, fraction: float, seed: int) -> np.ndarray:
    """Split by user: all rows of one user land on the same side.

    Args:
        units: User number of each row, int64 ``(n,)``, numbered from 0.
        fraction: Share of the users in the holdout, in [0, 1).
        seed: Public seed of the split.

    Returns:
        Bool array of shape ``(n,)``; ``True`` means holdout.
    """
    users = int(units.max()) + 1 if len(units) else 0
    return keyed_split(users, fraction, seed)[units]
