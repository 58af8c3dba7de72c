"""DP-MAF: a masked autoregressive flow over dequantised table columns, trained with DP-SGD.

References:
    Papamakarios et al., *Masked Autoregressive Flow for Density Estimation* (NeurIPS 2017); Waites and
    Cummings, *Differentially Private Normalizing Flows for Privacy-Preserving Density Estimation* (2021).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from dpforge.data import Dataset, Schema
from dpforge.data.encode.cells import CellCodec
from dpforge.data.encode.transforms import (
    MarginalTransform,
    ScaleTransform,
    Transform,
    affine_transform,
    check_scalable,
    moments,
    standardize_transform,
)
from dpforge.errors import ConfigError, did_you_mean
from dpforge.generators.base import RunContext, nominal_units, rows_per_unit
from dpforge.generators.histograms import histogram_release, release_histograms
from dpforge.generators.maf_model import FittedMAF, MAFModule, Optimization, latent_ready
from dpforge.generators.storage import load_model
from dpforge.generators.training import TrainingData, train
from dpforge.nets.made import ACTIVATIONS, MaskedAutoregressiveFlow
from dpforge.privacy.batches import Tensors
from dpforge.privacy.plan import Plan, Release, Training, make_plan
from dpforge.privacy.spec import PrivacySpec, replace_factor
from dpforge.privacy.values import protect_values, value_pieces

TRANSFORMS = ("dp_marginal_cdf", "dp_standardize", "affine")
MARGINAL_FLOOR = 1e-4


@dataclass(frozen=True)
class DPMAF:
    """Settings of a DP-MAF; see ``conf/model/dp_maf.yaml`` and ``dp_maf_seed.yaml`` for the presets.

    Args:
        blocks: MADE blocks, >= 1.
        hidden: Widths of the hidden layers of each block.
        activation: ``relu``, ``tanh``, ``elu`` or ``gelu``.
        permutation: ``reverse`` or ``random_public`` (from the experiment seed).
        log_scale_limit: Bound of the log-scales, > 0, or null for none.
        zero_init_last: Start as the identity map, i.e. as the independent baseline.
        normalization: ``none`` or ``layer_norm`` (within units of equal degree).
        transform: ``dp_marginal_cdf`` (released histograms), ``dp_standardize`` (released moments) or
            ``affine`` (public bounds).
        recalibrate_marginals: ``rank`` restores the released marginals of the sample; ``none``.
        default_bins, discrete_max: Cells of columns without public bins; see ``CellCodec``.
        sampling_rate: q in (0, 1]; or null to use ``expected_batch_size / nominal_rows``.
        expected_batch_size: Expected number of units in a batch.
        steps: Logical steps T, >= 1.
        learning_rate, weight_decay: Of Adam.
        lr_decay: Linear decay of the learning rate to zero over the steps.
        ema: Decay of an average of the released weights in [0, 1); 0 for none. Post-processing.
        allocation: How histogram noise is divided among columns.
        marginal_share: Default share of the budget for histograms or moments.

    Raises:
        ConfigError: With every mistake among the values.
    """

    modality: ClassVar[str] = "table"
    name: ClassVar[str] = "dp_maf"

    blocks: int = 2
    hidden: Sequence[int] = (64, 64)
    activation: str = "relu"
    permutation: str = "reverse"
    log_scale_limit: float | None = 1.5
    zero_init_last: bool = True
    normalization: str = "none"
    transform: str = "dp_marginal_cdf"
    recalibrate_marginals: str = "rank"
    default_bins: int = 32
    discrete_max: int = 128
    sampling_rate: float | None = None
    expected_batch_size: float | None = 512
    steps: int = 300
    learning_rate: float = 2e-3
    weight_decay: float = 0.0
    lr_decay: bool = False
    ema: float = 0.0
    allocation: str = "cube_root"
    marginal_share: float = 0.4

    def __post_init__(self) -> None:
        mistakes = [*self._choice_mistakes(), *self._number_mistakes()]
        if mistakes:
            raise ConfigError(mistakes)
        object.__setattr__(self, "hidden", tuple(self.hidden))

    def _choice_mistakes(self) -> list[str]:
        choices: Mapping[str, Sequence[str]] = {
            "activation": tuple(ACTIVATIONS),
            "permutation": ("reverse", "random_public"),
            "normalization": ("none", "layer_norm"),
            "transform": TRANSFORMS,
            "recalibrate_marginals": ("rank", "none"),
            "allocation": ("cube_root", "uniform"),
        }
        return [
            f"model.{name}={getattr(self, name)!r}: expected one of {', '.join(known)}."
            + did_you_mean(str(getattr(self, name)), known)
            for name, known in choices.items()
            if getattr(self, name) not in known
        ]

    def _number_mistakes(self) -> list[str]:
        mistakes = []
        for name in ("blocks", "steps", "default_bins", "discrete_max"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                mistakes.append(f"model.{name}={value!r}: expected an integer >= 1.")
        if not self.hidden or any(not isinstance(width, int) or width < 1 for width in self.hidden):
            mistakes.append(f"model.hidden={list(self.hidden)!r}: expected one or more widths >= 1.")
        if (self.sampling_rate is None) == (self.expected_batch_size is None):
            mistakes.append(
                "model: give exactly one of sampling_rate and expected_batch_size; set the other to null."
            )
        if self.sampling_rate is not None and not 0 < self.sampling_rate <= 1:
            mistakes.append(f"model.sampling_rate={self.sampling_rate!r}: expected 0 < q <= 1.")
        for name in ("learning_rate", "log_scale_limit", "expected_batch_size"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                mistakes.append(f"model.{name}={value!r}: expected a number > 0.")
        for name in ("ema", "marginal_share"):
            if not 0 <= getattr(self, name) < 1:
                mistakes.append(f"model.{name}={getattr(self, name)!r}: expected a number in [0, 1).")
        if self.recalibrate_marginals == "rank" and self.transform != "dp_marginal_cdf":
            mistakes.append(
                "model.recalibrate_marginals=rank needs model.transform=dp_marginal_cdf; set it to none."
            )
        return mistakes

    def rate(self, schema: Schema) -> float:
        """Return the sampling rate q, from configuration and public constants."""
        if self.sampling_rate is not None:
            return float(self.sampling_rate)
        return min(float(self.expected_batch_size or 0) / nominal_units(schema), 1.0)

    def plan(self, schema: Schema, privacy: PrivacySpec) -> Plan:
        """Histograms or moments, then DP-SGD; see :func:`dpforge.privacy.plan.make_plan`."""
        if len(schema.columns) < 2:
            raise ConfigError(
                f"dp_maf needs at least 2 columns; '{schema.name}' has 1. Use model=independent."
            )
        if self.transform != "dp_marginal_cdf":
            check_scalable(schema)
        release = self._release(schema, privacy)
        sensitivity = privacy.max_grad_norm * replace_factor(privacy.relation, histogram=False)
        reason = f"flat clip to {privacy.max_grad_norm:g} over all parameters of a unit"
        shares = {"train": 1.0}
        if release is not None:
            shares = {release.name: self.marginal_share, "train": 1 - self.marginal_share}
        return make_plan(
            privacy,
            releases=[] if release is None else [release],
            training=Training(self.rate(schema), self.steps, reason, sensitivity),
            bricks=value_pieces(schema, privacy.relation),
            shares=shares,
            unit=schema.unit.kind,
        )

    def _release(self, schema: Schema, privacy: PrivacySpec) -> Release | None:
        if self.transform == "dp_marginal_cdf":
            return histogram_release(schema, privacy.relation)
        if self.transform == "affine":
            return None
        factor = replace_factor(privacy.relation, histogram=False) * rows_per_unit(schema)
        width = 2 * len(schema.columns) + 1
        return Release("moments", math.sqrt(width) * factor, f"L2: {width} entries in [-1, 1]")

    def fit(self, data: Dataset, run: RunContext) -> FittedMAF:
        """Release the marginals, then train the flow on Poisson batches."""
        schema, table = protect_values(data.schema, data.train, run.access)
        transform = self._fit_transform(schema, table, run)
        encoded = transform.encode(table)
        base, span = torch.from_numpy(encoded.base), torch.from_numpy(encoded.span)

        def gather(rows: Tensor, step: int) -> Tensors:
            noise = run.random.generator("jitter", step).random(
                (rows.numel(), base.shape[1]), dtype=np.float32
            )
            return (latent_ready(base[rows] + span[rows] * torch.from_numpy(noise), transform.gaussianize),)

        module = self._module(len(schema.columns), run)
        rate = self.rate(schema)
        train(
            module,
            TrainingData(gather, len(table), data.units),
            run,
            sampling_rate=rate,
            steps=self.steps,
            expected_rows=rate * schema.nominal_rows,
            row_limit=rows_per_unit(schema),
        )
        return FittedMAF(transform, schema, module.released_net(), self.recalibrate_marginals == "rank")

    def _fit_transform(self, schema: Schema, table: pd.DataFrame, run: RunContext) -> Transform:
        if self.transform == "affine":
            return affine_transform(schema)
        if self.transform == "dp_standardize":
            return standardize_transform(schema, run.access.gaussian("moments", moments(table, schema)))
        codec = CellCodec(schema, default_bins=self.default_bins, discrete_max=self.discrete_max)
        codes = codec.encode(table).codes
        return MarginalTransform(
            codec, release_histograms(run.access, codec, codes, self.allocation, MARGINAL_FLOOR)
        )

    def _module(self, features: int, run: RunContext) -> MAFModule:
        seed = int(run.random.generator("initialisation").integers(2**31))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            net = self.network(features, run.random.generator("permutation"))
        return MAFModule(
            net, Optimization(self.learning_rate, self.weight_decay, self.lr_decay, self.ema, self.steps)
        )

    def network(self, features: int, rng: np.random.Generator) -> MaskedAutoregressiveFlow:
        """Build the flow; ``rng`` draws public permutations."""
        identity = list(range(features))
        permutations = [
            identity[::-1] if self.permutation == "reverse" else [int(i) for i in rng.permutation(features)]
            for _ in range(self.blocks)
        ]
        return MaskedAutoregressiveFlow(
            features,
            self.blocks,
            permutations,
            self.hidden,
            self.activation,
            self.log_scale_limit,
            self.zero_init_last,
            self.normalization == "layer_norm",
        )

    def load(self, folder: Path) -> FittedMAF:
        """Read back a fitted model."""
        tensors, arrays, schema = load_model(folder)
        transform: Transform
        if self.transform == "dp_marginal_cdf":
            codec = CellCodec(schema, default_bins=self.default_bins, discrete_max=self.discrete_max)
            transform = MarginalTransform(codec, [np.asarray(mass) for mass in arrays["masses"]])
        else:
            transform = ScaleTransform(schema, np.asarray(arrays["mean"]), np.asarray(arrays["scale"]))
        net = self.network(len(schema.columns), np.random.default_rng(0))
        net.permutations = [torch.as_tensor(p) for p in arrays["permutations"]]
        net.load_state_dict(tensors)
        return FittedMAF(transform, schema, net, self.recalibrate_marginals == "rank")
