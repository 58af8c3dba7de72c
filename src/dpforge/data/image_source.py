"""Published sets of labelled images as data sets: their public schema, and training and holdout images."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from dpforge.data.fetch import Located, at_hand, fetch_all
from dpforge.data.filespec import FileSpec, file_spec
from dpforge.data.image_arrays import READERS, Parts
from dpforge.data.image_folder import ImageFolder
from dpforge.data.image_parts import content_digest, taken
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
from dpforge.data.transport import Progress
from dpforge.errors import ConfigError, DataError, did_you_mean

own_images = ImageFolder
"""The data set of a folder of the user, under the name that configurations use."""

_ROUTE_KEYS = ("format", "keys", "files", "first_per_class")


@dataclass(frozen=True)
class ImageSource:
    """A set of images read from published files.

    Args:
        name: Name of the data set.
        height, width: Size of the published images.
        channels: Wanted number of channels, 1 or 3; colour becomes grey, grey is repeated.
        classes: Names of the classes in the order of the labels.
        nominal_rows: Public number of published training images.
        routes: Ways to get the same images, tried in order: first those whose files are at hand, then by
            download. Each has a ``format`` (a key of ``READERS``), ``files`` by role (keys of
            :class:`~dpforge.data.filespec.FileSpec`), for ``npz`` ``keys`` with the name of the array of each
            role, and perhaps ``first_per_class`` (``{train: n, holdout: m}``: a set that is defined as the
            first images of each class).
        content: ``{train: …, holdout: …}``: sha256 of the decoded images
            (:func:`~dpforge.data.image_parts.content_digest`), which every route must give.
        holdout_fraction: Share of the records held out when there is no published test set, in [0, 1);
            without effect when there is one.
        split_seed: Public seed of that split and of ``max_records``.
        max_records: Expected number of training images kept. Each is kept or left out by its own keyed draw,
            so removing one record moves no other; ``nominal_rows`` is scaled alike.
        image_size: Another size, a number or ``[height, width]``: covering, bicubic, centre-cropped.
        public_benchmark: Whether the records are published benchmark data.
        public_pool: Whether they serve as public images only; no private run starts on them.
        about: Texts for people: ``title``, ``source``, ``licence``, ``notes``.

    Raises:
        ConfigError: Lists every mistake of the configuration.
    """

    modality: ClassVar[str] = "image"

    name: str
    height: int
    width: int
    channels: int
    classes: Sequence[str]
    nominal_rows: int
    routes: Sequence[Mapping[str, Any]]
    content: Mapping[str, str] = field(default_factory=dict)
    holdout_fraction: float = 0.0
    split_seed: int = 0
    max_records: int | None = None
    image_size: int | Sequence[int] | None = None
    public_benchmark: bool = False
    public_pool: bool = False
    about: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for key in ("classes", "routes", "content", "image_size", "about"):
            object.__setattr__(self, key, plain(getattr(self, key)))
        mistakes = [
            *size_mistakes(self.image_size),
            *division_mistakes(self.holdout_fraction, self.split_seed, self.max_records),
            *(
                []
                if whole(self.nominal_rows, 1)
                else [f"dataset.nominal_rows={self.nominal_rows!r} is below 1"]
            ),
        ]
        if not self.routes:
            mistakes.append("dataset.routes is empty: give at least one mapping with format and files")
        for i, route in enumerate(self.routes):
            mistakes += _route_mistakes(route, f"dataset.routes[{i}]")
        if mistakes:
            raise ConfigError(mistakes)
        self.public_schema()

    def file_specs(self) -> dict[str, FileSpec]:
        """The files of all routes; names are ``<route>.<role>``."""
        return {
            f"{i}.{role}": spec
            for i, route in enumerate(self.routes)
            for role, spec in _specs(route, i).items()
        }

    def public_schema(self) -> ImageSchema:
        """The schema of the training part, from the configuration alone; no data is read."""
        height, width = wanted_size(self.image_size) or (self.height, self.width)
        rows = nominal_training_rows(self.nominal_rows, self._fraction(), self.max_records)
        return ImageSchema(self.name, rows, height, width, self.channels, tuple(map(str, self.classes)))

    def locate(self, *, refresh: bool = False, progress: Progress | None = None) -> dict[str, Located]:
        """Fetch and check the files of the first route that can be had; names are roles.

        Raises:
            DataError: No route has all its files; says why for each file that failed.
        """
        return self._located(refresh, progress)[1]

    def load(self) -> ImageDataset:
        """Fetch, check, read and split the images.

        Raises:
            DataError: No route can be fetched, or a file does not hold the images that are described.
        """
        train, holdout, fingerprint = self._published()
        schema = self.public_schema()
        rule = division(self.nominal_rows, self._fraction(), self.max_records, self.split_seed)
        train, holdout = divided(train, holdout, rule, schema)
        return ImageDataset(schema, train, holdout, None, self.public_benchmark, fingerprint)

    def _published(self) -> tuple[Images, Images | None, str]:
        """The training and test images as published, and the sha256 over both."""
        route, places = self._located(False, None)
        read = READERS[route["format"]][0]
        parts = read({role: place.path for role, place in places.items()}, route.get("keys") or {})
        first = route.get("first_per_class") or {}
        parts = {part: _first(images, first.get(part)) for part, images in parts.items()}
        digests = self._checked(parts)
        fingerprint = hashlib.sha256("".join(digests.values()).encode()).hexdigest()
        return parts["train"], parts.get("holdout"), fingerprint

    def _located(
        self, refresh: bool, progress: Progress | None
    ) -> tuple[Mapping[str, Any], dict[str, Located]]:
        routes = [(route, _specs(route, i)) for i, route in enumerate(self.routes)]
        for route, specs in routes:
            if not refresh and (found := at_hand(specs)):
                return route, found
        reasons = []
        for route, specs in routes:
            try:
                return route, fetch_all(specs, refresh=refresh, progress=progress)
            except DataError as error:
                reasons.append(str(error))
        raise DataError("\n".join(reasons))

    def _checked(self, parts: Parts) -> dict[str, str]:
        digests = {}
        for part, images in parts.items():
            shape = images.pixels.shape[1:3]
            if shape != (self.height, self.width):
                raise DataError(
                    f"{self.name}: images of {shape[0]} x {shape[1]} pixels, not the {self.height} x "
                    f"{self.width} described; set height and width to what was published"
                )
            if len(images) and not 0 <= images.labels.min() <= images.labels.max() < max(
                1, len(self.classes)
            ):
                raise DataError(f"{self.name}: labels outside the {len(self.classes)} classes; check classes")
            digests[part] = content_digest(images)
            if digests[part] != self.content.get(part, digests[part]):
                raise DataError(
                    f"{self.name}: the {part} images are other ones than published (sha256 of the decoded "
                    f"images). Remove its files from the cache and from DPFORGE_DATA, and fetch them again"
                )
        return digests

    def _fraction(self) -> float:
        return 0.0 if _has_test_set(self.routes[0]) else self.holdout_fraction


def _has_test_set(route: Mapping[str, Any]) -> bool:
    named = {*route["files"], *(route.get("keys") or {})}
    return route["format"] == "mnist_pickle" or bool(named & {"test_images", "test_batch"})


def _first(images: Images, count: int | None) -> Images:
    """The first ``count`` images of each class, in the order of the file."""
    if count is None:
        return images
    rows = [np.flatnonzero(images.labels == label)[:count] for label in np.unique(images.labels)]
    return taken(images, np.sort(np.concatenate(rows)))


def _specs(route: Mapping[str, Any], number: int) -> dict[str, FileSpec]:
    where = f"dataset.routes[{number}].files"
    return {role: file_spec(entry, f"{where}.{role}") for role, entry in route["files"].items()}


def _route_mistakes(route: Any, where: str) -> list[str]:
    if not isinstance(route, Mapping):
        return [f"{where} must be a mapping with format and files, got a {type(route).__name__}"]
    mistakes = [
        f"unknown key '{where}.{key}'.{did_you_mean(str(key), _ROUTE_KEYS)}"
        for key in route
        if key not in _ROUTE_KEYS
    ]
    kind, files = route.get("format"), route.get("files")
    if kind not in READERS:
        known = ", ".join(READERS)
        return [
            *mistakes,
            f"{where}.format={kind!r} is not one of {known}.{did_you_mean(str(kind), READERS)}",
        ]
    if not isinstance(files, Mapping):
        return [*mistakes, f"{where}.files must be a mapping from role to file"]
    missing = [role for role in READERS[kind][1] if role not in files]
    mistakes += [f"{where}.files.{role} is missing; the format {kind} needs it" for role in missing]
    for role, entry in files.items():
        try:
            file_spec(entry, f"{where}.files.{role}")
        except ConfigError as error:
            mistakes += error.mistakes
    return mistakes
