"""Hostile images: content, and the reason it is refused for (``None``: decoded)."""

from __future__ import annotations

import io
import pickle
import struct
import zipfile
import zlib
from typing import Any

import numpy as np
from PIL import Image, PngImagePlugin

from .examining import CANARY, evil_pickle

PIXELS = np.random.default_rng(1).integers(0, 256, (24, 24, 3), dtype=np.uint8)


def _saved(kind: str, image: Any = None, **options: Any) -> bytes:
    out = io.BytesIO()
    (Image.fromarray(PIXELS) if image is None else image).save(out, kind, **options)
    return out.getvalue()


def _chunk(kind: bytes, data: bytes, *, wrong: int = 0) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data) ^ wrong)


def png(
    width: int, height: int, *, depth: int = 8, colour: int = 0, body: bytes = b"", extra: bytes = b""
) -> bytes:
    """A PNG whose header announces what it likes."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    data = _chunk(b"IDAT", zlib.compress(body))
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + extra + data + _chunk(b"IEND", b"")


def _patched(data: bytes, place: int, new: bytes) -> bytes:
    return data[:place] + new + data[place + len(new) :]


def _zip_behind(data: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("../../x", CANARY)
    return data + out.getvalue()


def _texted() -> bytes:
    notes = PngImagePlugin.PngInfo()
    notes.add_text("comment", CANARY)
    return _saved("PNG", pnginfo=notes)


def _turned(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return _saved("PNG", exif=exif)


def _looping_tiff() -> bytes:
    entry = struct.pack("<HHII", 256, 4, 1, 8)
    return b"II*\0" + struct.pack("<I", 8) + struct.pack("<H", 1) + entry + struct.pack("<I", 8)


def _frames(count: int) -> bytes:
    frames = [Image.new("P", (8, 8), n % 256) for n in range(count)]
    return _saved("GIF", frames[0], save_all=True, append_images=frames[1:], duration=1)


REFUSED: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "empty"),
    "a letter": (f"Dear {CANARY},".encode(), "broken"),
    "zeros": (bytes(5000), "broken"),
    "noise": (np.random.default_rng(0).bytes(5000), "broken"),
    "PostScript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(executed) (w) file\n", "broken"),
    "a PDF": (b"%PDF-1.7\n" + CANARY.encode(), "broken"),
    "SVG": (b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>', "broken"),
    "an icon": (_saved("ICO"), "broken"),
    "a portable pixmap": (_saved("PPM"), "broken"),
    "a Photoshop file": (b"8BPS\0\1" + bytes(400), "broken"),
    "a pickle": (evil_pickle(), "broken"),
    "a pickled array": (pickle.dumps(PIXELS), "broken"),
    "a zip archive": (_zip_behind(b""), "broken"),
    "a PNG cut off": (_saved("PNG")[:900], "broken"),
    "a JPEG cut off": (_saved("JPEG")[:300], "broken"),
    "a GIF cut off": (_saved("GIF")[:60], "broken"),
    "a WebP cut off": (_saved("WEBP", lossless=True)[:200], "broken"),
    "a TIFF cut off": (_saved("TIFF")[:600], "broken"),
    "a BMP cut off": (_saved("BMP")[:300], "broken"),
    "a PNG of 60,000 by 60,000": (png(60_000, 60_000), "too large"),
    "a PNG of 9,000 by 9,000": (png(9_000, 9_000), "too large"),
    "a PNG of no width": (png(0, 5), "broken"),
    "a PNG of the largest width": (png(2**31 - 1, 1), "too large"),
    "a PNG with a wrong sum": (_patched(_saved("PNG"), 30, b"\x55"), "broken"),
    "a PNG of an unknown depth": (png(4, 4, depth=7), "broken"),
    "a PNG with too little in it": (png(8, 8, body=b"\0\0"), "broken"),
    "a PNG with a text bomb": (
        png(4, 4, extra=_chunk(b"zTXt", b"c\0\0" + zlib.compress(bytes(1 << 27)))),
        "broken",
    ),
    "a JPEG of 65,500 by 65,500": (
        _patched(_saved("JPEG"), _saved("JPEG").index(b"\xff\xc0") + 5, b"\xff\xdc\xff\xdc"),
        "too large",
    ),
    "a BMP of two thousand million lines": (_patched(_saved("BMP"), 22, b"\xff\xff\xff\x7f"), "too large"),
    "a TIFF whose directory follows itself": (_looping_tiff(), "broken"),
    "DICOM garbage": (bytes(128) + b"DICM" + b"\xff" * 300, "broken"),
    "real numbers": (_saved("TIFF", Image.fromarray(np.ones((4, 4), np.float32))), "real numbers"),
}
HANDLED: dict[str, bytes] = {
    "one pixel": _saved("PNG", Image.new("RGB", (1, 1), "red")),
    "one line of 5,000 pixels": _saved("PNG", Image.new("L", (5000, 1), 9)),
    "black and white bits": _saved("PNG", Image.new("1", (9, 9), 1)),
    "grey with transparency": _saved("PNG", Image.new("LA", (9, 9), (9, 0))),
    "sixteen bits": _saved("PNG", Image.fromarray(np.full((9, 9), 60000, np.uint16))),
    "four inks": _saved("JPEG", Image.new("CMYK", (9, 9))),
    "300 frames": _frames(300),
    "an unknown orientation": _turned(77),
    "every orientation": _turned(5),
    "an archive behind it": _zip_behind(_saved("PNG")),
    "a secret comment": _texted(),
    "another ending": _saved("BMP"),
}
