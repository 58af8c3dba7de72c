"""Finished GANs: generators with the public description of what they make; they read no private data."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from dpforge.data import Images, ImageSchema, Schema
from dpforge.data.encode.cells import CellCodec
from dpforge.generators.gan_module import NoiseFunction, called, seeded
from dpforge.generators.gan_records import decode_images, decode_table
from dpforge.generators.storage import save_model

CHUNK = 2000


def generated(
    net: nn.Module, noise: NoiseFunction, rows: int, rng: np.random.Generator, labels: Tensor | None = None
) -> Tensor:
    """Return ``rows`` outputs of a generator in evaluation mode, in chunks; ``rng`` seeds torch's draws."""
    parts = []
    with seeded(int(rng.integers(2**62))), torch.no_grad():
        for start in range(0, rows, CHUNK):
            part = None if labels is None else labels[start : start + CHUNK]
            parts.append(called(net, noise(min(CHUNK, rows - start)), part))
    return torch.cat(parts)


class FittedTableGAN:
    """A finished generator of one-hot rows.

    Args:
        net: The generator.
        noise: ``n -> noise``.
        codec: Cells of the schema.
    """

    def __init__(self, net: nn.Module, noise: NoiseFunction, codec: CellCodec) -> None:
        self.net, self._noise, self._codec = net.eval(), noise, codec
        self.schema: Schema = codec.schema

    def sample(self, rows: int, rng: np.random.Generator) -> pd.DataFrame:
        """Return ``rows`` synthetic rows: cells of the generator, values uniform inside bins."""
        empty = torch.zeros(0, sum(self._codec.sizes))
        drawn = generated(self.net, self._noise, rows, rng) if rows else empty
        return decode_table(drawn, self._codec, rng)

    def save(self, folder: Path) -> None:
        """Write the model; see :func:`dpforge.generators.storage.save_model`."""
        save_model(folder, self.net.state_dict(), {}, self.schema)


class FittedImageGAN:
    """A finished generator of images.

    Args:
        net: The generator.
        noise: ``n -> noise``.
        schema: Shape and classes.
        class_mass: Probability of each class, or None if the generator knows no classes.
    """

    def __init__(
        self, net: nn.Module, noise: NoiseFunction, schema: ImageSchema, class_mass: np.ndarray | None
    ) -> None:
        self.net, self._noise, self.schema, self.class_mass = net.eval(), noise, schema, class_mass

    def sample(self, rows: int, rng: np.random.Generator) -> Images:
        """Return ``rows`` images; with classes, in blocks whose sizes follow their probabilities."""
        labels = self._labels(rows)
        given = None if self.class_mass is None else torch.from_numpy(labels)
        if not rows:
            return Images(np.zeros((0, *self.schema.shape), np.uint8), labels)
        return decode_images(generated(self.net, self._noise, rows, rng, given), labels, self.schema)

    def _labels(self, rows: int) -> np.ndarray:
        if self.class_mass is None:
            return np.zeros(rows, dtype=np.int64)
        ends = np.rint(np.cumsum(self.class_mass) * rows).astype(np.int64)
        return np.searchsorted(ends, np.arange(rows), side="right").clip(max=len(ends) - 1)

    def save(self, folder: Path) -> None:
        """Write the model; see :func:`dpforge.generators.storage.save_model`."""
        mass = None if self.class_mass is None else self.class_mass.tolist()
        save_model(folder, self.net.state_dict(), {"class_mass": mass}, self.schema)


def standard_normal(width: int) -> Callable[[int], Tensor]:
    """Return the noise function of ``width`` independent standard normals."""
    return lambda n: torch.randn(n, width)
