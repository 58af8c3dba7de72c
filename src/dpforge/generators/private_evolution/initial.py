"""The first population: drawn by the public generator, or public images that the user names."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dpforge.data import ImageSchema
from dpforge.errors import DataError
from dpforge.generators.base import RunContext
from dpforge.generators.private_evolution.apis.protocol import ImageAPI
from dpforge.generators.private_evolution.calls import checked, drawn, varied
from dpforge.generators.private_evolution.files import load_population
from dpforge.generators.private_evolution.population import Population, together

if TYPE_CHECKING:
    from dpforge.generators.private_evolution.settings import PrivateEvolution


def initial_population(
    model: PrivateEvolution, schema: ImageSchema, shares: np.ndarray, run: RunContext
) -> Population:
    """Return S_0 with its variations.

    Args:
        model: Settings.
        schema: Schema of the synthetic images.
        shares: Share of each class, ``(K,)``.
        run: Public randomness.
    """
    sizes = model.block_sizes(0, shares, schema.nominal_rows)
    if model.initial_samples is None:
        labels = np.repeat(np.arange(len(sizes)), sizes)
        first = drawn(model.api, labels, run.random.generator("evolution/random"))
    else:
        first = public_start(Path(model.initial_samples), model.api, schema, sizes)
    folds = [
        varied(model.api, first, model.degrees()[0], run.random.generator(f"evolution/initial/{fold}"))
        for fold in range(model.initial_variation_fold)
    ]
    return together([first, *folds])


def public_start(path: Path, api: ImageAPI, schema: ImageSchema, sizes: np.ndarray) -> Population:
    """Read public images to start from: the first ones of each class, as many as S_0 has.

    Raises:
        DataError: No population, another size, or too few images of a class.
    """
    found = load_population(path)
    if found.pixels.shape[1:] != (*api.image_size, 3):
        raise DataError(
            f"{path.name} has images of shape {found.pixels.shape[1:]}; expected {(*api.image_size, 3)}, as"
            f" model.api={api.name} makes them."
        )
    rows = [np.flatnonzero(found.labels == label)[:size] for label, size in enumerate(sizes)]
    short = [label for label, size in enumerate(sizes) if len(rows[label]) < size]
    if short:
        names = ", ".join(schema.classes[label] if schema.classes else "all" for label in short)
        raise DataError(f"{path.name} has too few images of: {names}. Lower model.num_samples_schedule.")
    return checked(api, found.take(np.concatenate(rows)))
