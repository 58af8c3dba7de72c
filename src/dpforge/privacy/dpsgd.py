"""DP-SGD for Lightning modules: one callback makes the training of a :class:`PrivateModule` private.

A module says what its per-example loss is and which submodule private data touches. Without the callback
the same code minimises the mean loss.

References:
    Abadi et al., *Deep Learning with Differential Privacy* (CCS 2016), algorithm 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, cast

import lightning as L
import torch
from torch import Tensor, nn

from dpforge.errors import ConfigError, PrivacyError
from dpforge.nets.masked import MaskedLinear
from dpforge.privacy.batches import PoissonSteps, StepBatch, Tensors, microbatches, row_count
from dpforge.privacy.engines import ClippedSum, Engine, make_engine
from dpforge.privacy.mechanisms import PrivateAccess
from dpforge.privacy.norms import check_layer, kept_entries
from dpforge.privacy.spec import replace_factor


class GradientEstimator(Protocol):
    """Fills ``.grad`` of the private network for one logical step and returns the mean loss (private)."""

    def __call__(self, module: PrivateModule, batch: StepBatch) -> float:
        """Estimate the gradient on ``batch``."""
        ...


class MeanGradient:
    """Gradient of the mean loss, without privacy."""

    def __init__(self, microbatch: int | None = None) -> None:
        self.microbatch = microbatch

    def __call__(self, module: PrivateModule, batch: StepBatch) -> float:
        """See :class:`GradientEstimator`."""
        for parameter in module.private_net().parameters():
            parameter.grad = None
        rows, total = row_count(batch.tensors), 0.0
        for part in microbatches(batch.tensors, self.microbatch):
            losses = module.per_example_loss(part)
            module.manual_backward(losses.sum() / rows)
            total += float(losses.detach().sum())
        return total / rows if rows else float("nan")


class DPGradient:
    """Noisy clipped sum over a constant normaliser: one noise draw a logical step, whatever the microbatch.

    Args:
        access: Reserves the step and adds its noise.
        name: Piece of the plan.
        engine: Computes clipped sums of ``net``.
        net: The private network. Entries under a mask have gradient 0 and get no noise.
        clip: Per-row clipping norm.
        normalizer: Public constant, expected number of rows in a batch.
        microbatch: Rows per forward pass; bounds memory only.
    """

    def __init__(
        self,
        access: PrivateAccess,
        name: str,
        engine: Engine,
        net: nn.Module,
        *,
        clip: float,
        normalizer: float,
        microbatch: int | None = None,
    ) -> None:
        self.access, self.name, self.engine = access, name, engine
        self.clip, self.normalizer, self.microbatch = clip, normalizer, microbatch
        self._net, self._parameters = net, list(net.parameters())
        self._masks: list[Tensor] = []
        self._kept: list[Tensor | None] = []

    def __call__(self, module: PrivateModule, batch: StepBatch) -> float:
        """See :class:`GradientEstimator`."""
        total = self.clipped_sum(module, batch.tensors)
        self.access.reserve(self.name, batch.step + 1, clip=self.clip, normalizer=self.normalizer)
        self._find_kept()
        sums = zip(total.gradients, self._kept, strict=True)
        parts = [g if kept is None else g.view(-1)[kept] for g, kept in sums]
        noisy = self.access.gaussian_sum(self.name, batch.step, parts)
        for parameter, g, kept, part in zip(
            self._parameters, total.gradients, self._kept, noisy, strict=True
        ):
            released = part if kept is None else g.view(-1).index_copy_(0, kept, part).view_as(g)
            parameter.grad = released.div_(self.normalizer)
        rows = total.losses.numel()
        return float(total.losses.sum()) / rows if rows else float("nan")

    def _find_kept(self) -> None:
        """Find the entries outside the masks again if a mask is another one: masks are public."""
        masks = [layer.mask for layer in self._net.modules() if isinstance(layer, MaskedLinear)]
        same = len(masks) == len(self._masks) and all(a is b for a, b in zip(masks, self._masks, strict=True))
        if not self._kept or not same:
            self._masks, self._kept = masks, kept_entries(self._net)

    def clipped_sum(self, module: PrivateModule, tensors: Tensors) -> ClippedSum:
        """Return the clipped sum of the whole logical batch, accumulated over microbatches."""
        gradients = [torch.zeros_like(p) for p in self._parameters]
        losses = []
        for part in microbatches(tensors, self.microbatch):
            one = self.engine.clipped_sum(module.per_example_loss, part, self.clip)
            for gradient, addend in zip(gradients, one.gradients, strict=True):
                gradient.add_(addend)
            losses.append(one.losses)
        return ClippedSum(gradients, torch.cat(losses) if losses else torch.zeros(0))


class PrivateModule(L.LightningModule):
    """A Lightning module whose training can be made private by :class:`DPSGDCallback`.

    Subclasses implement :meth:`per_example_loss`, :meth:`private_net` and ``configure_optimizers``; they
    never mention privacy.
    """

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.estimate_gradient: GradientEstimator = MeanGradient()
        self.last_loss = float("nan")

    def per_example_loss(self, batch: Tensors) -> Tensor:
        """Return the loss ``(B,)`` of each row of ``batch``; rows must not influence each other."""
        raise TypeError(f"{type(self).__name__} has no per_example_loss")

    def private_net(self) -> nn.Module:
        """Return the submodule whose parameters are trained on private rows."""
        raise TypeError(f"{type(self).__name__} has no private_net")

    def learning_rate(self, step: int) -> float | None:
        """Return the learning rate of a step from a fixed schedule, or ``None`` to leave the optimiser's."""
        return None

    def before_step(self, step: int) -> None:
        """Prepare the network for a step from public randomness (for example an order of the columns)."""

    @property
    def finished(self) -> bool:
        """Whether training should end before its last step; without privacy only."""
        return False

    def after_step(self, step: int) -> None:
        """Post-process the released parameters after each step (for example an average of weights)."""

    def training_step(self, batch: StepBatch, batch_idx: int) -> None:
        """Take one optimiser step on one logical batch."""
        self.before_step(batch.step)
        self.last_loss = self.estimate_gradient(self, batch)
        optimizer = cast(Any, self.optimizers())
        rate = self.learning_rate(batch.step)
        if rate is not None:
            for group in optimizer.param_groups:
                group["lr"] = rate
        optimizer.step()
        self.after_step(batch.step)


