"""The adaptive rounds of AIM, with costs that are halved in noise when a round taught too little."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from dpforge.errors import Interrupted
from dpforge.generators.base import RunContext
from dpforge.generators.marginals.estimation import Estimate, Measurement, Potentials
from dpforge.generators.marginals.junction import Clique, cells, model_megabytes
from dpforge.generators.marginals.pairs import marginals
from dpforge.generators.marginals.progress import Progress, load_progress, save_progress
from dpforge.generators.marginals.settings import MarginalSettings, OneWay, as_lists, variance_of
from dpforge.generators.marginals.workload import Counts
from dpforge.privacy.selection import measurement_scale

# Of the last round, which takes all that is left: rounding of a sum must not carry it over the reservation.
MARGIN = 1 - 1e-9
EXACT_ROUNDS = 2  # rounds a column without noise, where no budget ends them
MEAN_ABSOLUTE = math.sqrt(2 / math.pi)


@dataclass(frozen=True)
class RoundSettings:
    """How rounds spend.

    Args:
        name: Piece of the plan.
        rho: Its reservation; infinite without DP.
        most: Most rounds.
        selection_share: Share of a round for the choice.
        marginal_sensitivity: L2 bound on the counts of one marginal.
        score_sensitivity: Bound on the L1 distance of one marginal, before its weight.
    """

    name: str
    rho: float
    most: int
    selection_share: float
    marginal_sensitivity: float
    score_sensitivity: float


class Rounds:
    """One run of the adaptive part.

    Args:
        settings: How rounds spend.
        model: Estimation and size limit.
        iterations: Steps of estimation between rounds.
        known: Released one-way counts.
        counts: Private counts of every candidate.
        weights: Weight of every candidate.
        run: Access, checkpoints, progress.
    """

    def __init__(
        self,
        settings: RoundSettings,
        model: MarginalSettings,
        iterations: int,
        known: OneWay,
        counts: Counts,
        weights: Mapping[Clique, float],
        run: RunContext,
    ) -> None:
        self.settings, self.model, self.iterations = settings, model, iterations
        self.known, self.counts, self.run = known, counts, run
        self.sizes = known.domain.sizes
        self.weights = np.array([weights[clique] for clique in counts.cliques])
        self.lengths = np.array([cells(self.sizes, clique) for clique in counts.cliques])

    def finish(self, costs: Sequence[float]) -> tuple[list[Measurement], Potentials]:
        """Run all rounds, from the last saved one if there is one.

        Args:
            costs: What was spent before the first round.

        Returns:
            All measurements, and the potentials of the last model.

        Raises:
            Interrupted: The run was asked to stop; its state is saved.
            BudgetExceeded: A round would cost more than is left.
        """
        state, estimate = self._begin(costs)
        while not state.done:
            state, estimate = self._round(state, estimate)
            save_progress(self.run, state, estimate.potentials)
            self._show(state, estimate)
            if self.run.stopping() and not state.done:
                raise Interrupted(f"stopped after round {state.round}; the same command continues the run.")
        return [*self.known.measurements, *state.measurements], estimate.potentials

    def _begin(self, costs: Sequence[float]) -> tuple[Progress, Estimate]:
        saved = load_progress(self.run)
        if saved is not None:
            state, potentials = saved
            # No step is taken: the saved potentials are the model that the next round must see.
            return state, self._estimate(state.measurements, potentials, 0)
        share = (self.settings.rho - math.fsum(costs)) / self.settings.most
        state = Progress(0, tuple(costs), share if math.isfinite(share) else math.inf, False, ())
        return self._next(state), self._estimate((), {}, self.iterations)

    def _estimate(self, measurements: Sequence[Measurement], start: Potentials, iterations: int) -> Estimate:
        everything = [*self.known.measurements, *measurements]
        return self.model.estimated(
            self.sizes, everything, self.known.total, iterations=iterations, start=start
        )

    def _round(self, state: Progress, before: Estimate) -> tuple[Progress, Estimate]:
        cost = state.cost if math.isfinite(state.cost) else None
        share = self.settings.selection_share
        chosen = self._choose(state, before, None if cost is None else share * cost)
        clique = self.counts.cliques[chosen]
        noisy, scales = self.run.access.measure(
            self.settings.name,
            [self.counts.of(chosen)],
            step=2 * state.round + 2,
            sensitivity=self.settings.marginal_sensitivity,
            rho=None if cost is None else (1 - share) * cost,
            what=as_lists([clique]),
        )
        new = Measurement(clique, noisy[0], np.full(noisy[0].size, variance_of(scales[0])))
        measurements = (*state.measurements, new)
        after = self._estimate(measurements, before.potentials, self.iterations)
        change = self.known.total * float(
            np.abs(after.model.marginal(clique) - before.model.marginal(clique)).sum()
        )
        spent = () if cost is None else (share * cost, (1 - share) * cost)
        state = replace(state, round=state.round + 1, costs=(*state.costs, *spent), measurements=measurements)
        if change <= MEAN_ABSOLUTE * scales[0] * noisy[0].size:
            state = replace(state, cost=4 * state.cost)
        return self._next(state), after

    def _next(self, state: Progress) -> Progress:
        """Say whether rounds are over, and let the last one take what is left."""
        if not math.isfinite(self.settings.rho):
            return replace(state, done=state.round >= min(self.settings.most, EXACT_ROUNDS * len(self.sizes)))
        left = (self.settings.rho - math.fsum(state.costs)) * MARGIN
        if left <= self.settings.rho * (1 - MARGIN) or state.round >= self.settings.most:
            return replace(state, done=True)
        last = left < 2 * state.cost or state.round == self.settings.most - 1
        return replace(state, cost=left) if last else state

    def _choose(self, state: Progress, estimate: Estimate, rho: float | None) -> int:
        """Choose a candidate by its weighted distance to the model, less what noise alone would add."""
        name, bound = self.settings.name, self.settings
        tables = (self.known.total * table for table in marginals(estimate.model, self.counts.cliques))
        spread = 0.0
        if rho is not None:
            spread = measurement_scale(state.cost - rho, bound.marginal_sensitivity)
        distances = self.counts.distances(tables)
        scores = self.weights * (distances - MEAN_ABSOLUTE * spread * self.lengths)
        return self.run.access.choose(
            name,
            scores,
            step=2 * state.round + 1,
            sensitivity=float(self.weights.max()) * bound.score_sensitivity,
            rho=rho,
            allowed=self._allowed(state),
        )

    def _allowed(self, state: Progress) -> _Fits:
        spent = math.fsum(state.costs) + state.cost
        part = min(spent / self.settings.rho, 1.0) if math.isfinite(self.settings.rho) else 1.0
        cliques = [m.clique for m in state.measurements]
        return _Fits(self.sizes, cliques, self.counts.cliques, part * self.model.max_model_size)

    def _show(self, state: Progress, estimate: Estimate) -> None:
        spent, rho = math.fsum(state.costs), self.settings.rho
        done = round(100 * spent / rho) if math.isfinite(rho) else 100 * state.round // self.settings.most
        values = {"round": state.round, "model_mb": estimate.model.tree.megabytes}
        if math.isfinite(rho):
            values["rho"] = spent
        self.run.log(state.round, {f"aim/{name}": float(value) for name, value in values.items()}, "dp")
        self.run.progress(100 if state.done else min(done, 99), 100, values)


@dataclass(frozen=True)
class _Fits:
    """Whether the model stays within a size when a candidate joins it: reads released values only."""

    sizes: Sequence[int]
    measured: Sequence[Clique]
    names: Sequence[Clique]
    megabytes: float

    def __call__(self, candidate: int) -> bool:
        clique = self.names[candidate]
        if len(clique) == 1 or clique in self.measured:
            return True
        return model_megabytes(self.sizes, [*self.measured, clique]) <= self.megabytes
