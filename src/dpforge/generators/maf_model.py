"""The Lightning module of DP-MAF and the finished model."""

from __future__ import annotations

import copy
import math
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from scipy.special import logsumexp
from torch import Tensor, nn

from dpforge.data import Schema
from dpforge.data.encode.transforms import (
    STANDARD_CLIP,
    MarginalTransform,
    ScaleTransform,
    Transform,
)
from dpforge.generators.cell_likelihood import cells_name, log_cell_mass
from dpforge.generators.optimization import Optimization
from dpforge.generators.storage import save_model
from dpforge.nets.made import MaskedAutoregressiveFlow
from dpforge.nets.piecewise import PiecewiseFlow
from dpforge.privacy.batches import Tensors
from dpforge.privacy.dpsgd import PrivateModule

CHUNK = 50_000
# Dequantisations of a row: constant pieces need several only where a grid value lies in two of them.
PIECEWISE_DRAWS, AFFINE_DRAWS = 4, 16

Flow = MaskedAutoregressiveFlow | PiecewiseFlow


def latent_ready(x: Tensor, gaussianize: bool, edge: float) -> Tensor:
    """Turn dequantised codes into flow inputs: normal quantiles of clipped uniforms, or clipped scores.

    Args:
        x: Dequantised codes ``(B, d)``.
        gaussianize: Whether they are uniforms.
        edge: Uniforms are clipped to [edge, 1 − edge].
    """
    if gaussianize:
        return torch.special.ndtri(x.clamp(edge, 1 - edge))
    return x.clamp(-STANDARD_CLIP, STANDARD_CLIP)


