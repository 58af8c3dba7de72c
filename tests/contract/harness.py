"""Runs a generator on neighbouring tables or image sets and records everything that passes its only door."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy import stats

from dpforge.config import compose
from dpforge.data import Dataset, ImageDataset, Images, ImageSchema
from dpforge.data.schema import Schema, schema_from_dict
from dpforge.data.table import conform
from dpforge.errors import ConfigError
from dpforge.generators.base import RunContext, Runtime
from dpforge.privacy.events import EpsilonDelta
from dpforge.privacy.ledger import Ledger
from dpforge.privacy.mechanisms import Observation, PrivateAccess
from dpforge.privacy.plan import Plan
from dpforge.privacy.rng import KeyedRandom
from dpforge.privacy.spec import PrivacySpec

KEY = bytes(range(32))
# From noisy scores or counts to the output.
Follows = Callable[[np.ndarray], Any]
SMALL = {
    "steps": 6,
    "hidden": (8, 8),
    "expected_batch_size": None,
    "sampling_rate": 0.3,
    "ema": 0.5,
    "max_rounds": 2,
    "iterations": 20,
    "round_iterations": 5,
    "compress_sigmas": 0.0,
    "n_critics": 2,
    "num_samples_schedule": 12,
    "num_iterations": 3,
}
# Of models whose settings are nested.
PUBLIC = {"name": "font_digits", "rows": 40, "image_size": 8}
NESTED = {
    "teacher": {"width": 4, "groups": 2, "steps": 6, "sampling_rate": 0.3, "ema": 0.5},
    "student": {"width": 4, "epochs": 1},
}
IMAGES = ImageSchema("contract", 100, 8, 8, 1, ("0", "1", "2"))


def public(**extra: Any) -> dict[str, Any]:
    return {"provenance": "public", **extra}


NUMBERS = {
    "age": {"kind": "integer", "bounds": public(min=18, max=90)},
    "income": {"kind": "numeric", "bounds": public(min=0, max=1000), "granularity": 0.5},
    "hours": {"kind": "integer", "bounds": public(min=0, max=9999), "special_values": [0]},
}
MIXED = {
    **NUMBERS,
    "income": {**NUMBERS["income"], "nullable": True},
    "city": {"kind": "categorical", "categories": public(values=["a", "b", "c", "d"]), "nullable": True},
    "day": {"kind": "datetime", "bounds": public(min="2020-01-01", max="2020-12-31"), "resolution": "day"},
    "answer": {"kind": "categorical", "categories": public(values=["no", "yes"])},
}


def private(**extra: Any) -> dict[str, Any]:
    return {"provenance": "private", "epsilon": 0.2, **extra}


# Every mechanism that buys what a schema does not state; of ``code`` there are nearly as many as rows.
BOUGHT = {
    "age": {"kind": "integer", "bounds": private(method="quantile", outer=[0, 120])},
    "income": {
        **MIXED["income"],
        "bounds": private(method="log_histogram", outer=[-5000, 5000], granularity=0.5),
    },
    "hours": {**NUMBERS["hours"], "bins": {"dp_quantile": 4, "epsilon": 0.2}},
    "city": {"kind": "categorical", "categories": private(delta=1e-6), "nullable": True},
    "code": {"kind": "categorical", "categories": private(delta=1e-6, max_values=5, public_values=["k7"])},
}


def schema_of(columns: dict[str, Any], **options: Any) -> Schema:
    return schema_from_dict(
        {"schema_version": 1, "name": "contract", "nominal_rows": 100, "columns": columns, **options}
    )


def raw_table(rows: int, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "age": rng.integers(18, 91, rows),
            "income": rng.uniform(0, 1000, rows).round(),
            "hours": rng.choice([0, 10, 5000], rows),
            "city": rng.choice(["a", "b", "c"], rows).astype(str),
            "day": pd.Timestamp("2020-03-01") + pd.to_timedelta(rng.integers(0, 200, rows), unit="D"),
            "answer": rng.choice(["no", "yes"], rows).astype(str),
            "code": [f"k{number}" for number in rng.integers(0, 900, rows)],
        }
    )


COPY = "copy of the first"
TARGETS: dict[str, dict[str, Any]] = {
    "in range": {},
    "far out of range": {"age": 10**9, "income": -1e300, "hours": -(10**9)},
    "missing": {"income": np.nan, "city": None},
    "infinite": {"income": np.inf},
    "unseen": {"city": "atlantis"},
    "duplicate": {COPY: True},
    # Nobody else is at the end of a range, in this city, or of this class of images.
    "only holder": {"age": 90, "income": 0.0, "hours": 9999, "city": "d"},
}


VARIANTS = {
    "tabular_argn in any order": {"column_order": "random", "size": "S", "dropout": 0.1, "ema": 0.0},
    "dpwgan on images": {"class_prior": "dp_counts"},
    "private_evolution with bought counts": {"class_prior": "dp_counts", "num_nearest_neighbors": 2},
    "private_evolution with sampled voters": {"subsample": 0.5},
    "dp_imgsyn with sampled statistics": {
        "statistics": {"kind": "poisson", "steps": 3, "sampling_rate": 0.5, "noise_multiplier": 5.0}
    },
    "dp_maf_seed on released moments": {"transform": "dp_standardize"},
    # Fewer sigmas than a model's own three, which would leave so few records in one cell a column.
    "mst with merged cells": {"compress_sigmas": 1.0},
    "aim with merged cells": {"compress_sigmas": 1.0},
    "independent with laplace": {"noise": "laplace"},
    "independent on bought values": {},
}
# What is not accounted for where a record is replaced, with what the refusal says.
NOT_REPLACED = {
    "independent on bought values": "row-level add_remove",
    "private_evolution with sampled voters": "accounted for add_remove and zero_out only",
}


def model_of(name: str) -> Any:
    """The generator of ``conf/model/<name>.yaml``."""
    from hydra.utils import instantiate

    node = compose([f"model={name.split()[0]}", "dataset=toy"]).model
    if "api" in node:
        node.api.image_size, node.api.system_fonts = [8, 8], False
    return instantiate(node, _convert_="all")


def small_model(name: str) -> Any:
    """The same, or a variant of it, with few steps and narrow layers."""
    model = model_of(name)
    names = {f.name for f in dataclasses.fields(model)}
    small = {key: value for key, value in SMALL.items() if key in names}
    for key in NESTED.keys() & names:
        small[key] = dataclasses.replace(getattr(model, key), **NESTED[key])
    if {"public", "num_samples"} <= names:
        small |= {"public": PUBLIC, "num_samples": 20}
    for key, value in VARIANTS.get(name, {}).items():
        nested = isinstance(value, dict)
        small[key] = dataclasses.replace(getattr(model, key), **value) if nested else value
    return dataclasses.replace(model, **small)


def buys_values(name: str) -> bool:
    """Whether a variant's schema leaves values private."""
    return name.endswith("on bought values")


