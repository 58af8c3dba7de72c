"""How probable fresh real rows are under a model."""

from __future__ import annotations

import math
from typing import Any, Protocol, runtime_checkable

import numpy as np
import pandas as pd

VERSION = "log-likelihood-1"
KEYS = ("log_likelihood", "log_likelihood_bits_per_dim")


@runtime_checkable
class Likelihood(Protocol):
    """A model that can score rows.

    It may also have ``codec_name``, the codec whose cells it scores, and ``independent_log_prob``, the same
    score by its one-way marginals alone (or None).
    """

    def log_prob(self, frame: pd.DataFrame) -> np.ndarray:
        """Return the log-probability ``(n,)`` in nats of the rows of a typed table; −∞ is allowed."""
        ...


def log_likelihood(values: np.ndarray, columns: int) -> dict[str, float]:
    """Mean over rows of log-probabilities ``values``, shape ``(n,)``, in nats; larger is better.

    Returns:
        ``log_likelihood``, nats per row; ``log_likelihood_bits_per_dim``, minus that in bits over
        ``columns``, smaller is better. −∞ and ∞ if a row is impossible under the model.
    """
    mean = float(values.mean()) if len(values) else math.nan
    return dict(zip(KEYS, (mean, -mean / (columns * math.log(2))), strict=True))


def codec_name(model: Likelihood) -> str:
    """The codec whose cells ``model`` scores; scores under unlike codecs do not compare."""
    return str(getattr(model, "codec_name", "of the model's own"))


def baseline(model: Likelihood, frame: pd.DataFrame) -> np.ndarray | None:
    """The score of the rows by the model's one-way marginals alone, shape ``(n,)``; None without them."""
    found: Any = getattr(model, "independent_log_prob", None)
    return None if found is None else found(frame)
