"""Digits drawn with fonts: a public set of images that needs no download and holds no record of anyone."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from dpforge.data.image_settings import (
    divided,
    division,
    division_mistakes,
    nominal_training_rows,
    size_mistakes,
    wanted_size,
    whole,
)
from dpforge.data.images import ImageDataset, Images, ImageSchema
from dpforge.data.places import plain
from dpforge.errors import ConfigError

_DIGITS = tuple("0123456789")


@dataclass(frozen=True)
class FontDigits:
    """Rendered digits, each class equally often, with the same interface as images on disk.

    Fonts are those of matplotlib and Pillow, so equal settings give equal images wherever the versions of
    the two are equal.

    Args:
        name: Name of the data set.
        rows: Images in all, training and holdout part together, at least 10.
        image_size: A number or ``[height, width]``.
        channels: 1 or 3.
        seed: Public seed of the images.
        holdout_fraction: Share of the images held out, in [0, 1).
        split_seed: Public seed of the split.
        max_records: Expected number of training images kept.
        about: Texts for people.

    Raises:
        ConfigError: Lists every mistake of the configuration.
    """

    modality: ClassVar[str] = "image"
    public_benchmark: ClassVar[bool] = True

    name: str = "font_digits"
    rows: int = 10_000
    image_size: int | Sequence[int] = 28
    channels: int = 1
    seed: int = 0
    holdout_fraction: float = 0.2
    split_seed: int = 0
    max_records: int | None = None
    about: Mapping[str, str] = field(
        default_factory=lambda: {
            "title": "Digits drawn with the fonts of matplotlib",
            "source": "generated from a seed",
            "licence": "none needed for the images; fonts: Bitstream Vera / DejaVu, STIX, Computer Modern",
            "notes": "Public by construction; no image belongs to a person.",
        }
    )

    def __post_init__(self) -> None:
        for key in ("image_size", "about"):
            object.__setattr__(self, key, plain(getattr(self, key)))
        mistakes = division_mistakes(self.holdout_fraction, self.split_seed, self.max_records)
        mistakes += size_mistakes(self.image_size) or (
            [] if self.image_size else ["dataset.image_size is null"]
        )
        if not whole(self.rows, 10):
            mistakes.append(f"dataset.rows={self.rows!r} is not a whole number of at least 10")
        if not whole(self.seed, 0):
            mistakes.append(f"dataset.seed={self.seed!r} is not a whole number of at least 0")
        if mistakes:
            raise ConfigError(mistakes)
        self.public_schema()

    def public_schema(self) -> ImageSchema:
        """The schema of the training part; nothing is drawn."""
        height, width = wanted_size(self.image_size) or (28, 28)
        rows = nominal_training_rows(self.rows, self.holdout_fraction, self.max_records)
        return ImageSchema(self.name, rows, height, width, self.channels, _DIGITS)

    def load(self) -> ImageDataset:
        """Draw and split the images."""
        schema = self.public_schema()
        images, fonts = self._drawn(schema)
        rule = division(self.rows, self.holdout_fraction, self.max_records, self.split_seed)
        train, holdout = divided(images, None, rule, schema)
        text = f"font_digits {self.rows} {self.seed} {schema.shape} {fonts}"
        return ImageDataset(schema, train, holdout, None, True, hashlib.sha256(text.encode()).hexdigest())

    def _drawn(self, schema: ImageSchema) -> tuple[Images, str]:
        from dpforge.data.glyphs import GlyphRanges, draw_glyphs, find_fonts, render_glyphs

        fonts = find_fonts(system=False)
        rng = np.random.default_rng(np.random.SeedSequence([self.seed, self.rows]))
        ranges = GlyphRanges().scaled(schema.height, schema.width)
        glyphs = draw_glyphs(self.rows, _DIGITS, fonts, ranges, rng)
        glyphs["text"] = np.arange(self.rows) % len(_DIGITS)
        pixels = render_glyphs(glyphs, _DIGITS, fonts, *schema.shape)
        return Images(pixels, glyphs["text"]), " ".join(font.sha256 for font in fonts)
