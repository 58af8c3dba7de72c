"""Canaries in one-way counts: rows that hold a category of their own in every column."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd

from dpforge.data import Dataset, Schema
from dpforge.data.columns import Categories, Column
from dpforge.data.table import conform
from dpforge.errors import ConfigError
from dpforge.experiment.audit.door import Enough, Seen, audit_context
from dpforge.experiment.audit.evidence import Channel, Evidence
from dpforge.generators.base import Runtime, rows_per_unit
from dpforge.privacy.plan import Plan
from dpforge.privacy.spec import PrivacySpec

BYSTANDERS = 8


def audit_marginals(
    model: Any,
    schema: Schema,
    plan: Plan,
    spec: PrivacySpec,
    runtime: Runtime,
    *,
    name: str,
    canaries: int,
    rng: np.random.Generator,
) -> tuple[Evidence, Seen]:
    """Fit until the first release of one-way counts, on a made-up table with as many columns as the run's.

    A canary whose coin is heads holds a category that nobody else has, in every column; one whose coin is
    tails is absent, or under ``replace`` holds another of its own.

    Args:
        model: A generator whose fit begins with one-way counts.
        schema: Its public schema; number of columns and unit are kept.
        plan, spec, runtime: As of the run.
        name: Piece of the plan.
        canaries: Rows (or users) of the auditor.
        rng: Draws the coins.

    Returns:
        Evidence, and the release itself.

    Raises:
        ConfigError: The generator releases no such counts.
    """
    coins = rng.random(canaries) < 0.5
    replaced, rows = plan.relation == "replace", rows_per_unit(schema)
    data = _table(schema, tuple(coins.tolist()), replaced)
    cells = (2 if replaced else 1) * canaries
    with audit_context(schema, plan, spec, replace(runtime, progress=False)) as (access, run):
        access.end_after(name)
        with suppress(Enough):
            model.fit(data, run)
        released = [seen for seen in access.released if seen.name == name]
        laplace = access.piece(name).mechanism == "laplace"
    if not released or any(count.size <= cells for count in released[0].values):
        raise ConfigError(f"{type(model).__name__} released no one-way counts of whole columns to look at.")
    return _evidence(released[0], coins, rows, replaced, laplace), released[0]


@lru_cache(maxsize=4)
def _table(schema: Schema, coins: tuple[bool, ...], replaced: bool) -> Dataset:
    """The made-up table; a repeated audit asks for the same two again and again."""
    heads, rows = np.array(coins), rows_per_unit(schema)
    cells = (2 if replaced else 1) * len(heads)
    wide = _wide_schema(schema, cells + 1)
    slots = np.arange(len(heads))
    held = np.where(heads, 0, len(heads)) + slots if replaced else slots[heads]
    codes = np.r_[np.full(BYSTANDERS, cells), np.repeat(held, rows)]
    units = None
    if schema.unit.kind == "user":
        units = np.r_[np.arange(BYSTANDERS), BYSTANDERS + np.repeat(np.arange(len(held)), rows)]
    names = np.array([_category(code) for code in codes])
    table = conform(pd.DataFrame(dict.fromkeys(wide.names, names)), wide)
    return Dataset(wide, table, table.head(0), units, True, "")


def _evidence(released: Seen, coins: np.ndarray, rows: int, replaced: bool, laplace: bool) -> Evidence:
    m, seen, channels = len(coins), [], []
    cells = (2 if replaced else 1) * m + 1
    for noisy, scale in zip(released.values, released.scales, strict=True):
        count = noisy[noisy.size - cells :]  # the cell of unlisted categories comes first
        if replaced:
            # The difference of two Laplace variables is taken for a Gaussian one: a score may be any number.
            seen.append(count[:m] - count[m : 2 * m])
            channels.append(Channel(rows, -rows, scale * (2.0 if laplace else np.sqrt(2))))
        else:
            seen.append(count[:m])
            channels.append(Channel(rows, 0.0, scale, law="laplace" if laplace else "gaussian"))
    return Evidence("one-way counts", (released.name,), 1, coins, seen, channels)


def _wide_schema(schema: Schema, categories: int) -> Schema:
    values = tuple(_category(code) for code in range(categories))
    columns = tuple(
        Column(column.name, "categorical", categories=Categories(values)) for column in schema.columns
    )
    return replace(schema, columns=columns, constraints=())


def _category(code: int) -> str:
    return f"c{code:06d}"
