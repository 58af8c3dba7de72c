"""Synthetic images on disk: one npz file, and single pictures for people and other programs."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.lib import format as npy

from dpforge.data.image_arrays import read_npz
from dpforge.data.images import Images, ImageSchema, with_channels
from dpforge.data.opening import regular_file, replacing
from dpforge.data.origin import ORIGIN, SIDECAR, Origin
from dpforge.errors import DataError, did_you_mean

KEYS = ("samples", "labels", "class_names")
MAX_BYTES = 2**35
_DEFLATE_LEVEL = 1


def write_samples(
    path: Path,
    images: Images,
    class_names: Sequence[str],
    extra: Mapping[str, np.ndarray] | None = None,
    origin: Origin | None = None,
) -> None:
    """Write images as ``.npz`` in one step; equal images give equal bytes.

    Keys: ``samples`` uint8 ``(n, height, width, 3)``, ``labels`` int64 ``(n,)``, ``class_names`` (unicode),
    those of ``extra``, and ``origin`` (a text) of images that a run on private data made.

    Raises:
        DataError: The file cannot be written, a key of ``extra`` is taken, or an array holds objects.
    """
    arrays = {
        "samples": images.rgb(),
        "labels": images.labels,
        "class_names": np.asarray(class_names, np.str_).reshape(-1),
    }
    noted = {} if origin is None else {ORIGIN: origin.array()}
    for key, array in {**(extra or {}), **noted}.items():
        if key in arrays or array.dtype.hasobject:
            raise DataError(f"extra array '{key}': its name is taken, or it holds Python objects")
        arrays[key] = array
    with replacing(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        for key, array in arrays.items():
            entry = zipfile.ZipInfo(f"{key}.npy")  # its date is fixed, so the bytes are too
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry._compresslevel = _DEFLATE_LEVEL  # type: ignore[attr-defined]
            with archive.open(entry, "w", force_zip64=True) as member:
                npy.write_array(member, np.ascontiguousarray(array), allow_pickle=False)


def read_samples(path: Path, schema: ImageSchema | None = None) -> tuple[Images, tuple[str, ...]]:
    """Read back :func:`write_samples`, or another npz file with an array ``samples``.

    Args:
        path: The file.
        schema: Gives the channels and the order of the classes: labels are matched by class *name*. A file
            without names is taken to have the schema's order.

    Returns:
        The images, with three channels when there is no schema, and the names of their labels.

    Raises:
        DataError: Missing or broken file, Python objects, or images that do not fit the schema.
    """
    regular_file(path, MAX_BYTES)
    arrays = read_npz(path, {key: key for key in KEYS}, MAX_BYTES, optional=("labels", "class_names"))
    pixels = arrays["samples"]
    labels = arrays.get("labels", np.zeros(len(pixels), np.int64))
    names = tuple(str(name) for name in arrays.get("class_names", ()))
    images = Images(pixels, labels)
    if len(images) and not 0 <= images.labels.min() <= images.labels.max() < max(1, len(names) or 2**31):
        raise DataError(f"{path.name}: labels outside its {len(names)} class names; write the file again")
    return (images, names) if schema is None else (_fitting(images, names, schema, path.name), schema.classes)


def _fitting(images: Images, names: tuple[str, ...], schema: ImageSchema, file: str) -> Images:
    if images.pixels.shape[1:3] != (schema.height, schema.width):
        found = " x ".join(str(n) for n in images.pixels.shape[1:3])
        raise DataError(
            f"{file}: images of {found} pixels, not {schema.height} x {schema.width}; "
            "set dataset.image_size as it was when they were made"
        )
    labels = images.labels
    if names and names != schema.classes:
        unknown = [name for name in names if name not in schema.classes]
        if unknown:
            hint = did_you_mean(unknown[0], schema.classes)
            raise DataError(f"{file}: class '{unknown[0]}' is not one of '{schema.name}'.{hint}")
        labels = np.array([schema.classes.index(name) for name in names])[labels]
    if len(labels) and labels.max() >= schema.num_classes:
        raise DataError(f"{file}: labels outside the {schema.num_classes} classes of '{schema.name}'")
    return Images(with_channels(images.pixels, schema.channels), labels)


def export_pictures(
    folder: Path, images: Images, class_names: Sequence[str], origin: Origin | None = None
) -> list[Path]:
    """Write each image as ``<label>_<index>.png``, which ``dataset=image_folder`` reads.

    In a label, ``_`` and what file systems do not take become ``-``. The origin of images that a run made
    is written first, as ``origin.json`` beside them.

    Raises:
        DataError: Two classes get the same file label, or a file cannot be written.
    """
    from PIL import Image

    labels = [re.sub(r"[^\w .()+-]|_", "-", name).strip(" .") or "-" for name in class_names or ("image",)]
    if len(set(labels)) < len(labels):
        raise DataError("two class names are alike without their special characters; rename one")
    if origin is not None:
        with replacing(folder / SIDECAR) as temporary:
            temporary.write_text(origin.text() + "\n", encoding="utf-8")
    places, digits = [], len(str(max(0, len(images) - 1)))
    for index, (pixels, label) in enumerate(zip(images.pixels, images.labels, strict=True)):
        place = folder / f"{labels[label]}_{index:0{digits}}.png"
        with replacing(place) as temporary:
            Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).save(temporary, "PNG")
        places.append(place)
    return places
