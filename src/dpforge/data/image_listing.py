"""The image files of a folder and the classes that their names state. Names of files are private."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from dpforge.errors import DataError

ENDINGS = (".jpg", ".jpeg", ".png", ".gif", ".bmp", ".tif", ".tiff", ".webp", ".dcm")
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

    Raises:
        DataError: A folder inside cannot be read.
    """
    found = [path for path in _walk(root) if path.suffix.lower() in ENDINGS and not path.name.startswith(".")]
    return sorted(found, key=lambda path: path.relative_to(root).as_posix())


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


def label_of(file: Path, root: Path, label_from: str) -> str | None:
    """The class that a file's name or folder states; ``None`` if it states none, "" for ``none``."""
    if label_from == "none":
        return ""
    if label_from == "folder":
        return file.parent.name if file.parent != root else None
    label, underscore, _ = file.name.partition("_")
    return label if underscore else None


def class_names_in(path: str, label_from: str) -> tuple[str, ...]:
    """The sorted classes that the files of a folder state. They are private unless declared otherwise."""
    root = folder_of(path)
    labels = {label_of(file, root, label_from) for file in image_files(root)}
    return tuple(sorted(label for label in labels if label))
