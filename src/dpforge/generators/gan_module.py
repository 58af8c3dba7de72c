"""The Lightning module of a GAN whose critic alone sees private records.

The loss of a record is that of the record and of a fake paired with it, so that both are clipped together.
Generator steps, weight constraints and averages read released weights only.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dpforge.errors import ConfigError
from dpforge.generators.gan_penalty import CriticTwin, slope_penalty
from dpforge.generators.gan_settings import (
    FAKE_MEDIAN,
    SCALE_EVERY,
    SCALE_PAIRS,
    CriticSchedule,
    GANSettings,
    constrain,
)
from dpforge.privacy.batches import Tensors
from dpforge.privacy.dpsgd import PrivateModule
from dpforge.privacy.rng import KeyedRandom

STATISTICS_BATCHES, STATISTICS_ROWS = 20, 256

NoiseFunction = Callable[[int], Tensor]
Log = Callable[[int, Mapping[str, float], str], None]


class GANModule(PrivateModule):
    """Critic steps on private records paired with fakes; generator steps in between.

    The generator, its average and its optimiser are no submodules: nothing of theirs is trained on private
    records. They travel in the extra state of checkpoints.

    Args:
        generator, critic: Any modules; the critic's layers need per-example gradients.
        noise: ``n -> noise`` of ``n`` fakes, from torch's generator.
        settings: How to train.
        random: Keyed streams, one a step.
        class_mass: Probability of each class in generator steps, or None without classes.
        device: Where both networks live.
        clip: Clipping norm of a record, which ``loss_scale: fake_median`` aims at.
        log: Receives the generator's loss, a function of released values.
    """

    def __init__(
        self,
        generator: nn.Module,
        critic: nn.Module,
        noise: NoiseFunction,
        settings: GANSettings,
        random: KeyedRandom,
        class_mass: np.ndarray | None = None,
        device: str = "cpu",
        log: Log | None = None,
        clip: float = 1.0,
    ) -> None:
        super().__init__()
        self.critic, self.settings = critic, settings
        self._noise, self._random, self._class_mass, self._log = noise, random, class_mass, log
        generator = generator.to(device)
        average = copy.deepcopy(generator).requires_grad_(False) if settings.generator.ema else None
        self._public: tuple[nn.Module, nn.Module | None] = (generator, average)
        self._optimizer = settings.make_optimizer(
            list(generator.parameters()), settings.generator.learning_rate
        )
        self._schedule = CriticSchedule(settings.n_critics, settings.adaptive)
        self._device, self._pool = torch.device(device), torch.zeros(0)
        constrain(critic, settings)
        scaled = settings.loss_scale == FAKE_MEDIAN
        self._clip, self._scale = clip, 1.0 if scaled else float(settings.loss_scale)
        self._twin = CriticTwin(critic, self._device) if scaled or settings.penalty_weight else None

    @property
    def _per_class(self) -> int:
        """Fakes of each class in the pool; of all together without classes."""
        classes = 1 if self._class_mass is None else len(self._class_mass)
        return -(-self.settings.pool // classes)

    def partners(self, rows: int, labels: Tensor | None, step: int) -> Tensor:
        """Return the place in the pool of each record's fake, int64 ``(rows,)``: independent uniform draws.

        They come from the secret key and with replacement, so that the records which stay are paired alike
        whether or not another one is there.
        """
        drawn = self._random.generator("train/partners", step).integers(self._per_class, size=rows)
        places = torch.from_numpy(drawn)
        return places if labels is None else places + self._per_class * labels

    def before_step(self, step: int) -> None:
        """Draw the pool of fakes of a critic step."""
        generator, rows = self._public[0], self._per_class
        labels = None
        if self._class_mass is not None:
            labels = torch.arange(len(self._class_mass), device=self._device).repeat_interleave(rows)
            rows = len(labels)
        with self._seeded("train/fakes", step), torch.no_grad():
            self._pool = called(generator, self._noise(rows).to(self._device), labels)
        if self._twin is not None:
            self._twin.follow(self.critic)
            if self.settings.loss_scale == FAKE_MEDIAN and step % SCALE_EVERY == 0:
                self._scale = self._clip / max(self._fake_norm(self._twin, step), 1e-6)

    def _fake_norm(self, twin: CriticTwin, step: int) -> float:
        """Median gradient norm of pairs of two fakes: a function of released weights and of drawn fakes."""
        stream = self._random.generator("train/scale", step)
        drawn = stream.integers([[len(self._pool)], [self._per_class]], size=(2, SCALE_PAIRS))
        first, second = torch.from_numpy(drawn).to(self._device)
        labels = None if self._class_mass is None else first // self._per_class
        places = second if labels is None else second + self._per_class * labels
        mixes = torch.from_numpy(stream.random(SCALE_PAIRS)).float().to(self._device)
        batch = (self._pool[first], *self._beside(places, labels, mixes))
        return twin.median_norm(lambda net: self._losses(net, batch))

    def companions(self, rows: int, labels: Tensor | None, step: int) -> Tensors:
        """Return what goes with each record: its partner and, where there are any, class and mixing weight.

        Mixing weights are independent and uniform, and come from the secret key as partners do.
        """
        mixes = torch.from_numpy(self._random.generator("train/mixes", step).random(rows)).float()
        return self._beside(self.partners(rows, labels, step), labels, mixes)

    def _beside(self, places: Tensor, labels: Tensor | None, mixes: Tensor) -> Tensors:
        more = [labels] if labels is not None else []
        return (places, *more, mixes) if self.settings.penalty_weight else (places, *more)

    def per_example_loss(self, batch: Tensors) -> Tensor:
        """Loss ``(B,)`` of records ``batch[0]`` with what :meth:`companions` gave them."""
        return self._scale * self._losses(self.critic, batch)

    def _losses(self, critic: nn.Module, batch: Tensors) -> Tensor:
        real, fakes = batch[0], self._pool[batch[1]]
        labels = None if self._class_mass is None else batch[2]
        losses = self.settings.critic_losses(score(critic, fakes, labels), score(critic, real, labels))
        if self._twin is None or not self.settings.penalty_weight:
            return losses
        mixes = batch[-1].view(-1, *[1] * (real.dim() - 1))
        points = fakes + mixes * (real - fakes)
        return losses + self.settings.penalty_weight * slope_penalty(
            critic, self._twin, points, labels, score
        )

    def private_net(self) -> nn.Module:
        """The critic."""
        return self.critic

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """The critic's optimiser."""
        rate = self.settings.critic.learning_rate
        return self.settings.make_optimizer(list(self.critic.parameters()), rate)

    def learning_rate(self, step: int) -> float:
        """Of the critic: constant, or falling linearly to zero."""
        return self.settings.critic.rate(step)

    def after_step(self, step: int) -> None:
        """Constrain the released critic; after every ``n_critics`` steps train the generator on it."""
        constrain(self.critic, self.settings)
        if self._schedule.due():
            self._generator_step(step)

    def _generator_step(self, step: int) -> None:
        (generator, average), rows = self._public, self.settings.generator_rows
        with self._seeded("train/generator", step), warnings.catch_warnings():
            # An engine that watches the critic's layers warns of inputs without a gradient: the labels.
            warnings.filterwarnings("ignore", message="Full backward hook is firing")
            labels = self._drawn_labels(rows, step)
            fakes = called(generator, self._noise(rows).to(self._device), labels)
            found = score(self.critic, fakes, labels)
            loss = self.settings.generator_loss(found)
            self._optimizer.zero_grad()
            loss.backward()
        for group in self._optimizer.param_groups:
            group["lr"] = self.settings.generator.rate(step)
        self._optimizer.step()
        self._schedule.saw(float((found < 0).float().mean()))
        if average is not None:
            self.settings.generator.average(average, generator, step)
        if self._log is not None:
            values = {"gan/generator_loss": float(loss.detach()), "gan/n_critics": self._schedule.n_critics}
            self._log(step + 1, values, "dp")

    def _drawn_labels(self, rows: int, step: int) -> Tensor | None:
        if self._class_mass is None:
            return None
        stream = self._random.generator("train/labels", step)
        drawn = stream.choice(len(self._class_mass), size=rows, p=self._class_mass)
        return torch.from_numpy(drawn).to(self._device)

    @contextmanager
    def _seeded(self, purpose: str, step: int) -> Iterator[None]:
        with seeded(int(self._random.generator(purpose, step).integers(2**62)), self._device):
            yield

    def get_extra_state(self) -> dict[str, Any]:
        """Return the state of everything that is trained on released values."""
        generator, average = self._public
        return {
            "generator": generator.state_dict(),
            "average": {} if average is None else average.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "schedule": self._schedule.state(),
            "scale": self._scale,
        }

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Continue from :meth:`get_extra_state`."""
        generator, average = self._public
        generator.load_state_dict(state["generator"])
        if average is not None:
            average.load_state_dict(state["average"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._schedule.restore(state["schedule"])
        self._scale = float(state["scale"])

    def released_generator(self) -> nn.Module:
        """Return the generator to sample from, in evaluation mode: the average if there is one."""
        generator, average = self._public
        released = generator if average is None else average
        if any(isinstance(layer, nn.modules.batchnorm._BatchNorm) for layer in released.modules()):
            self._set_statistics(released)
        return released.cpu().requires_grad_(True).eval()

    def _set_statistics(self, net: nn.Module) -> None:
        """Set the statistics of batch norms to those of the net's own fakes."""
        norms = [m for m in net.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None
        with torch.no_grad():
            for step in range(STATISTICS_BATCHES):
                with self._seeded("statistics", step):
                    labels = self._drawn_labels(STATISTICS_ROWS, step)
                    called(net.train(), self._noise(STATISTICS_ROWS).to(self._device), labels)


@contextmanager
def seeded(seed: int, device: torch.device | None = None) -> Iterator[None]:
    """Seed torch's generators while the block runs, and put them back afterwards."""
    cuda = [device.index or 0] if device is not None and device.type == "cuda" else []
    with torch.random.fork_rng(devices=cuda):
        # torch.manual_seed also queues a seed for every absent device, each time, with a stack trace.
        torch.default_generator.manual_seed(seed)
        if cuda:
            torch.cuda.manual_seed(seed)
        yield


def called(net: nn.Module, x: Tensor, labels: Tensor | None) -> Tensor:
    """Call a network with labels where there are any."""
    return net(x) if labels is None else net(x, labels)


def scores(output: Tensor) -> Tensor:
    """Return a critic's output as ``(B,)``; raises ``ConfigError`` unless it is one number a record.

    The text leaves the first length out: the size of a Poisson batch is private.
    """
    if output.ndim == 0 or output.numel() != output.shape[0]:
        shape = ", ".join(["B", *map(str, output.shape[1:])]) if output.ndim else ""
        raise ConfigError(f"the critic returns shape ({shape}): expected (B,) or (B, 1), one score a record.")
    return output.reshape(-1)


def score(critic: nn.Module, x: Tensor, labels: Tensor | None) -> Tensor:
    """Return the scores ``(B,)`` of records, with their classes where there are any."""
    return scores(called(critic, x, labels))
