"""DP step against plain step, inside Lightning's loop; and how many rows pass per second."""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Callable, Mapping
from typing import Any, cast

import lightning as L
from torch.utils.data import DataLoader

from benchmarks.fixtures import NOMINAL_ROWS, Preset, batch_steps, encoded_table, lend_access, training_plan
from benchmarks.harness import Laps, Row
from dpforge.privacy.batches import StepBatch
from dpforge.privacy.dpsgd import DPGradient, MeanGradient, PrivateModule
from dpforge.privacy.engines import make_engine
from dpforge.privacy.mechanisms import PrivateAccess


class Race(L.Callback):
    """Gives plain training and DP engines their turn, step after step, on one module.

    The clock runs from the start to the end of Lightning's batch: forward, backward, clipping, reservation,
    noise, optimiser and Lightning's own work. Attaching an engine is outside of it.

    Args:
        access: Authorises at least as many steps as will be taken.
        batch: Expected rows, the normaliser.
        contenders: Rows per forward pass by name (``None``: the whole batch). Names are ``plain``, engines,
            or ``empty``, a step without gradient: what Lightning itself takes.
        warmup: Turns that do not count.
    """

    def __init__(
        self, access: PrivateAccess, batch: int, contenders: Mapping[str, int | None], warmup: int
    ) -> None:
        self.access, self.batch, self.warmup = access, batch, warmup
        self.contenders = list(contenders.items())
        self.seconds: dict[str, list[float]] = {name: [] for name in contenders}
        self._close: Callable[[], None] | None = None
        self._start = 0.0

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        name, microbatch = self.contenders[batch_idx % len(self.contenders)]
        self._attach(name, microbatch, cast(PrivateModule, pl_module))
        self._start = time.perf_counter()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        elapsed = time.perf_counter() - self._start
        turn, place = divmod(batch_idx, len(self.contenders))
        if turn >= self.warmup:
            self.seconds[self.contenders[place][0]].append(elapsed)
        if self._close is not None:
            self._close()

    def _attach(self, name: str, microbatch: int | None, module: PrivateModule) -> None:
        self._close = None
        if name in ("plain", "empty"):
            module.estimate_gradient = MeanGradient(microbatch) if name == "plain" else no_gradient
            return
        engine = make_engine(name, module.private_net())
        module.estimate_gradient = DPGradient(
            self.access,
            "train",
            engine,
            module.private_net(),
            clip=1.0,
            normalizer=self.batch,
            microbatch=microbatch,
        )
        self._close = engine.close


def no_gradient(module: PrivateModule, batch: StepBatch) -> float:
    """Leave the network without a gradient, so that the optimiser has nothing to do."""
    for parameter in module.private_net().parameters():
        parameter.grad = None
    return 0.0


def race(preset: Preset, batch: int, repeats: int, contenders: Mapping[str, int | None]) -> Laps:
    """Return how long the steps of each contender took; see :class:`Race`."""
    warmup = min(repeats, 3)
    steps = len(contenders) * (repeats + warmup)
    with lend_access(training_plan(steps, batch / NOMINAL_ROWS)) as access:
        turns = Race(access, batch, contenders, warmup)
        batches = batch_steps(encoded_table(NOMINAL_ROWS, preset.features), access.random, batch, steps)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            quiet_trainer(steps, [turns]).fit(preset.module(), DataLoader(batches, batch_size=None))
    return Laps(turns.seconds)


def quiet_trainer(steps: int, callbacks: list[L.Callback]) -> L.Trainer:
    """Return a trainer with the options of ``dpforge.generators.training``."""
    for logger in ("lightning.pytorch", "lightning.fabric", "lightning.pytorch.utilities.rank_zero"):
        logging.getLogger(logger).setLevel(logging.ERROR)
    return L.Trainer(
        accelerator="cpu",
        devices=1,
        max_steps=steps,
        max_epochs=1,
        callbacks=callbacks,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )


def step_row(preset: Preset, batch: int, engine: str, repeats: int, microbatch: int | None = None) -> Row:
    """Return DP step / plain step of one engine.

    Hooks write one gradient per row and parameter: a wide network needs a microbatch to fit in memory.
    """
    laps = race(preset, batch, repeats, {"plain": None, engine: microbatch})
    what = f"{preset.name}, batch {batch}, {engine}" + (f" in {microbatch}s" if microbatch else "")
    aim = 1.6 if engine == "ghost" else None
    return Row(
        "1. DP step / plain step", what, laps.ratio(engine, "plain"), "ratio", aim, laps.note(engine, "plain")
    )
