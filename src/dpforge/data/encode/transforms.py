"""Continuous codecs for flows: rows become real vectors and back, from released statistics only.

A row is stored as ``base`` and ``span``: its dequantised value is ``base + span * U`` with fresh uniform
``U`` at each visit (Theis et al., *A Note on the Evaluation of Generative Models*, ICLR 2016).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import pandas as pd
from scipy import special

from dpforge.data.constraints import repair
from dpforge.data.encode.cells import CellCodec
from dpforge.data.schema import Schema
from dpforge.data.table import conform
from dpforge.errors import ConfigError

STANDARD_CLIP = 6.0


@dataclass(frozen=True)
class Encoded:
    """A table ready for a flow: ``base`` and ``span``, float32 ``(n, d)``."""

    base: np.ndarray
    span: np.ndarray


class Transform(Protocol):
    """Maps typed tables to latent-ready vectors and back."""

    @property
    def gaussianize(self) -> bool:
        """Whether encoded values are uniforms that still need the normal quantile function."""
        ...

    def encode(self, frame: pd.DataFrame) -> Encoded:
        """Encode a typed table; row-local."""
        ...

    def decode(self, y: np.ndarray, rng: np.random.Generator, *, ranks: bool) -> pd.DataFrame:
        """Decode ``(n, d)`` vectors; with ``ranks`` restore the released marginals first."""
        ...

    def log_density_term(self, frame: pd.DataFrame, y: np.ndarray) -> np.ndarray:
        """Return the log-determinant ``(n,)`` of the codec at each row."""
        ...


@dataclass(frozen=True)
class MarginalTransform:
    """Probability integral transform by released histograms, then the normal quantile function.

    u = F(x) by the piecewise linear distribution function of each column's released histogram (atoms are
    cells of their own), y = Phi^-1(clip(u)). Independent standard normals decode to the independent baseline.

    Args:
        codec: Cells of the schema.
        masses: One probability vector a column, every entry > 0.
    """

    codec: CellCodec
    masses: Sequence[np.ndarray]
    gaussianize: bool = True

    def _flat(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        masses = np.concatenate(self.masses)
        lower = np.concatenate([np.concatenate([[0.0], np.cumsum(m)[:-1]]) for m in self.masses])
        jitter = np.concatenate([column.jitter for column in self.codec.columns])
        return masses, lower, jitter

    def encode(self, frame: pd.DataFrame) -> Encoded:
        """See :class:`Transform`."""
        cells = self.codec.encode(frame)
        masses, lower, jitter = self._flat()
        flat = cells.codes + np.asarray(self.codec.offsets)[: cells.codes.shape[1]]
        base = lower[flat] + masses[flat] * cells.position
        return Encoded(base.astype(np.float32), (masses * jitter)[flat].astype(np.float32))

    def decode(self, y: np.ndarray, rng: np.random.Generator, *, ranks: bool) -> pd.DataFrame:
        """See :class:`Transform`."""
        u = _ranks(y, rng) if ranks else special.ndtr(y)
        codes = np.empty(u.shape, dtype=np.int64)
        position = np.empty(u.shape)
        for column, mass in enumerate(self.masses):
            upper = np.cumsum(mass)
            code = np.minimum(np.searchsorted(upper, u[:, column], side="right"), mass.size - 1)
            codes[:, column] = code
            position[:, column] = (u[:, column] - (upper[code] - mass[code])) / mass[code]
        frame = self.codec.decode(codes, rng, position=np.clip(position, 0, 1 - 1e-9))
        return repair(frame, self.codec.schema)

    def log_density_term(self, frame: pd.DataFrame, y: np.ndarray) -> np.ndarray:
        """See :class:`Transform`; cells of atoms count as mass, bins as density in the column's units."""
        cells = self.codec.encode(frame)
        width = np.concatenate([np.where(c.atom, 1.0, c.upper - c.lower) for c in self.codec.columns])
        flat = cells.codes + np.asarray(self.codec.offsets)[: cells.codes.shape[1]]
        log_cell = np.log(np.concatenate(self.masses)) - np.log(width)
        normal = -0.5 * (y**2 + np.log(2 * np.pi))
        return (log_cell[flat] - normal).sum(axis=1)


