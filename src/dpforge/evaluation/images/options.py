"""Mistakes among the options of an evaluation of images."""

from __future__ import annotations

from collections.abc import Sequence

from dpforge.errors import did_you_mean
from dpforge.evaluation.images.sets import LEAST_IMAGES

# Least value of each count.
COUNTS = {
    "max_images": LEAST_IMAGES,
    "neighbour_images": LEAST_IMAGES,
    "classifier_images": LEAST_IMAGES,
    "network_images": LEAST_IMAGES,
    "similarity_images": LEAST_IMAGES,
    "attack_images": LEAST_IMAGES,
    "classifier_seeds": 1,
    "classifier_epochs": 1,
    "kernel_subsets": 1,
    "bootstraps": 0,
    "neighbours": 1,
    "splits": 1,
}


def unknown(field: str, names: Sequence[str], known: Sequence[str]) -> list[str]:
    """Return a mistake for every name that is not among ``known``."""
    expected = f"expected any of {', '.join(known)}"
    return [
        f"unknown evaluation.{field} entry '{name}', {expected}.{did_you_mean(str(name), known)}"
        for name in names
        if name not in known
    ]


def too_small(options: object) -> list[str]:
    """Return a mistake for every count of an evaluation that is below its least value."""
    values = {field: getattr(options, field) for field in COUNTS}
    return [
        f"evaluation.{field}={value}, expected a whole number of at least {COUNTS[field]}."
        for field, value in values.items()
        if value is not None and value < COUNTS[field]
    ]
