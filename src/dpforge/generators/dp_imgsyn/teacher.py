"""Stage 1: a classifier trained on private images with DP-SGD."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from dpforge.data import ImageDataset, Images, ImageSchema
from dpforge.errors import ConfigError
from dpforge.generators.base import RunContext, rows_per_unit
from dpforge.generators.dp_imgsyn.settings import USUAL_RATE, TeacherSettings, pool_of, stepped
from dpforge.generators.dp_imgsyn.transform import Normalization, random_views
from dpforge.generators.optimization import Optimization
from dpforge.generators.training import TrainingData, train
from dpforge.nets.resnet import classifier
from dpforge.privacy.batches import Tensors
from dpforge.privacy.dpsgd import PrivateModule
from dpforge.privacy.rng import KeyedRandom

PUBLIC_RATE, PUBLIC_BATCH = 2e-3, 128


def teacher_net(settings: TeacherSettings, schema: ImageSchema, seed: int) -> nn.Module:
    """Return an untrained teacher: group normalisation, no layer that mixes images."""
    return classifier(
        settings.arch,
        schema.channels,
        schema.num_classes,
        seed=seed,
        width=settings.width,
        groups=settings.groups,
        activation=settings.activation,
        pool=pool_of(settings, schema.height, schema.width),
    )


class TeacherModule(PrivateModule):
    """Training of a classifier on views of labelled images.

    Args:
        net: All its parameters are trained on private images.
        settings: How to optimise.
        steps: Number of steps that the schedule is made for.
        rate: Sampling rate, which an automatic learning rate depends on.
    """

    def __init__(
        self, net: nn.Module, settings: TeacherSettings, steps: int, rate: float = USUAL_RATE
    ) -> None:
        super().__init__()
        self.net, self.settings = net, settings
        self.optimization = Optimization(
            settings.learning_rate(rate), settings.weight_decay, settings.lr_decay, settings.ema, steps
        )
        self.average = copy.deepcopy(net).requires_grad_(False) if settings.ema else None

    def per_example_loss(self, batch: Tensors) -> Tensor:
        """Mean cross-entropy over the views ``(B, views, C, H, W)`` of each image, in nats, ``(B,)``.

        The network is called once a view: the calls of a layer are clipped as one gradient an image.
        """
        views, labels = batch
        losses = [
            functional.cross_entropy(self.net(views[:, view].contiguous()), labels, reduction="none")
            for view in range(views.shape[1])
        ]
        return torch.stack(losses).mean(0)

    def private_net(self) -> nn.Module:
        """The classifier."""
        return self.net

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """SGD with momentum, or Adam, over all parameters."""
        settings, parameters = self.settings, list(self.net.parameters())
        if settings.optimizer == "adam":
            return torch.optim.Adam(
                parameters, self.optimization.learning_rate, weight_decay=settings.weight_decay
            )
        return torch.optim.SGD(
            parameters,
            self.optimization.learning_rate,
            momentum=settings.momentum,
            weight_decay=settings.weight_decay,
        )

    def learning_rate(self, step: int) -> float:
        """A fixed schedule: a tenth at each milestone, falling to zero if asked for."""
        done = step / self.optimization.steps
        return stepped(self.optimization.rate(step), done, self.settings.milestones)

    def after_step(self, step: int) -> None:
        """Standardise and average the released weights."""
        if self.settings.standardize_weights:
            standardize_filters(self.net)
        if self.average is not None:
            self.optimization.average(self.average, self.net, step)

    def released_net(self) -> nn.Module:
        """The classifier to use: the average if there is one."""
        return (self.net if self.average is None else self.average).cpu().eval().requires_grad_(False)


def standardize_filters(net: nn.Module) -> None:
    """Give every filter of the convolutions mean 0 and Euclidean length 1, in place.

    References:
        Qiao et al., *Micro-Batch Training with Batch-Channel Normalization and Weight Standardization*
        (2019).
    """
    with torch.no_grad():
        for layer in net.modules():
            if isinstance(layer, nn.Conv2d):
                filters = layer.weight.flatten(1)
                centred = filters - filters.mean(1, keepdim=True)
                length = centred.norm(dim=1, keepdim=True).clamp_min(1e-6)
                layer.weight.copy_((centred / length).view_as(layer.weight))


def new_teacher(
    settings: TeacherSettings,
    schema: ImageSchema,
    normalization: Normalization,
    public: Images,
    classes: Sequence[str],
    random: KeyedRandom,
    device: str = "cpu",
) -> nn.Module:
    """Return the teacher before its first private step: random, or trained on public images.

    Args:
        settings: Network; ``pretrain_epochs`` passes over ``public``.
        schema: Private shape and classes.
        normalization: Public constants.
        public: Public images with labels.
        classes: Names of those labels.
        random: Public streams.
        device: Where to train on public images.

    Raises:
        ConfigError: There is something to learn, but the public images have fewer than two classes.
    """
    seed = int(random.generator("initialisation").integers(2**31))
    if not settings.pretrain_epochs:
        return teacher_net(settings, schema, seed)
    if len(classes) < 2:
        raise ConfigError(
            f"model.teacher.pretrain_epochs={settings.pretrain_epochs}: the public images have no classes to"
            " learn. Set it to 0, or choose another model.public."
        )
    own = dataclasses.replace(schema, classes=tuple(classes))
    net = teacher_net(settings, own, seed).to(device).train()
    optimizer, labels = torch.optim.Adam(net.parameters(), PUBLIC_RATE), torch.from_numpy(public.labels)
    for epoch in range(settings.pretrain_epochs):
        order = random.generator("teacher/public", epoch).permutation(len(public))
        for start in range(0, len(order), PUBLIC_BATCH):
            rows = order[start : start + PUBLIC_BATCH]
            x = normalization.normalized(public.pixels[rows]).to(device)
            loss = functional.cross_entropy(net(x), labels[rows].to(device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    net.cpu()
    if own.classes == schema.classes:
        return net
    return _with_new_head(net, teacher_net(settings, schema, seed))


def _with_new_head(trained: nn.Module, fresh: nn.Module) -> nn.Module:
    """Take over all weights but those of the last layer, whose classes are others."""
    known, wanted = trained.state_dict(), fresh.state_dict()
    head = list(wanted)[-2:]
    fresh.load_state_dict({name: wanted[name] if name in head else known[name] for name in wanted})
    return fresh


def train_teacher(
    net: nn.Module,
    settings: TeacherSettings,
    data: ImageDataset,
    normalization: Normalization,
    run: RunContext,
    *,
    sampling_rate: float,
    steps: int,
) -> nn.Module:
    """Train for exactly ``steps`` Poisson batches; return the released network.

    Args:
        net: The teacher before its first private step.
        settings: Optimiser and views.
        data: Private images.
        normalization: Public constants.
        run: Access, runtime, checkpoints.
        sampling_rate: q over units.
        steps: T.
    """
    schema, images = data.schema, data.train
    labels = torch.from_numpy(images.labels)

    def gather(rows: Tensor, step: int) -> Tensors:
        rng = run.access.random.generator("train/views", step)
        pixels = images.pixels[rows.numpy()]
        views = random_views(pixels, rng, views=settings.views, shift=settings.shift, flip=settings.flip)
        x = normalization.normalized(views.reshape(-1, *schema.shape))
        return x.view(*views.shape[:2], *x.shape[1:]), labels[rows]

    module = TeacherModule(net, settings, steps, sampling_rate)
    if settings.standardize_weights:
        standardize_filters(module.net)
    train(
        module,
        TrainingData(gather, len(images), data.units),
        run,
        sampling_rate=sampling_rate,
        steps=steps,
        expected_rows=sampling_rate * schema.nominal_rows,
        row_limit=rows_per_unit(schema),
    )
    return module.released_net()
