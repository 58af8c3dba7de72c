"""Where the time of a DP step of ``TabularARGN`` goes, and the arithmetic that it cannot do without."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from benchmarks.argn_own import lend_run
from benchmarks.breakdown import _layer_calls
from benchmarks.harness import Laps, Row, in_turns, milliseconds
from dpforge.data import Dataset
from dpforge.generators import tabular_argn
from dpforge.generators.argn_model import ARGNModule
from dpforge.generators.training import TrainingData
from dpforge.nets.autoregressive import AutoregressiveNet
from dpforge.privacy.batches import PoissonSteps, StepBatch
from dpforge.privacy.dpsgd import DPGradient, MeanGradient
from dpforge.privacy.engines import make_engine
from dpforge.privacy.mechanisms import BLOCK, PrivateAccess
from dpforge.privacy.norms import kept_entries
from dpforge.privacy.sampling import PoissonSampler

MOST_STEPS = 100_000
SQUARE = 1024


@dataclass(frozen=True)
class Ready:
    """What ``TabularARGN.fit`` has made when training begins.

    Args:
        module: Module with the network.
        rows: Private rows.
        rate: Sampling rate.
        access: Authorises ``MOST_STEPS`` steps.
    """

    module: ARGNModule
    rows: TrainingData
    rate: float
    access: PrivateAccess

    @property
    def net(self) -> AutoregressiveNet:
        """The network."""
        return self.module.net

    def batches(self) -> Iterator[StepBatch]:
        """Return Poisson batches without end."""
        sampler = PoissonSampler(self.rows.rows, self.rate, self.access.random)
        return iter(PoissonSteps(sampler, self.rows.rows_of(), self.rows.gather, range(MOST_STEPS)))


@contextmanager
def ready(data: Dataset, **settings: Any) -> Iterator[Ready]:
    """Lend the network and rows that ``TabularARGN(**settings).fit`` would train on, with DP."""
    generator, found = tabular_argn.TabularARGN(steps=MOST_STEPS, **settings), []

    def stop_here(
        module: ARGNModule, rows: TrainingData, run: Any, *, sampling_rate: float, **_: Any
    ) -> None:
        # fit() goes on to release its network; the benchmark trains this one.
        found.append(Ready(copy.deepcopy(module), rows, sampling_rate, run.access))

    with lend_run(generator, data.schema, private=True) as run:
        with mock.patch.object(tabular_argn, "train", stop_here):
            generator.fit(data, run)
        yield found[0]


@contextmanager
def dp_step(start: Ready) -> Iterator[Callable[[StepBatch], None]]:
    """Lend a DP step with ghost clipping: gradient estimate and optimiser. Each call is a step of its own."""
    module = copy.deepcopy(start.module)
    optimizer, engine, taken = module.configure_optimizers(), make_engine("ghost", module.net), count()
    normalizer = start.rate * start.rows.rows
    estimate = DPGradient(start.access, "train", engine, module.net, clip=1.0, normalizer=normalizer)

    def step(batch: StepBatch) -> None:
        estimate(module, batch._replace(step=next(taken)))
        optimizer.step()

    yield step
    engine.close()


def plain_step(start: Ready) -> Callable[[StepBatch], None]:
    """Return a step without privacy of a network of its own."""
    module = copy.deepcopy(start.module)
    optimizer, estimate = module.configure_optimizers(), MeanGradient()
    module.manual_backward = lambda loss: loss.backward()  # Lightning's asks for its trainer

    def step(batch: StepBatch) -> None:
        estimate(module, batch)
        optimizer.step()

    return step


def step_rows(data: Dataset, repeats: int, **settings: Any) -> list[Row]:
    """Return DP step / plain step, the parts of a DP step in %, and the step over its arithmetic.

    Args:
        data: The table.
        repeats: Turns of the clock.
        settings: Of ``TabularARGN``.
    """
    with ready(data, **settings) as start, dp_step(start) as step:
        laps, batch = _laps(start, step, repeats)
    note = laps.note("step", "plain")
    rows = [Row("2. step", "DP step / plain step", laps.ratio("step", "plain"), "ratio", 1.5, note)]
    # The fastest turn of each part: a part is short beside what another process takes at a time.
    seconds = {name: min(values) for name, values in laps.seconds.items()}
    rate = 2 * SQUARE**3 / seconds["square product"]
    products = _flops(start.net, batch)
    total = seconds["step"] + seconds["gather"]
    limit = products / rate
    work = f"{products / 1e9:.2f} GFLOP at {rate / 1e9:.0f} GFLOP/s"
    note = f"{milliseconds(total)} / {milliseconds(limit)}: {work}"
    rows.append(
        Row("2. step", "DP step / its products at the measured rate", total / limit, "ratio", note=note)
    )
    for name, value in _parts(seconds).items():
        rows.append(Row("3. where a DP step goes", name, 100 * value / total, "%", note=milliseconds(value)))
    return rows


def _laps(start: Ready, step: Callable[[StepBatch], None], repeats: int) -> tuple[Laps, int]:
    module, batches, fixed = copy.deepcopy(start.module), start.batches(), next(start.batches())
    batch, plain, graph = int(fixed.tensors[0].shape[0]), plain_step(start), list[Tensor]()
    engine, optimizer = make_engine("ghost", module.net), module.configure_optimizers()
    for parameter in module.net.parameters():
        parameter.grad = torch.zeros_like(parameter)
    square, draws, blocks = torch.randn(SQUARE, SQUARE), count(), count(1)
    kept = kept_entries(module.net)
    noisy = sum(
        p.numel() if k is None else len(k) for p, k in zip(module.net.parameters(), kept, strict=True)
    )

    def forward() -> None:
        graph[:] = [module.per_example_loss(fixed.tensors).sum()]

    calls: dict[str, Callable[[], object]] = {
        "gather": lambda: next(batches),
        "step": lambda: step(fixed),
        "plain": lambda: plain(fixed),
        "forward": forward,
        "backward": lambda: graph[0].backward(),
        "noise": lambda: start.access.random.normal("benchmark", next(draws), noisy),
        "optimiser": optimizer.step,
        "square product": lambda: torch.mm(square, square),
        **_layer_calls(module.net, batch),
    }
    with lend_block(start) as reserve:
        calls["ledger"] = lambda: reserve(BLOCK * next(blocks))
        laps = in_turns(calls, repeats)
    engine.close()
    return laps, batch


@contextmanager
def lend_block(start: Ready) -> Iterator[Callable[[int], object]]:
    """Lend a reservation in a ledger of its own, of the same plan."""
    from benchmarks.fixtures import lend_access

    with lend_access(start.access.ledger.plan) as access:
        yield lambda steps: access.reserve("train", steps, clip=1.0, normalizer=1.0)


def _parts(seconds: dict[str, float]) -> dict[str, float]:
    found = {
        "gather (sampling, codes)": seconds["gather"],
        "forward": seconds["forward"],
        "backward (data gradients)": seconds["backward"],
        "per-example norms": seconds["norms"],
        "clipped sums (weight gradients)": seconds["sums"],
        "noise": seconds["noise"],
        "Adam": seconds["optimiser"],
        "ledger": seconds["ledger"] / BLOCK,
    }
    rest = seconds["step"] + seconds["gather"] - sum(found.values())
    return {**found, "hooks, clip factors, masks of the sum, accumulation": max(rest, 0.0)}


def _flops(net: AutoregressiveNet, batch: int) -> float:
    """Operations of the products of one DP step of the direct network: no mask saves any of them."""
    assert net.direct is not None
    outgoing, incoming = net.direct.weight.shape
    degrees = net.direct.mask_factors[0].shape[0]
    layer = 2 * outgoing * incoming + degrees * (outgoing + incoming)
    heads = 2 * sum(table.numel() for table in net.outputs)
    return 2.0 * batch * (layer + heads)


def size_rows(small: Dataset, large: Dataset, repeats: int) -> list[Row]:
    """Return the step on a large table over the step on a small one, batch included, taking turns."""
    with ready(small) as first, ready(large) as second, dp_step(first) as one, dp_step(second) as other:
        few, many = first.batches(), second.batches()
        laps = in_turns({"few": lambda: one(next(few)), "many": lambda: other(next(many))}, repeats)
    what = f"step with {len(large.train):,} rows / with {len(small.train):,}"
    return [Row("5. tall tables", what, laps.ratio("many", "few"), "ratio", 1.1, laps.note("many", "few"))]
