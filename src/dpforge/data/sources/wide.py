"""A generated table of 60 columns: mixed kinds, atoms, a sparse network of dependences, no download."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import pandas as pd

from dpforge.data.columns import Column
from dpforge.data.places import schema_path
from dpforge.data.schema import Schema, load_schema
from dpforge.data.source import Dataset, scaled, split_mistakes, split_table
from dpforge.data.table import conform
from dpforge.errors import ConfigError

STRUCTURE_SEED = 2022  # the network is one and the same for every seed of the rows
CLASSES = 4
INTERVALS = 5  # levels of a number column beside its special values
TARGET_PARENTS = 8
_CLASS_SHARES = np.array([0.4, 0.3, 0.2, 0.1])
_MISSING_BY_CLASS = np.array([0.02, 0.05, 0.12, 0.25])
_KINDS = ("categorical", "integer", "numeric")


@dataclass(frozen=True)
class WideSource:
    """The generated wide table as a data set, with the same interface as a table on disk.

    Args:
        name: Name of the data set.
        schema: Name or path of its schema YAML: categories, integers and numbers with public domains.
        rows: Rows in all, training and holdout part together, at least 10.
        seed: Public seed of the rows; the dependences are the same for every seed.
        holdout_fraction: Share of the rows held out, in [0, 1).
        split_seed: Public seed of the split.
        public_benchmark: Whether the records are published benchmark data.
        about: Texts for people: ``title``, ``source``, ``licence``, ``notes``.

    Raises:
        ConfigError: Lists every mistake of the configuration.
    """

    modality: ClassVar[str] = "table"

    name: str = "wide"
    schema: str = "wide"
    rows: int = 20_000
    seed: int = 0
    holdout_fraction: float = 0.2
    split_seed: int = 0
    public_benchmark: bool = True
    about: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        mistakes = split_mistakes(self.holdout_fraction, self.split_seed)
        for name, least in (("rows", 10), ("seed", 0)):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                mistakes.append(f"dataset.{name}={value!r} is not a whole number of at least {least}")
        if mistakes:
            raise ConfigError(mistakes)

    def public_schema(self) -> Schema:
        """The schema of the training part; no row is generated."""
        schema = load_schema(schema_path(self.schema))
        return scaled(schema, self.rows * (1 - self.holdout_fraction) / schema.nominal_rows)

    def load(self) -> Dataset:
        """Generate and split the table. Equal seeds give equal tables."""
        schema = self.public_schema()
        frame = conform(wide_rows(schema, self.rows, self.seed), schema)
        train, holdout, _ = split_table(frame, None, self.holdout_fraction, self.split_seed)
        fingerprint = hashlib.sha256(f"{self.name} {self.rows} {self.seed}".encode()).hexdigest()
        return Dataset(schema, train, holdout, None, self.public_benchmark, fingerprint)


@dataclass(frozen=True)
class Node:
    """How one column depends on others.

    Args:
        column: The column.
        parents: Indices of the columns it depends on, all before it.
        logits: One table a parent, ``(levels of the parent, levels)``.
        by_class: Effect of the latent class, ``(classes, levels)``.
    """

    column: Column
    parents: tuple[int, ...]
    logits: tuple[np.ndarray, ...]
    by_class: np.ndarray


def network(schema: Schema) -> list[Node]:
    """Draw the dependences, one node a column, from a seed that never changes.

    A column depends on the latent class and on up to two of the ten columns before it; the schema's target on
    eight columns anywhere before it.

    Raises:
        ConfigError: A column is a datetime or has no public domain, or the target is not the last column.
    """
    _require_generated(schema)
    rng = np.random.default_rng(STRUCTURE_SEED)
    nodes: list[Node] = []
    for index, column in enumerate(schema.columns):
        levels, last = level_count(column), column.name == schema.target
        near = np.arange(0 if last else max(0, index - 10), index)
        most = TARGET_PARENTS if last else int(rng.integers(1, 3))
        parents = tuple(int(p) for p in np.sort(rng.permutation(near)[:most]))
        strength = 0.8 if last else 1.1
        logits = tuple(
            strength * rng.standard_normal((level_count(nodes[parent].column), levels)) for parent in parents
        )
        nodes.append(Node(column, parents, logits, 0.6 * rng.standard_normal((CLASSES, levels))))
    return nodes


def level_count(column: Column) -> int:
    """Return how many levels a column has in the network: categories, or special values and intervals."""
    return len(column.levels) if column.kind == "categorical" else len(column.special_values) + INTERVALS


def wide_rows(schema: Schema, rows: int, seed: int) -> pd.DataFrame:
    """Generate ``rows`` records of the columns of a schema: raw values, before :func:`conform`.

    A row belongs to one of four latent classes; a column's level follows a softmax over the effects of the
    class and of its parents' levels; a number lies inside its level, denser towards small values. Missing
    cells of nullable columns are commoner in small classes.

    Args:
        schema: Columns with public domains; the target stands last.
        rows: Number of records, >= 1.
        seed: Public seed of the records.
    """
    rng = np.random.default_rng(np.random.SeedSequence([STRUCTURE_SEED, seed, rows]))
    latent = rng.choice(CLASSES, size=rows, p=_CLASS_SHARES)
    levels: list[np.ndarray] = []
    values: dict[str, np.ndarray | pd.Series] = {}
    for node in network(schema):
        logits = node.by_class[latent]
        for parent, effect in zip(node.parents, node.logits, strict=True):
            logits = logits + effect[levels[parent]]
        levels.append(_draw(logits, rng))
        missing = node.column.nullable & (rng.random(rows) < _MISSING_BY_CLASS[latent])
        values[node.column.name] = _values(node.column, levels[-1], missing, rng)
    return pd.DataFrame(values)


def _draw(logits: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """One level a row, by the Gumbel trick."""
    return np.argmax(logits + rng.gumbel(size=logits.shape), axis=1)


def _values(
    column: Column, levels: np.ndarray, missing: np.ndarray, rng: np.random.Generator
) -> np.ndarray | pd.Series:
    bounds = column.bounds
    if bounds is None:
        return pd.Series(np.array(column.levels, dtype=object)[levels]).mask(pd.Series(missing))
    low, high = float(bounds.min or 0), float(bounds.max or 0)
    special = np.array(column.special_values, dtype=float)
    edges = low + (high - low) * (np.arange(INTERVALS + 1) / INTERVALS) ** 2
    step = column.granularity or (1.0 if column.kind == "integer" else 0.0)
    interval = np.maximum(levels - special.size, 0)
    inside = edges[interval] + (edges[interval + 1] - edges[interval]) * rng.beta(1.0, 1.5, len(levels))
    drawn = np.clip(np.rint(inside / step) * step if step else inside, low, high)
    atoms = special[np.minimum(levels, special.size - 1)] if special.size else drawn
    return np.where(missing, np.nan, np.where(levels < special.size, atoms, drawn))


def _require_generated(schema: Schema) -> None:
    mistakes = []
    for column in schema.columns:
        if column.kind not in _KINDS:
            mistakes.append(
                f"column '{column.name}' of schema '{schema.name}' is a {column.kind};"
                f" the generated wide table has {', '.join(_KINDS)}"
            )
    if schema.private_columns:
        mistakes.append(
            f"schema '{schema.name}' has private domains; the generated wide table needs public ones"
        )
    if schema.target is not None and schema.target != schema.names[-1]:
        mistakes.append(f"target '{schema.target}' of schema '{schema.name}' is not its last column")
    if mistakes:
        raise ConfigError(mistakes)
