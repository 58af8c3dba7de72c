"""A generated mixed table: every kind of column, known dependence, no download."""

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

_REGIONS = np.array(["north", "east", "south", "west"])
_EDUCATION = np.array(["basic", "school", "college", "university"])
_EDUCATION_BY_REGION = np.array(
    [[0.10, 0.40, 0.30, 0.20], [0.25, 0.45, 0.20, 0.10], [0.30, 0.40, 0.20, 0.10], [0.05, 0.25, 0.30, 0.40]]
)
_EMPLOYMENT = np.array(["employed", "self-employed", "unemployed", ""])
_EMPLOYMENT_BY_EDUCATION = np.array(
    [[0.55, 0.10, 0.30, 0.05], [0.70, 0.10, 0.15, 0.05], [0.75, 0.12, 0.08, 0.05], [0.75, 0.17, 0.03, 0.05]]
)
_DAYS = 1461  # 2020-01-01 to 2023-12-31


@dataclass(frozen=True)
class ToySource:
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

    name: str = "toy"
    schema: str = "toy"
    rows: int = 2000
    seed: int = 0
    holdout_fraction: float = 0.2
    split_seed: int = 0
    about: Mapping[str, str] = field(
        default_factory=lambda: {
            "title": "A generated mixed table",
            "source": "generated from a seed",
            "licence": "none needed",
            "notes": "For quick tests; no row belongs to a person.",
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
        frame = conform(toy_rows(self.rows, self.seed), schema)
        train, holdout, _ = split_table(frame, None, self.holdout_fraction, self.split_seed)
        fingerprint = hashlib.sha256(f"toy {self.rows} {self.seed}".encode()).hexdigest()
        return Dataset(schema, train, holdout, None, True, fingerprint)


def toy_rows(rows: int, seed: int) -> pd.DataFrame:
    """Generate ``rows`` records of the columns of ``conf/dataset/schema/toy.yaml``.

    Education depends on region, employment on education, income on both and is 0 for the unemployed, and the
    response on all of them; 5 % of employment and 10 % of score are missing.
    """
    rng = np.random.default_rng(np.random.SeedSequence([seed, rows]))
    region = rng.choice(4, size=rows, p=[0.35, 0.3, 0.2, 0.15])
    education = _draw(_EDUCATION_BY_REGION[region], rng)
    employment = _draw(_EMPLOYMENT_BY_EDUCATION[education], rng)
    age = np.clip(np.rint(rng.normal(45, 15, rows)), 18, 90)
    log_income = 9.3 + 0.35 * education + 0.012 * (age - 18) + 0.5 * rng.standard_normal(rows)
    income = np.where(employment == 2, 0.0, np.round(np.exp(log_income), 2))
    score = np.round(0.6 * education - 0.9 + rng.standard_normal(rows), 1)
    working = 1.2 * (employment == 1) - 1.5 * (employment == 2)
    logit = 0.04 * (age - 45) + 0.9 * (education - 1.5) + working - 0.5
    response = rng.random(rows) < 1 / (1 + np.exp(-logit))
    joined = np.datetime64("2020-01-01", "s") + _joined_days(age, rng).astype("timedelta64[D]")
    return pd.DataFrame(
        {
            "age": age.astype(np.int64),
            "income": income,
            "region": _REGIONS[region],
            "education": _EDUCATION[education],
            "employment": _EMPLOYMENT[employment],
            "joined": joined,
            "score": np.where(rng.random(rows) < 0.1, np.nan, score),
            "response": np.where(response, "yes", "no"),
        }
    )


def _draw(probabilities: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """One category a row from the row's probabilities, shape ``(rows, categories)``."""
    return (rng.random((len(probabilities), 1)) > np.cumsum(probabilities, axis=1)[:, :-1]).sum(axis=1)


def _joined_days(age: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    share = rng.beta(1 + (age < 40), 1 + (age >= 40))
    return np.minimum((share * _DAYS).astype(np.int64), _DAYS - 1)
