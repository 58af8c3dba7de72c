"""Small runs of Private Evolution with a public generator of sixteen images."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from contract.harness import KEY

from dpforge.data import ImageDataset, Images, ImageSchema
from dpforge.generators.base import RunContext, Runtime
from dpforge.generators.private_evolution.settings import PrivateEvolution
from dpforge.privacy.ledger import Ledger
from dpforge.privacy.mechanisms import PrivateAccess
from dpforge.privacy.rng import KeyedRandom
from dpforge.privacy.spec import PrivacySpec

SIDE = 4
EXACT = PrivacySpec(enabled=False)


@dataclass(frozen=True)
class Dots:
    """One bright pixel among sixteen; a variation moves it with probability ``degree``."""

    name: str = "dots"
    image_size: tuple[int, int] = (SIDE, SIDE)
    channels: int = 1
    class_aware: bool = False
    max_batch: int = 100
    calls: list[Any] = field(default_factory=list, compare=False)

    def degree_mistakes(self, degrees):
        return [f"degree {d}" for d in degrees if not 0 <= d <= 1]

    def default_degrees(self, iterations):
        return [0.5] * iterations + [0.0]

    def prepare(self, class_names, device, folder=None):
        pass

    def draw(self, info):
        images = np.zeros((len(info), SIDE * SIDE, 3), dtype=np.uint8)
        images[np.arange(len(info)), info] = 255
        return images.reshape(-1, SIDE, SIDE, 3)

    def random(self, labels, rng):
        self.calls.append(("random", len(labels)))
        info = rng.integers(SIDE * SIDE, size=len(labels))
        return self.draw(info), info

    def variation(self, images, info, degree, rng):
        self.calls.append(("variation", len(info)))
        assert np.array_equal(self.draw(info), images)
        moved = rng.random(len(info)) < degree
        info = np.where(moved, rng.integers(SIDE * SIDE, size=len(info)), info)
        return self.draw(info), info

    def describe(self):
        return {"name": self.name}


def model(**settings):
    small = {"num_samples_schedule": 60, "num_iterations": 3, "lookahead_degree": 1, "save_grid": False}
    return PrivateEvolution(Dots(), **{**small, **settings})


def schema_of(classes=("a", "b", "c"), rows=300):
    return ImageSchema("dots", rows, SIDE, SIDE, 1, tuple(classes))


def dataset(schema, rows=300, seed=0, where=None):
    rng = np.random.default_rng(seed)
    labels = rng.integers(schema.num_classes, size=rows)
    places = rng.integers(SIDE * SIDE, size=rows) if where is None else where[labels]
    images = Images(Dots().draw(places)[..., :1], labels)
    return ImageDataset(schema, images, images.head(0), None, True, "fingerprint")


def context(folder, plan, spec, key=KEY, **options):
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "ledger.jsonl"
    ledger = Ledger.open(path) if path.exists() else Ledger.create(path, plan, {"rng": spec.rng})
    (folder / "checkpoints").mkdir(exist_ok=True)
    access = PrivateAccess(ledger, KeyedRandom("entropy", key))
    samples = folder / "samples"
    return RunContext(access, spec, Runtime(), 0, folder / "checkpoints", samples=samples, **options)


def fit(settings, data, folder, spec=EXACT, **options):
    run = context(folder, settings.plan(data.schema, spec), spec, **options)
    return settings.fit(data, run)


def files(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
