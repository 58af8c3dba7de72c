"""DPWGAN: a generative adversarial network whose critic alone sees private records, trained with DP-SGD.

For categorical tables (every column as cells) and for images. The generator learns from the released critic,
so its samples are differentially private; epsilon counts critic steps.

References:
    Xie et al., *Differentially Private Generative Adversarial Network* (2018); Arjovsky, Chintala and Bottou,
    *Wasserstein GAN* (2017); Bie, Kamath and Zhang, *Private GANs, Revisited* (TMLR 2023).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from dpforge.data import Dataset, ImageDataset, ImageSchema, Schema
from dpforge.data.encode.cells import CellCodec
from dpforge.errors import ConfigError
from dpforge.generators.base import RunContext, nominal_units, rows_per_unit
from dpforge.generators.gan_checks import missing_values, modality_mistakes, pace, setting_mistakes
from dpforge.generators.gan_fitted import FittedImageGAN, FittedTableGAN
from dpforge.generators.gan_networks import image_networks, image_size, own_networks, table_networks
from dpforge.generators.gan_records import ImageRecords, OneHotRecords, Records
from dpforge.generators.gan_settings import GANSettings
from dpforge.generators.gan_training import CLASSES, Networks, Sampling, class_mass, train_gan
from dpforge.generators.gan_upstream import UPSTREAM_REASON, train_upstream
from dpforge.generators.optimization import Optimization
from dpforge.generators.storage import load_any_model
from dpforge.privacy.events import NonPrivate
from dpforge.privacy.plan import Piece, Plan, Release, Training, make_plan
from dpforge.privacy.spec import PrivacySpec, replace_factor
from dpforge.privacy.values import protect_values, value_pieces


@dataclass(frozen=True)
class DPWGAN:
    """Settings of a DPWGAN; null takes the value of ``gan_checks`` for tables or images.

    Args:
        mode: ``dp``; or ``upstream``, the arithmetic of the original code, which is NOT DP.
        network: ``auto``, ``categorical_mlp``, ``conv8``, ``conv28``, ``conv32`` or ``conv_pow2``.
        critic: ``auto`` (that of ``network``), ``resnet18_gn``, or a module beside ``generator``.
        generator: A module instead of a built-in one: ``generator(noise)``, with classes
            ``generator(noise, labels)``; its output has the form of the encoded records.
        noise_dim: Width of the standard normal noise, >= 1.
        hidden: Widths of the hidden layers of ``categorical_mlp``.
        width: Channels of the convolutions at full size; 0 for the network's own.
        temperature: Of the Gumbel softmax, > 0.
        conditional: Whether images are made by class; null: if there are classes.
        class_prior: Classes of samples: ``uniform``, ``public`` (``class_frequencies``) or ``dp_counts``
            (released with noise).
        class_frequencies: Public weight of each class, with ``class_prior: public``.
        loss: ``wasserstein`` as published; ``hinge`` or ``logistic``, which learn more under noise.
        loss_scale: Factor of the critic's loss, > 0. Clipping to ``privacy.max_grad_norm`` = C under a scale
            s is clipping to C / s without one; RMSprop and Adam see no difference otherwise.
            ``fake_median``: every 50 steps such that the median pair of two fakes has a gradient of norm C.
        penalty: ``gradient`` adds ``penalty_weight`` times (slope - 1)² between each record and its partner
            to its clipped loss; ``none``.
        constraint: On the critic's weights after each step: ``clamp``, ``spectral`` or ``none``.
        weight_clip: Bound of the constraint, > 0: of each weight (``clamp``; null: 0.1), or of the spectral
            norm of each layer (``spectral``; null: 1).
        n_critics: Critic steps a generator step, >= 1; null on images: by the noise of the plan.
        adaptive_critics: Double ``n_critics`` when the critic takes too many fakes for real.
        steps: Critic steps T, >= 1.
        epochs: Instead of steps: passes over the records, as the original counts them.
        sampling_rate: q in (0, 1]; or null to use ``expected_batch_size / nominal_rows``.
        expected_batch_size: Expected number of units in a batch.
        generator_batch_size: Fakes of a generator step; null: the expected batch.
        optimizer: ``rmsprop`` or ``adam``, of both networks.
        betas: Of Adam.
        critic_learning_rate, generator_learning_rate: > 0.
        lr_decay: Linear decay of both to zero over the steps.
        ema: Decay of an average of the generator's weights in [0, 1); 0 for none.
        prior_share: Default share of the budget for ``dp_counts``.
        sigma: Noise of ``mode: upstream``, as its code takes it; null for none.
        default_bins, discrete_max: Cells of columns without public bins; see ``CellCodec``.

    Raises:
        ConfigError: With every mistake among the values.
    """

    modalities: ClassVar[tuple[str, ...]] = ("table", "image")
    name: ClassVar[str] = "dpwgan"

    mode: str = "dp"
    network: str = "auto"
    critic: Any = "auto"
    generator: Any = None
    noise_dim: int | None = None
    hidden: Sequence[int] = (128,)
    width: int = 0
    temperature: float = 2 / 3
    conditional: bool | None = None
    class_prior: str = "uniform"
    class_frequencies: Sequence[float] | None = None
    loss: str | None = None
    loss_scale: float | str | None = None
    penalty: str = "none"
    penalty_weight: float = 10.0
    constraint: str | None = None
    weight_clip: float | None = None
    n_critics: int | None = None
    adaptive_critics: bool = False
    steps: int | None = None
    epochs: float | None = None
    sampling_rate: float | None = None
    expected_batch_size: float | None = None
    generator_batch_size: int | None = None
    optimizer: str | None = None
    betas: Sequence[float] = (0.0, 0.9)
    critic_learning_rate: float | None = None
    generator_learning_rate: float | None = None
    lr_decay: bool = False
    ema: float = 0.99
    prior_share: float = 0.05
    sigma: float | None = 1.0
    default_bins: int = 32
    discrete_max: int = 128

    def __post_init__(self) -> None:
        mistakes = setting_mistakes(self)
        if mistakes:
            raise ConfigError(mistakes)
        object.__setattr__(self, "hidden", tuple(self.hidden))
        object.__setattr__(self, "betas", tuple(self.betas))

    @property
    def not_dp(self) -> bool:
        """Whether no setting of privacy makes this private."""
        return self.mode == "upstream"

    def resolved(self, schema: Schema | ImageSchema) -> DPWGAN:
        """Return these settings with every null filled in; raises ``ConfigError`` where they do not fit."""
        full = dataclasses.replace(self, **missing_values(self, schema))
        mistakes = modality_mistakes(full, schema)
        if mistakes:
            raise ConfigError(mistakes)
        return full

    def rate(self, schema: Schema | ImageSchema) -> float:
        """Return the sampling rate q, from configuration and public constants."""
        full = self.resolved(schema)
        if full.sampling_rate is not None:
            return float(full.sampling_rate)
        return min(float(full.expected_batch_size or 0) / nominal_units(schema), 1.0)

    def critic_steps(self, schema: Schema | ImageSchema) -> int:
        """Return T; from epochs E: whole rounds of n critic steps in E passes over the nominal rows."""
        full = self.resolved(schema)
        if full.epochs is None:
            return int(full.steps or 1)
        every = int(full.n_critics or 1)
        return max(int(full.epochs / (every * self.rate(schema))) * every, 1)

    def plan(self, schema: Schema | ImageSchema, privacy: PrivacySpec) -> Plan:
        """Class counts if asked for, then DP-SGD on the critic: T events, none for generator steps."""
        full = self.resolved(schema)
        if self.not_dp:
            piece = Piece("train", "none", NonPrivate(), 1, 1.0, UPSTREAM_REASON)
            return Plan((piece,), privacy.delta, privacy.relation, schema.unit.kind)
        releases, shares = [], {"train": 1.0}
        if full.class_prior == "dp_counts":
            rows = rows_per_unit(schema)
            sensitivity = rows * replace_factor(privacy.relation, histogram=True)
            releases = [Release(CLASSES, sensitivity, f"L2: {rows} rows a unit", "rounded_gaussian")]
            shares = {CLASSES: self.prior_share, "train": 1 - self.prior_share}
        reason = f"flat clip to {privacy.max_grad_norm:g} of a unit's loss with that of its paired fakes"
        sensitivity = privacy.max_grad_norm * replace_factor(privacy.relation, histogram=False)
        return make_plan(
            privacy,
            releases=releases,
            training=Training(self.rate(schema), self.critic_steps(schema), reason, sensitivity),
            bricks=value_pieces(schema, privacy.relation) if isinstance(schema, Schema) else (),
            shares=shares,
            unit=schema.unit.kind,
        )

    def fit(self, data: Dataset | ImageDataset, run: RunContext) -> FittedTableGAN | FittedImageGAN:
        """Train critic and generator."""
        full = self.resolved(data.schema)
        if isinstance(data, ImageDataset):
            return full._fit_images(data, run)
        schema, table = protect_values(data.schema, data.train, run.access)
        codec = full._codec(schema)
        networks = full._table_networks(codec, _seed(run))
        records = OneHotRecords(codec.encode(table).codes, codec.sizes)
        trained = full._train(networks, records, data, run, None)
        return FittedTableGAN(trained.generator, trained.noise, codec)

    def _fit_images(self, data: ImageDataset, run: RunContext) -> FittedImageGAN:
        schema, mass = data.schema, None
        if self.conditional:
            mass = class_mass(data, run, self.class_prior, self.class_frequencies)
        networks = self._image_networks(schema, _seed(run))
        records = ImageRecords(data.train, self._size(schema), mass is not None)
        trained = self._train(networks, records, data, run, mass)
        # Images made without regard to class have no labels.
        released = schema if mass is not None else dataclasses.replace(schema, classes=())
        return FittedImageGAN(trained.generator, trained.noise, released, mass)

    def _train(
        self,
        networks: Networks,
        records: Records,
        data: Dataset | ImageDataset,
        run: RunContext,
        mass: np.ndarray | None,
    ) -> Networks:
        schema, steps = data.schema, self.critic_steps(data.schema)
        rate = self.rate(schema)
        batch = max(round(rate * schema.nominal_rows), 1)
        if self.not_dp:
            settings = self.training_settings(batch, steps)
            generator = train_upstream(networks, records, settings, self.sigma, run)
            return dataclasses.replace(networks, generator=generator)
        steps = run.access.piece("train").count if run.spec.enabled else steps
        sampling = Sampling(rate, steps, rate * schema.nominal_rows, rows_per_unit(schema), data.units)
        noise = run.access.piece("train").noise_multiplier or 0.0
        full = dataclasses.replace(self, **pace(self, noise / sampling.expected_rows))
        settings = full.training_settings(batch, steps)
        generator = train_gan(networks, records, settings, sampling, run, mass)
        return dataclasses.replace(networks, generator=generator)

    def training_settings(self, batch: int, steps: int) -> GANSettings:
        """Return how to train ``steps`` critic steps on batches of about ``batch`` rows; no null is left."""
        return GANSettings(
            critic=Optimization(float(self.critic_learning_rate or 0), 0.0, self.lr_decay, 0.0, steps),
            generator=Optimization(
                float(self.generator_learning_rate or 0), 0.0, self.lr_decay, self.ema, steps
            ),
            optimizer=str(self.optimizer),
            betas=(float(self.betas[0]), float(self.betas[1])),
            loss=str(self.loss),
            loss_scale=self.loss_scale or 1.0,
            penalty_weight=self.penalty_weight if self.penalty == "gradient" else 0.0,
            constraint=str(self.constraint),
            weight_clip=float(self.weight_clip or 0),
            n_critics=int(self.n_critics or 1),
            adaptive=self.adaptive_critics,
            generator_rows=self.generator_batch_size or batch,
            pool=batch,
        )

    def _size(self, schema: ImageSchema) -> int:
        if self.generator is not None:
            return max(schema.height, schema.width)
        return image_size(schema, self.network)

    def _image_networks(self, schema: ImageSchema, seed: int) -> Networks:
        classes, noise_dim = schema.num_classes if self.conditional else 0, int(self.noise_dim or 1)
        if self.generator is not None:
            shape = (schema.channels, *[self._size(schema)] * 2)
            return own_networks(self.generator, self.critic, noise_dim, shape, classes, seed)
        return image_networks(schema, self.network, str(self.critic), noise_dim, self.width, classes, seed)

    def _table_networks(self, codec: CellCodec, seed: int) -> Networks:
        noise_dim = int(self.noise_dim or 1)
        if self.generator is not None:
            shape = (sum(codec.sizes),)
            return own_networks(self.generator, self.critic, noise_dim, shape, 0, seed)
        return table_networks(codec, noise_dim, self.hidden, self.temperature, seed)

    def _codec(self, schema: Schema) -> CellCodec:
        return CellCodec(schema, default_bins=self.default_bins, discrete_max=self.discrete_max)

    def load(self, folder: Path) -> FittedTableGAN | FittedImageGAN:
        """Read back a fitted model."""
        tensors, arrays, schema = load_any_model(folder)
        full = self.resolved(schema)
        if isinstance(schema, ImageSchema):
            networks = full._image_networks(schema, 0)
            networks.generator.load_state_dict(tensors)
            mass = arrays["class_mass"]
            given = None if mass is None else np.asarray(mass)
            return FittedImageGAN(networks.generator, networks.noise, schema, given)
        codec = full._codec(schema)
        networks = full._table_networks(codec, 0)
        networks.generator.load_state_dict(tensors)
        return FittedTableGAN(networks.generator, networks.noise, codec)


def _seed(run: RunContext) -> int:
    """Public seed of the first weights."""
    return int(run.random.generator("initialisation").integers(2**31))
