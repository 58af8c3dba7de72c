"""MST: one-way marginals, a tree of pairs chosen by noisy scores, and the pairs of the tree.

References:
    McKenna, Miklau and Sheldon, *Winning the NIST Contest: A scalable and general approach to
    differentially private synthetic data* (Journal of Privacy and Confidentiality, 2021).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import ClassVar

import numpy as np

from dpforge.data import Dataset, Schema
from dpforge.errors import Interrupted
from dpforge.generators.base import RunContext
from dpforge.generators.histograms import NAME, column_weights, histogram_release
from dpforge.generators.marginals.estimation import Measurement
from dpforge.generators.marginals.fitted import FittedMarginals, load_fitted
from dpforge.generators.marginals.forecast import Forecast, Work, forecast
from dpforge.generators.marginals.junction import CELL_BYTES, Clique, cells
from dpforge.generators.marginals.settings import (
    MarginalSettings,
    marginal_sensitivity,
    one_way,
    score_sensitivity,
    variance_of,
)
from dpforge.generators.marginals.workload import count, count_all, independent_marginal
from dpforge.privacy.events import ZCDp
from dpforge.privacy.plan import Piece, Plan
from dpforge.privacy.spec import PrivacySpec
from dpforge.privacy.values import protect_values, value_pieces
from dpforge.privacy.zcdp import gaussian_of, make_zcdp_plan

CHOICES, PAIRS = "selection", "pairs"
SHARES = {NAME: 1.0, CHOICES: 1.0, PAIRS: 1.0}


@dataclass(frozen=True)
class MST(MarginalSettings):
    """Settings of MST; see :class:`MarginalSettings`."""

    name: ClassVar[str] = "mst"

    def plan(self, schema: Schema, privacy: PrivacySpec) -> Plan:
        """One-way counts, d − 1 choices and d − 1 pairs, a third of rho each by default."""
        self.check(schema, 2)
        shares = privacy.shares(SHARES if len(schema.columns) > 1 else {NAME: 1.0})
        return make_zcdp_plan(
            privacy,
            lambda rho: _pieces(schema, privacy.relation, {name: rho * s for name, s in shares.items()}),
            bricks=value_pieces(schema, privacy.relation),
            unit=schema.unit.kind,
        )

    def fit(self, data: Dataset, run: RunContext) -> FittedMarginals:
        """Measure, choose, measure, estimate. A killed run repeats what it released, at no cost."""
        schema, table = protect_values(data.schema, data.train, run.access)
        codec = self.codec(schema)
        codes = codec.encode(table).codes
        weights = column_weights(codec.sizes, "cube_root")
        noisy, scales = run.access.measure(NAME, codec.histogram(codes), weights, step=0)
        known = one_way(self, codec, noisy, scales)
        sizes = known.domain.sizes
        self.announce(self.name, codec.sizes, known.domain, 2, self._work(sizes, known.total))
        pairs = self._pairs(known.domain.encode(codes), sizes, known.masses(), known.total, run)
        measurements = [*known.measurements, *pairs]
        found = self.estimated(sizes, measurements, known.total, iterations=self.iterations, tolerance=1e-5)
        return FittedMarginals(codec, known.domain, found.model)

    def forecast(self, schema: Schema, plan: Plan) -> Forecast | None:
        """Return what a fit should take, from the schema alone; None while some of its values are private.

        Merging of rare cells, which needs their counts, is not foreseen.
        """
        if schema.private_columns or self.estimator != "native":
            return None
        return forecast(self._work(self.codec(schema).sizes, float(schema.nominal_rows)))

    def _allowed(self, sizes: Sequence[int]) -> list[Clique]:
        """Return the pairs of which any tree, with columns left alone, fits into ``max_model_size``."""
        each = (self.most_cells - sum(sizes)) / max(len(sizes) - 1, 1)
        return [c for c in combinations(range(len(sizes)), 2) if cells(sizes, c) <= each]

    def _work(self, sizes: Sequence[int], rows: float) -> Work:
        allowed = self._allowed(sizes)
        mean = sum(cells(sizes, c) for c in allowed) / max(len(allowed), 1)
        size = (len(sizes) - 1) * mean * CELL_BYTES / 2**20
        return Work(sizes, rows, allowed, len(sizes) - 1, 0, self.iterations, size)

    def load(self, folder: Path) -> FittedMarginals:
        """Read back a fitted model."""
        return load_fitted(folder, self.default_bins, self.discrete_max)

    def _pairs(
        self,
        codes: np.ndarray,
        sizes: Sequence[int],
        masses: Sequence[np.ndarray],
        total: float,
        run: RunContext,
    ) -> list[Measurement]:
        """Choose the edges of a spanning tree one by one, measuring each at once."""
        allowed = self._allowed(sizes)
        steps = len(sizes) - 1
        if not steps:
            return []
        tables = [total * independent_marginal(masses, clique) for clique in allowed]
        scores = count_all(codes, sizes, allowed).distances(tables) if allowed else np.empty(0)
        component = list(range(len(sizes)))
        found = []
        for step in range(steps):
            if run.stopping():
                raise Interrupted(
                    f"stopped after pair {step} of {steps}; the same command continues the run."
                )
            edge = self._edge(allowed, scores, component, step, run)
            if edge is None:
                break
            noisy, scales = run.access.measure(PAIRS, [count(codes, sizes, edge)], step=step)
            variances = np.full(noisy[0].size, variance_of(scales[0]))
            found.append(Measurement(edge, noisy[0], variances))
            component = [component[edge[0]] if part == component[edge[1]] else part for part in component]
            run.progress(step + 1, steps, {"rho": _spent(run, step + 1)})
        for name in (CHOICES, PAIRS):  # what was planned and not needed stays charged
            run.access.reserve(name, steps)
        return found

    def _edge(
        self,
        pairs: Sequence[Clique],
        scores: np.ndarray,
        component: Sequence[int],
        step: int,
        run: RunContext,
    ) -> Clique | None:
        """Choose a pair that joins two parts of the tree; None if no allowed pair does."""
        open_ = [i for i, (a, b) in enumerate(pairs) if component[a] != component[b]]
        if not open_:
            return None
        return pairs[open_[run.access.choose(CHOICES, scores[open_], step=step)]]


def _pieces(schema: Schema, relation: str, rho: dict[str, float]) -> list[Piece]:
    """The pieces for given shares of rho."""
    release = histogram_release(schema, relation)
    event = gaussian_of(rho[NAME])
    pieces = [Piece(NAME, "rounded_gaussian", event, 1, release.sensitivity, release.reason)]
    steps = len(schema.columns) - 1
    if steps:
        score, pair = score_sensitivity(schema, relation), marginal_sensitivity(schema, relation)
        why = "a row moves the L1 distance of a pair to released counts by at most 1 (replaced: 2)"
        pieces.append(Piece(CHOICES, "exponential", ZCDp(rho[CHOICES] / steps), steps, score, why))
        why = "a row is in one cell of a pair (replaced: two)"
        pieces.append(Piece(PAIRS, "rounded_gaussian", gaussian_of(rho[PAIRS] / steps), steps, pair, why))
    return pieces


def _spent(run: RunContext, steps: int) -> float:
    if not run.spec.enabled:
        return math.inf
    costs = {
        p.name: 1 / (2 * p.noise_multiplier**2) for p in run.access.ledger.plan.pieces if p.noise_multiplier
    }
    return costs[NAME] + steps * (costs[CHOICES] + costs[PAIRS])
