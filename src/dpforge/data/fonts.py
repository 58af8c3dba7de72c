"""Finding font files that draw digits."""

from __future__ import annotations

import hashlib
import importlib.util
import logging
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from dpforge.errors import ConfigError, DataError

ENDINGS = (".ttf", ".otf", ".ttc", ".pfb")
BUILT_IN = "Pillow built-in"
CHECKED_AT = 28
LEAST_LIKE = 4
MAX_BYTES = 2**26
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FontFile:
    """A font face.

    Args:
        path: Its file, or ``None`` for the face inside Pillow.
        sha256: Hex digest of the file.
        name: Family and style.
    """

    path: Path | None
    sha256: str
    name: str


def find_fonts(font_dirs: Sequence[str | Path] = (), *, system: bool = True) -> tuple[FontFile, ...]:
    """Faces that draw the ten digits, each once: given folders, system, matplotlib, Pillow's own.

    Faces are in order of folder and path; those that draw a blank, two digits alike, or signs unlike
    digits (symbols, missing characters) are left out.

    Args:
        font_dirs: Folders, searched first and with all their subfolders.
        system: Look into the system's font folders too; without them the result is the same on all machines
            with the same libraries.

    Raises:
        ConfigError: A given folder does not exist.
        DataError: No face is left.
    """
    for folder in font_dirs:
        if not Path(folder).is_dir():
            raise ConfigError(f"font_dirs: '{folder}' is not a folder; give folders that hold font files")
    fonts = _found(tuple(str(folder) for folder in font_dirs), system)
    if not fonts:
        raise DataError("no font that draws digits was found; name a folder with TrueType files in font_dirs")
    return fonts


@lru_cache(maxsize=8192)
def load_font(font: FontFile, size: int) -> ImageFont.FreeTypeFont:
    """The face at an em size in pixels.

    Raises:
        DataError: The file is gone or no longer a font.
    """
    try:
        if font.path is None:
            return _built_in(size)
        return ImageFont.truetype(str(font.path), size, layout_engine=ImageFont.Layout.BASIC)
    except OSError as error:
        raise DataError(f"the font '{font.name}' cannot be read; look at font_dirs") from error


@lru_cache(maxsize=16)
def _found(font_dirs: tuple[str, ...], system: bool) -> tuple[FontFile, ...]:
    folders = [*map(Path, font_dirs), *(_system_folders() if system else ()), *_matplotlib_folder()]
    fonts: dict[str, FontFile] = {}
    for path in _font_files(folders):
        content = path.read_bytes()
        sha256 = hashlib.sha256(content).hexdigest()
        if sha256 not in fonts and (name := _name_if_usable(path)):
            fonts[sha256] = FontFile(path, sha256, name)
    sha256 = hashlib.sha256(_built_in(CHECKED_AT).font_bytes).hexdigest()
    fonts.setdefault(sha256, FontFile(None, sha256, BUILT_IN))
    _log.info("%d usable font faces", len(fonts))
    return tuple(fonts.values())


def _font_files(folders: Iterable[Path]) -> Iterator[Path]:
    for folder in folders:
        for here, subfolders, files in os.walk(folder):
            subfolders.sort()
            for name in sorted(files):
                path = Path(here) / name
                if path.suffix.lower() in ENDINGS and path.is_file() and path.stat().st_size <= MAX_BYTES:
                    yield path


def _name_if_usable(path: Path) -> str | None:
    try:
        face = ImageFont.truetype(str(path), CHECKED_AT, layout_engine=ImageFont.Layout.BASIC)
        return " ".join(filter(None, face.getname())) if _draws_digits(face) else None
    except (OSError, ValueError):
        return None


def _draws_digits(face: ImageFont.FreeTypeFont) -> bool:
    """Ten different pictures, not few of them most like the same digit of the built-in face."""
    pictures = [_picture(face, digit) for digit in "0123456789"]
    if len({picture.tobytes() for picture in pictures}) < len(pictures):
        return False
    likeness = _standardised(pictures) @ _templates().T
    return int((likeness.argmax(axis=1) == np.arange(10)).sum()) >= LEAST_LIKE


@lru_cache(maxsize=1)
def _templates() -> np.ndarray:
    return _standardised([_picture(_built_in(CHECKED_AT), digit) for digit in "0123456789"])


def _picture(face: ImageFont.FreeTypeFont, text: str) -> np.ndarray:
    """The ink brought to 16 x 16 pixels; black for a blank."""
    left, top, right, bottom = face.getbbox(text)
    if right <= left or bottom <= top:
        return np.zeros((16, 16), dtype=np.uint8)
    image = Image.new("L", (int(right - left), int(bottom - top)))
    ImageDraw.Draw(image).text((-left, -top), text, fill=255, font=face)
    return np.asarray(image.resize((16, 16), Image.Resampling.BOX))


def _standardised(pictures: Sequence[np.ndarray]) -> np.ndarray:
    flat = np.stack(pictures).reshape(len(pictures), -1).astype(float)
    flat -= flat.mean(axis=1, keepdims=True)
    return flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-12)


def _built_in(size: int) -> ImageFont.FreeTypeFont:
    face = ImageFont.load_default(size)
    if not isinstance(face, ImageFont.FreeTypeFont):
        raise DataError("this Pillow was built without FreeType; install a wheel of Pillow from PyPI")
    return face


def _matplotlib_folder() -> list[Path]:
    spec = importlib.util.find_spec("matplotlib")
    return [Path(spec.origin).parent / "mpl-data" / "fonts" / "ttf"] if spec and spec.origin else []


def _system_folders() -> list[Path]:
    home = Path.home()
    if sys.platform == "win32":
        return [Path(os.environ.get("WINDIR", r"C:\Windows")) / "Fonts"]
    if sys.platform == "darwin":
        return [Path("/System/Library/Fonts"), Path("/Library/Fonts"), home / "Library" / "Fonts"]
    shared = [Path("/usr/share/fonts"), Path("/usr/local/share/fonts")]
    return [*shared, home / ".local" / "share" / "fonts", home / ".fonts"]
