"""Characters drawn with fonts: parameters, their ranges, and the images they give (white on black)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw, ImageOps

from dpforge.data.fonts import FontFile, find_fonts, load_font
from dpforge.errors import ConfigError, DataError

__all__ = [
    "DIGITS", "GLYPH_DTYPE", "FontFile", "GlyphRanges", "draw_glyphs", "find_fonts", "render_glyphs",
]  # fmt: skip

DIGITS = tuple("0123456789")
GLYPH_DTYPE = np.dtype(
    [
        ("text", np.int32), ("font", np.int32), ("size", np.float32), ("stroke", np.int32),
        ("rotation", np.float32), ("slant", np.float32), ("scale", np.float32),
        ("dx", np.float32), ("dy", np.float32), ("elastic", np.float32), ("seed", np.uint32),
    ]
)  # fmt: skip
"""One glyph: positions of its text and its font; em size, stroke width, offsets (right, down) and RMS elastic
displacement in pixels; rotation in degrees (counter-clockwise); slant (shift to the right per pixel upwards);
horizontal scale; seed of the elastic noise."""

CANVAS = 28
ELASTIC_SMOOTHING = 4.0
CHUNK = 4096


@dataclass(frozen=True)
class GlyphRanges:
    """Lowest and highest value of each parameter; lengths in pixels of the canvas.

    The defaults are those of the simulator of Private Evolution for 28 pixels.

    Args:
        size: Em size of the font, above 0.
        stroke: Width of the line drawn around the outline; whole numbers.
        rotation: Degrees, counter-clockwise.
        slant: Shift to the right per pixel upwards.
        scale: Horizontal stretch, above 0.
        dx: Shift to the right.
        dy: Shift down.
        elastic: Root mean square displacement of the elastic noise; 0 leaves it out.

    Raises:
        ConfigError: A range whose ends are not finite, not in order, or not possible.

    References:
        Lin et al., *Differentially Private Synthetic Data via APIs 3: Using Simulators Instead of Foundation
        Models* (2025), section 5 for the ranges; Simard et al., *Best Practices for Convolutional Neural
        Networks Applied to Visual Document Analysis* (ICDAR 2003) for elastic noise.
    """

    size: tuple[float, float] = (10.0, 29.0)
    stroke: tuple[int, int] = (0, 2)
    rotation: tuple[float, float] = (-30.0, 30.0)
    slant: tuple[float, float] = (-0.3, 0.3)
    scale: tuple[float, float] = (0.75, 1.3)
    dx: tuple[float, float] = (-2.0, 2.0)
    dy: tuple[float, float] = (-2.0, 2.0)
    elastic: tuple[float, float] = (0.0, 0.0)

    def __post_init__(self) -> None:
        mistakes = []
        for name, (low, high) in self.items():
            if not (np.isfinite(low) and np.isfinite(high) and low <= high):
                mistakes.append(f"{name}=({low}, {high}): expected two numbers, the lower one first")
            elif name in ("size", "scale") and low <= 0:
                mistakes.append(f"{name}=({low}, {high}): expected numbers above 0")
            elif name in ("stroke", "elastic") and low < 0:
                mistakes.append(f"{name}=({low}, {high}): expected numbers of at least 0")
        if mistakes:
            raise ConfigError(mistakes)

    def items(self) -> list[tuple[str, tuple[float, float]]]:
        """Name and range of each parameter, in the order of :data:`GLYPH_DTYPE`."""
        names = ("size", "stroke", "rotation", "slant", "scale", "dx", "dy", "elastic")
        return [(name, getattr(self, name)) for name in names]

    def scaled(self, height: int, width: int) -> GlyphRanges:
        """These ranges with lengths meant for 28 pixels brought to the shorter side of another canvas.

        Strokes are whole pixels, so below 28 they become thinner; to keep them, render at 28 and shrink.
        """
        factor = min(height, width) / CANVAS
        lengths = {name: (low * factor, high * factor) for name, (low, high) in self.items()}
        stroke = (int(lengths["stroke"][0]), int(lengths["stroke"][1]))
        kept = {name: lengths[name] for name in ("size", "dx", "dy", "elastic")}
        return replace(self, stroke=stroke, **kept)

    def clipped(self, params: np.ndarray) -> np.ndarray:
        """A copy of glyphs (``GLYPH_DTYPE``) whose parameters are moved to the nearest value in range."""
        params = params.copy()
        for name, (low, high) in self.items():
            params[name] = np.clip(params[name], low, high)
        return params


def draw_glyphs(
    n: int,
    texts: Sequence[str],
    fonts: Sequence[FontFile],
    ranges: GlyphRanges,
    rng: np.random.Generator,
) -> np.ndarray:
    """Draw ``n`` glyphs independently and uniformly within ``ranges``; ``GLYPH_DTYPE``, shape ``(n,)``.

    Raises:
        ConfigError: No text or no font.
    """
    if not texts or not fonts:
        raise ConfigError(f"{len(texts)} texts and {len(fonts)} fonts given: expected at least one of each")
    params = np.zeros(n, dtype=GLYPH_DTYPE)
    params["text"] = rng.integers(len(texts), size=n)
    params["font"] = rng.integers(len(fonts), size=n)
    for name, (low, high) in ranges.items():
        if name == "stroke":
            params[name] = rng.integers(int(low), int(high), size=n, endpoint=True)
        else:
            params[name] = rng.uniform(low, high, size=n)
    params["seed"] = rng.integers(2**32, size=n, dtype=np.uint32)
    return params


def render_glyphs(
    params: np.ndarray,
    texts: Sequence[str],
    fonts: Sequence[FontFile],
    height: int,
    width: int,
    channels: int = 1,
) -> np.ndarray:
    """Render glyphs, white on black: uint8 ``(n, height, width, channels)``.

    The middle of the ink stands at the middle of the canvas, moved by ``dx`` and ``dy``. An image depends on
    its own parameters alone. Canvases below 28 pixels are drawn enlarged and averaged.

    Args:
        params: Glyphs, ``GLYPH_DTYPE``, shape ``(n,)``.
        texts: What the positions in ``text`` stand for.
        fonts: What the positions in ``font`` stand for.
        height: Pixels, at least 1.
        width: Pixels, at least 1.
        channels: 1, or 3 for three equal ones.

    Raises:
        ConfigError: Another number of channels or a side below 1.
        DataError: Another type, a position that does not exist, or a value that cannot be drawn.
    """
    if channels not in (1, 3) or min(height, width) < 1:
        raise ConfigError(f"a canvas of {height}x{width}x{channels}: expected sides >= 1 and 1 or 3 channels")
    _check(params, len(texts), len(fonts))
    factor = -(-CANVAS // min(height, width))
    out = np.empty((len(params), height, width), dtype=np.uint8)
    for start in range(0, len(params), CHUNK):
        part = params[start : start + CHUNK]
        drawn = _drawn(part, texts, fonts, (height * factor, width * factor), factor)
        out[start : start + CHUNK] = _reduced(drawn, factor)
    return np.repeat(out[..., None], channels, axis=3)


def _check(params: np.ndarray, texts: int, fonts: int) -> None:
    if params.dtype != GLYPH_DTYPE or params.ndim != 1:
        raise DataError(f"glyphs of type {params.dtype}: expected GLYPH_DTYPE and one dimension")
    if not len(params):
        return
    for name, count in (("text", texts), ("font", fonts)):
        low, high = params[name].min(), params[name].max()
        if low < 0 or high >= count:
            raise DataError(f"glyphs with {name} from {low} to {high}: expected positions below {count}")
    for name in ("size", "rotation", "slant", "scale", "dx", "dy", "elastic"):
        if not np.isfinite(params[name]).all():
            raise DataError(f"glyphs with a {name} that is not finite: expected numbers")
    for name, least in (("size", 1.0), ("scale", 0.01), ("stroke", 0), ("elastic", 0.0)):
        if params[name].min() < least:
            raise DataError(f"glyphs with {name}={params[name].min()}: expected at least {least}")


def _drawn(
    params: np.ndarray, texts: Sequence[str], fonts: Sequence[FontFile], shape: tuple[int, int], factor: int
) -> np.ndarray:
    """Images ``(n, *shape)`` on a canvas enlarged by ``factor``."""
    em = np.maximum(np.rint(params["size"] * factor), 1).astype(int)
    out = np.empty((len(params), *shape), dtype=np.uint8)
    ink = [
        _ink(fonts[glyph["font"]], size, texts[glyph["text"]], int(glyph["stroke"]) * factor)
        for glyph, size in zip(params, em.tolist(), strict=True)
    ]
    maps = _inverse_maps(params, factor / em, [image.size for image in ink], shape, factor)
    extent = (shape[1], shape[0])
    for i, (image, affine) in enumerate(zip(ink, maps.tolist(), strict=True)):
        drawn = image.transform(extent, Image.Transform.AFFINE, affine, Image.Resampling.BILINEAR)
        out[i] = np.asarray(drawn)
    return _elastic(out, params, factor)


@lru_cache(maxsize=65536)
def _ink(font: FontFile, size: int, text: str, stroke: int) -> Image.Image:
    """The text's ink with one black pixel around it."""
    face = load_font(font, size)
    left, top, right, bottom = face.getbbox(text, stroke_width=stroke)
    box = (max(int(np.ceil(right - left)), 1), max(int(np.ceil(bottom - top)), 1))
    image = Image.new("L", box)
    ImageDraw.Draw(image).text((-left, -top), text, fill=255, font=face, stroke_width=stroke)
    return ImageOps.expand(image.crop(image.getbbox() or (0, 0, 1, 1)), border=1)


