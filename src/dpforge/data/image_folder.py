"""A folder of image files of the user as a data set. File names are private: none enters a text or a log."""

from __future__ import annotations

import hashlib
import logging
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from dpforge.data.image_listing import (
    ENDINGS,
    LABEL_SOURCES,
    class_names_in,
    folder_of,
    image_files,
    label_of,
    pattern_mistakes,
)
from dpforge.data.image_parts import MEMORY_LIMIT_MB, content_digest, record_hash, room, taken
from dpforge.data.image_reading import ReadingLimits, Unreadable, decoded, file_bytes, quiet_decoders
from dpforge.data.image_settings import (
    divided,
    division,
    division_mistakes,
    nominal_training_rows,
    size_mistakes,
    wanted_size,
    whole,
)
from dpforge.data.images import UNCONFIRMED, ImageDataset, Images, ImageSchema
from dpforge.data.places import plain
from dpforge.errors import ConfigError, DataError, did_you_mean

DECLARED_PUBLIC = "declared_public"
ON_ERROR = ("drop", "fail")
_MOST_THREADS = 8
_CONFIRMABLE = ("class_names", "nominal_rows")
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ImageFolder:
    """Image files in a folder, at any depth; one file is one record.

    Files ending in one of ``ENDINGS``, and DICOM files without an ending, are read in the order of their
    paths and decoded by content. Which part a record belongs to depends on its file's bytes and its class
    alone: not on ``image_size``, nor on other files.

    Args:
        path: The folder.
        class_names: Names of the classes in the order of the labels. ``declared_public`` takes the sorted
            names found in the folder: a statement that they are public. ``None``: not known, no run starts.
        nominal_rows: Public number of images in the folder; ``None``: not known, no run starts.
        image_size: Size of the images, a number or ``[height, width]``: covering, bicubic, centre-cropped.
        name: Name of the data set.
        channels: 1 (grey) or 3 (colour).
        label_from: ``file`` (the file's name up to the first underscore), ``folder`` (name of the folder the
            file is in) or ``none``.
        label_pattern: With ``label_from: file``: a regular expression, searched in the file's name, whose one
            group (or the group named ``label``) is the class; ``None`` for the first part of the name.
        holdout_path: A second folder, for evaluation.
        holdout_fraction: Share of the records held out when there is no ``holdout_path``, in [0, 1).
        split_seed: Public seed of that split and of ``max_records``.
        max_records: Expected number of training images kept, by keyed draws as in ``ImageSource``.
        on_error: ``drop`` leaves out each file that cannot be decoded or whose class is not listed, and logs
            only how many; ``fail`` stops instead.
        max_file_bytes: Largest size of one file.
        max_pixels: Largest number of pixels that the header of a file may announce.
        dicom_window: Lowest and highest value shown of DICOM images; ``None``: the window noted in each file.
        memory_limit_mb: Pixels above this many mebibytes are mapped to a nameless file in the cache folder.
        unconfirmed: Those of ``class_names`` and ``nominal_rows`` that a draft proposes and no person has
            confirmed yet; no run starts.
        public_benchmark: Whether the records are published benchmark data.
        about: Texts for people.

    Raises:
        ConfigError: Lists every mistake of the configuration.
    """

    modality: ClassVar[str] = "image"
    logs_privately: ClassVar[tuple[str, ...]] = ("image files left out",)

    path: str
    class_names: Sequence[str] | str | None = None
    nominal_rows: int | None = None
    image_size: int | Sequence[int] = 32
    name: str = "image_folder"
    channels: int = 3
    label_from: str = "file"
    label_pattern: str | None = None
    holdout_path: str | None = None
    holdout_fraction: float = 0.2
    split_seed: int = 0
    max_records: int | None = None
    on_error: str = "drop"
    max_file_bytes: int = ReadingLimits.max_bytes
    max_pixels: int = ReadingLimits.max_pixels
    dicom_window: Sequence[float] | None = None
    memory_limit_mb: int = MEMORY_LIMIT_MB
    unconfirmed: Sequence[str] = ()
    public_benchmark: bool = False
    about: Mapping[str, str] = field(default_factory=lambda: {"title": "a folder of your own images"})

    def __post_init__(self) -> None:
        for key in ("class_names", "image_size", "dicom_window", "unconfirmed", "about"):
            object.__setattr__(self, key, plain(getattr(self, key)))
        mistakes = [
            *_choice_mistakes(self),
            *(
                size_mistakes(self.image_size)
                if self.image_size is not None
                else ["dataset.image_size is null"]
            ),
            *division_mistakes(self.holdout_fraction, self.split_seed, self.max_records),
            *_number_mistakes(self),
            *pattern_mistakes(self.label_pattern, self.label_from),
        ]
        if mistakes:
            raise ConfigError(mistakes)

    def public_schema(self) -> ImageSchema:
        """The schema of the training part; the folder's names are read only when declared public.

        Raises:
            DataError: The classes were declared public and the folder does not exist.
        """
        height, width = wanted_size(self.image_size) or (1, 1)
        known = self.nominal_rows is not None and "nominal_rows" not in self.unconfirmed
        fraction = 0.0 if self.holdout_path else self.holdout_fraction
        rows = nominal_training_rows(self.nominal_rows or 0 if known else 0, fraction, self.max_records)
        open_ = self.label_from != "none" and (self.class_names is None or "class_names" in self.unconfirmed)
        provenance = UNCONFIRMED if open_ else "public"
        return ImageSchema(
            self.name, rows, height, width, self.channels, self._classes(), classes_provenance=provenance
        )

    def load(self, progress: Callable[[int, int], None] | None = None) -> ImageDataset:
        """Read, decode and split the images.

        Args:
            progress: Told the files done and the files in all.

        Raises:
            ConfigError: A value is not confirmed by a person yet.
            DataError: No file can be used, or one cannot and ``on_error`` is ``fail``.
        """
        schema = self.public_schema()
        if schema.unconfirmed:
            raise ConfigError(
                f"not confirmed: {', '.join(schema.unconfirmed)} of the images. State dataset.class_names "
                "(a list, or declared_public) and dataset.nominal_rows from public knowledge; "
                "'dpforge-data schema <folder>' drafts them"
            )
        fraction = 0.0 if self.holdout_path else self.holdout_fraction
        rule = division(self.nominal_rows or 1, fraction, self.max_records, self.split_seed)
        holdout = self._images(self.holdout_path, schema, progress)[0] if self.holdout_path else None
        train, hashes = self._images(self.path, schema, progress)
        train, holdout = divided(train, holdout, rule, schema, hashes=hashes, limit_mb=self.memory_limit_mb)
        text = f"{content_digest(train)} {content_digest(holdout)}"
        fingerprint = hashlib.sha256(text.encode()).hexdigest()
        return ImageDataset(schema, train, holdout, None, self.public_benchmark, fingerprint)

    def _classes(self) -> tuple[str, ...]:
        if self.label_from == "none" or self.class_names is None:
            return ()
        if self.class_names == DECLARED_PUBLIC:
            return class_names_in(self.path, self.label_from, self.label_pattern)
        return tuple(str(name) for name in self.class_names)

    def _images(
        self, path: str, schema: ImageSchema, progress: Callable[[int, int], None] | None
    ) -> tuple[Images, np.ndarray]:
        """The usable images of a folder, and the hash of each: of its file and its class."""
        root = folder_of(path)
        files = image_files(root)
        names = [label_of(file, root, self.label_from, self.label_pattern) for file in files]
        numbers = {name: i for i, name in enumerate(schema.classes)} or {"": 0}
        labels = np.array([numbers.get(name, -1) if name is not None else -1 for name in names], np.int64)
        window = (self.dicom_window[0], self.dicom_window[1]) if self.dicom_window else None
        limits = ReadingLimits(self.max_file_bytes, self.max_pixels, window)
        pixels = room((len(files), *schema.shape), self.memory_limit_mb)
        hashes = np.zeros(len(files), np.uint64)

        def decode(row: int) -> str:
            if labels[row] < 0:
                return "of a class that is not listed"
            try:
                content = file_bytes(files[row], self.max_file_bytes)
                hashes[row] = record_hash(content, names[row] or "")
                pixels[row] = decoded(content, schema.shape[:2], schema.channels, limits)
            except Unreadable as defect:
                return str(defect)
            return ""

        defects = _all_rows(decode, len(files), progress)
        usable = np.flatnonzero([not defect for defect in defects])
        self._report([defect for defect in defects if defect], len(usable))
        images = Images(pixels, np.maximum(labels, 0))
        if len(usable) < len(files):
            images = taken(images, usable, self.memory_limit_mb)
        return images, hashes[usable]

    def _report(self, defects: Sequence[str], usable: int) -> None:
        kinds = (
            ", ".join(sorted(set(defects)))
            or f"none ends in {', '.join(ENDINGS)}, or is DICOM without an ending"
        )
        if not usable:
            raise DataError(
                f"no file of the folder can be used ({kinds}). "
                "Check dataset.path, dataset.class_names, dataset.label_from and dataset.label_pattern"
            )
        if defects and self.on_error == "fail":
            raise DataError(
                f"files of the folder cannot be used ({kinds}). Repair or remove them, or set "
                "dataset.on_error=drop to leave them out"
            )
        if defects:
            counts = ", ".join(f"{n} {kind}" for kind, n in sorted(Counter(defects).items()))
            _log.info("private: %d files of the image folder were left out: %s", len(defects), counts)


