"""Decoding one image file, by its content, into uint8 pixels of the wanted size.

Conversions, each a function of the one file: palette and CMYK become red, green, blue; what is transparent
is laid over white; 16 bits are scaled to 8; a rotation noted by the camera is applied; of an animation or a
DICOM series of frames the first is taken.
"""

from __future__ import annotations

import io
import os
import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from dpforge.data.images import with_channels
from dpforge.errors import DataError

_FORMATS = ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP")
_SIXTEEN_BITS = 65535


class Unreadable(Exception):
    """A file that gives no image. The text names the kind of defect and nothing of the file."""


@dataclass(frozen=True)
class ReadingLimits:
    """What a file may cost.

    Args:
        max_bytes: Largest size of one file.
        max_pixels: Largest number of pixels that a header may announce.
        dicom_window: Lowest and highest value shown of a DICOM image (Hounsfield units of a CT image);
            ``None`` for the window noted in the file, else its whole range.
    """

    max_bytes: int = 2**28
    max_pixels: int = 2**26
    dicom_window: tuple[float, float] | None = None


def file_bytes(path: Path, max_bytes: int = ReadingLimits.max_bytes) -> bytes:
    """The content of a regular, readable, non-empty file of at most ``max_bytes``, else ``Unreadable``."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # a pipe must not block
        with open(handle, "rb") as file:
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                raise Unreadable("not a regular file")
            content = file.read(max_bytes + 1)
    except OSError as error:
        raise Unreadable("not readable") from error
    if not content:
        raise Unreadable("empty")
    if len(content) > max_bytes:
        raise Unreadable("too large")
    return content


def decoded(content: bytes, size: tuple[int, int], channels: int, limits: ReadingLimits) -> np.ndarray:
    """Decode the content of a file, bring it to ``size`` (height, width) and to 1 or 3 channels.

    Returns:
        uint8 ``(height, width, channels)``.

    Raises:
        Unreadable: Not an image, broken, or larger than the limits.
        DataError: A DICOM file without pydicom being installed.
    """
    try:
        pixels = _dicom(content, limits) if content[128:132] == b"DICM" else _picture(content, limits)
        return with_channels(fitted(pixels, size), channels)
    except (Unreadable, DataError):
        raise
    except Exception as error:  # what a decoder raises for broken files depends on the bytes
        raise Unreadable("broken") from error


@contextmanager
def quiet_decoders() -> Iterator[None]:
    """Keep decoders from warning about single files, which are private. Not to be entered by threads."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def fitted(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Scale an image so that it covers ``size`` (bicubic, antialiased) and cut out its centre.

    Args:
        pixels: uint8 ``(height, width, 1 or 3)``.
        size: Wanted height and width.
    """
    height, width = pixels.shape[:2]
    if (height, width) == tuple(size):
        return pixels
    image = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
    done = np.asarray(ImageOps.fit(image, (size[1], size[0]), Image.Resampling.BICUBIC))
    return done.reshape(*size, pixels.shape[2])


def _picture(content: bytes, limits: ReadingLimits) -> np.ndarray:
    try:
        image = Image.open(io.BytesIO(content), formats=_FORMATS)
    except Image.DecompressionBombError as error:
        raise Unreadable("too large") from error
    _check_pixels(image.width * image.height, limits)
    image.load()
    image = ImageOps.exif_transpose(image)
    if image.mode == "F":
        raise Unreadable("of real numbers without a range")
    if image.mode.startswith("I"):
        return _eight_bits(np.asarray(image).astype(np.float64), 0, _SIXTEEN_BITS)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        ground = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(ground, image)
    grey = image.mode in ("1", "L")
    pixels = np.asarray(image.convert("L" if grey else "RGB"))
    return pixels[..., None] if grey else pixels


def _check_pixels(count: int, limits: ReadingLimits) -> None:
    if not 0 < count <= limits.max_pixels:
        raise Unreadable("too large")


def _eight_bits(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Grey values scaled from [low, high] to 0 … 255 and rounded: uint8 ``(height, width, 1)``."""
    scaled = (values - low) * (255.0 / max(high - low, 1e-12))
    return np.rint(np.clip(scaled, 0, 255)).astype(np.uint8)[..., None]


def _dicom(content: bytes, limits: ReadingLimits) -> np.ndarray:
    try:
        from pydicom import dcmread
        from pydicom.pixels.processing import apply_color_lut, apply_rescale, convert_color_space
        from pydicom.pixels.utils import pixel_array
    except ImportError as error:
        raise DataError("DICOM images need pydicom: install it with 'pip install dpforge[dicom]'") from error
    header = dcmread(io.BytesIO(content))
    _check_pixels(int(header.Rows) * int(header.Columns), limits)
    photometric = str(header.PhotometricInterpretation)
    values = (
        pixel_array(header, index=0) if int(header.get("NumberOfFrames") or 1) > 1 else header.pixel_array
    )
    if photometric == "PALETTE COLOR":
        values = apply_color_lut(values, header)
        return np.stack([_eight_bits(values[..., c], 0, _palette_top(values))[..., 0] for c in range(3)], -1)
    if values.ndim == 3:
        space = str(getattr(header, "PhotometricInterpretation", photometric))
        rgb = convert_color_space(values, space, "RGB") if space.startswith("YBR") else values
        return np.asarray(rgb, np.uint8)
    values = np.asarray(apply_rescale(values, header), np.float64)
    low, high = limits.dicom_window or _window(header)
    grey = _eight_bits(values, low, high)
    return 255 - grey if photometric == "MONOCHROME1" else grey


def _palette_top(values: np.ndarray) -> int:
    return int(np.iinfo(values.dtype).max)


def _window(header: Any) -> tuple[float, float]:
    """The range shown: the first window noted in the file, else every value its bits can hold."""
    centre, width = header.get("WindowCenter"), header.get("WindowWidth")
    if centre is not None and width is not None:
        centre, width = (float(np.ravel(value)[0]) for value in (centre, width))
        if width > 0:
            return centre - width / 2, centre + width / 2
    slope, intercept = float(header.get("RescaleSlope", 1)), float(header.get("RescaleIntercept", 0))
    bits, signed = int(header.BitsStored), bool(header.PixelRepresentation)
    ends = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    low, high = sorted(slope * end + intercept for end in ends)
    return low, high