def _inverse_maps(
    params: np.ndarray,
    unit: np.ndarray,
    extents: list[tuple[int, int]],
    shape: tuple[int, int],
    factor: int,
) -> np.ndarray:
    """Coefficients ``(n, 6)`` of the affine maps from the canvas to the ink, as Pillow takes them."""
    angle = np.deg2rad(params["rotation"].astype(float))
    size = params["size"] * unit
    cos, sin = np.cos(angle) / size, np.sin(angle) / size
    # The ink is stretched, then slanted, then turned; y points down. These rows undo it in reverse order.
    slant, scale = params["slant"].astype(float), params["scale"].astype(float)
    a, b = (cos + slant * sin) / scale, (-sin + slant * cos) / scale
    middle = np.asarray(extents, dtype=float).reshape(-1, 2) / 2
    x = shape[1] / 2 + params["dx"] * factor
    y = shape[0] / 2 + params["dy"] * factor
    return np.stack([a, b, middle[:, 0] - a * x - b * y, sin, cos, middle[:, 1] - sin * x - cos * y], axis=1)


def _elastic(images: np.ndarray, params: np.ndarray, factor: int) -> np.ndarray:
    """Move the pixels of each image along a smooth random field that its seed alone decides."""
    rows = np.flatnonzero(params["elastic"] > 0)
    if not len(rows):
        return images
    height, width = images.shape[1:]
    field = _smooth_fields(params["seed"][rows], height, width)
    field *= params["elastic"][rows, None, None, None] * np.float32(factor)
    down = np.arange(height, dtype=np.float32)[:, None] + field[:, 0]
    right = np.arange(width, dtype=np.float32) + field[:, 1]
    images[rows] = _sampled(images[rows], down, right)
    return images


