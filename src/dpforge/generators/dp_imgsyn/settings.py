"""Settings of the four stages; mistakes among them are found together by ``checks``."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

FACTOR = 0.1  # of the learning rate at each milestone
POOLED_SIDE, ADAM_LR = 8, 2e-3
# Chosen on 1,437 images of MNIST at 8 × 8 pixels and on all of it at 28 × 28; see TeacherSettings.
LEAST_BATCH, USUAL_RATE, USUAL_STEPS, USUAL_LR = 360, 0.05, 100, 1.0


def stepped(rate: float, done: float, milestones: Sequence[float]) -> float:
    """Return the learning rate after the share ``done`` of a training, a tenth at each milestone passed."""
    return rate * FACTOR ** sum(done >= milestone for milestone in milestones)


def automatic_rate(nominal_units: float) -> float:
    """Return a sampling rate for about so many units: 0.05, and more where that is a batch below 360."""
    return min(1.0, max(USUAL_RATE, LEAST_BATCH / nominal_units))


def automatic_steps(rate: float) -> int:
    """Return 100 steps for batches of a twentieth; fewer, but with more records in all, for larger ones."""
    return math.ceil(USUAL_STEPS * min(1.0, USUAL_RATE / rate) ** (2 / 3) - 1e-9)


def automatic_lr(rate: float) -> float:
    """Return a learning rate of SGD: 1 for batches of a twentieth, less for larger ones of fewer records."""
    return USUAL_LR * min(1.0, USUAL_RATE / rate)


def pool_of(settings: TeacherSettings | StudentSettings, height: int, width: int) -> int:
    """Return how many pixels a side a network averages first."""
    if settings.pool is not None:
        return settings.pool
    return max(1, min(height, width) // POOLED_SIDE) if settings.arch == "small_cnn" else 1


@dataclass(frozen=True)
class TeacherSettings:
    """The classifier that is trained on private images.

    Args:
        arch: ``small_cnn``, ``resnet9`` or ``resnet18``; group normalisation throughout.
        width: Channels of the first layer; null for 16 (``small_cnn``) or 64.
        pool: Average squares of so many pixels a side first; null leaves ``small_cnn`` 8 or more a side, and
            is 1 for the others.
        groups: Of the normalisation; null for 8 (``small_cnn``) or 32.
        activation: ``tanh`` or ``relu``.
        steps: Steps T of DP-SGD, >= 1.
        epochs: T = epochs · ⌈1/q⌉ instead, rounded up. Null for both: :func:`automatic_steps`.
        sampling_rate: q in (0, 1].
        expected_batch_size: q = this / ``nominal_rows`` instead. Null for both: :func:`automatic_rate`. A
            small set gets few steps with a large share of its images: the noise of a step is then small.
        optimizer: ``sgd`` (with ``momentum``) or ``adam``.
        lr: Of the optimiser; null for :func:`automatic_lr` (``sgd``) or 0.002 (``adam``).
        momentum, weight_decay: Of the optimiser.
        milestones: Shares of the steps after which the learning rate falls to a tenth.
        lr_decay: Linear decay to zero, beside the milestones.
        ema: Decay of an average of the released weights in [0, 1); 0 for none.
        standardize_weights: Give every filter of a convolution mean 0 and fixed length after each step. Done
            to released weights, so it costs nothing.
        views: Augmented views of each image inside its one clipped gradient, >= 1.
        shift: Views are moved by up to so many pixels, black moving in.
        flip: Half of the views are mirrored.
        pretrain_epochs: Passes over the public images and their own classes before any private image is seen,
            >= 0. If the classes have the names of the private ones, the last layer is kept.

    References:
        Papernot et al., *Tempered Sigmoid Activations for Deep Learning with Differential Privacy* (2020); De
        et al., *Unlocking High-Accuracy Differentially Private Image Classification through Scale* (2022).
    """

    arch: str = "small_cnn"
    width: int | None = None
    pool: int | None = None
    groups: int | None = None
    activation: str = "tanh"
    steps: int | None = None
    epochs: float | None = None
    sampling_rate: float | None = None
    expected_batch_size: float | None = None
    optimizer: str = "sgd"
    lr: float | None = None
    momentum: float = 0.9
    weight_decay: float = 0.0
    milestones: Sequence[float] = ()
    lr_decay: bool = True
    ema: float = 0.0
    standardize_weights: bool = False
    views: int = 1
    shift: int = 0
    flip: bool = False
    pretrain_epochs: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "milestones", tuple(self.milestones))

    def rate(self, nominal_units: float) -> float:
        """Return the sampling rate q for about so many units."""
        if self.sampling_rate is not None:
            return float(self.sampling_rate)
        if self.expected_batch_size is None:
            return automatic_rate(nominal_units)
        return min(float(self.expected_batch_size) / nominal_units, 1.0)

    def count(self, rate: float) -> int:
        """Return the steps T; of epochs E, E times the batches that a pass over the nominal rows takes."""
        if self.steps is not None:
            return self.steps
        if self.epochs is None:
            return automatic_steps(rate)
        return math.ceil(float(self.epochs) * math.ceil(1 / rate - 1e-9))

    def learning_rate(self, rate: float) -> float:
        """Return the learning rate before any decay, given the sampling rate."""
        if self.lr is not None:
            return self.lr
        return ADAM_LR if self.optimizer == "adam" else automatic_lr(rate)


@dataclass(frozen=True)
class StatisticsSettings:
    """The one release of the moments of the private set in the teacher's layers.

    Args:
        kind: ``once``; ``poisson``, the average of ``steps`` releases over Poisson samples, which is dearer
            and there for comparison; ``off`` (images follow the teacher's labels alone); ``upstream``, the
            original's recorder, which adds no noise and is NOT DP.
        noise_multiplier: σ_s; ``auto`` takes ``share`` of the budget, or 20 beside a given
            ``privacy.noise_multiplier``.
        share: Share of the budget of squared mu, in (0, 1), where the noise is automatic.
        radius: Clipping norm R of a standardised record, > 0; ``auto`` is the 0.95 quantile over public
            images.
        count_weight: κ/R > 0; the coordinate that counts records.
        layers: ``all``, or the numbers of normalisation layers from 0. Fewer mean less noise in each.
        steps, sampling_rate: Of ``poisson``: releases >= 1 and their rate in (0, 1].
    """

    kind: str = "once"
    noise_multiplier: str | float = "auto"
    share: float = 0.1
    radius: str | float = "auto"
    count_weight: float = 0.1
    layers: str | Sequence[int] = "all"
    steps: int = 20
    sampling_rate: float = 0.05

    def __post_init__(self) -> None:
        if not isinstance(self.layers, str):
            object.__setattr__(self, "layers", tuple(self.layers))

    @property
    def samples(self) -> tuple[float, int]:
        """Sampling rate and number of the releases."""
        return (float(self.sampling_rate), self.steps) if self.kind == "poisson" else (1.0, 1)


@dataclass(frozen=True)
class SynthesisSettings:
    """How public images are optimised; reads released values only.

    Args:
        steps: Steps k of Adam on a batch, >= 0; 0 leaves the public images as they are.
        batch_size: Images optimised together; null for 8 a class.
        lr: In normalised units a step.
        statistics_weight, ce_weight, tv_weight, l2_weight: Of the terms of the loss, >= 0.
        jitter: Roll images by up to an eighth of their sides before each look at them.
        flip: Mirror them with probability 1/2; wrong for digits and letters.
        augment_per_image: Other draws for each image; otherwise one for the batch.
        keep: ``last`` iterate, or the ``best`` by its loss.
    """

    steps: int = 1
    batch_size: int | None = None
    lr: float = 0.1
    statistics_weight: float = 10.0
    ce_weight: float = 1.0
    tv_weight: float = 2.5e-5
    l2_weight: float = 3e-8
    jitter: bool = True
    flip: bool = False
    augment_per_image: bool = True
    keep: str = "last"


@dataclass(frozen=True)
class StudentSettings:
    """The classifier that is trained on released images and the teacher's soft labels.

    Args:
        arch: ``small_cnn``, ``resnet9`` or ``resnet18``; batch normalisation.
        width: Channels of the first layer; null for 16 (``small_cnn``) or 64.
        pool: Average squares of so many pixels a side first; null leaves ``small_cnn`` 8 or more a side, and
            is 1 for the others.
        temperature: T > 0 of both softmaxes. The larger it is, the nearer to a regression on logits, which
            diverges at a large learning rate when the teacher's logits are large; published is 100.
        alpha: Weight of T² KL(teacher ‖ student), >= 0.
        beta: Weight of the cross-entropy with the teacher's most likely class, >= 0.
        lr, momentum, weight_decay: Of SGD.
        epochs: Passes over the images, >= 1.
        batch_size: Images a step, >= 2.
        milestones: Shares of the epochs after which the learning rate falls to a tenth.
        lr_decay: Linear decay to zero, epoch by epoch, beside the milestones.
        shift: Images are moved by up to so many pixels, black moving in.
        flip: Half of them are mirrored.
        mix: Learn from random mixtures of two (moved, mirrored) images each, which the released teacher
            labels anew. Otherwise from its labels of the images as they are.

    References:
        Hinton, Vinyals and Dean, *Distilling the Knowledge in a Neural Network* (2015); Beyer et al.,
        *Knowledge Distillation: A Good Teacher Is Patient and Consistent* (CVPR 2022).
    """

    arch: str = "small_cnn"
    width: int | None = None
    pool: int | None = None
    temperature: float = 20.0
    alpha: float = 1.0
    beta: float = 0.0
    lr: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 1e-4
    epochs: int = 40
    batch_size: int = 64
    milestones: Sequence[float] = ()
    lr_decay: bool = True
    shift: int = 0
    flip: bool = False
    mix: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "milestones", tuple(self.milestones))
