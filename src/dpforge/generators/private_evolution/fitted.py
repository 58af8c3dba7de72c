"""A finished population: released already, so that drawing from it costs no privacy."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dpforge.data import Images, ImageSchema
from dpforge.data.images import with_channels
from dpforge.errors import RunError
from dpforge.generators.private_evolution.apis.protocol import ImageAPI
from dpforge.generators.private_evolution.calls import varied
from dpforge.generators.private_evolution.files import load_population, sample_file
from dpforge.generators.private_evolution.population import Population, allocate, together
from dpforge.generators.storage import load_any_model, save_model
from dpforge.nets.images import resize, to_pixels, to_unit

CHUNK = 1024
_log = logging.getLogger("dpforge")


class FittedEvolution:
    """The last population of a run.

    Args:
        schema: Schema of the synthetic images.
        population: As the API made it.
        api: Makes variations where more images are asked for than there are.
        degree: Variation degree of those.
        device: Where the API runs.
        first: File of the images that the API drew at random, S_0, in the run's folder.
    """

    def __init__(
        self,
        schema: ImageSchema,
        population: Population,
        api: ImageAPI,
        degree: float,
        device: str = "cpu",
        first: Path | None = None,
    ) -> None:
        self.schema, self.population = schema, population
        self.api, self.degree, self.device, self._first = api, degree, device, first

    @property
    def released_rows(self) -> int:
        """Number of images of the population."""
        return len(self.population)

    @property
    def public_floor(self) -> Images | None:
        """What the API draws before any vote, the floor of a run's scores; None if its file is gone."""
        if self._first is None or not self._first.is_file():
            return None
        start = load_population(self._first)
        return Images(fitted_to(start.pixels, self.schema), start.labels)

    def sample(self, rows: int, rng: np.random.Generator) -> Images:
        """Return images in the shape of the schema, those of a class adjacent, class 0 first.

        The population itself if ``rows`` is its size; of fewer, each class keeps its share; more are
        variations of the population by the public generator.
        """
        chosen = self._grown(rows, rng) if rows > len(self.population) else self._subset(rows, rng)
        extra = {"additional_info": chosen.info}
        return Images(fitted_to(chosen.pixels, self.schema), chosen.labels, extra)

    def _subset(self, rows: int, rng: np.random.Generator) -> Population:
        blocks = self.population.blocks(self.schema.num_classes)
        counts = allocate(rows, np.array([block.stop - block.start for block in blocks], dtype=float))
        picked = [
            block.start + np.sort(rng.permutation(block.stop - block.start)[:count])
            for block, count in zip(blocks, counts, strict=True)
        ]
        return self.population.take(np.concatenate(picked))

    def _grown(self, rows: int, rng: np.random.Generator) -> Population:
        """The population and variations of it, every image varied about as often."""
        parts, left = [self.population], rows - len(self.population)
        estimate = getattr(self.api, "estimate", None)
        if estimate is not None:
            # A warning, as dpforge-sample shows nothing less, and these images cost money.
            _log.warning("%s", estimate(0, left))
        # The run's folder counts requests and keeps answers, so the cap holds and nothing is paid for twice.
        run = None if self._first is None else self._first.parents[2]
        self.api.prepare(self.schema.classes, self.device, run)
        while left > 0:
            source = self._subset(min(left, len(self.population)), rng)
            parts.append(varied(self.api, source, self.degree, rng))
            left -= len(source)
        return together(parts)

    def save(self, folder: Path) -> None:
        """Write the population; side information as bytes with its type."""
        info = np.ascontiguousarray(self.population.info)
        tensors = {
            "pixels": torch.from_numpy(np.ascontiguousarray(self.population.pixels)),
            "labels": torch.from_numpy(self.population.labels),
            "info": torch.from_numpy(np.frombuffer(info.tobytes(), dtype=np.uint8).copy()),
        }
        described = np.lib.format.dtype_to_descr(info.dtype)
        save_model(folder, tensors, {"degree": self.degree, "info": described}, self.schema)


def load_evolution(folder: Path, api: ImageAPI) -> FittedEvolution:
    """Read back a population; raises ``RunError`` if it is damaged or none."""
    tensors, arrays, schema = load_any_model(folder)
    if not isinstance(schema, ImageSchema):
        raise RunError(f"the model in {folder.name} makes tables, not images.")
    kind = np.lib.format.descr_to_dtype(_as_descr(arrays["info"]))
    if kind.hasobject:
        raise RunError(f"the model in {folder.name} is damaged: side information of type {kind}.")
    info = np.frombuffer(tensors["info"].numpy().tobytes(), dtype=kind)
    population = Population(tensors["pixels"].numpy(), tensors["labels"].numpy(), info)
    first = sample_file(folder.parent / "samples", 0)
    return FittedEvolution(schema, population, api, float(arrays["degree"]), first=first)


def _as_descr(value: Any) -> Any:
    """Undo what JSON does to the description of a structured type: tuples come back as lists."""
    return value if isinstance(value, str) else [tuple(entry) for entry in value]


def fitted_to(pixels: np.ndarray, schema: ImageSchema) -> np.ndarray:
    """Bring images to the size and channels of the schema: uint8 ``(n, h, w, c)``, averaged when smaller."""
    pixels = with_channels(pixels, schema.channels)
    if pixels.shape[1:3] == (schema.height, schema.width):
        return pixels
    out = np.empty((len(pixels), *schema.shape), dtype=np.uint8)
    for start in range(0, len(pixels), CHUNK):
        part = slice(start, start + CHUNK)
        out[part] = to_pixels(resize(to_unit(pixels[part]), (schema.height, schema.width)))
    return out
