"""Calls of the public generator; what it returns is checked before a later step relies on it."""

from __future__ import annotations

import numpy as np

from dpforge.errors import DataError
from dpforge.generators.private_evolution.apis.protocol import ImageAPI
from dpforge.generators.private_evolution.population import Population


def drawn(api: ImageAPI, labels: np.ndarray, rng: np.random.Generator) -> Population:
    """Draw one image for each label, which are ascending."""
    pixels, info = api.random(labels, rng)
    return checked(api, Population(pixels, labels, info))


def varied(api: ImageAPI, images: Population, degree: float, rng: np.random.Generator) -> Population:
    """Return one variation of each image; side information is inherited unless the API changes it."""
    try:
        made = api.variation(images.pixels, images.info, degree, rng)
    except (IndexError, KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"model.api={api.name} cannot vary these images ({type(error).__name__}). If"
            " model.initial_samples is set, its additional_info is of another generator: start from samples"
            f" that model.api={api.name} made."
        ) from error
    pixels, info = made if isinstance(made, tuple) else (made, images.info)
    return checked(api, Population(pixels, images.labels, info))


def checked(api: ImageAPI, made: Population) -> Population:
    """Refuse what would break a later step, with the name of the API that did it."""
    expected = (len(made.labels), *api.image_size, 3)
    if made.pixels.dtype != np.uint8 or made.pixels.shape != expected:
        raise DataError(
            f"model.api={api.name} returned {made.pixels.dtype} images of shape {made.pixels.shape}; expected"
            f" uint8 of {expected}."
        )
    if made.info.dtype.hasobject or len(made.info) != len(made.labels):
        raise DataError(
            f"model.api={api.name} returned {len(made.info)} entries of side information of type"
            f" {made.info.dtype}; expected {len(made.labels)} of a type other than object."
        )
    return made
