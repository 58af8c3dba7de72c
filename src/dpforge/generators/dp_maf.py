"""DP-MAF: a masked autoregressive flow over dequantised table columns, trained with DP-SGD.

Two kinds of conditionals: ``piecewise`` (piecewise-linear distribution functions with the knots of the
released histograms; the default) and ``affine`` (shift and scale, as in the original).

References:
    Papamakarios et al., *Masked Autoregressive Flow for Density Estimation* (NeurIPS 2017); Waites and
    Cummings, *Differentially Private Normalizing Flows for Privacy-Preserving Density Estimation* (2021).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from dpforge.data import Dataset, Schema
from dpforge.data.encode.cells import CellCodec
from dpforge.data.encode.knots import make_knots
from dpforge.data.encode.transforms import (
    MarginalTransform,
    ScaleTransform,
    Transform,
    affine_transform,
    check_scalable,
    moments,
    standardize_transform,
)
from dpforge.errors import ConfigError
from dpforge.generators.base import RunContext, nominal_units, rows_per_unit
from dpforge.generators.histograms import histogram_release, release_histograms
from dpforge.generators.maf_checks import setting_mistakes
from dpforge.generators.maf_model import FittedMAF, Flow, MAFModule, latent_ready
from dpforge.generators.optimization import Optimization
from dpforge.generators.storage import load_model
from dpforge.generators.training import TrainingData, train
from dpforge.nets.made import MaskedAutoregressiveFlow
from dpforge.nets.piecewise import PiecewiseFlow
from dpforge.privacy.batches import Tensors
from dpforge.privacy.plan import Plan, Release, Training, make_plan
from dpforge.privacy.spec import PrivacySpec, replace_factor
from dpforge.privacy.values import protect_values, value_pieces

MARGINAL_FLOOR = 1e-4


@dataclass(frozen=True)
class DPMAF:
    """Settings of a DP-MAF; see ``conf/model/dp_maf.yaml`` and ``dp_maf_seed.yaml`` for the presets.

    Args:
        conditional: ``piecewise`` or ``affine``. A piecewise block has direct connections from its inputs to
            its outputs beside the hidden layers; blocks after the first are affine.
        resolution: Piecewise: bins of more mass than ``1 / resolution`` are cut into parts below that.
        degree: Piecewise: polynomials of ordered columns, see :func:`~dpforge.data.encode.knots.make_knots`.
        blocks: Blocks, >= 1.
        hidden: Widths of the hidden layers of each block; may be empty with ``piecewise``.
        activation: ``relu``, ``tanh``, ``elu`` or ``gelu``.
        permutation: ``reverse`` or ``random_public`` (from the experiment seed). A piecewise block takes the
            columns in the schema's order under ``reverse``.
        log_scale_limit: Bound of the log-scales, > 0, or null for none.
        zero_init_last: Start as the identity map, i.e. as the independent baseline.
        normalization: ``none`` or ``layer_norm`` (within units of equal degree).
        transform: ``dp_marginal_cdf`` (released histograms), ``dp_standardize`` (released moments) or
            ``affine`` (public bounds).
        recalibrate_marginals: How the released marginals of a sample are restored: ``rake`` (conditional
            probabilities, piecewise only), ``rank`` (values, breaks ties of categories) or ``none``.
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

    modalities: ClassVar[tuple[str, ...]] = ("table",)
    name: ClassVar[str] = "dp_maf"

    conditional: str = "piecewise"
    resolution: int = 32
    degree: int = 5
    blocks: int = 1
    hidden: Sequence[int] = ()
    activation: str = "relu"
    permutation: str = "reverse"
    log_scale_limit: float | None = 1.5
    zero_init_last: bool = True
    normalization: str = "none"
    transform: str = "dp_marginal_cdf"
    recalibrate_marginals: str = "rake"
    default_bins: int = 32
    discrete_max: int = 128
    sampling_rate: float | None = None
    expected_batch_size: float | None = 1024
    steps: int = 600
    learning_rate: float = 2e-2
    weight_decay: float = 0.0
    lr_decay: bool = True
    ema: float = 0.0
    allocation: str = "cube_root"
    marginal_share: float = 0.4

    def __post_init__(self) -> None:
        mistakes = setting_mistakes(self)
        if mistakes:
            raise ConfigError(mistakes)
        object.__setattr__(self, "hidden", tuple(self.hidden))

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

        steps = run.access.piece("train").count if run.spec.enabled else self.steps
        module = self._module(transform, len(schema.columns), run, steps)
        edge = module.net.edge

        def gather(rows: Tensor, step: int) -> Tensors:
            noise = run.access.random.generator("train/jitter", step).random(
                (rows.numel(), base.shape[1]), dtype=np.float32
            )
            codes = base[rows] + span[rows] * torch.from_numpy(noise)
            return (latent_ready(codes, transform.gaussianize, edge),)

        rate = self.rate(schema)
        train(
            module,
            TrainingData(gather, len(table), data.units),
            run,
            sampling_rate=rate,
            steps=steps,
            expected_rows=rate * schema.nominal_rows,
            row_limit=rows_per_unit(schema),
        )
        return FittedMAF(transform, schema, module.released_net(), self.recalibrate_marginals)

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

    def _module(self, transform: Transform, features: int, run: RunContext, steps: int) -> MAFModule:
        seed = int(run.random.generator("initialisation").integers(2**31))
        permutations = self._permutations(features, run.random.generator("permutation"))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            net = self.network(transform, permutations)
        return MAFModule(
            net, Optimization(self.learning_rate, self.weight_decay, self.lr_decay, self.ema, steps)
        )

    def _permutations(self, features: int, rng: np.random.Generator) -> list[list[int]]:
        if self.permutation == "random_public":
            return [[int(i) for i in rng.permutation(features)] for _ in range(self.blocks)]
        forward = list(range(features))
        first = [forward] if self.conditional == "piecewise" else []
        return [*first, *[forward[::-1]] * (self.blocks - len(first))]

    def network(self, transform: Transform, permutations: Sequence[Sequence[int]]) -> Flow:
        """Build the flow: one permutation a block; that of a piecewise block is the order of its columns."""
        if self.conditional == "affine" or not isinstance(transform, MarginalTransform):
            return self._affine(permutations)
        knots = make_knots(transform.codec, transform.masses, self.resolution, self.degree)
        return PiecewiseFlow(
            [torch.from_numpy(mass) for mass in knots.masses],
            [torch.from_numpy(values) for values in knots.functions],
            permutations[0],
            self.hidden,
            self.activation,
            self.zero_init_last,
            self._affine(permutations[1:]) if len(permutations) > 1 else None,
        )

    def _affine(self, permutations: Sequence[Sequence[int]]) -> MaskedAutoregressiveFlow:
        return MaskedAutoregressiveFlow(
            len(permutations[0]),
            len(permutations),
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
        net = self.network(transform, arrays["permutations"])
        net.load_state_dict(tensors)
        return FittedMAF(transform, schema, net, self.recalibrate_marginals)
