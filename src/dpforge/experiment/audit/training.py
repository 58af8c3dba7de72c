"""Canaries in DP-SGD: made-up units whose gradient lies in a coordinate that only the auditor uses.

The private network gets one more layer, of one weight a canary. The loss of a canary is a multiple of its
weight, so its gradient is a Dirac of norm far above the clip; it is sampled, clipped, summed, noised and
normalised by the same code as the gradient of any unit. Nothing of it reaches the generator's own weights.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dpforge.errors import ConfigError, Interrupted
from dpforge.experiment.audit.door import Enough, audit_context
from dpforge.experiment.audit.evidence import Channel, Evidence
from dpforge.experiment.audit.madeup import madeup_data
from dpforge.generators import training
from dpforge.generators.base import RunContext, Runtime
from dpforge.generators.training import TrainingData
from dpforge.privacy.batches import Tensors
from dpforge.privacy.dpsgd import PrivateModule
from dpforge.privacy.plan import Plan
from dpforge.privacy.spec import PrivacySpec

# Where generators hold the loop; others of this package are found once they are imported.
_HOMES = ("gan_training", "dp_maf", "tabular_argn", "dp_imgsyn.teacher")
GAIN = 10.0
ROWS = 32


class CanaryModule(PrivateModule):
    """A module with the auditor's layer beside its private network.

    Args:
        inner: The generator's module; it learns as it would alone.
        canaries: Number of the auditor's coordinates.
        gain: Norm of a canary's gradient before clipping.
        normalizer: Public constant that the noisy sum is divided by.
    """

    def __init__(self, inner: PrivateModule, canaries: int, gain: float, normalizer: float) -> None:
        super().__init__()
        self.inner, self._gain, self._normalizer = inner, gain, normalizer
        self._slots = nn.Linear(canaries, 1, bias=False)
        self._whole = nn.ModuleDict({"net": inner.private_net(), "slots": self._slots})
        self.seen: list[np.ndarray] = []

    def per_example_loss(self, batch: Tensors) -> Tensor:
        """Loss ``(B,)`` of ordinary rows as it is; of a canary, ``gain`` times its own weight."""
        *tensors, marks = batch
        losses = self.inner.per_example_loss(tuple(tensors))
        ordinary = (marks == 0).all(1)
        return torch.where(ordinary, losses, 0 * losses) + self._gain * self._slots(marks).squeeze(1)

    def private_net(self) -> nn.Module:
        """The generator's private network and the auditor's layer."""
        return self._whole

    def configure_optimizers(self) -> Any:
        """The generator's; the auditor's weights never change."""
        return self.inner.configure_optimizers()

    def learning_rate(self, step: int) -> float | None:
        """The generator's."""
        return self.inner.learning_rate(step)

    def before_step(self, step: int) -> None:
        """The generator's."""
        self.inner.before_step(step)

    def after_step(self, step: int) -> None:
        """Keep the released sum at the auditor's coordinates; then the generator's."""
        gradient = self._slots.weight.grad
        if gradient is not None:
            self.seen.append(gradient.detach().cpu().double().numpy().reshape(-1) * self._normalizer)
        self.inner.after_step(step)


@dataclass
class TrainingAuditor:
    """Stands in for :func:`dpforge.generators.training.train` during one fit.

    Args:
        signs: What each canary's coin became: 1, -1 (present with the opposite gradient) or 0 (absent).
        steps: Steps after which training may end.
    """

    signs: np.ndarray
    steps: int
    module: CanaryModule | None = None

    def train(self, module: PrivateModule, data: TrainingData, run: RunContext, **settings: Any) -> None:
        """Train with the canaries added to the units; always ends the fit."""
        limit = int(settings.get("row_limit", 1))
        gain = GAIN * run.spec.max_grad_norm
        audited = CanaryModule(module, len(self.signs), gain, float(settings["expected_rows"]))
        self.module = audited
        watched = replace(run, stopping=lambda: len(audited.seen) >= self.steps)
        try:
            training.train(audited, with_canaries(data, self.signs, limit), watched, **settings)
        except Interrupted:
            if len(audited.seen) < self.steps:
                raise
        raise Enough


def with_canaries(data: TrainingData, signs: np.ndarray, row_limit: int = 1) -> TrainingData:
    """Append a unit for every sign that is not 0, of ``row_limit`` rows, and a tensor that marks the rows.

    Args:
        data: At least one row; a canary's other tensors are those of the first, and count for nothing.
        signs: Int ``(m,)``.
        row_limit: Most rows of a unit; each is clipped to its share.
    """
    present = np.flatnonzero(signs)
    slots = np.repeat(present, row_limit)
    marks = torch.zeros(data.rows + len(slots), len(signs))
    marks[data.rows + np.arange(len(slots)), slots] = torch.from_numpy(signs[slots]).float()

    def gather(rows: Tensor, step: int) -> Tensors:
        tensors = data.gather(torch.where(rows < data.rows, rows, 0), step)
        return (*tensors, marks[rows].to(tensors[0].device))

    units = None
    if data.units is not None:
        first = int(data.units.max(initial=-1)) + 1
        units = np.concatenate([data.units, np.repeat(first + np.arange(len(present)), row_limit)])
    return TrainingData(gather, data.rows + len(slots), units)


@contextmanager
def standing_in(auditor: TrainingAuditor) -> Iterator[None]:
    """Let every generator call the auditor's training instead of the common one, while the block runs."""
    for home in _HOMES:
        importlib.import_module(f"dpforge.generators.{home}")
    original = training.train
    homes = [
        module
        for name, module in list(sys.modules.items())
        if name.startswith("dpforge.") and module is not training and vars(module).get("train") is original
    ]
    for module in homes:
        setattr(module, "train", auditor.train)  # noqa: B010 - a name of the module, unknown to its type
    try:
        yield
    finally:
        for module in homes:
            setattr(module, "train", original)  # noqa: B010


def audit_training(
    model: Any,
    schema: Any,
    plan: Plan,
    spec: PrivacySpec,
    runtime: Runtime,
    *,
    name: str,
    canaries: int,
    steps: int,
    rng: np.random.Generator,
) -> Evidence:
    """Run the first ``steps`` DP-SGD steps of a configuration on made-up rows and canaries.

    Args:
        model: A generator that trains with DP-SGD.
        schema: Its public schema.
        plan: What the configuration may spend; its noise is audited.
        spec, runtime: As of the run; progress is not shown.
        name: Piece of the plan.
        canaries: Coordinates of the auditor.
        steps: At most the steps of the plan.
        rng: Draws the coins and the made-up rows.

    Raises:
        ConfigError: The generator ended without training.
    """
    coins = rng.random(canaries) < 0.5
    replaced = plan.relation == "replace"
    auditor = TrainingAuditor(np.where(coins, 1, -1 if replaced else 0), steps)
    quiet = replace(runtime, progress=False, checkpoint_every=max(steps, 10**6))
    with audit_context(schema, plan, spec, quiet) as (access, run), standing_in(auditor):
        with suppress(Enough):
            model.fit(madeup_data(schema, ROWS, rng), run)
        scale = access.declared(name)
    if auditor.module is None or not auditor.module.seen:
        raise ConfigError(
            f"{type(model).__name__} ended without a step of '{name}'; there is nothing to audit."
        )
    piece, clip = plan.piece(name), spec.max_grad_norm
    channel = Channel(clip, -clip if replaced else 0.0, scale, piece.sampling_rate)
    seen = auditor.module.seen[:steps]
    return Evidence("DP-SGD steps", (name,), len(seen), coins, seen, [channel] * len(seen))