def schema_for(model: Any, name: str = "") -> Any:
    """Images for a model of them; else the mixed schema, or numbers only if a model takes nothing else."""
    if "table" not in model.modalities or name.endswith("on images"):
        return IMAGES
    if buys_values(name):
        return schema_of(BOUGHT, rows={"policy": "noisy", "epsilon": 0.2})
    try:
        model.plan(schema_of(MIXED), PrivacySpec())
    except ConfigError:
        return schema_of(NUMBERS)
    return schema_of(MIXED)


def table_for(schema: Any, rows: int, target: dict[str, Any] | None = None, seed: int = 0) -> Any:
    """A typed table, or images, whose last record is the target."""
    if isinstance(schema, ImageSchema):
        return images_for(schema, rows, target, seed)
    raw = raw_table(rows, seed)
    if target and rows:
        raw = raw.astype(object)
        cells = dict(raw.loc[0]) if COPY in target else target
        for column, value in cells.items():
            raw.loc[rows - 1, column] = value
    return conform(raw[list(schema.names)], schema)


def images_for(schema: ImageSchema, rows: int, target: dict[str, Any] | None, seed: int = 0) -> Images:
    """Noise images; of a target in range the last is noise too, of any other it is all black or white.

    A duplicate is the first image again; the only holder is the only one of the last class.
    """
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (rows, *schema.shape)).astype(np.uint8)
    labels = rng.integers(0, schema.num_classes, rows)
    if not target or not rows:
        return Images(pixels, labels)
    if COPY in target:
        pixels[-1], labels[-1] = pixels[0], labels[0]
        return Images(pixels, labels)
    if target is TARGETS["only holder"]:
        labels %= schema.num_classes - 1
    pixels[-1], labels[-1] = 255 * (len(target) % 2), schema.num_classes - 1
    return Images(pixels, labels)


def without_last(table: Any, rows: int = 1) -> Any:
    """The table or images without the last ``rows`` records."""
    return table.head(len(table) - rows)


