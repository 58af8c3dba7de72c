"""The basic synthesizer of the published DP-MAF experiments, kept to reproduce its row. NOT DP.

It releases exact means, deviations and category frequencies, and draws every column from the same stream: all
number columns are one Gaussian sample, shifted and scaled. Dates, which the original left out, count as
seconds. Use ``model=independent`` for anything else.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd

from dpforge.data import Dataset, Schema
from dpforge.data.frames import float_values, series_of
from dpforge.data.table import categorical_dtype
from dpforge.errors import ConfigError
from dpforge.generators.base import RunContext
from dpforge.generators.storage import load_model, save_model
from dpforge.privacy.events import NonPrivate
from dpforge.privacy.plan import Piece, Plan
from dpforge.privacy.spec import PrivacySpec

NAME = "moments"
REASON = "exact means, deviations and frequencies without noise: NOT DP, whatever privacy asks for"
STREAM = 42


@dataclass(frozen=True)
class IndependentSeed:
    """The original's basic synthesizer; no settings. Never differentially private."""

    modalities: ClassVar[tuple[str, ...]] = ("table",)
    name: ClassVar[str] = "independent_seed"
    not_dp: ClassVar[bool] = True

    def plan(self, schema: Schema, privacy: PrivacySpec) -> Plan:
        """One access without noise, so that ε is infinite under any ``privacy``.

        Raises:
            ConfigError: Private bounds or categories.
        """
        if schema.private_columns:
            raise ConfigError(
                f"independent_seed buys no private values ({', '.join(schema.private_columns)})."
                " State them publicly in the schema, or use model=independent."
            )
        piece = Piece(NAME, "none", NonPrivate(), 1, 1.0, REASON)
        return Plan((piece,), privacy.delta, privacy.relation, schema.unit.kind)

    def fit(self, data: Dataset, run: RunContext) -> FittedIndependentSeed:
        """Read means, population deviations and frequencies of the training rows."""
        run.access.open_access(NAME)
        columns = [_described(series_of(data.train, c.name), c.kind) for c in data.schema.columns]
        run.progress(1, 1, {})
        return FittedIndependentSeed(data.schema, columns)

    def load(self, folder: Path) -> FittedIndependentSeed:
        """Read back a fitted model."""
        _, arrays, schema = load_model(folder)
        return FittedIndependentSeed(schema, arrays["columns"])


class FittedIndependentSeed:
    """Exact moments of number columns and frequencies of categorical ones.

    Args:
        schema: The public schema; samples may lie outside its bounds and off its grid.
        columns: Mean and deviation, or the frequency of each level, of each column.
    """

    def __init__(self, schema: Schema, columns: list[list[float]]) -> None:
        self.schema, self.columns = schema, columns

    def sample(self, rows: int, rng: np.random.Generator) -> pd.DataFrame:
        """Draw ``rows`` rows, the same ones each time: the original's stream is fixed, ``rng`` is not used.

        Numbers are float64 and neither clipped nor rounded: that they violate the schema is the original's.
        """
        drawn: dict[str, Any] = {}
        for column, numbers in zip(self.schema.columns, self.columns, strict=True):
            stream = np.random.RandomState(STREAM)
            if column.kind == "categorical":
                codes = stream.choice(len(numbers), size=rows, p=numbers)
                drawn[column.name] = pd.Categorical.from_codes(codes, dtype=categorical_dtype(column))
            else:
                found = stream.normal(numbers[0], numbers[1], rows)
                seconds = column.kind == "datetime"
                drawn[column.name] = found.astype(np.int64).astype("datetime64[s]") if seconds else found
        return pd.DataFrame(drawn, columns=list(self.schema.names))

    def save(self, folder: Path) -> None:
        """Write the model; see :func:`dpforge.generators.storage.save_model`."""
        save_model(folder, {}, {"columns": self.columns}, self.schema)


def _described(values: pd.Series, kind: str) -> list[float]:
    if kind == "categorical":
        shares = values.value_counts(normalize=True, sort=False)
        known = [float(share) for share in shares]
        return known if sum(known) > 0 else [1.0 / max(len(known), 1)] * len(known)
    if kind == "datetime":
        values = values.dropna()
        numbers = values.to_numpy().astype("datetime64[s]").astype(np.int64).astype(float)
    else:
        numbers = float_values(values)
    numbers = numbers[np.isfinite(numbers)]
    return [float(numbers.mean()), float(numbers.std())] if len(numbers) else [0.0, 0.0]
