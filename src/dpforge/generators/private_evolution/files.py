"""Populations and votes of every iteration on disk, read back without pickles; clean votes in ``private``."""

from __future__ import annotations

import hashlib
import io
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from dpforge.data.image_arrays import read_npz
from dpforge.data.image_files import MAX_BYTES, write_samples
from dpforge.data.images import Images, ImageSchema
from dpforge.data.origin import Origin
from dpforge.errors import RunError
from dpforge.generators.base import RunContext
from dpforge.generators.private_evolution.population import Population
from dpforge.generators.storage import load_state, save_state, write_atomic
from dpforge.privacy.origin import origin_of

GRID_COLUMNS = 10
_log = logging.getLogger("dpforge")


@dataclass
class Progress:
    """What is complete, with the digests of the files that hold it.

    Args:
        folder: ``<run>/samples``.
        class_names: For the files.
        private: ``<run>/private``, readable by its owner only.
        origin: Of the run, for the files.
        clean: Whether votes have no noise, or one that anybody can subtract: they then stay in ``private``.
        iteration: Populations 0 … ``iteration`` are complete; −1 for none.
        digests: SHA-256 of each file by its name below ``folder``.
    """

    folder: Path
    class_names: tuple[str, ...]
    private: Path
    origin: Origin | None = None
    clean: bool = False
    iteration: int = -1
    digests: dict[str, str] = field(default_factory=dict)

    def population(self) -> Population | None:
        """Read back the newest population that is whole; later ones are made again, with the same noise."""
        while self.iteration >= 0:
            name = _samples(self.iteration)
            if _digest(self.folder / name) == self.digests.get(name):
                return load_population(self.folder / name)
            _log.warning("samples/%s is missing or damaged and was ignored; it is made again", name)
            self.iteration -= 1
        return None

    def check_public(self, parts: Mapping[str, Any]) -> None:
        """Record which public generator and embedding a run uses; refuse others when it continues.

        Raises:
            RunError: A font, a model or a pool changed: side information would stand for something else.
        """
        path = self.folder / "public.json"
        text = json.dumps(parts, indent=1, sort_keys=True)
        if self.iteration < 0 or not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(path, text.encode())
        elif path.read_text(encoding="utf-8") != text:
            before = json.loads(path.read_text(encoding="utf-8"))
            changed = ", ".join(name for name in parts if before.get(name) != json.loads(text)[name])
            raise RunError(
                f"the run began with another public {changed} than there is now (samples/public.json). Bring"
                " it back to continue, or use another study=… for a new run."
            )

    def votes(self) -> np.ndarray | None:
        """Read back the noisy votes of the iteration that is under way, if they were released already."""
        name, path = self._votes()
        if name not in self.digests or _digest(path) != self.digests[name]:
            return None
        return read_npz(path, {"count": "count"}, MAX_BYTES)["count"]

    def keep_votes(self, run: RunContext, noisy: np.ndarray, labels: np.ndarray) -> None:
        """Write noisy votes before anything follows from them: their noise is never used for others."""
        name, path = self._votes()
        if self.clean:
            self.private.mkdir(mode=0o700, exist_ok=True)
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700 if self.clean else 0o777)
        write_atomic(path, npz_bytes({"count": noisy, "labels": labels}), private=self.clean)
        self._save(run, name, path)

    def _votes(self) -> tuple[str, Path]:
        """Name among the digests and place of the votes of the next iteration."""
        number = self.iteration + 1
        if self.clean:
            return f"private/votes/{number}", self.private / "votes" / f"{number}.npz"
        return f"{number}/histogram.npz", self.folder / f"{number}/histogram.npz"

    def keep_population(self, run: RunContext, population: Population, *, grid: bool) -> None:
        """Write the population of the next iteration; it is complete from now on."""
        name = _samples(self.iteration + 1)
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        save_population(path, population, self.class_names, self.origin)
        if grid:
            write_atomic(path.parent / "grid.png", grid_png(population, max(1, len(self.class_names))))
        self.iteration += 1
        self._save(run, name, path)

    def _save(self, run: RunContext, name: str, path: Path) -> None:
        self.digests[name] = _digest(path)
        files = [[name, digest] for name, digest in sorted(self.digests.items())]
        save_state(
            run.checkpoints,
            {
                "step": self.iteration,
                "key_id": run.access.random.key_id,
                "module": {"files": files},
                "optimizer": {},
            },
        )


def load_progress(run: RunContext, schema: ImageSchema, *, clean: bool = False) -> Progress:
    """Return where the run stands; a state that was written with another noise key is ignored.

    Args:
        run: Folders, key and ledger.
        schema: Of the synthetic images.
        clean: Whether votes have no noise.
    """
    folder = run.samples if run.samples is not None else run.checkpoints / "samples"
    origin = origin_of(run.access.ledger.header, schema.name)
    begun = Progress(folder, schema.classes, run.checkpoints.parent / "private", origin, clean)
    state = load_state(run.checkpoints)
    if state is None or state["key_id"] != run.access.random.key_id:
        return begun
    digests = {str(name): str(digest) for name, digest in state["module"]["files"]}
    return replace(begun, iteration=int(state["step"]), digests=digests)


def save_population(
    path: Path, population: Population, class_names: Sequence[str], origin: Origin | None = None
) -> None:
    """Write ``samples.npz``: ``samples``, ``labels``, ``class_names``, ``additional_info``, ``origin``."""
    images = Images(population.pixels, population.labels)
    write_samples(path, images, tuple(class_names), {"additional_info": population.info}, origin)


def load_population(path: Path) -> Population:
    """Read back :func:`save_population`; raises ``DataError`` for a file that does not hold one."""
    keys = ("samples", "labels", "additional_info")
    pixels, labels, info = read_npz(path, {key: key for key in keys}, MAX_BYTES).values()
    return Population(pixels, labels.astype(np.int64), info)


def sample_file(folder: Path, iteration: int) -> Path:
    """Return where the population of an iteration lies below ``<run>/samples``."""
    return folder / _samples(iteration)


def npz_bytes(arrays: Mapping[str, np.ndarray]) -> bytes:
    """Return the arrays as an ``npz`` file whose bytes depend on them alone."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **arrays)
    return buffer.getvalue()


def grid_png(population: Population, classes: int) -> bytes:
    """Return a picture of ten images of each class, a class a row (ten rows of ten for one class).

    They stand at equal distances in the population, because neighbours often have one parent.
    """
    blocks = population.blocks(classes)
    shown = GRID_COLUMNS if classes > 1 else GRID_COLUMNS**2
    members = [np.linspace(b.start, b.stop - 1, min(shown, b.stop - b.start)).astype(int) for b in blocks]
    rows = [row[i : i + GRID_COLUMNS] for row in members for i in range(0, len(row), GRID_COLUMNS)]
    height, width = population.pixels.shape[1:3]
    canvas = np.zeros((len(rows) * height, GRID_COLUMNS * width, 3), dtype=np.uint8)
    for row, positions in enumerate(rows):
        for column, member in enumerate(positions):
            place = (slice(row * height, (row + 1) * height), slice(column * width, (column + 1) * width))
            canvas[place] = population.pixels[member]
    buffer = io.BytesIO()
    Image.fromarray(canvas).save(buffer, format="PNG")
    return buffer.getvalue()


def _samples(iteration: int) -> str:
    return f"{iteration}/samples.npz"


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
