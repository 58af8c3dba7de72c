"""Private Evolution as a generator: settings, plan, fit, load."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from dpforge.data import ImageDataset, ImageSchema
from dpforge.errors import ConfigError
from dpforge.generators.base import RunContext
from dpforge.generators.private_evolution import checks
from dpforge.generators.private_evolution.apis.protocol import ImageAPI
from dpforge.generators.private_evolution.budget import evolution_plan
from dpforge.generators.private_evolution.earlier import earlier_pieces
from dpforge.generators.private_evolution.fitted import FittedEvolution, load_evolution
from dpforge.generators.private_evolution.loop import Evolution
from dpforge.generators.private_evolution.population import allocate
from dpforge.generators.private_evolution.upstream import unaccounted
from dpforge.privacy.plan import Plan
from dpforge.privacy.spec import PrivacySpec

# With fewer voters a candidate, noise alone keeps too many; above, the loop gets slow for little.
VOTERS, LEAST_SAMPLES, MOST_SAMPLES = 3, 500, 2000


@dataclass(frozen=True)
class PrivateEvolution:
    """Settings of Private Evolution.

    Args:
        api: The public generator; ``model/api=…`` on the command line.
        num_samples_schedule: Parents chosen at every iteration, or a list n_0 … n_T of them; ``auto`` is a
            third of the nominal number of private images, at least 500 and at most 2,000.
        num_iterations: T, >= 1; each costs one release.
        variation_degree_schedule: ``auto`` (the API's own), one degree for all, or a list v_0 … v_T.
        lookahead_degree: L: a candidate stands where L variations of it are on average; 0 for itself.
        num_nearest_neighbors: k: candidates that each private image votes for, >= 1.
        packing: P: points of each candidate, each with its own L variations, >= 1.
        distance: ``l2``, ``ip`` or ``cosine``.
        threshold: H, taken off the noisy votes, in votes; ``auto`` is sqrt(2) times the noise.
        selection: ``sample``, ``systematic`` or ``rank``.
        initial_variation_fold: Variations of each initial image that join it, >= 0.
        next_variation_fold: Children of each parent, >= 1.
        keep_selected: Whether parents stay beside their children.
        conditional: Whether images are made and votes cast class by class; null: if there are classes.
        class_prior: Share of each class: ``uniform``, ``public`` (``class_fractions``) or ``dp_counts``
            (noisy counts, part of the budget).
        class_fractions: Positive share of each class, a list in the order of the classes or by name.
        embedding: Name of a public feature extractor; see :func:`dpforge.features.extractor`.
        embedding_weights: File or folder with its weights, where the user supplies them.
        noise: ``rounded_gaussian`` (whole votes), ``gaussian``, or ``auto``: rounded where votes are whole;
            ``discrete_gaussian`` on whole votes, which is accounted as zCDP and costs some percent more.
        noise_schedule: sigma_t / sigma for each iteration, a list of T numbers > 0; null for equal noise.
        subsample: Poisson rate of the units that vote in one iteration, in (0, 1].
        initial_samples: A ``samples.npz`` to start from, instead of the API's: of public images, or of a
            finished private run, whose cost then is part of this run's.
        mode: ``dp``; ``upstream`` is the arithmetic of the original command line with its clean counts in
            ``private/upstream``, and NOT DP.
        save_png: Write the final images as ``<label>_<index>.png`` too.
        save_grid: Write a picture of every population.

    The schema's unit decides whose votes are bounded: those of a record, or of a user over all classes.

    Raises:
        ConfigError: With every mistake among the values.

    References:
        Lin et al., *Differentially Private Synthetic Data via Foundation Model APIs 1: Images* (ICLR 2024).
    """

    modalities: ClassVar[tuple[str, ...]] = ("image",)
    name: ClassVar[str] = "private_evolution"

    api: ImageAPI
    num_samples_schedule: str | int | Sequence[int] = "auto"
    num_iterations: int = 5
    variation_degree_schedule: str | float | Sequence[float] = "auto"
    lookahead_degree: int = 4
    num_nearest_neighbors: int = 1
    packing: int = 1
    distance: str = "l2"
    threshold: str | float = "auto"
    selection: str = "systematic"
    initial_variation_fold: int = 0
    next_variation_fold: int = 1
    keep_selected: bool = False
    conditional: bool | None = None
    class_prior: str = "uniform"
    class_fractions: Sequence[float] | Mapping[str, float] | None = None
    embedding: str = "pixels"
    embedding_weights: str | None = None
    noise: str = "auto"
    noise_schedule: Sequence[float] | None = None
    subsample: float = 1.0
    initial_samples: str | None = None
    mode: str = "dp"
    save_png: bool = False
    save_grid: bool = True

    def __post_init__(self) -> None:
        mistakes = checks.mistakes(self)
        if mistakes:
            raise ConfigError(mistakes)

    @property
    def not_dp(self) -> bool:
        """Whether no setting of privacy makes this private."""
        return self.mode == "upstream"

    def public_mistakes(self, dataset: Any) -> list[str]:
        """Return which public images are the private ones, of which ``dataset`` is the source."""
        return checks.public_mistakes(self, dataset)

    def plan(self, schema: ImageSchema, privacy: PrivacySpec) -> Plan:
        """One Gaussian release of all votes an iteration, and one of class counts if they are bought.

        What a run spent whose samples this one starts from comes first.

        Raises:
            ConfigError: Settings that do not fit the classes of the data, or a start that cannot be paid for.
        """
        mistakes = checks.schema_mistakes(self, schema) + self.request_mistakes(schema)
        if mistakes:
            raise ConfigError(mistakes)
        return evolution_plan(
            privacy if self.mode == "dp" else unaccounted(privacy),
            iterations=self.num_iterations,
            sampling_rate=self.subsample,
            schedule=self.noise_schedule,
            class_counts=self.buys_counts(schema),
            unit=schema.unit.kind,
            noise="discrete_gaussian" if self.noise == "discrete_gaussian" else "gaussian",
            earlier=earlier_pieces(self.initial_samples, privacy, schema) if self.mode == "dp" else (),
        )

    def fit(self, data: ImageDataset, run: RunContext) -> FittedEvolution:
        """Evolve the population, from the last saved one if there is one."""
        return Evolution(self, data, run).finish()

    def load(self, folder: Path) -> FittedEvolution:
        """Read back a finished population."""
        return load_evolution(folder, self.api)

    def is_conditional(self, schema: ImageSchema) -> bool:
        """Return whether images are made class by class."""
        return len(schema.classes) > 0 if self.conditional is None else self.conditional

    def released_schema(self, schema: ImageSchema) -> ImageSchema:
        """Return the schema of the synthetic images: without classes if none are made."""
        return schema if self.is_conditional(schema) else replace(schema, classes=())

    def buys_counts(self, schema: ImageSchema) -> bool:
        """Return whether noisy class counts are released."""
        return self.class_prior == "dp_counts" and self.released_schema(schema).num_classes > 1

    def sizes(self, nominal_rows: int = MOST_SAMPLES * VOTERS) -> list[int]:
        """Return n_0 … n_T; ``auto`` follows from the public number of private images."""
        value = self.num_samples_schedule
        if isinstance(value, str):
            value = min(max(nominal_rows // VOTERS, LEAST_SAMPLES), MOST_SAMPLES)
        return [value] * (self.num_iterations + 1) if isinstance(value, int) else [int(n) for n in value]

    def degrees(self) -> list[float]:
        """Return v_0 … v_T."""
        value, count = self.variation_degree_schedule, self.num_iterations + 1
        if isinstance(value, str):
            return [float(v) for v in self.api.default_degrees(self.num_iterations)]
        return [float(value)] * count if isinstance(value, int | float) else [float(v) for v in value]

    def growth(self) -> int:
        """Return the images of the next population for each parent."""
        return self.next_variation_fold + int(self.keep_selected)

    def api_images(self, nominal_rows: int = MOST_SAMPLES * VOTERS) -> tuple[int, int]:
        """Return how many images the API will draw, and how many it will vary, lookahead included."""
        sizes, first = self.sizes(nominal_rows), self.initial_variation_fold
        candidates = [sizes[0] * (1 + first), *(size * self.growth() for size in sizes[1:])]
        varied = sizes[0] * first + sum(sizes[1:]) * self.next_variation_fold
        ahead = sum(candidates[:-1]) * self.lookahead_degree * self.packing
        return 0 if self.initial_samples is not None else sizes[0], varied + ahead

    def request_mistakes(self, schema: ImageSchema) -> list[str]:
        """Return why the API cannot make all images of a run, where it counts requests; makes no call."""
        counting = getattr(self.api, "request_mistakes", None)
        return [] if counting is None else list(counting(*self.api_images(schema.nominal_rows)))

    def public_shares(self, schema: ImageSchema) -> np.ndarray:
        """Return the share of each class that is known without the data, ``(K,)``."""
        classes = self.released_schema(schema).classes
        fractions = self.class_fractions
        if self.class_prior != "public" or fractions is None or not classes:
            return np.full(max(1, len(classes)), 1 / max(1, len(classes)))
        if isinstance(fractions, Mapping):
            fractions = [fractions[name] for name in classes]
        values = [float(value) for value in fractions]
        return np.asarray(values) / math.fsum(values)

    def block_sizes(self, iteration: int, shares: np.ndarray, nominal_rows: int) -> np.ndarray:
        """Return the images of each class that S_0 is drawn with, or the parents of an iteration."""
        return allocate(self.sizes(nominal_rows)[iteration], shares)

    def whole_votes(self, schema: ImageSchema) -> bool:
        """Return whether noisy votes are rounded to whole numbers, as the votes of records are."""
        if self.mode == "upstream":
            return False
        return self.noise != "gaussian" and self.num_nearest_neighbors == 1 and schema.unit.kind != "user"
