"""Independent columns: noisy one-way histograms, the floor that every other generator is compared with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import pandas as pd

from dpforge.data import Dataset, Schema
from dpforge.data.constraints import repair
from dpforge.data.encode.cells import CellCodec
from dpforge.errors import ConfigError, did_you_mean
from dpforge.generators.base import RunContext
from dpforge.generators.cell_likelihood import cells_name, log_cell_mass
from dpforge.generators.histograms import histogram_release, release_histograms
from dpforge.generators.storage import load_model, save_model
from dpforge.privacy.plan import Plan, make_plan
from dpforge.privacy.spec import PrivacySpec
from dpforge.privacy.values import protect_values, value_pieces

CHUNK = 200_000


@dataclass(frozen=True)
class Independent:
    """Settings of the independent baseline.

    Args:
        allocation: ``cube_root`` (least total L1 error) or ``uniform``.
        noise: ``rounded_gaussian`` or ``laplace``.
        floor: Least mass of a cell, as a multiple of 1/K, in [0, 1).
        default_bins, discrete_max: Cells of columns without public bins; see ``CellCodec``.

    Raises:
        ConfigError: With every mistake among the values.
    """

    modalities: ClassVar[tuple[str, ...]] = ("table",)
    name: ClassVar[str] = "independent"

    allocation: str = "cube_root"
    noise: str = "rounded_gaussian"
    floor: float = 0.0
    default_bins: int = 32
    discrete_max: int = 128

    def __post_init__(self) -> None:
        choices = {"allocation": ("cube_root", "uniform"), "noise": ("rounded_gaussian", "laplace")}
        mistakes = [
            f"model.{name}={getattr(self, name)!r}: expected one of {', '.join(known)}."
            + did_you_mean(str(getattr(self, name)), known)
            for name, known in choices.items()
            if getattr(self, name) not in known
        ]
        if not 0 <= self.floor < 1:
            mistakes.append(f"model.floor={self.floor!r}: expected a number in [0, 1).")
        for name in ("default_bins", "discrete_max"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                mistakes.append(f"model.{name}={value!r}: expected an integer >= 1.")
        if mistakes:
            raise ConfigError(mistakes)

    def plan(self, schema: Schema, privacy: PrivacySpec) -> Plan:
        """One release of all one-way histograms, after the schema's private values."""
        return make_plan(
            privacy,
            releases=[histogram_release(schema, privacy.relation, noise=self.noise)],
            bricks=value_pieces(schema, privacy.relation),
            unit=schema.unit.kind,
        )

    def fit(self, data: Dataset, run: RunContext) -> FittedIndependent:
        """Release the histograms."""
        schema, table = protect_values(data.schema, data.train, run.access)
        codec = self._codec(schema)
        codes = codec.encode(table).codes
        masses = release_histograms(run.access, codec, codes, self.allocation, self.floor)
        run.progress(1, 1, {})
        return FittedIndependent(codec, masses)

    def load(self, folder: Path) -> FittedIndependent:
        """Read back a fitted model."""
        _, arrays, schema = load_model(folder)
        return FittedIndependent(self._codec(schema), [np.asarray(mass) for mass in arrays["masses"]])

    def _codec(self, schema: Schema) -> CellCodec:
        return CellCodec(schema, default_bins=self.default_bins, discrete_max=self.discrete_max)


class FittedIndependent:
    """Released one-way marginals.

    Args:
        codec: Cells of the schema.
        masses: One probability vector a column.
    """

    def __init__(self, codec: CellCodec, masses: list[np.ndarray]) -> None:
        self.codec, self.masses, self.schema = codec, masses, codec.schema

    def sample(self, rows: int, rng: np.random.Generator) -> pd.DataFrame:
        """Draw every column on its own stream, decode, and repair public constraints."""
        streams = rng.spawn(len(self.masses) + 1)
        parts = [self._chunk(min(CHUNK, rows - start), streams) for start in range(0, rows, CHUNK)]
        return pd.concat(parts, ignore_index=True) if parts else self._chunk(0, streams)

    def _chunk(self, rows: int, streams: list[np.random.Generator]) -> pd.DataFrame:
        codes = np.empty((rows, len(self.masses)), dtype=np.int64)
        for column, (mass, stream) in enumerate(zip(self.masses, streams, strict=False)):
            upper = np.cumsum(mass)
            drawn = np.searchsorted(upper, stream.random(rows) * upper[-1], side="right")
            codes[:, column] = np.minimum(drawn, mass.size - 1)
        return repair(self.codec.decode(codes, streams[-1]), self.codec.schema)

    def log_prob(self, frame: pd.DataFrame) -> np.ndarray:
        """Return the log-probability ``(n,)`` in nats of the cells of rows, exact. Private for real rows.

        Public constraints are not seen: what :meth:`sample` repairs counts where it was drawn.
        """
        return log_cell_mass(self.codec, self.masses, frame)

    def independent_log_prob(self, frame: pd.DataFrame) -> np.ndarray:
        """Return :meth:`log_prob`: there is nothing but the marginals."""
        return self.log_prob(frame)

    @property
    def codec_name(self) -> str:
        """Codec that :meth:`log_prob` refers to."""
        return cells_name(self.codec)

    def save(self, folder: Path) -> None:
        """Write the model; see :func:`dpforge.generators.storage.save_model`."""
        arrays = {"masses": [mass.tolist() for mass in self.masses]}
        save_model(folder, {}, arrays, self.codec.schema)
