"""Schemas, typed tables, images and data sets. Imports no deep-learning library."""

from __future__ import annotations

from dpforge.data.images import ImageDataset, Images, ImageSchema, image_schema_from_dict
from dpforge.data.schema import Schema, load_schema
from dpforge.data.source import Dataset, TabularSource, own_table
from dpforge.data.sources.toy import ToySource
from dpforge.data.table import TableFormat

__all__ = [
    "Dataset",
    "ImageDataset",
    "ImageSchema",
    "Images",
    "Schema",
    "TableFormat",
    "TabularSource",
    "ToySource",
    "image_schema_from_dict",
    "load_schema",
    "own_table",
]
