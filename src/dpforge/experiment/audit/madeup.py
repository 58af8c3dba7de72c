"""Rows and images that no one is: what an audit uses in place of private records."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd

from dpforge.data import Dataset, ImageDataset, Images, ImageSchema, Schema
from dpforge.data.columns import Bounds, Categories, Column
from dpforge.data.table import conform
from dpforge.evaluation.attacks import outlier_rows

# Of a column whose categories or range are private, and which names no public ones.
CATEGORIES, RANGE = ("a", "b"), (0.0, 1.0)


def madeup_data(schema: Schema | ImageSchema, rows: int, rng: np.random.Generator) -> Dataset | ImageDataset:
    """Return ``rows`` records at the corners of a table's public domain, or noise images; no file is read.

    Every record is a unit of its own.
    """
    units = np.arange(rows) if schema.unit.kind == "user" else None
    if isinstance(schema, ImageSchema):
        pixels = rng.integers(0, 256, (rows, *schema.shape), dtype=np.uint8)
        images = Images(pixels, rng.integers(0, max(schema.num_classes, 1), rows))
        return ImageDataset(schema, images, images.take(np.arange(0)), units, True, "")
    table = conform(outlier_rows(_public(schema), rows, int(rng.integers(2**31))), schema)
    return Dataset(schema, pd.DataFrame(table), table.head(0), units, True, "")


def _public(schema: Schema) -> Schema:
    """The schema with stand-ins for what a run would have to buy."""
    return replace(schema, columns=tuple(_closed(column) for column in schema.columns), constraints=())


def _closed(column: Column) -> Column:
    closed = replace(column, bins=None)
    if column.open_categories and column.categories:
        values = column.categories.public_values or CATEGORIES
        closed = replace(closed, categories=Categories(tuple(values)))
    if column.open_bounds and column.bounds:
        low, high = column.bounds.outer or RANGE
        closed = replace(closed, bounds=Bounds(low, high))
    return closed