class MAFModule(PrivateModule):
    """Maximum likelihood training of a flow on encoded rows.

    Args:
        net: The flow; all its parameters are trained on private rows.
        settings: How to optimise.
    """

    def __init__(self, net: Flow, settings: Optimization) -> None:
        super().__init__()
        self.net = net
        self.settings = settings
        self.average = copy.deepcopy(net).requires_grad_(False) if settings.ema else None

    def per_example_loss(self, batch: Tensors) -> Tensor:
        """Negative log-likelihood in nats, ``(B,)``."""
        return -self.net.log_prob(batch[0])

    def private_net(self) -> nn.Module:
        """The flow."""
        return self.net

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam over all parameters."""
        settings = self.settings
        return torch.optim.Adam(
            list(self.net.parameters()), settings.learning_rate, weight_decay=settings.weight_decay
        )

    def learning_rate(self, step: int) -> float:
        """Constant, or falling linearly to zero: a fixed schedule."""
        return self.settings.rate(step)

    def after_step(self, step: int) -> None:
        """Average the released weights, with a warm-up of the decay."""
        if self.average is not None:
            self.settings.average(self.average, self.net, step)

    def released_net(self) -> Flow:
        """The flow to sample from: the average if there is one."""
        return (self.net if self.average is None else self.average).cpu().requires_grad_(True)


class FittedMAF:
    """A finished flow with its codec; reads no private data.

    Args:
        transform: Codec made of released statistics.
        schema: Schema with released values filled in.
        net: Trained flow.
        recalibrate: How the released marginals of every sample are restored: ``rank``, ``rake`` or ``none``.
    """

    def __init__(self, transform: Transform, schema: Schema, net: Flow, recalibrate: str) -> None:
        self.transform, self.schema, self.recalibrate = transform, schema, recalibrate
        self.net = net.eval()

    def sample(self, rows: int, rng: np.random.Generator) -> pd.DataFrame:
        """Return ``rows`` synthetic rows; marginals are recalibrated within chunks of 50,000 rows."""
        parts = [self._chunk(min(CHUNK, rows - start), rng) for start in range(0, rows, CHUNK)]
        return pd.concat(parts, ignore_index=True) if parts else self._chunk(0, rng)

    def _chunk(self, rows: int, rng: np.random.Generator) -> pd.DataFrame:
        latent = torch.from_numpy(rng.standard_normal((rows, self.net.features), dtype=np.float32))
        with torch.no_grad():
            y = self._from_latent(latent).double().numpy()
        return self.transform.decode(y, rng, ranks=self.recalibrate == "rank" and rows > 0)

    def _from_latent(self, latent: Tensor) -> Tensor:
        if self.recalibrate == "rake" and isinstance(self.net, PiecewiseFlow):
            return self.net.recalibrated(latent)
        return self.net.inverse(latent)[0]

    def latents(self, frame: pd.DataFrame, rng: np.random.Generator) -> np.ndarray:
        """Return the latents ``(n, d)`` of real rows; standard normal if the flow fits. Private."""
        with torch.no_grad():
            return self.net(self._encoded(frame, rng))[0].numpy()

    def log_density(self, frame: pd.DataFrame, rng: np.random.Generator) -> np.ndarray:
        """Return the log-density ``(n,)`` in nats of rows under one dequantisation each.

        Atoms count as probability mass, other cells as density in the units of the column. Private for
        real rows.
        """
        y = self._encoded(frame, rng)
        return self._flow_log_density(y) + self.transform.log_density_term(frame, y.double().numpy())

    def log_prob(self, frame: pd.DataFrame) -> np.ndarray:
        """Return the log-probability ``(n,)`` in nats of the cells of rows. Private for real rows.

        Precisely: the log-density with respect to cells times a uniform place inside the cell, so that a
        model that is uniform inside its cells scores the probability of the cells alone, and all models
        with one codec compare. Where a grid value is spread over several pieces of a flow, or the
        conditionals are affine, its mass is the mean density over 4 or 16 fixed dequantisations (a lower
        bound in the mean; exact for cells that are one piece). Without cells (``transform`` other than
        ``dp_marginal_cdf``): the log-density in the units of the columns.

        References:
            Burda, Grosse and Salakhutdinov, *Importance Weighted Autoencoders* (ICLR 2016), for the bound.
        """
        starts = range(0, max(len(frame), 1), CHUNK)
        return np.concatenate([self._log_prob(frame.iloc[start : start + CHUNK]) for start in starts])

    def _log_prob(self, frame: pd.DataFrame) -> np.ndarray:
        rng = np.random.default_rng(0)
        exact = isinstance(self.net, PiecewiseFlow) and self.net.rest is None
        draws = PIECEWISE_DRAWS if exact else AFFINE_DRAWS
        base = self.independent_log_prob(frame)
        if base is None:
            found = [self.log_density(frame, rng) for _ in range(draws)]
            return np.asarray(logsumexp(found, axis=0)) - math.log(draws)
        ratios = [self._log_ratio(self._encoded(frame, rng)) for _ in range(draws)]
        return base + np.asarray(logsumexp(ratios, axis=0)) - math.log(draws)

    def _log_ratio(self, y: Tensor) -> np.ndarray:
        """Log of the flow's density over that of independent columns, both at ``y``, shape ``(n,)``."""
        normal = -0.5 * (y.double().square() + math.log(2 * math.pi)).sum(dim=1)
        return self._flow_log_density(y) - normal.numpy()

    def _flow_log_density(self, y: Tensor) -> np.ndarray:
        with torch.no_grad():
            return self.net.log_prob(y).double().numpy()

    def independent_log_prob(self, frame: pd.DataFrame) -> np.ndarray | None:
        """Return :meth:`log_prob` of the released marginals alone, ``(n,)``; None without cells."""
        if not isinstance(self.transform, MarginalTransform):
            return None
        return log_cell_mass(self.transform.codec, self.transform.masses, frame)

    @property
    def codec_name(self) -> str:
        """Codec that :meth:`log_prob` refers to."""
        if isinstance(self.transform, MarginalTransform):
            return cells_name(self.transform.codec)
        return f"density in the units of the columns of schema {self.schema.name}"

    def _encoded(self, frame: pd.DataFrame, rng: np.random.Generator) -> Tensor:
        encoded = self.transform.encode(frame)
        noise = rng.random(encoded.base.shape, dtype=np.float32)
        codes = torch.from_numpy(encoded.base + encoded.span * noise)
        return latent_ready(codes, self.transform.gaussianize, self.net.edge)

    def save(self, folder: Path) -> None:
        """Write the model; see :func:`dpforge.generators.storage.save_model`."""
        arrays: dict[str, object] = {"permutations": [p.tolist() for p in self.net.permutations]}
        if isinstance(self.transform, MarginalTransform):
            arrays["masses"] = [mass.tolist() for mass in self.transform.masses]
        elif isinstance(self.transform, ScaleTransform):
            arrays |= {"mean": self.transform.mean.tolist(), "scale": self.transform.scale.tolist()}
        save_model(folder, self.net.state_dict(), arrays, self.schema)
