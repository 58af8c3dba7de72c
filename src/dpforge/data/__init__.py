"""Schemas, typed tables and data sets. Imports no deep-learning library."""

from __future__ import annotations

from dpforge.data.schema import Schema, load_schema
from dpforge.data.source import Dataset, TabularSource, own_table
from dpforge.data.sources.toy import ToySource
from dpforge.data.table import TableFormat

__all__ = ["Dataset", "Schema", "TableFormat", "TabularSource", "ToySource", "load_schema", "own_table"]
