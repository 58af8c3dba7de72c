"""The image files of a folder and the classes that their names state. Names of files are private."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path

from dpforge.errors import DataError

ENDINGS = (".jpg", ".jpeg", ".png", ".gif", ".bmp", ".tif", ".tiff", ".webp", ".dcm")
_DICOM_START, _DICOM_MARK = 128, b"DICM"
_DICOM_INDEX = "dicomdir"  # lists the images of a disc and holds none
LABEL_SOURCES = ("file", "folder", "none")


def folder_of(path: str) -> Path:
    """The folder of a user. Raises ``DataError`` if there is none."""
    place = Path(path).expanduser()
    if place.is_dir():
        return place
    what = "is a file, not a folder" if place.exists() else "does not exist"
    raise DataError(f"dataset.path: {place} {what}; give the folder that holds the images")


def image_files(root: Path) -> list[Path]:
    """The image files below a folder, sorted by path; linked folders are followed, each once.

    Known by ``ENDINGS``; DICOM files without one, as scanners write them, by their content.

    Raises:
        DataError: A folder inside cannot be read.
    """
    found = [path for path in _walk(root) if not path.name.startswith(".") and _is_image(path)]
    return sorted(found, key=lambda path: path.relative_to(root).as_posix())


def _is_image(path: Path) -> bool:
    ending = path.suffix.lower()
    if ending in ENDINGS:
        return True
    # A name may be a DICOM identifier, 1.2.840.10008: its last number is no ending.
    return not ending.strip(".0123456789") and path.name.lower() != _DICOM_INDEX and _is_dicom(path)


def _is_dicom(path: Path) -> bool:
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # a pipe must not block
        with open(handle, "rb") as file:
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                return False
            start = file.read(_DICOM_START + len(_DICOM_MARK))
    except OSError:
        return False
    return start[_DICOM_START:] == _DICOM_MARK


def _walk(root: Path) -> Iterator[Path]:
    def refuse(error: OSError) -> None:
        raise DataError(f"{root}: a folder in it cannot be read; change its permissions") from error

    seen: set[tuple[int, int]] = set()
    for here, folders, files in os.walk(root, onerror=refuse, followlinks=True):
        status = os.stat(here)
        if (status.st_dev, status.st_ino) in seen:  # a link back: its files were found before
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        folders.sort()
        yield from (Path(here) / name for name in files)


def label_of(file: Path, root: Path, label_from: str, pattern: str | None = None) -> str | None:
    """The class that a file's name or folder states; ``None`` if it states none, "" for ``none``.

    Args:
        file, root: The file and the folder it was found in.
        label_from: One of ``LABEL_SOURCES``.
        pattern: With ``file``: as :func:`pattern_mistakes` accepts it; without, the first part of the name.
    """
    if label_from == "none":
        return ""
    if label_from == "folder":
        return file.parent.name if file.parent != root else None
    if pattern is not None:
        found = re.search(pattern, file.name)
        return (found["label" if "label" in found.re.groupindex else 1] or None) if found else None
    label, underscore, _ = file.name.partition("_")
    return label if underscore else None


def pattern_mistakes(pattern: object, label_from: str) -> list[str]:
    """What is wrong with ``dataset.label_pattern``, one sentence each."""
    if pattern is None:
        return []
    wanted = "expected a regular expression with one group, or one named (?P<label>…)"
    if not isinstance(pattern, str):
        return [f"dataset.label_pattern={pattern!r}: {wanted}"]
    try:
        known = re.compile(pattern)
    except re.error as error:
        return [f"dataset.label_pattern={pattern!r} is no regular expression ({error}); {wanted}"]
    mistakes = []
    if known.groups != 1 and "label" not in known.groupindex:
        mistakes.append(f"dataset.label_pattern={pattern!r} has {known.groups} groups; {wanted}")
    if label_from != "file":
        mistakes.append(f"dataset.label_pattern needs dataset.label_from=file, got label_from={label_from}")
    return mistakes


def class_names_in(path: str, label_from: str, pattern: str | None = None) -> tuple[str, ...]:
    """The sorted classes that the files of a folder state. They are private unless declared otherwise."""
    root = folder_of(path)
    labels = {label_of(file, root, label_from, pattern) for file in image_files(root)}
    return tuple(sorted(label for label in labels if label))
