"""What every generator receives and provides."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Protocol

import numpy as np
import pandas as pd

from dpforge.data import Dataset, ImageDataset, Images, ImageSchema, Schema
from dpforge.errors import ConfigError, did_you_mean
from dpforge.privacy.mechanisms import PrivateAccess
from dpforge.privacy.plan import Plan
from dpforge.privacy.rng import KeyedRandom, public_random
from dpforge.privacy.spec import PrivacySpec

ENGINE_NAMES = ("ghost", "hooks")


@dataclass(frozen=True)
class Runtime:
    """Choices that change speed and memory only; not part of a run's identity.

    Args:
        device: ``cpu``, ``cuda`` or ``cuda:N``.
        microbatch: Rows per forward pass; ``None`` is the whole batch.
        threads: Threads of torch; ``None`` leaves torch's default.
        engine: ``ghost`` or ``hooks``; how clipped sums are computed.
        checkpoint_every: Steps between checkpoints, >= 1.
        progress: Show progress bars.
        pictures: Draw the run's pictures; seconds for a table of 15 columns.

    Raises:
        ConfigError: With every mistake among the values.
    """

    device: str = "cpu"
    microbatch: int | None = None
    threads: int | None = None
    engine: str = "ghost"
    checkpoint_every: int = 50
    progress: bool = True
    pictures: bool = True

    def __post_init__(self) -> None:
        mistakes = []
        if self.device.split(":")[0] not in ("cpu", "cuda"):
            mistakes.append(f"runtime.device={self.device!r}: expected cpu, cuda or cuda:N.")
        if self.engine not in ENGINE_NAMES:
            mistakes.append(
                f"runtime.engine={self.engine!r}: expected ghost or hooks."
                + did_you_mean(self.engine, ENGINE_NAMES)
            )
        for name in ("microbatch", "threads", "checkpoint_every"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or value < 1):
                mistakes.append(f"runtime.{name}={value!r}: expected an integer >= 1.")
        if mistakes:
            raise ConfigError(mistakes)


def _discard(step: int, values: Mapping[str, float], visibility: str) -> None:
    """Log nothing."""


def _silent(done: int, total: int, values: Mapping[str, float]) -> None:
    """Show nothing."""


def _never() -> bool:
    return False


@dataclass(frozen=True)
class RunContext:
    """What a run lends to a generator while it fits.

    Args:
        access: The only door to private values.
        spec: The run's privacy settings.
        runtime: Speed and memory settings.
        seed: Public experiment seed.
        checkpoints: Folder for training state.
        log: ``(step, values, visibility)``; visibility is ``public``, ``dp`` or ``private``.
        progress: ``(done, total, values)``, after every step.
        stopping: Whether the run was asked to end at the next step.
        samples: Folder for released samples of intermediate steps, ``<run>/samples``; None for none.
    """

    access: PrivateAccess
    spec: PrivacySpec
    runtime: Runtime
    seed: int
    checkpoints: Path
    log: Callable[[int, Mapping[str, float], str], None] = _discard
    progress: Callable[[int, int, Mapping[str, float]], None] = _silent
    stopping: Callable[[], bool] = _never
    samples: Path | None = None
    random: KeyedRandom = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "random", public_random(self.seed))


class FittedTable(Protocol):
    """A finished model of a table: reads no private data. ``schema`` has released values filled in."""

    schema: Schema

    def sample(self, rows: int, rng: np.random.Generator) -> pd.DataFrame:
        """Return ``rows`` synthetic rows as a typed table that satisfies the schema."""
        ...

    def save(self, folder: Path) -> None:
        """Write everything :meth:`TableGenerator.load` needs into ``folder``."""
        ...


class FittedImages(Protocol):
    """A finished model of images: reads no private data.

    One that holds a released set of images of its own size says so in an attribute ``released_rows``.
    """

    schema: ImageSchema

    def sample(self, rows: int, rng: np.random.Generator) -> Images:
        """Return ``rows`` synthetic images; those of a class are adjacent, class 0 first."""
        ...

    def save(self, folder: Path) -> None:
        """Write everything :meth:`ImageGenerator.load` needs into ``folder``."""
        ...


class TableGenerator(Protocol):
    """A way of making synthetic tables; a frozen dataclass of its settings."""

    modalities: ClassVar[tuple[str, ...]]

    def plan(self, schema: Schema, privacy: PrivacySpec) -> Plan:
        """Return what a fit will spend: a pure function of configuration and public schema."""
        ...

    def fit(self, data: Dataset, run: RunContext) -> FittedTable:
        """Train on private rows, through ``run.access`` only."""
        ...

    def load(self, folder: Path) -> FittedTable:
        """Read back a model written by :meth:`FittedTable.save`."""
        ...


class ImageGenerator(Protocol):
    """A way of making synthetic images; a frozen dataclass of its settings. Methods as of a table's."""

    modalities: ClassVar[tuple[str, ...]]

    def plan(self, schema: ImageSchema, privacy: PrivacySpec) -> Plan:
        """Return what a fit will spend: a pure function of configuration and public schema."""
        ...

    def fit(self, data: ImageDataset, run: RunContext) -> FittedImages:
        """Train on private images, through ``run.access`` only."""
        ...

    def load(self, folder: Path) -> FittedImages:
        """Read back a model written by :meth:`FittedImages.save`."""
        ...


Fitted = FittedTable | FittedImages
Synthetic = pd.DataFrame | Images


def nominal_units(schema: Schema | ImageSchema) -> float:
    """Return the public number of units: nominal rows over the most rows a unit may have."""
    return schema.nominal_rows / (schema.unit.max_rows if schema.unit.kind == "user" else 1)


def rows_per_unit(schema: Schema | ImageSchema) -> int:
    """Return the most rows one unit of privacy may have."""
    return schema.unit.max_rows if schema.unit.kind == "user" else 1
