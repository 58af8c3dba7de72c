"""The modules, tables and ledgers that the benchmarks run on."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dpforge.generators.dp_maf import DPMAF
from dpforge.generators.maf_model import MAFModule, Optimization, latent_ready
from dpforge.privacy.batches import PoissonSteps, Tensors
from dpforge.privacy.events import Gaussian, PoissonSampled
from dpforge.privacy.ledger import Ledger
from dpforge.privacy.mechanisms import PrivateAccess
from dpforge.privacy.plan import Piece, Plan
from dpforge.privacy.rng import KeyedRandom, fresh_random, public_random
from dpforge.privacy.sampling import PoissonSampler


@dataclass(frozen=True)
class Preset:
    """A flow of a given width on a table of a given width.

    Args:
        name: Shown in the report.
        features: Columns of the table.
        hidden: Widths of the two hidden layers of each block.
        blocks: MADE blocks.
        log_scale_limit: See :class:`dpforge.generators.dp_maf.DPMAF`.
    """

    name: str
    features: int
    hidden: int
    blocks: int
    log_scale_limit: float

    def settings(self) -> DPMAF:
        """Return the generator's settings."""
        hidden = (self.hidden, self.hidden)
        return DPMAF(
            blocks=self.blocks,
            hidden=hidden,
            log_scale_limit=self.log_scale_limit,
            zero_init_last=False,
            learning_rate=1e-4,
        )

    def module(self) -> MAFModule:
        """Return a freshly initialised module."""
        net = self.settings().network(self.features, np.random.default_rng(0))
        return MAFModule(net, Optimization(1e-4, 0.0, lr_decay=False, ema=0.0, steps=1))


SMALL = Preset("small (2 x 64-64, d=15)", features=15, hidden=64, blocks=2, log_scale_limit=1.5)
SEED_PAPER = Preset("seed_paper (5 x 512-512, d=6)", features=6, hidden=512, blocks=5, log_scale_limit=5.0)


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
        return (latent_ready(self.base[rows] + self.span[rows] * torch.from_numpy(jitter), True),)


_PUBLIC = public_random(0)


def encoded_table(rows: int, features: int) -> EncodedTable:
    """Return a table of random cells: four equally wide cells a column."""
    generator = torch.Generator().manual_seed(1)
    base = torch.empty(rows, features).uniform_(0, 4, generator=generator).floor_().div_(4)
    return EncodedTable(base, torch.full((rows, 1), 0.25).expand(rows, features))


def batch_steps(table: EncodedTable, random: KeyedRandom, batch: int, steps: int) -> PoissonSteps:
    """Return ``steps`` Poisson batches of ``batch`` expected rows."""
    sampler = PoissonSampler(table.rows, batch / table.rows, random)
    return PoissonSteps(sampler, lambda indices: indices, table.gather, range(steps))


@contextmanager
def private_access(steps: int, rate: float, kind: str = "entropy") -> Iterator[PrivateAccess]:
    """Lend a ledger in a temporary folder that authorises ``steps`` DP-SGD steps of sensitivity 1."""
    event = PoissonSampled(rate, Gaussian(1.0))
    plan = Plan((Piece("train", "dp_sgd", event, steps, 1.0, "benchmark"),), delta=1e-6)
    with tempfile.TemporaryDirectory() as folder:
        ledger = Ledger.create(Path(folder) / "ledger.jsonl", plan, {"rng": kind})
        yield PrivateAccess(ledger, fresh_random(kind, seed=0))
