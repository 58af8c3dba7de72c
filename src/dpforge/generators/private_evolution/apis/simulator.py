"""Characters drawn with the fonts at hand: a public generator without any network."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from dpforge.data.glyphs import DIGITS, FontFile, GlyphRanges, draw_glyphs, find_fonts, render_glyphs
from dpforge.errors import ConfigError, did_you_mean

FIRST_DEGREE, LAST_DEGREE = 0.8, 0.15
STEPS = ("linear", "sim_pe")
CANVAS = 28
# Sim-PE's five steps for MNIST, from degree 1 to degree 0.
SIM_PE = {
    "font": (1.0, 0.8, 0.4, 0.2, 0.0),
    "size": (6.0, 5.0, 4.0, 3.0, 2.0),
    "rotation": (11.0, 9.0, 7.0, 5.0, 3.0),
    "stroke": (1.0, 1.0, 1.0, 0.0, 0.0),
}
_SMOOTH = ("size", "rotation", "slant", "scale", "dx", "dy", "elastic")


@dataclass(frozen=True)
class Simulator:
    """Draws texts white on black; side information holds the parameters of each drawing.

    A variation of degree v in [0, 1] moves each parameter by a uniform amount of at most v times half its
    range, and draws the font and the stroke anew with probability v. With ``steps: sim_pe`` the changes are
    those of Sim-PE, read at (1 − v) of the way through its five steps.

    Args:
        image_size: Height and width in pixels.
        texts: What is drawn.
        text_by_class: Whether an image of a class shows the name of the class; otherwise every class starts
            from all texts and the votes choose.
        font_dirs: Folders with more fonts, searched first.
        system_fonts: Whether the system's fonts are used; without them all machines draw alike.
        steps: ``linear`` or ``sim_pe``.
        size: Smallest and largest em size of the font. This and all other lengths are in pixels of a 28-pixel
            canvas, and grow with the canvas.
        stroke: Thinnest and thickest line drawn around the outline, whole pixels.
        rotation: Largest rotation either way, in degrees.
        slant, scale, offset, elastic: Largest slant, horizontal stretch (and its inverse), shift and root
            mean square elastic displacement.
        max_batch: Images drawn at once.

    Raises:
        ConfigError: With every mistake among the values.

    References:
        Lin et al., *Differentially Private Synthetic Data via APIs 3: Using Simulators Instead of Foundation
        Models* (2025).
    """

    name: ClassVar[str] = "simulator"
    channels: ClassVar[int] = 1

    image_size: Sequence[int] = (CANVAS, CANVAS)  # type: ignore[assignment]
    texts: Sequence[str] = DIGITS
    text_by_class: bool = True
    font_dirs: Sequence[str] = ()
    system_fonts: bool = True
    steps: str = "linear"
    size: Sequence[float] = (10.0, 29.0)
    stroke: Sequence[int] = (0, 2)
    rotation: float = 30.0
    slant: float = 0.3
    scale: float = 1.3
    offset: float = 2.0
    elastic: float = 0.0
    max_batch: int = 4096
    _loaded: dict[str, Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "image_size", tuple(self.image_size))
        for name in ("size", "stroke"):
            value = getattr(self, name)
            object.__setattr__(self, name, tuple(value) if isinstance(value, Sequence) else (value,))
        object.__setattr__(self, "texts", tuple(str(text) for text in self.texts))
        mistakes = self._mistakes()
        if mistakes:
            raise ConfigError(mistakes)
        self._ranges()

    def _mistakes(self) -> list[str]:
        mistakes = []
        if len(self.image_size) != 2 or any(not isinstance(n, int) or n < 1 for n in self.image_size):
            mistakes.append(
                f"model.api.image_size={list(self.image_size)}: expected [height, width] in pixels."
            )
        if not self.texts or len(set(self.texts)) < len(self.texts):
            mistakes.append("model.api.texts: expected at least one text, each once.")
        if self.steps not in STEPS:
            mistakes.append(
                f"model.api.steps={self.steps!r}: expected linear or sim_pe."
                + did_you_mean(str(self.steps), STEPS)
            )
        if not self.scale >= 1:
            mistakes.append(f"model.api.scale={self.scale!r}: expected a number >= 1.")
        for name in ("rotation", "slant", "offset", "elastic"):
            if not getattr(self, name) >= 0:
                mistakes.append(f"model.api.{name}={getattr(self, name)!r}: expected a number >= 0.")
        return mistakes + self._pair_mistakes()

    def _pair_mistakes(self) -> list[str]:
        mistakes = []
        if len(self.size) != 2 or any(not _is_number(n) for n in self.size):
            mistakes.append(f"model.api.size={list(self.size)}: expected two numbers, [smallest, largest].")
        elif not self._least_size() <= self.size[0] <= self.size[1] < math.inf:
            mistakes.append(
                f"model.api.size={list(self.size)}: expected [smallest, largest], both at least"
                f" {self._least_size():.3g}, which is one pixel of this canvas."
            )
        whole = all(_is_number(n) and isinstance(n, int) for n in self.stroke)
        if len(self.stroke) != 2 or not whole or not 0 <= self.stroke[0] <= self.stroke[1]:
            mistakes.append(
                f"model.api.stroke={list(self.stroke)}: expected [thinnest, thickest], whole numbers >= 0."
            )
        return mistakes

    def _least_size(self) -> float:
        sides = [side for side in self.image_size if isinstance(side, int) and side > 0]
        return CANVAS / min(sides, default=CANVAS)

    @property
    def class_aware(self) -> bool:
        """Whether an image depends on the name of its class."""
        return self.text_by_class

    def degree_mistakes(self, degrees: Sequence[float]) -> list[str]:
        """Return one text for each degree outside [0, 1]."""
        return [
            f"model.variation_degree_schedule: {degree:g} at iteration {iteration}; model.api=simulator takes"
            " numbers from 0 to 1."
            for iteration, degree in enumerate(degrees)
            if not 0 <= degree <= 1
        ]

    def class_mistakes(self, class_names: Sequence[str]) -> list[str]:
        """Return what keeps the classes from being drawn."""
        missing = [name for name in class_names if name not in self.texts]
        if not self.text_by_class or not missing:
            return []
        return [
            f"model.api.text_by_class=true draws the name of a class, and {', '.join(missing)} is not among"
            " model.api.texts. Add it, or use model.api.text_by_class=false."
        ]

    def default_degrees(self, iterations: int) -> list[float]:
        """Return degrees that fall evenly: 0.8 to 0.15, or all of Sim-PE's steps."""
        first, last = (1.0, 0.0) if self.steps == "sim_pe" else (FIRST_DEGREE, LAST_DEGREE)
        return np.linspace(first, last, iterations + 1).tolist()

    def prepare(self, class_names: Sequence[str], device: str, folder: Path | None = None) -> None:
        """Find the fonts; raises ``DataError`` if there are none."""
        self._loaded["fonts"] = find_fonts(tuple(self.font_dirs), system=self.system_fonts)
        self._loaded["classes"] = tuple(class_names)

    def random(self, labels: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Draw one image for each label, with its parameters."""
        glyphs = draw_glyphs(len(labels), self.texts, self._fonts(), self._ranges(), rng)
        classes = self._loaded["classes"]
        if self.text_by_class and classes:
            glyphs["text"] = np.array([self.texts.index(name) for name in classes])[labels]
        return self._render(glyphs), glyphs

    def variation(
        self, images: np.ndarray, info: np.ndarray, degree: float, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """Perturb the parameters and draw again."""
        glyphs, ranges = info.copy(), self._ranges()
        fresh = draw_glyphs(len(info), self.texts, self._fonts(), ranges, rng)
        redrawn = rng.random(len(info)) < self._change("font", degree, ranges)
        glyphs["font"][redrawn] = fresh["font"][redrawn]
        glyphs["stroke"] = self._stroke(glyphs["stroke"], fresh["stroke"], degree, rng)
        for name in _SMOOTH:
            change = self._change(name, degree, ranges)
            glyphs[name] += rng.uniform(-change, change, len(info)).astype(np.float32)
        if degree > 0:
            glyphs["seed"] = fresh["seed"]
        glyphs = ranges.clipped(glyphs)
        return self._render(glyphs), glyphs

    def describe(self) -> dict[str, Any]:
        """Return the texts and the hashes of the fonts, in the order that side information counts them."""
        fonts = [[font.name, font.sha256] for font in self._fonts()]
        return {"name": self.name, "texts": list(self.texts), "fonts": fonts}

    def _stroke(
        self, old: np.ndarray, fresh: np.ndarray, degree: float, rng: np.random.Generator
    ) -> np.ndarray:
        if self.steps == "linear":
            return np.where(rng.random(len(old)) < degree, fresh, old)
        most = round(self._change("stroke", degree, self._ranges()))
        return old + rng.integers(-most, most, len(old), endpoint=True)

    def _change(self, name: str, degree: float, ranges: GlyphRanges) -> float:
        """Probability of another font, or the largest change of a parameter."""
        if self.steps == "sim_pe" and name in SIM_PE:
            steps = SIM_PE[name]
            value = float(np.interp((1 - degree) * (len(steps) - 1), np.arange(len(steps)), steps))
            return value * min(self.image_size) / CANVAS if name == "size" else value
        if name == "font":
            return degree
        low, high = getattr(ranges, name)
        return degree * (high - low) / 2

    def _ranges(self) -> GlyphRanges:
        height, width = self.image_size
        ranges = GlyphRanges(
            size=(self.size[0], self.size[1]),
            stroke=(self.stroke[0], self.stroke[1]),
            rotation=(-self.rotation, self.rotation),
            slant=(-self.slant, self.slant),
            scale=(1 / self.scale, self.scale),
            dx=(-self.offset, self.offset),
            dy=(-self.offset, self.offset),
            elastic=(0.0, self.elastic),
        )
        return ranges.scaled(height, width)

    def _fonts(self) -> tuple[FontFile, ...]:
        return self._loaded["fonts"]

    def _render(self, glyphs: np.ndarray) -> np.ndarray:
        height, width = self.image_size
        return render_glyphs(glyphs, self.texts, self._fonts(), height, width, channels=3)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
