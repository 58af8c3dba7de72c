"""The first population: drawn by the public generator, or public images that the user names."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dpforge.data import ImageSchema
from dpforge.data.image_arrays import read_npz
from dpforge.data.image_files import MAX_BYTES
from dpforge.errors import DataError
from dpforge.generators.base import RunContext
from dpforge.generators.private_evolution.apis.protocol import ImageAPI
from dpforge.generators.private_evolution.calls import checked, drawn, varied
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

    Classes are matched by name where the file has names; without classes in the schema its labels count for
    nothing.

    Raises:
        DataError: No population, another size, too few images of a class, or side information that is not of
            this API.
    """
    found = _read(path, api, schema)
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
    start = found.take(np.concatenate(rows))
    start = checked(api, start)
    _check_info(path.name, api, start.info)
    return start


def _read(path: Path, api: ImageAPI, schema: ImageSchema) -> Population:
    keys = ("samples", "labels", "class_names", "additional_info")
    arrays = read_npz(path, {key: key for key in keys}, MAX_BYTES, optional=keys[1:])
    pixels, info = arrays["samples"], arrays.get("additional_info")
    if info is None:
        raise DataError(
            f"model.initial_samples={path.name} has no array additional_info, from which model.api={api.name}"
            " makes variations. Start from a samples.npz of Private Evolution with the same model.api, or"
            " leave initial_samples out."
        )
    labels = arrays.get("labels", np.zeros(len(pixels), np.int64)).astype(np.int64).reshape(-1)
    if not len(pixels) == len(labels) == len(info):
        raise DataError(
            f"{path.name} has {len(pixels)} images, {len(labels)} labels and {len(info)} entries of"
            " additional_info; expected as many of each."
        )
    names = tuple(str(name) for name in arrays.get("class_names", ()))
    return Population(pixels, _labels(labels, names, schema.classes, path.name), info)


def _labels(labels: np.ndarray, names: Sequence[str], classes: Sequence[str], file: str) -> np.ndarray:
    """Labels in the order of the data's classes, −1 for other classes."""
    if not classes:
        return np.zeros(len(labels), np.int64)
    if not names:
        return labels
    missing = [name for name in classes if name not in names]
    if missing:
        raise DataError(
            f"{file} has no class {', '.join(missing)}; its classes are {', '.join(names)}. Give its"
            " class_names the names of the data set's classes."
        )
    if len(labels) and not 0 <= labels.min() <= labels.max() < len(names):
        raise DataError(f"{file}: labels outside its {len(names)} class names; write the file again.")
    return np.array([classes.index(name) if name in classes else -1 for name in names])[labels]


def _check_info(file: str, api: ImageAPI, info: np.ndarray) -> None:
    """Refuse side information of another generator, where the API knows its own."""
    mistake = api.info_mistake(info) if hasattr(api, "info_mistake") else ""  # type: ignore[attr-defined]
    if mistake:
        raise DataError(
            f"model.initial_samples={file}: its additional_info {mistake}. Start from samples that"
            f" model.api={api.name} made with the same settings."
        )
