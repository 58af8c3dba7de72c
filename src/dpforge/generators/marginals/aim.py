"""AIM: measure, again and again, the marginal that the model so far gets most wrong.

References:
    McKenna, Mullins, Sheldon and Miklau, *AIM: An Adaptive and Iterative Mechanism for Differentially
    Private Synthetic Data* (VLDB 2022).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from dpforge.data import Dataset, Schema
from dpforge.errors import ConfigError
from dpforge.generators.base import RunContext
from dpforge.generators.histograms import column_weights
from dpforge.generators.marginals.fitted import FittedMarginals, load_fitted
from dpforge.generators.marginals.forecast import (
    ROUNDS_A_COLUMN,
    Forecast,
    Work,
    forecast,
    grown_megabytes,
)
from dpforge.generators.marginals.rounds import EXACT_ROUNDS, Rounds, RoundSettings
from dpforge.generators.marginals.settings import (
    MarginalSettings,
    marginal_sensitivity,
    one_way,
    score_sensitivity,
)
from dpforge.generators.marginals.workload import candidates, count_all, workload
from dpforge.privacy.events import ZCDp
from dpforge.privacy.plan import Piece, Plan
from dpforge.privacy.spec import PrivacySpec
from dpforge.privacy.values import protect_values, value_pieces
from dpforge.privacy.zcdp import make_zcdp_plan

NAME = "aim"
REASON = "a row is in one cell of a marginal; all costs inside are per unit of the sensitivity they state"


@dataclass(frozen=True)
class AIM(MarginalSettings):
    """Settings of AIM; see also :class:`MarginalSettings`.

    Args:
        order: Columns of the marginals that the synthetic table should get right, 2 or 3.
        target_weight: Weight of marginals with the schema's target, > 0; all others weigh 1.
        max_rounds: Most rounds; null is 16 a column. Rounds start with an equal share each.
        one_way_share: Share of rho for the one-way counts that come first, in (0, 1).
        selection_share: Share of each round for the choice, in (0, 1); the rest measures.
        round_iterations: Most steps of mirror descent between rounds.

    Raises:
        ConfigError: With every mistake among the values.
    """

    name: ClassVar[str] = "aim"

    order: int = 2
    target_weight: float = 1.0
    max_rounds: int | None = None
    one_way_share: float = 0.1
    selection_share: float = 0.1
    round_iterations: int = 100

    def _mistakes(self) -> list[str]:
        mistakes = super()._mistakes()
        if self.order not in (2, 3):
            mistakes.append(f"model.order={self.order!r}: expected 2 or 3.")
        if not self.target_weight > 0:
            mistakes.append(f"model.target_weight={self.target_weight!r}: expected a number > 0.")
        for name in ("max_rounds", "round_iterations"):
            value = getattr(self, name)
            if not (value is None and name == "max_rounds") and (not isinstance(value, int) or value < 1):
                mistakes.append(f"model.{name}={value!r}: expected an integer >= 1.")
        for name in ("one_way_share", "selection_share"):
            if not 0 < getattr(self, name) < 1:
                mistakes.append(f"model.{name}={getattr(self, name)!r}: expected a share in (0, 1).")
        return mistakes

    def plan(self, schema: Schema, privacy: PrivacySpec) -> Plan:
        """One zCDP reservation for everything: its inner costs depend on what is measured."""
        self.check(schema, self.order)
        if privacy.split is not None:
            raise ConfigError(
                "privacy.split has no meaning for model=aim, whose costs are divided while it runs."
                " Set it to null, and model.one_way_share or model.selection_share instead."
            )
        sensitivity = marginal_sensitivity(schema, privacy.relation)
        return make_zcdp_plan(
            privacy,
            lambda rho: [Piece(NAME, "adaptive", ZCDp(rho), 1, sensitivity, REASON)],
            bricks=value_pieces(schema, privacy.relation),
            unit=schema.unit.kind,
        )

    def fit(self, data: Dataset, run: RunContext) -> FittedMarginals:
        """Measure one-way counts, then one chosen marginal a round until rho is spent."""
        schema, table = protect_values(data.schema, data.train, run.access)
        codec = self.codec(schema)
        codes = codec.encode(table).codes
        event = run.access.piece(NAME).event
        rho = event.rho if isinstance(event, ZCDp) else math.inf
        width, relation = len(codec.sizes), run.spec.relation
        first = rho * self.one_way_share if math.isfinite(rho) else None
        sensitivity = math.sqrt(width) * marginal_sensitivity(schema, relation)
        noisy, scales = run.access.measure(
            NAME,
            codec.histogram(codes),
            column_weights(codec.sizes, "cube_root"),
            step=0,
            sensitivity=sensitivity,
            rho=first,
            what="all one-way counts",
        )
        known = one_way(self, codec, noisy, scales)
        sizes = known.domain.sizes
        self.announce(self.name, codec.sizes, known.domain, self.order, self._work(sizes, known.total, rho))
        merged = known.domain.encode(codes)
        del codes  # as large as the merged ones
        names = list(schema.names)
        target = names.index(schema.target) if schema.target in names else None
        weights = candidates(workload(width, self.order, target, self.target_weight), sizes, self.most_cells)
        rounds = Rounds(
            RoundSettings(
                NAME,
                rho,
                self.max_rounds or 16 * width,
                self.selection_share,
                marginal_sensitivity(schema, relation),
                score_sensitivity(schema, relation),
            ),
            self,
            self.round_iterations,
            known,
            count_all(merged, sizes, weights),
            weights,
            run,
        )
        measurements, start = rounds.finish([first] if first else [])
        found = self.estimated(
            sizes, measurements, known.total, iterations=self.iterations, tolerance=1e-4, start=start
        )
        return FittedMarginals(codec, known.domain, found.model)

    def forecast(self, schema: Schema, plan: Plan) -> Forecast | None:
        """Return what a fit should take, from the schema and the plan alone; None while values are private.

        Merging of rare cells, which needs their counts, is not foreseen.
        """
        if schema.private_columns or self.estimator != "native":
            return None
        event = plan.piece(NAME).event
        rho = event.rho if isinstance(event, ZCDp) else math.inf
        return forecast(self._work(self.codec(schema).sizes, float(schema.nominal_rows), rho))

    def _work(self, sizes: Sequence[int], rows: float, rho: float) -> Work:
        width, left = len(sizes), (1 - self.one_way_share) * rho
        a_column = ROUNDS_A_COLUMN if math.isfinite(rho) else EXACT_ROUNDS
        rounds = min(self.max_rounds or 16 * width, math.ceil(a_column * width))
        size = grown_megabytes(sizes, rows, left, self.max_model_size)
        scored = list(candidates(workload(width, self.order, None, 1.0), sizes, self.most_cells))
        return Work(sizes, rows, scored, rounds, self.round_iterations, self.iterations, size)

    def load(self, folder: Path) -> FittedMarginals:
        """Read back a fitted model."""
        return load_fitted(folder, self.default_bins, self.discrete_max)
