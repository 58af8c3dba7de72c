"""Cells that a finished TabularARGN is to keep: their codes, and tables with chosen proportions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from dpforge.data import Schema
from dpforge.data.constraints import derived_columns
from dpforge.data.table import conform
from dpforge.errors import ConfigError, DataError, did_you_mean

if TYPE_CHECKING:
    from dpforge.generators.argn_fitted import FittedARGN


def without_derived(given: pd.DataFrame, schema: Schema) -> pd.DataFrame:
    """Return the given cells without the columns that others determine; what they say goes to the others."""
    for dependent, determinant in derived_columns(schema).items():
        if dependent not in given.columns:
            continue
        categories = schema.column(determinant).categories
        values = dict(enumerate(categories.values if categories else (), start=1))
        numbers = pd.Series(pd.to_numeric(pd.Series(given[dependent]), errors="coerce"))
        implied = numbers.map(values)
        if bool((implied.isna() & pd.Series(given[dependent]).notna()).any()):
            raise DataError(
                f"column '{dependent}' holds a value that is no position in '{determinant}'; expected 1 to"
                f" {len(values)}. Correct it or leave the cell empty."
            )
        before = pd.Series(given[determinant]).astype(object) if determinant in given.columns else implied
        given = given.drop(columns=dependent).assign(**{determinant: before.where(before.notna(), implied)})
    return given


def given_codes(
    given: pd.DataFrame, model: FittedARGN, rng: np.random.Generator
) -> tuple[pd.DataFrame, Tensor]:
    """Return the given cells as a typed table, and their codes ``(n, S)``, −1 where a cell is missing.

    Raises:
        DataError: A column that the model does not draw, or a value outside the schema.
    """
    names = model.fine.codec.schema.names
    for name in given.columns:
        if name not in names:
            raise DataError(f"the model has no column '{name}'.{did_you_mean(str(name), names)}")
    columns = tuple(
        replace(model.schema.column(str(name)), nullable=True, outside="null", unseen="unknown")
        for name in given.columns
    )
    part = replace(model.schema, columns=columns, constraints=(), target=None)
    typed = conform(given, part)
    lost = [str(name) for name in given.columns if bool((typed[name].isna() & given[name].notna()).any())]
    if lost:
        raise DataError(f"values of {lost} lie outside the schema; correct them or leave the cells empty.")
    whole = model.sample(len(given), rng)
    for name in given.columns:
        column = model.schema.column(str(name))
        dtype, there = whole[name].dtype, typed[name].notna()
        levels = list(dtype.categories) if isinstance(dtype, pd.CategoricalDtype) else None
        if levels is not None and bool((there & ~typed[name].isin(levels)).any()):
            raise DataError(f"column '{name}' holds a value that is not among its {column.kind} values.")
        text = typed[name].astype(dtype)
        typed[name] = text
        whole[name] = text.where(text.notna(), whole[name].to_numpy())
    codes = model._codes(whole)
    for number, name in enumerate(names):
        free = np.array(typed[name].isna()) if name in typed.columns else np.ones(len(given), bool)
        for sub in model.fine.codec.columns[number]:
            codes[torch.from_numpy(free), sub] = -1
    return typed, codes


def patterns(codes: Tensor, columns: Sequence[Sequence[int]]) -> Iterator[tuple[np.ndarray, list[int]]]:
    """Group rows by which columns are given: row numbers, and the numbers of the given columns."""
    known = np.stack([codes[:, subs[0]].numpy() >= 0 for subs in columns], axis=1)
    kinds, of_row = np.unique(known, axis=0, return_inverse=True)
    for number, kind in enumerate(kinds):
        yield np.flatnonzero(of_row.reshape(-1) == number), [int(c) for c in np.flatnonzero(kind)]


def balanced_cells(
    rows: int, rng: np.random.Generator, shares: Mapping[str, Mapping[str, float]], model: FittedARGN
) -> pd.DataFrame:
    """Draw the cells of one categorical column by given shares; see :meth:`FittedARGN.rebalance`."""
    if len(shares) != 1:
        raise ConfigError(f"rebalance one column at a time; got {sorted(shares)}.")
    name, wanted = next(iter(shares.items()))
    names = model.fine.codec.schema.names
    column = model.schema.column(name) if name in names else None
    if column is None or column.kind != "categorical":
        raise ConfigError(f"'{name}' is no categorical column of the model.{did_you_mean(name, names)}")
    subs = model.fine.codec.columns[names.index(name)]
    if len(subs) != 1:
        raise ConfigError(f"'{name}' is written in {len(subs)} parts; rebalance a column of one part.")
    sub = subs[0]
    labels = list(model.fine.codec.labels(sub))
    known = column.categories.values if column.categories else ()
    unknown = sorted(set(wanted) - set(known))
    total = sum(wanted.values())
    if unknown or any(not 0 <= share <= 1 for share in wanted.values()) or total > 1 + 1e-9:
        hint = did_you_mean(unknown[0], known) if unknown else ""
        raise ConfigError(
            f"shares of '{name}': expected known values with shares in [0, 1] that sum to at most 1; got"
            f" {dict(wanted)}.{hint}"
        )
    masses = model.marginals.masses[sub].copy()
    chosen = np.array([label in wanted for label in labels])
    listed = np.array([label in known for label in labels])
    rest = np.where(listed & ~chosen, masses, 0.0)
    final = np.array([wanted.get(label, 0.0) for label in labels])
    if rest.sum() > 0:
        final = final + rest / rest.sum() * (1 - total)
    elif total < 1 - 1e-9:
        raise ConfigError(f"shares of '{name}' sum to {total:g} and name every value; expected a sum of 1.")
    cells = rng.choice(len(labels), size=rows, p=final / final.sum())
    return pd.DataFrame({name: [labels[cell] for cell in cells]})
