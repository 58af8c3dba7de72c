"""Labelled images in memory or memory-mapped, and what the public knows about them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, ClassVar

import numpy as np

from dpforge.data.columns import Rows, Unit
from dpforge.errors import ConfigError, DataError, did_you_mean

IMAGE_SCHEMA_VERSION = 1
# Luma of ITU-R BT.601, the weights of Pillow's conversion to grey.
LUMA = (0.299, 0.587, 0.114)
UNCONFIRMED = "unconfirmed"


@dataclass(frozen=True)
class ImageSchema:
    """Shape, classes, privacy unit and public constants of a set of labelled images.

    Args:
        name: Name of the set.
        nominal_rows: Public number of images; never replaced by ``len(data)``. 0 while unconfirmed.
        height, width: Size in pixels, >= 1.
        channels: 1 (grey) or 3 (red, green, blue).
        classes: Names of the classes in the order of the labels; empty for images without labels.
        unit: What differential privacy protects.
        rows: How the number of synthetic images is chosen.
        classes_provenance: ``public`` (known without the data) or ``unconfirmed``.

    Raises:
        ConfigError: With every mistake among the values.
    """

    modality: ClassVar[str] = "image"
    target: ClassVar[None] = None

    name: str
    nominal_rows: int
    height: int
    width: int
    channels: int
    classes: tuple[str, ...] = ()
    unit: Unit = field(default_factory=Unit)
    rows: Rows = field(default_factory=Rows)
    classes_provenance: str = "public"

    def __post_init__(self) -> None:
        object.__setattr__(self, "classes", tuple(str(name) for name in self.classes))
        mistakes = [
            f"dataset.{key}={value!r}: expected a whole number >= {least}."
            for key, value, least in (
                ("height", self.height, 1),
                ("width", self.width, 1),
                ("nominal_rows", self.nominal_rows, 0),
            )
            if isinstance(value, bool) or not isinstance(value, int) or value < least
        ]
        if self.channels not in (1, 3):
            mistakes.append(f"dataset.channels={self.channels!r}: expected 1 (grey) or 3 (colour).")
        repeated = sorted({name for name in self.classes if self.classes.count(name) > 1})
        if repeated:
            mistakes.append(f"classes named more than once: {', '.join(repeated)}.")
        if mistakes:
            raise ConfigError(mistakes)

    @property
    def num_classes(self) -> int:
        """Number of classes; 1 for images without labels."""
        return max(1, len(self.classes))

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width, channels."""
        return self.height, self.width, self.channels

    @property
    def private_columns(self) -> tuple[str, ...]:
        """Nothing of an image schema is bought."""
        return ()

    @property
    def unconfirmed(self) -> tuple[str, ...]:
        """The parts whose provenance a person has still to state; a run with any is refused."""
        rows = () if self.nominal_rows else ("nominal_rows",)
        return (*rows, *(("classes",) if self.classes_provenance == UNCONFIRMED else ()))

    def to_dict(self) -> dict[str, Any]:
        """A mapping for JSON that :func:`image_schema_from_dict` turns back into an equal schema."""
        plain = {f.name: getattr(self, f.name) for f in fields(self)}
        plain |= {"classes": list(self.classes), "unit": vars(self.unit), "rows": vars(self.rows)}
        return {"modality": self.modality, "schema_version": IMAGE_SCHEMA_VERSION, **plain}

    @property
    def digest(self) -> str:
        """sha256 (hex) of the canonical JSON text of the schema."""
        text = json.dumps(self.to_dict(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    def with_nominal_rows(self, n: int) -> ImageSchema:
        """This schema with another public number of images. Raises ``ConfigError`` for ``n < 1``."""
        if n < 1:
            raise ConfigError(f"nominal_rows={n}: expected a whole number >= 1")
        return replace(self, nominal_rows=n)


def image_schema_from_dict(content: Mapping[str, Any]) -> ImageSchema:
    """Read back :meth:`ImageSchema.to_dict`; raises ``ConfigError`` for an unknown key or a wrong value."""
    known = [f.name for f in fields(ImageSchema)]
    entries = {key: value for key, value in content.items() if key not in ("modality", "schema_version")}
    unknown = [f"unknown key '{key}'.{did_you_mean(str(key), known)}" for key in entries if key not in known]
    if unknown:
        raise ConfigError(unknown)
    try:
        for key, kind in (("unit", Unit), ("rows", Rows)):
            if key in entries:
                entries[key] = kind(**entries[key])
        return ImageSchema(**entries)
    except TypeError as error:
        raise ConfigError(f"not an image schema: {error}") from error


@dataclass(frozen=True, eq=False)
class Images:
    """Labelled images.

    Args:
        pixels: uint8 ``(n, height, width, channels)`` with 1 or 3 channels; may be memory-mapped.
        labels: int64 ``(n,)``, positions in the schema's classes; all 0 for images without labels.
        extra: More about each image by name, such as soft labels; arrays of ``n`` entries, never objects.

    Raises:
        DataError: Another type or shape.
    """

    pixels: np.ndarray = field(repr=False)
    labels: np.ndarray = field(repr=False)
    extra: Mapping[str, np.ndarray] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        pixels, labels = self.pixels, self.labels
        if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[3] not in (1, 3):
            raise DataError(
                f"images of type {pixels.dtype} and shape {pixels.shape}: expected uint8 (n, height, width,"
                " 1 or 3)."
            )
        if labels.shape != (len(pixels),) or not np.issubdtype(labels.dtype, np.integer):
            raise DataError(
                f"labels of type {labels.dtype} and shape {labels.shape}: expected {len(pixels)} whole"
                " numbers, one an image."
            )
        wrong = [
            name for name, more in self.extra.items() if len(more) != len(pixels) or more.dtype.hasobject
        ]
        if wrong:
            raise DataError(f"{', '.join(wrong)}: expected plain arrays of {len(pixels)} entries.")
        object.__setattr__(self, "labels", labels.astype(np.int64, copy=False))

    def __len__(self) -> int:
        return len(self.pixels)

    def take(self, rows: np.ndarray) -> Images:
        """Return the images at these positions, or under this mask."""
        extra = {name: more[rows] for name, more in self.extra.items()}
        return Images(self.pixels[rows], self.labels[rows], extra)

    def head(self, n: int) -> Images:
        """Return the first ``n`` images."""
        extra = {name: more[:n] for name, more in self.extra.items()}
        return Images(self.pixels[:n], self.labels[:n], extra)

    def rgb(self) -> np.ndarray:
        """Return the pixels with three channels, grey ones repeated: uint8 ``(n, height, width, 3)``."""
        return np.repeat(self.pixels, 3, axis=3) if self.pixels.shape[3] == 1 else self.pixels


@dataclass(frozen=True)
class ImageDataset:
    """The private images and what the public knows about them; fields as of a table's ``Dataset``.

    Args:
        schema: Public schema of the training part.
        train: Training images.
        holdout: Images that no generator sees: the official test set, or a keyed part of the records.
        units: User number of each training image, int64 ``(n,)``; ``None`` when the unit is an image.
        public_benchmark: Whether the records are published benchmark data.
        fingerprint: Sha256 over the content. **Private**: never log or print it.
    """

    schema: ImageSchema
    train: Images
    holdout: Images
    units: np.ndarray | None = field(repr=False)
    public_benchmark: bool
    fingerprint: str = field(repr=False)


def with_channels(pixels: np.ndarray, channels: int) -> np.ndarray:
    """Turn uint8 pixels ``(…, 1 or 3)`` grey (rounded luma) or into three channels (grey repeated)."""
    if pixels.shape[-1] == channels:
        return pixels
    if channels == 3:
        return np.repeat(pixels, 3, axis=-1)
    if np.array_equal(pixels[..., 0], pixels[..., 1]) and np.array_equal(pixels[..., 1], pixels[..., 2]):
        return pixels[..., :1]
    grey = pixels.astype(np.float64) @ np.asarray(LUMA)
    return np.rint(grey).astype(np.uint8)[..., None]