@dataclass(frozen=True)
class ScaleTransform:
    """y = (x − mean) / scale by released or public moments; numeric columns without missing values only.

    Args:
        schema: Numeric or integer columns with public bounds.
        mean, scale: Shape ``(d,)``.
    """

    schema: Schema
    mean: np.ndarray
    scale: np.ndarray
    gaussianize: bool = False

    def __post_init__(self) -> None:
        check_scalable(self.schema)

    def encode(self, frame: pd.DataFrame) -> Encoded:
        """See :class:`Transform`."""
        values = frame[list(self.schema.names)].to_numpy(dtype=float)
        grid = np.array([_grid(column.kind, column.granularity) for column in self.schema.columns])
        base = (values - grid / 2 - self.mean) / self.scale
        return Encoded(
            base.astype(np.float32), np.broadcast_to(grid / self.scale, base.shape).astype(np.float32)
        )

    def decode(self, y: np.ndarray, rng: np.random.Generator, *, ranks: bool) -> pd.DataFrame:
        """See :class:`Transform`; rounded to the grid and clipped to the public bounds."""
        if ranks:
            raise ConfigError("recalibrate_marginals=rank needs transform=dp_marginal_cdf; set it to none.")
        frame = pd.DataFrame(y * self.scale + self.mean, columns=list(self.schema.names))
        for column in self.schema.columns:
            step = _grid(column.kind, column.granularity)
            if step:
                frame[column.name] = (frame[column.name] / step).round() * step
        return repair(conform(frame, self.schema), self.schema)

    def log_density_term(self, frame: pd.DataFrame, y: np.ndarray) -> np.ndarray:
        """See :class:`Transform`."""
        return np.full(len(frame), -float(np.log(self.scale).sum()))


def check_scalable(schema: Schema) -> None:
    """Raise ``ConfigError`` unless every column is numeric, bounded and never missing."""
    wrong = [c.name for c in schema.columns if c.kind not in ("numeric", "integer") or c.nullable]
    if wrong:
        raise ConfigError(
            f"columns {wrong} are categorical, dates or nullable; this transform takes numbers only."
            " Use transform=dp_marginal_cdf."
        )


def bounds_of(schema: Schema) -> tuple[np.ndarray, np.ndarray]:
    """Return the public lower and upper bounds ``(d,)`` of numeric columns."""
    pairs = [(float(c.bounds.min), float(c.bounds.max)) for c in schema.columns if c.bounds is not None]  # type: ignore[arg-type]
    low, high = np.array(pairs).T
    return low, high


def affine_transform(schema: Schema) -> ScaleTransform:
    """Scale the public bounds to unit variance of a uniform: (2 (x − lo)/(hi − lo) − 1) sqrt(3)."""
    check_scalable(schema)
    low, high = bounds_of(schema)
    return ScaleTransform(schema, (low + high) / 2, (high - low) / (2 * 3**0.5))


def moments(frame: pd.DataFrame, schema: Schema) -> np.ndarray:
    """Return (sum x', sum x'^2, N) with x' the columns scaled to [−1, 1], shape ``(2d + 1,)``.

    One row contributes a vector of norm at most sqrt(2d + 1).
    """
    low, high = bounds_of(schema)
    values = frame[list(schema.names)].to_numpy(dtype=float)
    scaled = np.clip(2 * (values - low) / (high - low) - 1, -1, 1)
    return np.concatenate([scaled.sum(axis=0), (scaled**2).sum(axis=0), [float(len(frame))]])


def standardize_transform(schema: Schema, released: np.ndarray) -> ScaleTransform:
    """Build the transform from released :func:`moments`; variances are floored at 1e-4."""
    check_scalable(schema)
    low, high = bounds_of(schema)
    width = len(schema.columns)
    count = max(float(released[-1]), 1.0)
    mean = np.clip(released[:width] / count, -1, 1)
    variance = np.maximum(released[width : 2 * width] / count - mean**2, 1e-4)
    half = (high - low) / 2
    return ScaleTransform(schema, low + (mean + 1) * half, np.sqrt(variance) * half)


def _grid(kind: str, granularity: float | None) -> float:
    return granularity or (1.0 if kind == "integer" else 0.0)


def _ranks(y: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    order = np.argsort(y, axis=0)
    ranks = np.empty_like(order)
    np.put_along_axis(ranks, order, np.broadcast_to(np.arange(len(y))[:, None], y.shape), axis=0)
    return (ranks + rng.random(y.shape)) / len(y)
