"""The modules, tables and ledgers that the benchmarks run on."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dpforge.generators.maf_model import MAFModule
from dpforge.generators.optimization import Optimization
from dpforge.nets.made import MaskedAutoregressiveFlow
from dpforge.nets.piecewise import PiecewiseFlow
from dpforge.privacy.batches import PoissonSteps, StepBatch, Tensors
from dpforge.privacy.dpsgd import DPGradient
from dpforge.privacy.engines import make_engine
from dpforge.privacy.events import Gaussian, NonPrivate, PoissonSampled
from dpforge.privacy.ledger import Ledger
from dpforge.privacy.mechanisms import PrivateAccess
from dpforge.privacy.plan import Piece, Plan
from dpforge.privacy.rng import KeyedRandom, fresh_random, public_random
from dpforge.privacy.sampling import PoissonSampler


@dataclass(frozen=True)
class Preset:
    """A network on a table of a given width.

    Args:
        name: Shown in the report.
        features: Columns of the table.
        build: Makes the network.
    """

    name: str
    features: int
    build: Callable[[], MaskedAutoregressiveFlow | PiecewiseFlow]

    def module(self) -> MAFModule:
        """Return a freshly initialised module."""
        torch.manual_seed(0)
        return MAFModule(self.build(), Optimization(1e-4, 0.0, lr_decay=False, ema=0.0, steps=1))


def affine_flow(features: int, width: int, blocks: int, limit: float) -> MaskedAutoregressiveFlow:
    """Return a flow of affine blocks with two hidden layers each."""
    order = list(range(features))[::-1]
    return MaskedAutoregressiveFlow(
        features, blocks, [order] * blocks, (width, width), log_scale_limit=limit, zero_init_last=False
    )


def piecewise_flow(features: int, pieces: int, functions: int) -> PiecewiseFlow:
    """Return a log-linear flow whose columns have ``pieces`` pieces and ``functions`` basis functions."""
    masses = [torch.full((pieces,), 1 / pieces) for _ in range(features)]
    basis = [torch.randn(pieces, functions) for _ in range(features)]
    return PiecewiseFlow(masses, basis, list(range(features)))


NOMINAL_ROWS = 32_561
DEFAULT = Preset("piecewise (d=15)", 15, partial(piecewise_flow, 15, 32, 5))
SMALL = Preset("affine 2 x 64-64 (d=15)", 15, partial(affine_flow, 15, 64, 2, 1.5))
SEED_PAPER = Preset("affine 5 x 512-512 (d=6)", 6, partial(affine_flow, 6, 512, 5, 5.0))


EDGE = 1e-6
_PUBLIC = public_random(0)


@dataclass(frozen=True)
class EncodedTable:
    """What ``DPMAF.fit`` keeps of a table: base and span of each cell, float32 ``(N, d)``."""

    base: Tensor
    span: Tensor

    @property
    def rows(self) -> int:
        """Number of rows N."""
        return self.base.shape[0]

    def gather(self, rows: Tensor, step: int) -> Tensors:
        """Return the dequantised flow inputs of some rows, as ``DPMAF.fit`` does."""
        shape = (rows.numel(), self.base.shape[1])
        jitter = _PUBLIC.generator("jitter", step).random(shape, dtype=np.float32)
        codes = self.base[rows] + self.span[rows] * torch.from_numpy(jitter)
        return (torch.special.ndtri(codes.clamp(EDGE, 1 - EDGE)),)


def encoded_table(rows: int, features: int) -> EncodedTable:
    """Return a table of random cells: four equally wide cells a column."""
    generator = torch.Generator().manual_seed(1)
    base = torch.empty(rows, features).uniform_(0, 4, generator=generator).floor_().div_(4)
    return EncodedTable(base, torch.full((rows, features), 0.25))


def batch_steps(table: EncodedTable, random: KeyedRandom, batch: int, steps: int) -> PoissonSteps:
    """Return ``steps`` Poisson batches of ``batch`` expected rows."""
    sampler = PoissonSampler(table.rows, batch / table.rows, random)
    return PoissonSteps(sampler, lambda indices: indices, table.gather, range(steps))


@contextmanager
def dp_step(
    preset: Preset, batch: int, steps: int, microbatch: int | None = None
) -> Iterator[Callable[[StepBatch], None]]:
    """Lend a DP step with ghost clipping outside of Lightning: gradient estimate and optimiser."""
    module = preset.module()
    optimizer = module.configure_optimizers()
    engine = make_engine("ghost", module.net)
    with lend_access(training_plan(steps, batch / NOMINAL_ROWS)) as access:
        estimate = DPGradient(
            access, "train", engine, module.private_net(), clip=1.0, normalizer=batch, microbatch=microbatch
        )

        taken = count()

        def step(rows: StepBatch) -> None:
            estimate(module, rows._replace(step=next(taken)))  # noise is drawn once a step
            optimizer.step()

        yield step
    engine.close()


@contextmanager
def lend_access(plan: Plan, kind: str = "entropy") -> Iterator[PrivateAccess]:
    """Lend access with a ledger in a temporary folder."""
    with tempfile.TemporaryDirectory() as folder:
        ledger = Ledger.create(Path(folder) / "ledger.jsonl", plan, {"rng": kind})
        yield PrivateAccess(ledger, fresh_random(kind, seed=0))


def training_plan(steps: int, rate: float, *, private: bool = True) -> Plan:
    """Return a plan of ``steps`` DP-SGD steps with clip 1, or of training without noise."""
    piece = Piece("train", "dp_sgd", PoissonSampled(rate, Gaussian(1.0)), steps, 1.0, "benchmark")
    if not private:
        piece = Piece("train", "none", NonPrivate(), 1, 1.0, "benchmark")
    return Plan((piece,), delta=1e-6)
