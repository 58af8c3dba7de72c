"""The released table or images of a run, in its folder: written once, read back by every later stage."""

from __future__ import annotations

import numpy as np
import pandas as pd

from dpforge.data import Images, ImageSchema, Schema
from dpforge.data.image_files import read_samples, write_samples
from dpforge.data.table import write_table
from dpforge.errors import DataError, RunError
from dpforge.experiment.image_grids import save_grid
from dpforge.experiment.rundir import RunDir
from dpforge.generators.base import Synthetic
from dpforge.privacy.ledger import Ledger
from dpforge.privacy.origin import origin_of

PREVIEW_ROWS = 20
PREVIEW_PER_CLASS, PREVIEW_IMAGES = 10, 100


def write_synthetic(folder: RunDir, made: Synthetic, schema: Schema | ImageSchema, ledger: Ledger) -> None:
    """Write the table or the images of a run with a preview for people.

    Raises:
        DataError, RunError: The disk is full or read-only.
    """
    if isinstance(made, pd.DataFrame):
        write_table(made, folder.synthetic)
        write_table(made.head(PREVIEW_ROWS), folder.preview)
        return
    names = schema.classes if isinstance(schema, ImageSchema) else ()
    write_samples(folder.images, made, names, made.extra, origin_of(ledger.header, schema.name))
    save_grid(preview_images(made, len(names)), folder.grid)


def preview_images(made: Images, classes: int) -> list[np.ndarray]:
    """The first images of every class, a row of ``(n, height, width, channels)`` each."""
    if classes < 2:
        first = made.head(PREVIEW_IMAGES).pixels
        return [first[i : i + PREVIEW_PER_CLASS] for i in range(0, len(first), PREVIEW_PER_CLASS)]
    found = [np.flatnonzero(made.labels == label)[:PREVIEW_PER_CLASS] for label in range(classes)]
    return [made.pixels[rows] for rows in found[:PREVIEW_IMAGES] if len(rows)]


def read_synthetic(folder: RunDir, schema: Schema | ImageSchema) -> Synthetic:
    """Read back what :func:`write_synthetic` wrote; raises ``RunError`` if it is damaged."""
    if not folder.intact("sample"):
        raise _damaged(folder, "they are not those that were written")
    try:
        if isinstance(schema, ImageSchema):
            return read_samples(folder.images, schema)[0]
        return pd.read_parquet(folder.synthetic)
    except (OSError, ValueError, DataError) as error:
        raise _damaged(folder, type(error).__name__) from error


def _damaged(folder: RunDir, why: str) -> RunError:
    return RunError(
        f"the samples of {folder.root} are damaged ({why}). Delete the folder 'samples' of the run and start"
        " the same command again; sampling again costs no privacy."
    )
