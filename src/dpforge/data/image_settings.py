"""What the sources of images have in common: checks of their settings, and the division of the records."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from dpforge.data.image_parts import (
    MEMORY_LIMIT_MB,
    Division,
    converted,
    pixel_hashes,
    record_keys,
    taken,
)
from dpforge.data.images import Images, ImageSchema
from dpforge.data.source import split_mistakes
from dpforge.errors import DataError


def whole(value: Any, least: int) -> bool:
    """Whether the value is a whole number of at least ``least``."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def wanted_size(size: int | Sequence[int] | None) -> tuple[int, int] | None:
    """Height and width of an ``image_size``; a single number is both."""
    if size is None:
        return None
    return (size, size) if isinstance(size, int) else (size[0], size[1])


def size_mistakes(size: Any, key: str = "dataset.image_size") -> list[str]:
    """What is wrong with an ``image_size``, which may be ``None``."""
    if size is None or whole(size, 1):
        return []
    if isinstance(size, list | tuple) and len(size) == 2 and all(whole(n, 1) for n in size):
        return []
    return [f"{key}={size!r}: expected a number of pixels of at least 1, or [height, width]"]


def division_mistakes(fraction: Any, seed: Any, max_records: Any) -> list[str]:
    """What is wrong with the settings of the holdout part and of the subset."""
    mistakes = split_mistakes(fraction, seed)
    if max_records is not None and not whole(max_records, 1):
        mistakes.append(f"dataset.max_records={max_records!r} is not a whole number above 0; null keeps all")
    return mistakes


def nominal_training_rows(nominal_rows: int, holdout_fraction: float, max_records: int | None) -> int:
    """Public number of training images; 0 while ``nominal_rows`` is 0, that is unconfirmed."""
    if nominal_rows == 0:
        return 0
    rows = max(1, round(nominal_rows * (1 - holdout_fraction)))
    return rows if max_records is None else min(rows, max_records)


def division(nominal_rows: int, holdout_fraction: float, max_records: int | None, seed: int) -> Division:
    """The draws that give ``max_records`` training images in expectation; public settings alone decide."""
    rows = nominal_training_rows(nominal_rows, holdout_fraction, None)
    share = 1.0 if max_records is None else min(1.0, max_records / rows)
    return Division(holdout_fraction, share, seed)


def divided(
    train: Images,
    holdout: Images | None,
    rule: Division,
    schema: ImageSchema,
    *,
    hashes: np.ndarray | None = None,
    limit_mb: int = MEMORY_LIMIT_MB,
) -> tuple[Images, Images]:
    """Training and holdout images of the schema's shape.

    Args:
        train: Images as read.
        holdout: Images of a test set; ``None`` to hold out a part of ``train``.
        rule: The draws; its ``holdout_fraction`` is 0 when there is a test set.
        schema: Public schema of the training part.
        hashes: uint64 ``(n,)``, what the draws of ``train`` depend on; ``None`` for pixels and class as read,
            before the size is changed.
        limit_mb: Larger arrays are mapped to a file.

    Raises:
        DataError: A part that was asked for is empty.
    """
    kept, held = train, train.head(0)
    if not rule.keeps_all:
        keys = record_keys(pixel_hashes(train, schema.classes) if hashes is None else hashes)
        kept, held = (taken(train, rows, limit_mb) for rows in rule.rows(keys))
    if holdout is not None:
        held = holdout
    if not len(kept) or (rule.holdout_fraction > 0 and not len(held)):
        raise DataError(
            "the training or the holdout part has no images. Give more images, or another "
            "dataset.holdout_fraction, dataset.split_seed or dataset.max_records"
        )
    size = (schema.height, schema.width)
    first, second = (converted(part, size, schema.channels, limit_mb) for part in (kept, held))
    return first, second
