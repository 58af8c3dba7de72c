"""Training of any generator and critic on any private records; what all uses of the GAN share."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor, nn

from dpforge.data import ImageDataset
from dpforge.generators.base import RunContext
from dpforge.generators.gan_module import GANModule, NoiseFunction, seeded
from dpforge.generators.gan_records import Records
from dpforge.generators.gan_settings import GANSettings
from dpforge.generators.training import TrainingData, train
from dpforge.privacy.batches import Tensors

CLASSES = "class_counts"


@dataclass(frozen=True)
class Networks:
    """A generator, its critic, and the noise that the generator takes."""

    generator: nn.Module
    critic: nn.Module
    noise: NoiseFunction

    def fresh(self, seed: int) -> Networks:
        """Return copies whose layers have drawn their weights again, as the public ``seed`` says."""
        generator, critic = copy.deepcopy(self.generator), copy.deepcopy(self.critic)
        with seeded(seed):
            for layer in (*generator.modules(), *critic.modules()):
                reset = getattr(layer, "reset_parameters", None)
                if callable(reset):
                    reset()
        return Networks(generator, critic, self.noise)


@dataclass(frozen=True)
class Sampling:
    """How records come into batches.

    Args:
        rate: Poisson sampling rate q over units.
        steps: Critic steps T.
        expected_rows: Public normaliser, q times nominal rows.
        row_limit: Most rows of a unit.
        units: Unit of each row, sorted, or None.
    """

    rate: float
    steps: int
    expected_rows: float
    row_limit: int = 1
    units: np.ndarray | None = None


def train_gan(
    networks: Networks,
    records: Records,
    settings: GANSettings,
    sampling: Sampling,
    run: RunContext,
    class_mass: np.ndarray | None = None,
) -> nn.Module:
    """Train the critic on Poisson batches and the generator on the critic; return the released generator.

    Args:
        networks: Trained in place.
        records: Private records.
        settings: How to train.
        sampling: Rate, number of steps, normaliser.
        run: Access, runtime, checkpoints, logging.
        class_mass: Probability of each class in generator steps; None without classes.
    """
    module = GANModule(
        networks.generator,
        networks.critic,
        networks.noise,
        settings,
        run.access.random,
        class_mass,
        run.runtime.device,
        run.log,
        run.spec.max_grad_norm,
    )

    def gather(rows: Tensor, step: int) -> Tensors:
        labels = None if records.labels is None else records.labels[rows]
        return (records.real(rows), *module.companions(rows.numel(), labels, step))

    train(
        module,
        TrainingData(gather, len(records), sampling.units),
        run,
        sampling_rate=sampling.rate,
        steps=sampling.steps,
        expected_rows=sampling.expected_rows,
        row_limit=sampling.row_limit,
    )
    networks.critic.cpu()
    return module.released_generator()


def class_mass(
    data: ImageDataset, run: RunContext, prior: str, frequencies: Sequence[float] | None
) -> np.ndarray:
    """Return the probability of each class of samples; ``prior: dp_counts`` releases noisy counts for it."""
    classes = data.schema.num_classes
    if prior == "dp_counts":
        counts = np.bincount(data.train.labels, minlength=classes)
        noisy = run.access.histograms(CLASSES, [counts], [1.0])[0].clip(min=0)
        return noisy / noisy.sum() if noisy.sum() > 0 else np.full(classes, 1 / classes)
    weights = np.asarray(frequencies or [1.0] * classes, dtype=np.float64)
    return weights / weights.sum()
