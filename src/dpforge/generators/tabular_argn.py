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
from dpforge.errors import ConfigError, PrivacyError
from dpforge.generators.argn_checks import setting_mistakes
from dpforge.generators.argn_columns import check_refined, ordered, refined
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
from dpforge.generators.argn_structure import Structure, pair_release, release_structure
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
        cross_target: Count columns by class of the schema's target.
        cross_columns: Which: ``refined`` or ``all``.
        parents: Pairs of columns that see each other, a column on average, > 0: those whose noisy distance
            from independence is largest. Null connects all, and nothing is measured for it.
        target_parents: With ``parents``: pairs with the target, >= 1, whatever their distance.
        structure_share: With ``parents``: default share of the budget for the distances.
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
    cross_columns: str = "refined"
    parents: float | None = None
    target_parents: int = 20
    structure_share: float = 0.05
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
        columns = self._columns(schema)
        ordered(self.column_order, schema)
        check_refined(self.refine_columns, schema)
        release = histogram_release(schema, privacy.relation, width=sum(map(len, columns)))
        pairs = [] if self.parents is None else pair_release(columns, schema, privacy.relation)
        shares = {release.name: self.marginal_share, **{one.name: self.structure_share for one in pairs}}
        sensitivity = privacy.max_grad_norm * replace_factor(privacy.relation, histogram=False)
        reason = f"flat clip to {privacy.max_grad_norm:g} over all parameters of a unit"
        return make_plan(
            privacy,
            releases=[release, *pairs],
            training=Training(self.rate(schema), self.steps, reason, sensitivity),
            bricks=value_pieces(schema, privacy.relation),
            shares={**shares, "train": 1 - sum(shares.values())},
            unit=schema.unit.kind,
        )

    def fit(self, data: Dataset, run: RunContext) -> FittedARGN:
        """Release the marginals, then train the network on Poisson batches."""
        schema, table = protect_values(data.schema, data.train, run.access)
        fine = self._fine(schema)
        codes = encode_rows(table, fine, run.checkpoints)
        marginals = release_marginals(
            run.access, fine, codes, self.allocation, float(schema.nominal_rows), cross=self._crossed()
        )
        pieces = make_pieces(marginals, fine, self._shape())
        pairs = None
        if self.parents is not None:
            structure = Structure(self.parents, self.target_parents)
            pairs = release_structure(run.access, fine, codes, pieces, marginals, structure)
        seed = int(run.random.generator("initialisation").integers(2**31))
        net = self._network(fine, pieces, schema, seed, pairs)
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
        net = self._network(fine, pieces, schema, 0, arrays.get("pairs"))
        net.load_state_dict(tensors)
        net.set_order(arrays["order"])
        return self._fitted(fine, marginals, pieces, schema, net)

    def _fitted(
        self, fine: FineCodec, marginals: Marginals, pieces: Pieces, schema: Schema, net: AutoregressiveNet
    ) -> FittedARGN:
        any_order = self.column_order == "random"
        net.set_order(ordered(self.column_order, schema))
        recalibrate = self.recalibrate_marginals == "rake"
        return FittedARGN(fine, marginals, pieces, schema, net, any_order=any_order, recalibrate=recalibrate)

    def _columns(self, schema: Schema) -> Sequence[Sequence[int]]:
        """Sub-columns of each column: with bounds that are still private, those on any bounds."""
        return self._fine(stand_in(schema)).codec.columns

    def _fine(self, schema: Schema) -> FineCodec:
        derived = derived_columns(schema)
        columns = tuple(column for column in schema.columns if column.name not in derived)
        modelled = replace(schema, columns=columns, constraints=())
        codecs = {name: codec for name, codec in self.codecs.items() if name not in derived}
        return fine_codec(
            modelled,
            self.refine,
            refined(self.refine_columns, modelled),
            codecs=codecs,
            default_bins=self.default_bins,
            discrete_max=self.discrete_max,
        )

    def _crossed(self) -> str:
        return self.cross_columns if self.cross_target else "none"

    def _shape(self) -> Shape:
        return Shape(self.degree, self.basis_decay, self.basis_scale, self.spike_threshold, self.spike_rise)

    def _network(
        self,
        fine: FineCodec,
        pieces: Pieces,
        schema: Schema,
        seed: int,
        pairs: Sequence[tuple[int, int]] | None,
    ) -> AutoregressiveNet:
        columns = [c for c, subs in enumerate(fine.codec.columns) for _ in subs]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return AutoregressiveNet(
                columns,
                [torch.from_numpy(mass) for mass in pieces.masses],
                [torch.from_numpy(table) for table in pieces.inputs],
                [torch.from_numpy(table) for table in pieces.outputs],
                ordered(self.column_order, schema),
                direct=self.direct,
                size=self.size,
                pairs=pairs,
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