def _all_rows(
    work: Callable[[int], str], count: int, progress: Callable[[int, int], None] | None
) -> list[str]:
    results = []
    with quiet_decoders(), ThreadPoolExecutor(min(_MOST_THREADS, os.cpu_count() or 1)) as pool:
        for done, result in enumerate(pool.map(work, range(count)), 1):
            results.append(result)
            if progress:
                progress(done, count)
    return results


def _choice_mistakes(source: ImageFolder) -> list[str]:
    choices = (("label_from", LABEL_SOURCES), ("on_error", ON_ERROR))
    mistakes = [
        f"dataset.{key}={value!r} is not one of {', '.join(known)}.{did_you_mean(str(value), known)}"
        for key, known in choices
        if (value := getattr(source, key)) not in known
    ]
    if isinstance(source.class_names, str) and source.class_names != DECLARED_PUBLIC:
        mistakes.append(
            f"dataset.class_names={source.class_names!r} is neither a list of names nor {DECLARED_PUBLIC}"
        )
    if source.label_from == "none" and source.class_names:
        mistakes.append("dataset.class_names is given though dataset.label_from=none gives no labels")
    unknown = [key for key in source.unconfirmed if key not in _CONFIRMABLE]
    return mistakes + [
        f"dataset.unconfirmed: {key!r} is not one of {', '.join(_CONFIRMABLE)}" for key in unknown
    ]


def _number_mistakes(source: ImageFolder) -> list[str]:
    mistakes = [
        f"dataset.{key}={value!r} is not a whole number above 0"
        for key in ("max_file_bytes", "max_pixels", "memory_limit_mb")
        if not whole(value := getattr(source, key), 1)
    ]
    if source.nominal_rows is not None and not whole(source.nominal_rows, 1):
        mistakes.append(f"dataset.nominal_rows={source.nominal_rows!r} is not a whole number above 0")
    if source.channels not in (1, 3):
        mistakes.append(f"dataset.channels={source.channels!r}: expected 1 (grey) or 3 (colour)")
    window = source.dicom_window
    if window is not None and not (len(window) == 2 and window[0] < window[1]):
        mistakes.append(f"dataset.dicom_window={window!r}: expected [lowest, highest]")
    return mistakes