class Replay(PrivateAccess):
    """Returns the outputs of an earlier run whatever the values are, so that both runs stay on one path."""

    def __init__(self, ledger: Ledger, random: KeyedRandom, observers: Any, outputs: list[Any]) -> None:
        super().__init__(ledger, random, observers)
        self._outputs = list(outputs)

    def _next(self, kind: type) -> Any:
        assert self._outputs, "more releases than in the run that is replayed"
        output = self._outputs.pop(0)
        assert isinstance(output, kind), "other releases than in the run that is replayed"
        return output

    def gaussian(self, name: str, value: Any, **details: Any) -> Any:
        super().gaussian(name, value, **details)
        return self._next(np.ndarray)

    def histograms(self, *arguments: Any, **details: Any) -> Any:
        super().histograms(*arguments, **details)
        return self._next(list)

    def choose(self, *arguments: Any, **details: Any) -> int:
        super().choose(*arguments, **details)
        return self._next(int)

    def measure(self, name: str, counts: Any, *arguments: Any, **details: Any) -> Any:
        super().measure(name, counts, *arguments, **details)
        output = self._next(tuple)
        shapes = [[np.shape(part) for part in parts] for parts in (output[0], counts)]
        assert shapes[0] == shapes[1], "a release of another shape than in the run that is replayed"
        return output

    def gaussian_sum(self, name: str, step: int, parts: Any) -> Any:
        super().gaussian_sum(name, step, parts)
        return [output.clone() for output in self._next(list)]

    def quantile(self, *arguments: Any) -> float:
        super().quantile(*arguments)
        return self._next(float)

    def split(self, *arguments: Any) -> Any:
        super().split(*arguments)
        return self._next(list)

    def categories(self, *arguments: Any) -> Any:
        super().categories(*arguments)
        return self._next(list)

    def log_histogram(self, *arguments: Any) -> Any:
        super().log_histogram(*arguments)
        return self._next(np.ndarray)


class Record(PrivateAccess):
    """Remembers the outputs of every release, and the weights of what was released as one vector.

    ``follows`` holds, for every release whose output is no noisy vector, what that output must be.
    """

    def __init__(self, ledger: Ledger, random: KeyedRandom, observers: Any) -> None:
        super().__init__(ledger, random, observers)
        self.outputs: list[Any] = []
        self.weights: list[Any] = []
        self.follows: list[Follows | None] = []

    def _keep(self, output: Any, weights: Any = None, follows: Follows | None = None) -> Any:
        self.outputs.append(output)
        self.weights.append(weights)
        self.follows.append(follows)
        return output

    def gaussian(self, name: str, value: Any, **details: Any) -> Any:
        return self._keep(super().gaussian(name, value, **details))

    def histograms(self, name: str, counts: Any, weights: Any, **details: Any) -> Any:
        return self._keep(super().histograms(name, counts, weights, **details), weights)

    def choose(self, name: str, scores: Any, *, allowed: Any = None, **details: Any) -> int:
        among = [i for i in range(len(scores)) if allowed is None or allowed(i)]
        output = super().choose(name, scores, allowed=allowed, **details)
        return self._keep(output, follows=lambda noisy: max(among, key=lambda i: noisy[i]))

    def quantile(self, name: str, step: int, column: Any, grid: Any, level: float) -> float:
        output = super().quantile(name, step, column, grid, level)
        return self._keep(output, follows=lambda noisy: float(grid[np.argmax(noisy)]))

    def split(self, name: str, step: int, groups: Any) -> Any:
        places = [group.candidates for group in groups]

        def largest(noisy: np.ndarray) -> list[float]:
            parts = np.split(noisy, np.cumsum([len(part) for part in places])[:-1]) if places else []
            return [float(part[np.argmax(scores)]) for part, scores in zip(places, parts, strict=True)]

        return self._keep(super().split(name, step, groups), follows=largest)

    def categories(self, name: str, values: Any, always: Any, limit: int | None) -> Any:
        event = self.piece(name).event
        names = sorted(set(values))

        def common(noisy: np.ndarray) -> list[str]:
            ranked = sorted(zip(noisy, names, strict=True), reverse=True)
            if isinstance(event, EpsilonDelta):
                # A value of one unit is at least the threshold t with the probability of noise >= t - 1.
                ranked = [(n, v) for n, v in ranked if stats.dlaplace.sf(n - 2, event.epsilon) <= event.delta]
            return sorted({value for _, value in ranked[:limit]} | set(always))

        return self._keep(super().categories(name, values, always, limit), follows=common)

    def log_histogram(self, *arguments: Any) -> Any:
        return self._keep(super().log_histogram(*arguments))

    def measure(self, name: str, counts: Any, weights: Any = (1.0,), **details: Any) -> Any:
        return self._keep(super().measure(name, counts, weights, **details), weights)

    def gaussian_sum(self, name: str, step: int, parts: Any) -> Any:
        noisy = super().gaussian_sum(name, step, parts)
        self._keep([part.clone() for part in noisy])
        return noisy


