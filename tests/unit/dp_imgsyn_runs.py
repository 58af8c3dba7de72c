"""Small runs of DP-ImgSyn on images of 8 × 8 pixels, for its tests."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from contract.harness import KEY, Record, Replay

from dpforge.data import ImageDataset, Images, ImageSchema
from dpforge.generators.base import RunContext, Runtime
from dpforge.generators.dp_imgsyn.generator import DPImgSyn
from dpforge.generators.dp_imgsyn.settings import (
    StatisticsSettings,
    StudentSettings,
    SynthesisSettings,
    TeacherSettings,
)
from dpforge.privacy.ledger import Ledger
from dpforge.privacy.rng import KeyedRandom
from dpforge.privacy.spec import PrivacySpec

SCHEMA = ImageSchema("tiny", 40, 8, 8, 1, ("a", "b", "c"))
SPEC = PrivacySpec()


def noise_images(rows, seed=0, shape=(8, 8, 1), classes=3):
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (rows, *shape), dtype=np.uint8)
    return Images(pixels, rng.integers(0, classes, rows))


@dataclass(frozen=True)
class PublicNoise:
    """A public set of images of noise."""

    modality: ClassVar[str] = "image"
    name: str = "noise"
    rows: int = 30
    holdout_fraction: float = 0.2

    def load(self):
        images = noise_images(self.rows, seed=9)
        schema = dataclasses.replace(SCHEMA, name=self.name)
        return ImageDataset(schema, images, images.head(0), None, True, "public")


def private_data(rows=40, **changes):
    images = noise_images(rows)
    schema = dataclasses.replace(SCHEMA, **changes)
    return ImageDataset(schema, images, images.head(0), None, False, "private")


SMALL = DPImgSyn(
    teacher=TeacherSettings(width=4, groups=2, steps=4, sampling_rate=0.4, ema=0.5, pretrain_epochs=1),
    synthesis=SynthesisSettings(steps=2, batch_size=7),
    student=StudentSettings(width=4, epochs=3, batch_size=8),
    public=PublicNoise(),
    num_samples=17,
)


def with_parts(model=SMALL, **parts):
    """The model with some settings of its parts changed: ``teacher={"views": 2}``."""
    changed = {
        name: dataclasses.replace(getattr(model, name), **values) if isinstance(values, dict) else values
        for name, values in parts.items()
    }
    return dataclasses.replace(model, **changed)


NO_STATISTICS = with_parts(statistics=StatisticsSettings(kind="off"))


@dataclass
class Outcome:
    """What one fit did."""

    fitted: object
    releases: list
    outputs: list
    ledger: Ledger
    logged: list


def fit(
    model,
    data,
    folder,
    *,
    spec=SPEC,
    replay=None,
    runtime=None,
    stopping=None,
    key=KEY,
    access_kind=Record,
    seed=0,
):
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "ledger.jsonl"
    plan = model.plan(data.schema, spec)
    ledger = Ledger.open(path) if path.exists() else Ledger.create(path, plan, {"rng": spec.rng})
    seen, logged, random = [], [], KeyedRandom("entropy", key)
    access = (
        access_kind(ledger, random, [seen.append])
        if replay is None
        else Replay(ledger, random, [seen.append], replay)
    )
    options = {} if stopping is None else {"stopping": stopping}
    run = RunContext(
        access,
        spec,
        runtime or Runtime(checkpoint_every=2),
        seed,
        folder,
        samples=folder / "samples",
        log=lambda step, values, visibility: logged.append((step, dict(values), visibility)),
        **options,
    )
    fitted = model.fit(data, run)
    return Outcome(fitted, seen, getattr(access, "outputs", []), ledger, logged)
