"""DP step against plain step, inside Lightning's loop; and how many rows pass per second."""

from __future__ import annotations

import logging
import statistics
import time
import warnings
from collections.abc import Callable, Mapping
from typing import Any, cast

import lightning as L
from torch.utils.data import DataLoader

from benchmarks.fixtures import Preset, batch_steps, encoded_table, private_access
from benchmarks.harness import Row, milliseconds
from dpforge.privacy.dpsgd import DPGradient, MeanGradient, PrivateModule
from dpforge.privacy.engines import make_engine
from dpforge.privacy.mechanisms import PrivateAccess

ROWS = 32_561
WARMUP = 3


class Race(L.Callback):
    """Gives plain training and DP engines their turn, step after step, on one module.

    The clock runs from the start to the end of Lightning's batch: forward, backward, clipping, reservation,
    noise, optimiser and Lightning's own work. Attaching an engine is outside of it.

    Args:
        access: Authorises at least as many steps as will be taken.
        batch: Expected rows, the normaliser.
        contenders: Rows per forward pass by name (``None``: the whole batch); names are ``plain`` or engines.
    """

    def __init__(self, access: PrivateAccess, batch: int, contenders: Mapping[str, int | None]) -> None:
        self.access, self.batch = access, batch
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
        if turn >= WARMUP:
            self.seconds[self.contenders[place][0]].append(elapsed)
        if self._close is not None:
            self._close()

    def _attach(self, name: str, microbatch: int | None, module: PrivateModule) -> None:
        if name == "plain":
            module.estimate_gradient, self._close = MeanGradient(microbatch), None
            return
        engine = make_engine(name, module.private_net())
        module.estimate_gradient = DPGradient(
            self.access, "train", engine, clip=1.0, normalizer=self.batch, microbatch=microbatch
        )
        self._close = engine.close


def race(preset: Preset, batch: int, repeats: int, contenders: Mapping[str, int | None]) -> dict[str, float]:
    """Return the median seconds of one step of each contender; see :class:`Race`."""
    steps = len(contenders) * (repeats + WARMUP)
    with private_access(steps, batch / ROWS) as access:
        turns = Race(access, batch, contenders)
        batches = batch_steps(encoded_table(ROWS, preset.features), access.random, batch, steps)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            quiet_trainer(steps, [turns]).fit(preset.module(), DataLoader(batches, batch_size=None))
    return {name: statistics.median(values) for name, values in turns.seconds.items()}


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


def step_rows(preset: Preset, batch: int, repeats: int) -> tuple[list[Row], dict[str, float]]:
    """Return the ratios of one preset and the medians behind them."""
    seconds = race(preset, batch, repeats)
    rows = []
    for name, aim in (("ghost", 1.6), ("hooks", None)):
        note = f"{milliseconds(seconds[name])} / {milliseconds(seconds['plain'])}"
        what = f"{preset.name}, batch {batch}, {name}"
        rows.append(Row("1. DP step / plain step", what, seconds[name] / seconds["plain"], "ratio", aim, note))
    return rows, seconds
