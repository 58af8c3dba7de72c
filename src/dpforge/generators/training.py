"""One training loop for every :class:`PrivateModule`: Poisson steps, checkpoints, exact resume."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import lightning as L
import numpy as np
from torch import Tensor
from torch.utils.data import DataLoader

from dpforge.errors import Interrupted, PrivacyError, RunError
from dpforge.generators.base import RunContext
from dpforge.generators.storage import load_state, save_state
from dpforge.privacy.accounting import epsilon
from dpforge.privacy.batches import PoissonSteps, Tensors
from dpforge.privacy.dpsgd import DPSGDCallback, MeanGradient, PrivateModule
from dpforge.privacy.events import SelfComposed
from dpforge.privacy.plan import Plan
from dpforge.privacy.sampling import PoissonSampler


@dataclass(frozen=True)
class TrainingData:
    """Private rows as tensors.

    Args:
        gather: ``(rows, step) -> tensors`` with the rows in the first dimension.
        rows: Number of private rows.
        units: Unit number of each row, sorted, or ``None`` if every row is a unit.
    """

    gather: Callable[[Tensor, int], Tensors]
    rows: int
    units: np.ndarray | None = None

    def unit_count(self) -> int:
        """Return the number of units (private)."""
        return self.rows if self.units is None else len(np.unique(self.units))

    def largest_unit(self) -> int:
        """Return the most rows of one unit (private)."""
        return 1 if self.units is None else int(np.unique(self.units, return_counts=True)[1].max(initial=0))

    def rows_of(self) -> Callable[[np.ndarray], np.ndarray]:
        """Return the map from sorted unit indices to their row indices."""
        if self.units is None:
            return lambda indices: indices
        starts = np.flatnonzero(np.r_[True, self.units[1:] != self.units[:-1]])
        ends = np.r_[starts[1:], self.rows]
        if len(starts) != self.unit_count():
            raise PrivacyError("the rows of one unit are not adjacent; sort the table by unit.")

        def expand(indices: np.ndarray) -> np.ndarray:
            lengths = ends[indices] - starts[indices]
            shift = np.repeat(starts[indices] - np.r_[0, np.cumsum(lengths)[:-1]], lengths)
            return shift + np.arange(lengths.sum())

        return expand


def train(
    module: PrivateModule,
    data: TrainingData,
    run: RunContext,
    *,
    sampling_rate: float,
    steps: int,
    expected_rows: float,
    row_limit: int = 1,
    name: str = "train",
) -> None:
    """Train ``module`` for exactly ``steps`` Poisson batches, from the last checkpoint if there is one.

    Args:
        module: Its private network is trained in place.
        data: Private rows.
        run: Access, runtime, checkpoints, logging.
        sampling_rate: q of the Poisson sampler over units.
        steps: Number of logical steps T.
        expected_rows: Public normaliser: q times nominal rows.
        row_limit: Most rows of one unit.
        name: Piece of the plan.

    Raises:
        Interrupted: The run was asked to stop; its state is saved.
        RunError: The loss is not finite any more for released parameters.
    """
    private = run.spec.enabled
    if not private:
        run.access.open_access(name)
        module.estimate_gradient = MeanGradient(run.runtime.microbatch)
    if data.largest_unit() > row_limit:
        raise PrivacyError(f"a unit has more than the {row_limit} rows that its clipping accounts for.")
    state = load_state(run.checkpoints)
    if state and state.get("key_id") != run.access.random.key_id:
        state = None  # of another run: its weights come from releases this ledger does not hold
    start = int(state["step"]) if state else 0
    if state:
        module.load_state_dict(state["module"])
    if start >= steps or (not private and module.finished):
        return
    sampler = PoissonSampler(data.unit_count(), sampling_rate, run.access.random, name)
    batches = PoissonSteps(sampler, data.rows_of(), data.gather, range(start, steps))
    loop = _Loop(run, steps, start, name, state)
    callbacks: list[L.Callback] = [loop]
    if private:
        dp = DPSGDCallback(
            run.access,
            name=name,
            normalizer=expected_rows,
            max_grad_norm=run.spec.max_grad_norm,
            rows_per_unit=row_limit,
            engine=run.runtime.engine,
            microbatch=run.runtime.microbatch,
        )
        callbacks.insert(0, dp)
    trainer = _trainer(run, steps, callbacks)
    progress = trainer.fit_loop.epoch_loop.manual_optimization.optim_step_progress
    progress.total.completed = progress.total.ready = start
    with warnings.catch_warnings():
        # Lightning warns of its own deprecated calls and of the length of an iterable data set.
        warnings.filterwarnings("ignore", module="lightning")
        warnings.filterwarnings("ignore", message=".*(IterableDataset|LeafSpec|does not have many workers).*")
        try:
            trainer.fit(module, train_dataloaders=DataLoader(batches, batch_size=None))
        except SystemExit as error:
            # Lightning's own answer to a signal that comes between two steps, or to a second Ctrl-C.
            raise Interrupted(
                f"stopped after step {loop.done} of {steps}; the same command continues the run."
            ) from error
    if loop.done != steps and not module.finished:
        raise RunError(f"training ended after {loop.done} of {steps} steps.")
    run.access.ledger.commit(name, steps)


def _trainer(run: RunContext, steps: int, callbacks: list[L.Callback]) -> L.Trainer:
    kind, _, index = run.runtime.device.partition(":")
    devices: Any = [int(index)] if index else 1
    for logger in ("lightning.pytorch", "lightning.fabric", "lightning.pytorch.utilities.rank_zero"):
        logging.getLogger(logger).setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return L.Trainer(
            accelerator="gpu" if kind == "cuda" else "cpu",
            devices=devices,
            max_steps=steps,
            max_epochs=1,
            callbacks=callbacks,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
        )


class _Loop(L.Callback):
    """Logging, progress, checkpoints and the request to stop."""

    def __init__(
        self, run: RunContext, steps: int, start: int, name: str, state: Mapping[str, Any] | None
    ) -> None:
        self.run, self.steps, self.name = run, steps, name
        self.done = start
        self._state = state
        self._meter = EpsilonMeter(run.access.ledger.plan, name) if run.spec.enabled else None

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self._state is not None:
            _optimizer(pl_module).load_state_dict(self._state["optimizer"])
            self._state = None

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.done = int(batch.step) + 1
        loss = cast(PrivateModule, pl_module).last_loss
        values: dict[str, float] = {"loss": loss}
        self.run.log(self.done, {"train/loss": loss}, "private")
        if self._meter is not None:
            spent = self._meter.epsilon(self.run.access.ledger.reserved(self.name))
            values["epsilon"] = spent
            self.run.log(self.done, {"privacy/epsilon_rdp": spent}, "public")
        self.run.progress(self.done, self.steps, values)
        stopping, module = self.run.stopping(), cast(PrivateModule, pl_module)
        trainer.should_stop = not self.run.spec.enabled and module.finished
        last = trainer.should_stop or self.done == self.steps
        if stopping or last or self.done % self.run.runtime.checkpoint_every == 0:
            self._save(module)
        if stopping and not last:
            raise Interrupted(
                f"stopped after step {self.done} of {self.steps}; the same command continues the run."
            )

    def _save(self, module: PrivateModule) -> None:
        optimizer = _optimizer(module).state_dict()
        key_id = self.run.access.random.key_id
        state = {"step": self.done, "key_id": key_id, "module": module.state_dict(), "optimizer": optimizer}
        save_state(self.run.checkpoints, state)


def _optimizer(module: L.LightningModule) -> Any:
    """Return the optimizer itself: a state loaded into Lightning's wrapper would not reach it."""
    return cast(Any, module.optimizers()).optimizer


class EpsilonMeter:
    """Epsilon of what is reserved so far: all other pieces, and the first steps of one (RDP)."""

    def __init__(self, plan: Plan, name: str) -> None:
        self._plan, self._name = plan, name
        self._known: Mapping[int, float] = {}

    def epsilon(self, steps: int) -> float:
        """Return the epsilon after ``steps`` uses of the piece."""
        if steps not in self._known:
            self._known = {**self._known, steps: epsilon(self.event(steps), self._plan.delta, "rdp")}
        return self._known[steps]

    def event(self, steps: int) -> Any:
        """Return the tree after ``steps`` uses of the piece."""
        pieces = [
            SelfComposed(piece.event, steps if piece.name == self._name else piece.count)
            for piece in self._plan.pieces
        ]
        return type(self._plan.event())(tuple(pieces))