def _smooth_fields(seeds: np.ndarray, height: int, width: int) -> np.ndarray:
    """Displacements down and right, float32 ``(n, 2, height, width)``, of root mean square length 1."""
    down, right = _smoothing(height), _smoothing(width)
    shape = (2, down.shape[1], right.shape[1])
    noise = np.stack([np.random.default_rng(seed).standard_normal(shape, np.float32) for seed in seeds])
    field = down @ noise @ right.T
    mean_square = np.mean(field**2, axis=(1, 2, 3), keepdims=True)
    return field / np.sqrt(2 * np.maximum(mean_square, 1e-12))


@lru_cache(maxsize=16)
def _smoothing(side: int) -> np.ndarray:
    """Gaussian weights ``(side, knots)`` of knots one standard deviation apart, with a margin around."""
    spread = ELASTIC_SMOOTHING * max(side / CANVAS, 0.25)
    knots = np.arange(-2 * spread, side + 2 * spread, spread)
    return np.exp(-0.5 * ((np.arange(side)[:, None] - knots) / spread) ** 2).astype(np.float32)


def _sampled(images: np.ndarray, down: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Values between pixels by bilinear interpolation, black outside."""
    height, width = images.shape[1:]
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1))).reshape(len(images), -1)
    down, right = np.clip(down + 1, 0, height + 0.999), np.clip(right + 1, 0, width + 0.999)
    y, x = down.astype(np.int32), right.astype(np.int32)
    fy, fx = down - y, right - x
    corner = (y * (width + 2) + x).reshape(len(images), -1)
    value = [np.take_along_axis(padded, corner + step, axis=1) for step in (0, 1, width + 2, width + 3)]
    value = [part.reshape(down.shape).astype(np.float32) for part in value]
    top, bottom = value[0] + fx * (value[1] - value[0]), value[2] + fx * (value[3] - value[2])
    return np.rint(top + fy * (bottom - top)).astype(np.uint8)


def _reduced(images: np.ndarray, factor: int) -> np.ndarray:
    if factor == 1:
        return images
    n, height, width = images.shape
    blocks = images.reshape(n, height // factor, factor, width // factor, factor)
    return np.rint(blocks.mean(axis=(2, 4))).astype(np.uint8)
