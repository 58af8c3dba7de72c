"""TabularARGN: an autoregressive network over categorical sub-columns, trained with or without DP-SGD.

References:
    Tiwald et al., *TabularARGN* (arXiv 2501.12012). Released marginals as biases, spikes kept apart and
    target scores are this project's own; see DESIGN.md.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from dpforge.data import Dataset, Schema
from dpforge.data.constraints import derived_columns
from dpforge.data.encode.refine import FineCodec, fine_codec
from dpforge.errors import ConfigError, PrivacyError, did_you_mean
from dpforge.generators.argn_checks import setting_mistakes
from dpforge.generators.argn_fitted import FittedARGN, piece_codes
from dpforge.generators.argn_marginals import (
    Marginals,
    Pieces,
    Shape,
    make_pieces,
    marginals_from_json,
    release_marginals,
    target_sub,
)
from dpforge.generators.argn_model import ARGNModule, EarlyStop
from dpforge.generators.argn_rows import Gather, encode_rows, hold_out
from dpforge.generators.base import RunContext, nominal_units, rows_per_unit
from dpforge.generators.histograms import histogram_release
from dpforge.generators.optimization import Optimization
from dpforge.generators.storage import load_model
from dpforge.generators.training import TrainingData, train
from dpforge.nets.autoregressive import AutoregressiveNet, embedding_width
from dpforge.privacy.plan import Plan, Training, make_plan
from dpforge.privacy.spec import PrivacySpec, replace_factor
from dpforge.privacy.values import protect_values, stand_in, value_pieces


@dataclass(frozen=True)
class TabularARGN:
    """Settings of a TabularARGN; see ``conf/model/tabular_argn*.yaml`` for the presets.

    Args:
        size: ``S``, ``M`` or ``L``: embeddings and one regressor a sub-column, as published; null for none.
        direct: Logits are linear in fixed functions of the columns before, beside the regressors.
        column_order: ``schema``, ``random`` (a fresh order in every step, for conditional generation on any
            columns), or a list of all column names.
        dropout: On the embeddings, in [0, 1).
        codecs: Codec by column: ``auto``, ``discrete``, ``binned``, ``digit``, ``datetime_parts``.
        default_bins, discrete_max: Cells of columns without public bins.
        refine: Parts that a bin of the refined columns is cut into before it is counted, >= 1; 1 for none.
        refine_columns: ``special`` (number columns whose schema lists special values: amounts with a
            structural zero tend to have more spikes), ``all``, or a list of names.
        cross_target: Count the refined columns by class of the schema's target.
        degree, basis_decay, basis_scale: See :func:`~dpforge.data.encode.basis.basis_functions`.
        spike_threshold, spike_rise: See :func:`~dpforge.data.encode.refine.merge_cells`.
        target_weight: Weight of the target's loss, > 0; others have 1.
        sampling_rate: q in (0, 1]; or null to use ``expected_batch_size / nominal_rows``.
        expected_batch_size: Expected number of units in a batch.
        steps: Logical steps T, >= 1; the most steps with ``patience`` or ``privacy.max_epsilon``.
        learning_rate, weight_decay: Of AdamW.
        lr_decay: Linear decay of the learning rate to zero over the steps.
        ema: Decay of an average of the released weights in [0, 1); 0 for none. Post-processing.
        patience: Passes without improvement on a tenth of the training rows before training ends; null for
            exactly ``steps`` steps. Without DP only.
        recalibrate_marginals: ``rake`` or ``none``.
        allocation: How histogram noise is divided among sub-columns.
        marginal_share: Default share of the budget for the histograms.

    Raises:
        ConfigError: With every mistake among the values.
    """

    modalities: ClassVar[tuple[str, ...]] = ("table",)
    name: ClassVar[str] = "tabular_argn"

    size: str | None = None
    direct: bool = True
    column_order: str | Sequence[str] = "schema"
    dropout: float = 0.0
    codecs: Mapping[str, str] = field(default_factory=dict)
    default_bins: int = 32
    discrete_max: int = 128
    refine: int = 16
    refine_columns: str | Sequence[str] = "special"
    cross_target: bool = True
    degree: int = 5
    basis_decay: float = 0.5
    basis_scale: float = 0.5
    spike_threshold: float = 4.0
    spike_rise: float = 3.0
    target_weight: float = 1.0
    sampling_rate: float | None = None
    expected_batch_size: float | None = 1024
    steps: int = 600
    learning_rate: float = 2e-2
    weight_decay: float = 0.0
    lr_decay: bool = True
    ema: float = 0.0
    patience: int | None = None
    recalibrate_marginals: str = "rake"
    allocation: str = "cube_root"
    marginal_share: float = 0.4

    def __post_init__(self) -> None:
        mistakes = setting_mistakes(self)
        if mistakes:
            raise ConfigError(mistakes)
        for name in ("column_order", "refine_columns"):
            if not isinstance(getattr(self, name), str):
                object.__setattr__(self, name, tuple(getattr(self, name)))

    def rate(self, schema: Schema) -> float:
        """Return the sampling rate q, from configuration and public constants."""
        if self.sampling_rate is not None:
            return float(self.sampling_rate)
        return min(float(self.expected_batch_size or 0) / nominal_units(schema), 1.0)

    def plan(self, schema: Schema, privacy: PrivacySpec) -> Plan:
        """Histograms, then DP-SGD; see :func:`dpforge.privacy.plan.make_plan`."""
        if privacy.enabled and self.patience is not None:
            raise ConfigError(
                f"model.patience={self.patience}: it ends training by the loss of private rows, which no plan"
                " pays for. Set it to null, or privacy=none."
            )
        width = self._width(schema)
        self._order(schema)
        self._check_refined(schema)
        release = histogram_release(schema, privacy.relation, width=width)
        sensitivity = privacy.max_grad_norm * replace_factor(privacy.relation, histogram=False)
        reason = f"flat clip to {privacy.max_grad_norm:g} over all parameters of a unit"
        return make_plan(
            privacy,
            releases=[release],
            training=Training(self.rate(schema), self.steps, reason, sensitivity),
            bricks=value_pieces(schema, privacy.relation),
            shares={release.name: self.marginal_share, "train": 1 - self.marginal_share},
            unit=schema.unit.kind,
        )

    def fit(self, data: Dataset, run: RunContext) -> FittedARGN:
        """Release the marginals, then train the network on Poisson batches."""
        schema, table = protect_values(data.schema, data.train, run.access)
        fine = self._fine(schema)
        codes = encode_rows(table, fine, run.checkpoints)
        marginals = release_marginals(
            run.access, fine, codes, self.allocation, float(schema.nominal_rows), cross=self.cross_target
        )
        pieces = make_pieces(marginals, fine, self._shape())
        net = self._network(fine, pieces, schema, int(run.random.generator("initialisation").integers(2**31)))
        steps = run.access.piece("train").count if run.spec.enabled else self.steps
        kept, stop = self._kept(fine, pieces, codes, run)
        module = ARGNModule(
            net,
            Optimization(self.learning_rate, self.weight_decay, self.lr_decay, self.ema, steps),
            self._weights(fine),
            run.random if self.column_order == "random" else None,
            stop,
        )
        rate = self.rate(schema)
        train(
            module,
            TrainingData(
                Gather(codes, kept, fine, pieces, run, self.dropout, self._embedded(pieces)),
                len(kept),
                None if data.units is None else data.units[kept],
            ),
            run,
            sampling_rate=rate,
            steps=steps,
            expected_rows=rate * schema.nominal_rows,
            row_limit=rows_per_unit(schema),
        )
        return self._fitted(fine, marginals, pieces, schema, module.released_net())

    def load(self, folder: Path) -> FittedARGN:
        """Read back a fitted model."""
        tensors, arrays, schema = load_model(folder)
        fine, marginals = self._fine(schema), marginals_from_json(arrays["marginals"])
        pieces = make_pieces(marginals, fine, self._shape())
        net = self._network(fine, pieces, schema, 0)
        net.load_state_dict(tensors)
        net.set_order(arrays["order"])
        return self._fitted(fine, marginals, pieces, schema, net)

    def _fitted(
        self, fine: FineCodec, marginals: Marginals, pieces: Pieces, schema: Schema, net: AutoregressiveNet
    ) -> FittedARGN:
        any_order = self.column_order == "random"
        net.set_order(self._order(schema))
        recalibrate = self.recalibrate_marginals == "rake"
        return FittedARGN(fine, marginals, pieces, schema, net, any_order=any_order, recalibrate=recalibrate)

    def _width(self, schema: Schema) -> int:
        """Number of sub-columns: with bounds that are still private, counted on any bounds."""
        return len(self._fine(stand_in(schema)).codec.sizes)

    def _fine(self, schema: Schema) -> FineCodec:
        derived = derived_columns(schema)
        columns = tuple(column for column in schema.columns if column.name not in derived)
        modelled = replace(schema, columns=columns, constraints=())
        codecs = {name: codec for name, codec in self.codecs.items() if name not in derived}
        return fine_codec(
            modelled,
            self.refine,
            self._refined(modelled),
            codecs=codecs,
            default_bins=self.default_bins,
            discrete_max=self.discrete_max,
        )

    def _refined(self, schema: Schema) -> list[str]:
        if self.refine_columns == "all":
            return list(schema.names)
        if self.refine_columns == "special":
            return [column.name for column in schema.columns if column.special_values]
        return [name for name in self.refine_columns if name in schema.names]

    def _check_refined(self, schema: Schema) -> None:
        names = () if isinstance(self.refine_columns, str) else self.refine_columns
        unknown = [name for name in names if name not in schema.names]
        if unknown:
            hint = did_you_mean(unknown[0], schema.names)
            raise ConfigError(f"model.refine_columns: the schema has no column '{unknown[0]}'.{hint}")

    def _shape(self) -> Shape:
        return Shape(self.degree, self.basis_decay, self.basis_scale, self.spike_threshold, self.spike_rise)

    def _order(self, schema: Schema) -> list[int]:
        """The columns' order in which rows are generated, derived columns left out."""
        derived = derived_columns(schema)
        names = [name for name in schema.names if name not in derived]
        if isinstance(self.column_order, str):
            return list(range(len(names)))
        wanted = [name for name in self.column_order if name not in derived]
        if sorted(wanted) != sorted(names):
            raise ConfigError(
                f"model.column_order={list(self.column_order)}: expected every column once: {names}."
            )
        return [names.index(name) for name in wanted]

    def _network(self, fine: FineCodec, pieces: Pieces, schema: Schema, seed: int) -> AutoregressiveNet:
        columns = [c for c, subs in enumerate(fine.codec.columns) for _ in subs]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return AutoregressiveNet(
                columns,
                [torch.from_numpy(mass) for mass in pieces.masses],
                [torch.from_numpy(table) for table in pieces.inputs],
                [torch.from_numpy(table) for table in pieces.outputs],
                self._order(schema),
                direct=self.direct,
                size=self.size,
            )

    def _weights(self, fine: FineCodec) -> Tensor:
        weights = torch.ones(len(fine.codec.sizes))
        target = target_sub(fine)
        if target is not None:
            weights[target] = self.target_weight
        return weights

    def _embedded(self, pieces: Pieces) -> int:
        """Width of all embeddings, which dropout acts on."""
        return sum(embedding_width(len(mass), self.size) for mass in pieces.masses) if self.size else 0

    def _kept(
        self, fine: FineCodec, pieces: Pieces, codes: np.ndarray, run: RunContext
    ) -> tuple[np.ndarray, EarlyStop | None]:
        """Return the rows to train on, and what ends training early."""
        if self.patience is None:
            return np.arange(len(codes)), None
        if run.spec.enabled:
            raise PrivacyError("model.patience ends training by the loss of private rows, unpaid.")
        kept, held = hold_out(codes, run)
        every = math.ceil(1 / self.rate_of(len(codes)))
        return kept, EarlyStop(piece_codes(held, fine, pieces), self.patience, every)

    def rate_of(self, rows: int) -> float:
        """Return the share of a pass in one step; without privacy only, for it counts the rows."""
        return self.sampling_rate or min(float(self.expected_batch_size or 0) / max(rows, 1), 1.0)
