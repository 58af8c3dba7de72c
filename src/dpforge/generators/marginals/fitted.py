"""A finished marginal model: samples and probabilities, without access to private data."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import torch

from dpforge.data.constraints import repair
from dpforge.data.encode.cells import CellCodec
from dpforge.generators.cell_likelihood import cells_name
from dpforge.generators.marginals.compression import Domain
from dpforge.generators.marginals.graphical import GraphicalModel
from dpforge.generators.marginals.junction import JunctionTree
from dpforge.generators.storage import load_model, save_model

CHUNK = 1_000_000


class FittedMarginals:
    """A graphical model over merged cells.

    Args:
        codec: Cells of the schema.
        domain: How cells are merged and split again.
        model: Distribution over merged cells.
    """

    def __init__(self, codec: CellCodec, domain: Domain, model: GraphicalModel) -> None:
        self.codec, self.domain, self.model, self.schema = codec, domain, model, codec.schema

    def sample(self, rows: int, rng: np.random.Generator) -> pd.DataFrame:
        """Draw cells, split merged ones, decode inside them, and repair public constraints."""
        streams = rng.spawn(3)
        starts = range(0, rows, CHUNK)
        parts = [self._chunk(min(CHUNK, rows - start), streams) for start in starts]
        return pd.concat(parts, ignore_index=True) if parts else self._chunk(0, streams)

    def _chunk(self, rows: int, streams: list[np.random.Generator]) -> pd.DataFrame:
        merged = self.model.sample(rows, streams[0])
        cells = self.domain.decode(merged, streams[1])
        return repair(self.codec.decode(cells, streams[2]), self.schema)

    def log_prob(self, frame: pd.DataFrame) -> np.ndarray:
        """Return the log-probability ``(n,)`` in nats of the cells of rows, exact. Private for real rows.

        Public constraints are not seen: what :meth:`sample` repairs counts where it was drawn.
        """
        codes = self.codec.encode(frame).codes
        return self.model.log_prob(self.domain.encode(codes)) + self._log_split(codes)

    def independent_log_prob(self, frame: pd.DataFrame) -> np.ndarray:
        """Return the log-probability ``(n,)`` under the model's one-way marginals alone."""
        codes = self.codec.encode(frame).codes
        merged = self.domain.encode(codes)
        with np.errstate(divide="ignore"):
            logs = [np.log(self.model.marginal((j,))) for j in range(merged.shape[1])]
        return sum((log[merged[:, j]] for j, log in enumerate(logs)), self._log_split(codes))

    def _log_split(self, codes: np.ndarray) -> np.ndarray:
        total = np.zeros(len(codes))
        with np.errstate(divide="ignore"):
            for j in range(codes.shape[1]):
                total += np.log(self.domain.split(j))[codes[:, j]]
        return total

    @property
    def codec_name(self) -> str:
        """Codec that :meth:`log_prob` refers to."""
        return cells_name(self.codec)

    def save(self, folder: Path) -> None:
        """Write the model; see :func:`dpforge.generators.storage.save_model`."""
        tensors = {f"belief_{i}": torch.from_numpy(table) for i, table in enumerate(self.model.beliefs)}
        for j, (group, mass) in enumerate(zip(self.domain.groups, self.domain.masses, strict=True)):
            tensors |= {f"group_{j}": torch.from_numpy(group), f"mass_{j}": torch.from_numpy(mass)}
        tree = self.model.tree
        arrays = {"sizes": tree.sizes, "cliques": tree.cliques, "parents": tree.parents}
        save_model(folder, tensors, arrays, self.schema)


def load_fitted(folder: Path, default_bins: int, discrete_max: int) -> FittedMarginals:
    """Read back :meth:`FittedMarginals.save`."""
    tensors, arrays, schema = load_model(folder)
    codec = CellCodec(schema, default_bins=default_bins, discrete_max=discrete_max)
    cliques = tuple(tuple(clique) for clique in arrays["cliques"])
    tree = JunctionTree(tuple(arrays["sizes"]), cliques, tuple(arrays["parents"]))
    beliefs = tuple(tensors[f"belief_{i}"].numpy() for i in range(len(cliques)))
    columns = range(len(codec.sizes))
    groups = tuple(tensors[f"group_{j}"].numpy() for j in columns)
    masses = tuple(tensors[f"mass_{j}"].numpy() for j in columns)
    return FittedMarginals(codec, Domain(groups, masses), GraphicalModel(tree, beliefs))