@dataclass(frozen=True)
class Draw:
    """One opening of a stream: for what, and whether the use was on disk by then."""

    purpose: str
    step: int
    reserved: bool

    @property
    def is_noise(self) -> bool:
        """Whether it hides private values."""
        return "/noise" in self.purpose


@dataclass(frozen=True, repr=False)
class Watched(KeyedRandom):
    """Keyed streams that note each draw and what the ledger's file said at that moment."""

    ledger: Path = Path()
    draws: list[Draw] = field(default_factory=list)

    def _note(self, purpose: str, step: int) -> None:
        piece = purpose.split("/noise")[0]
        lines = [json.loads(line) for line in self.ledger.read_text().splitlines()]
        mine = [line for line in lines if line.get("piece") == piece]
        uses = sum(line["count"] for line in mine if line["kind"] == "reserve")
        adaptive = any(line["mechanism"] == "adaptive" for line in mine if line["kind"] == "reserve")
        done = step in [line["step"] for line in mine if line["kind"] == "spend"] if adaptive else step < uses
        self.draws.append(Draw(purpose, step, done))

    def uniform(self, purpose: str, step: int, size: int) -> np.ndarray:
        self._note(purpose, step)
        return super().uniform(purpose, step, size)

    def normal(self, purpose: str, step: int, size: int) -> torch.Tensor:
        self._note(purpose, step)
        return super().normal(purpose, step, size)

    def normal_double(self, purpose: str, step: int, size: int) -> np.ndarray:
        self._note(purpose, step)
        return super().normal_double(purpose, step, size)


@dataclass
class Trace:
    """What one fit did."""

    plan: Plan
    ledger: Ledger
    releases: list[Observation] = field(default_factory=list)
    outputs: list[Any] = field(default_factory=list)
    weights: list[Any] = field(default_factory=list)
    follows: list[Follows | None] = field(default_factory=list)
    draws: list[Draw] = field(default_factory=list)
    fitted: Any = None

    @property
    def chooses(self) -> bool:
        """Whether released values decide what is measured next."""
        return any(piece.mechanism in ("exponential", "adaptive") for piece in self.plan.pieces)

    def spends(self, name: str) -> list[dict[str, Any]]:
        """The uses inside an adaptive piece, as the ledger states them."""
        return [r for r in self.ledger._records if r["kind"] == "spend" and r["piece"] == name]


def fit(
    model: Any,
    schema: Any,
    table: Any,
    folder: Path,
    *,
    spec: PrivacySpec | None = None,
    replay: list[Any] | None = None,
    runtime: Runtime | None = None,
    key: bytes = KEY,
    units: np.ndarray | None = None,
) -> Trace:
    """Fit in ``folder`` with recorded releases; with ``replay`` the outputs are those of another run."""
    folder.mkdir(parents=True, exist_ok=True)
    spec = spec or PrivacySpec()
    plan = model.plan(schema, spec)
    ledger = Ledger.create(folder / "ledger.jsonl", plan, {"rng": spec.rng})
    trace = Trace(plan, ledger)
    random = Watched("entropy", key, ledger.path, trace.draws)
    observers = [trace.releases.append]
    access = (
        Record(ledger, random, observers) if replay is None else Replay(ledger, random, observers, replay)
    )
    kind: Any = ImageDataset if isinstance(schema, ImageSchema) else Dataset
    data = kind(schema, table, table.head(0), units, False, "fingerprint")
    samples = folder / "samples"
    samples.mkdir(exist_ok=True)
    run = RunContext(access, spec, runtime or Runtime(), 0, folder, samples=samples)
    torch.manual_seed(0)
    trace.fitted = model.fit(data, run)
    if isinstance(access, Record):
        trace.outputs, trace.weights, trace.follows = access.outputs, access.weights, access.follows
    return trace