class DPSGDCallback(L.Callback):
    """Makes the training of a :class:`PrivateModule` differentially private.

    Args:
        access: The run's access to private data; its plan holds noise multiplier, rate and steps.
        name: Piece of the plan.
        normalizer: Expected rows in a batch, from configuration: sampling rate times nominal rows.
        max_grad_norm: Clipping norm C of one unit, over all parameters of the private network together.
        rows_per_unit: Most rows a unit may have; each row is clipped to C / rows_per_unit.
        engine: ``ghost`` or ``hooks``.
        microbatch: Rows per forward pass.

    Raises:
        ConfigError: A trainer option that would break the guarantee.
        PrivacyError: A module or loader that cannot be made private.
    """

    def __init__(
        self,
        access: PrivateAccess,
        *,
        normalizer: float,
        max_grad_norm: float,
        name: str = "train",
        rows_per_unit: int = 1,
        engine: str = "ghost",
        microbatch: int | None = None,
    ) -> None:
        self.access, self.name, self.engine_name = access, name, engine
        self.normalizer, self.max_grad_norm = normalizer, max_grad_norm
        self.rows_per_unit, self.microbatch = rows_per_unit, microbatch
        self._engine: Engine | None = None

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Check trainer and module, then replace the module's gradient estimator."""
        if not isinstance(pl_module, PrivateModule):
            raise PrivacyError(f"{type(pl_module).__name__} is not a PrivateModule: no per-example loss.")
        check_trainer(trainer)
        self._check_sensitivity()
        _check_only_private(pl_module)
        # TF32 would round the sums that were clipped in float32.
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
        net = pl_module.private_net()
        self._engine = make_engine(self.engine_name, net)
        pl_module.estimate_gradient = DPGradient(
            self.access,
            self.name,
            self._engine,
            net,
            clip=self.max_grad_norm / self.rows_per_unit,
            normalizer=self.normalizer,
            microbatch=self.microbatch,
        )

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Check that batches are Poisson samples at the authorised rate."""
        steps = getattr(trainer.train_dataloader, "dataset", trainer.train_dataloader)
        if not isinstance(steps, PoissonSteps):
            raise PrivacyError(f"DP-SGD is accounted for Poisson batches; got {type(steps).__name__}.")
        sampler, planned = steps.sampler, self.access.piece(self.name).sampling_rate
        if sampler.sampling_rate != planned:
            raise PrivacyError(f"sampling_rate={sampler.sampling_rate}: the plan authorises {planned}.")
        if sampler.random.key_id != self.access.random.key_id:
            raise PrivacyError("the sampler draws from another key than the noise: its batches may be known.")

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Give the module back as it was."""
        self._detach(pl_module)

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        """Give the module back as it was."""
        self._detach(pl_module)

    def _detach(self, module: L.LightningModule) -> None:
        if self._engine is not None:
            self._engine.close()
            self._engine = None
            cast(PrivateModule, module).estimate_gradient = MeanGradient(self.microbatch)

    def _check_sensitivity(self) -> None:
        ledger = self.access.ledger
        most = ledger.header.get("unit", {}).get("max_rows") or 1
        if self.rows_per_unit < most:
            raise PrivacyError(f"rows_per_unit={self.rows_per_unit}: a unit may have {most} rows.")
        declared, relation = self.access.piece(self.name).sensitivity, ledger.plan.relation
        needed = self.max_grad_norm * replace_factor(relation, histogram=False)
        if declared < needed:
            raise PrivacyError(
                f"the plan declares sensitivity {declared} for '{self.name}'; clipping to"
                f" {self.max_grad_norm} under {relation} needs {needed}."
            )


def _check_only_private(module: PrivateModule) -> None:
    inside = {id(parameter) for parameter in module.private_net().parameters()}
    outside = [name for name, p in module.named_parameters() if id(p) not in inside and p.requires_grad]
    if outside:
        raise PrivacyError(f"parameters outside private_net() would be trained without noise: {outside[:5]}.")
    for layer in module.modules():
        check_layer(layer)


def check_trainer(trainer: L.Trainer) -> None:
    """Refuse trainer options that would break DP-SGD.

    Raises:
        ConfigError: With every offending option.
    """
    wrong: Sequence[tuple[bool, str]] = (
        (
            trainer.gradient_clip_val is not None,
            f"gradient_clip_val={trainer.gradient_clip_val}: clipping is per row",
        ),
        (
            trainer.max_epochs not in (1, -1),
            f"max_epochs={trainer.max_epochs}: expected 1, a step occurs once",
        ),
        (
            trainer.accumulate_grad_batches != 1,
            f"accumulate_grad_batches={trainer.accumulate_grad_batches}: expected 1",
        ),
        (trainer.num_devices * trainer.num_nodes != 1, "more than one device: a private run has one"),
        (
            trainer.precision not in ("32-true", "32", 32, "64-true"),
            f"precision={trainer.precision}: expected 32-true",
        ),
    )
    mistakes = [text for bad, text in wrong if bad]
    if mistakes:
        raise ConfigError(mistakes)
