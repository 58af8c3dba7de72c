"""The private rows of a TabularARGN: encoded once, fetched batch by batch."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from dpforge.data.encode.refine import FineCodec
from dpforge.generators.argn_fitted import piece_codes
from dpforge.generators.argn_marginals import Pieces
from dpforge.generators.base import RunContext
from dpforge.privacy.batches import Tensors

CHUNK = 1_000_000
LARGEST_IN_MEMORY = 2**28
STOP_SHARE = 0.1


@dataclass(frozen=True)
class Gather:
    """Fetches the rows of a step: their codes, and a dropout mask if there is dropout."""

    codes: np.ndarray
    kept: np.ndarray
    fine: FineCodec
    pieces: Pieces
    run: RunContext
    dropout: float
    width: int

    def __call__(self, rows: Tensor, step: int) -> Tensors:
        """Return the tensors of the rows numbered ``rows`` among those kept."""
        chosen = self.kept[rows.numpy()]
        batch = piece_codes(np.asarray(self.codes[chosen]), self.fine, self.pieces)
        if not self.dropout or not self.width:
            return (batch,)
        random = self.run.access.random.generator("train/dropout", step)
        keep = random.random((len(batch), self.width), dtype=np.float32) >= self.dropout
        return batch, torch.from_numpy(keep).float() / (1 - self.dropout)


def encode_rows(table: pd.DataFrame, fine: FineCodec, folder: Path) -> np.ndarray:
    """Encode in chunks; large tables into a memory-mapped file that vanishes with the process."""
    shape = (len(table), len(fine.codec.sizes))
    kind = np.dtype(np.int16 if max(fine.codec.sizes) < 2**15 else np.int32)
    if shape[0] * shape[1] * kind.itemsize <= LARGEST_IN_MEMORY:
        codes = np.empty(shape, kind)
    else:
        with tempfile.TemporaryFile(dir=folder) as file:
            codes = np.memmap(file, kind, "w+", shape=shape)
    for start in range(0, len(table), CHUNK):
        fine.codec.encode(table.iloc[start : start + CHUNK], out=codes[start : start + CHUNK])
    return codes


def hold_out(codes: np.ndarray, run: RunContext) -> tuple[np.ndarray, np.ndarray]:
    """Return the numbers of nine tenths of the rows, and the codes of the rest; without privacy only."""
    shuffled = run.random.generator("held_out").permutation(len(codes))
    count = max(int(len(codes) * STOP_SHARE), 1)
    return np.sort(shuffled[count:]), np.asarray(codes[np.sort(shuffled[:count])])
