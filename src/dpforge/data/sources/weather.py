"""A generated table of weather and punctuality, three values each: the simplest example of a GAN."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import pandas as pd

from dpforge.data.places import schema_path
from dpforge.data.schema import Schema, load_schema
from dpforge.data.source import Dataset, scaled, split_mistakes, split_table
from dpforge.data.table import conform
from dpforge.errors import ConfigError

WEATHER = np.array(["sunny", "cloudy", "rainy"])
STATUS = np.array(["on time", "delayed", "cancelled"])
# Probability of each status, by weather.
SHARES = np.array([0.5, 0.3, 0.2])
STATUS_BY_WEATHER = np.array([[0.80, 0.15, 0.05], [0.60, 0.30, 0.10], [0.30, 0.45, 0.25]])


@dataclass(frozen=True)
class WeatherSource:
    """The generated table as a data set, with the same interface as a table on disk.

    Args:
        name: Name of the data set.
        schema: Name or path of its schema YAML.
        rows: Rows in all, training and holdout part together, at least 10.
        seed: Public seed of the rows.
        holdout_fraction: Share of the rows held out, in [0, 1).
        split_seed: Public seed of the split.
        about: Texts for people: ``title``, ``source``, ``licence``, ``notes``.

    Raises:
        ConfigError: Lists every mistake of the configuration.
    """

    modality: ClassVar[str] = "table"

    name: str = "weather"
    schema: str = "weather"
    rows: int = 36000
    seed: int = 0
    holdout_fraction: float = 1 / 6
    split_seed: int = 0
    about: Mapping[str, str] = field(
        default_factory=lambda: {
            "title": "Generated weather and punctuality",
            "source": "generated from a seed",
            "licence": "none needed",
            "notes": "Two columns of three values; no row belongs to anybody.",
        }
    )

    def __post_init__(self) -> None:
        mistakes = split_mistakes(self.holdout_fraction, self.split_seed)
        if not isinstance(self.rows, int) or self.rows < 10:
            mistakes.append(f"dataset.rows={self.rows!r} is not a whole number of at least 10")
        if not isinstance(self.seed, int) or self.seed < 0:
            mistakes.append(f"dataset.seed={self.seed!r} is not a whole number of at least 0")
        if mistakes:
            raise ConfigError(mistakes)

    def public_schema(self) -> Schema:
        """The schema of the training part; no row is generated."""
        schema = load_schema(schema_path(self.schema))
        return scaled(schema, self.rows * (1 - self.holdout_fraction) / schema.nominal_rows)

    def load(self) -> Dataset:
        """Generate and split the table. Equal seeds give equal tables."""
        schema = self.public_schema()
        frame = conform(weather_rows(self.rows, self.seed), schema)
        train, holdout, _ = split_table(frame, None, self.holdout_fraction, self.split_seed)
        fingerprint = hashlib.sha256(f"weather {self.rows} {self.seed}".encode()).hexdigest()
        return Dataset(schema, train, holdout, None, True, fingerprint)


def weather_rows(rows: int, seed: int) -> pd.DataFrame:
    """Generate ``rows`` records: the status depends on the weather."""
    rng = np.random.default_rng(np.random.SeedSequence([seed, rows]))
    weather = rng.choice(len(WEATHER), size=rows, p=SHARES)
    edges = np.cumsum(STATUS_BY_WEATHER, axis=1)[weather, :-1]
    status = (rng.random((rows, 1)) > edges).sum(axis=1)
    return pd.DataFrame({"weather": WEATHER[weather], "status": STATUS[status]})
