"""The Lightning module of DP-MAF and the finished model."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from dpforge.data import Schema
from dpforge.data.encode.transforms import (
    STANDARD_CLIP,
    MarginalTransform,
    ScaleTransform,
    Transform,
)
from dpforge.generators.storage import save_model
from dpforge.nets.made import MaskedAutoregressiveFlow
from dpforge.nets.piecewise import PiecewiseFlow
from dpforge.privacy.batches import Tensors
from dpforge.privacy.dpsgd import PrivateModule

CHUNK = 50_000

Flow = MaskedAutoregressiveFlow | PiecewiseFlow


@dataclass(frozen=True)
class Optimization:
    """How a flow is optimised; see :class:`dpforge.generators.dp_maf.DPMAF`."""

    learning_rate: float
    weight_decay: float
    lr_decay: bool
    ema: float
    steps: int


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
        settings = self.settings
        return settings.learning_rate * (1 - step / settings.steps if settings.lr_decay else 1)

    def after_step(self, step: int) -> None:
        """Average the released weights, with a warm-up of the decay."""
        if self.average is None:
            return
        decay = min(self.settings.ema, (1 + step) / (10 + step))
        with torch.no_grad():
            for mean, value in zip(self.average.parameters(), self.net.parameters(), strict=True):
                mean.lerp_(value, 1 - decay)

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

    def log_prob(self, frame: pd.DataFrame, rng: np.random.Generator) -> np.ndarray:
        """Return the log-density ``(n,)`` in nats of rows under one dequantisation each.

        Atoms count as probability mass, other cells as density in the units of the column. Private for
        real rows.
        """
        y = self._encoded(frame, rng)
        with torch.no_grad():
            flow = self.net.log_prob(y).double().numpy()
        return flow + self.transform.log_density_term(frame, y.double().numpy())

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
