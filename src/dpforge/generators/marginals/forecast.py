"""How long MST and AIM will take: public or released sizes, and a few steps timed on this machine.

The steps are timed on a model of the expected size over cells that hold nothing, so no record has a part in
it. How much AIM measures is decided by noise: a pair of columns pays as long as the distance it corrects
exceeds what its noise adds, which is the noise of one cell times the number of cells. The constants below
are fits to four runs (Adult at epsilon 1, 3 and 10; 60 generated columns at 1).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise

import numpy as np

from dpforge.generators.marginals.estimation import Estimate, Measurement, estimate
from dpforge.generators.marginals.junction import CELL_BYTES, Clique, cells, model_megabytes
from dpforge.generators.marginals.pairs import marginals
from dpforge.generators.marginals.workload import count

ROUNDS_A_COLUMN = 2.3
MEAN_DISTANCE = 0.1  # L1 distance of a pair from independence, as a share of the rows
LAST_ROUND = 1 / 3  # of rho: what the last round costs after the noise was halved again and again
FULL_GROWTH = 4.0  # affordable cells over those of a mean pair, from which on a model grows to its limit
ROUND_SIZE = 0.25  # mean size of the models between rounds over that of the last one
TIMED_STEPS, TIMED_ROWS, REPEATS = 4, 100_000, 2
MOST_REFUSALS, MOST_DRAWS, MOST_WALKS = 25, 150, 500


@dataclass(frozen=True)
class Forecast:
    """What a fit is expected to take.

    MST took what was foreseen within a tenth; AIM within a factor of 2 on the tables that the constants were
    fitted to and of 4 on others.

    Args:
        rounds: Marginals that are measured after the one-way counts.
        megabytes: Size of the last model.
        seconds: Of one processor of this machine; longer if others use it as well.
    """

    rounds: int
    megabytes: float
    seconds: float

    def __str__(self) -> str:
        """Return one sentence for people."""
        return (
            f"about {_rounded(self.seconds)} on this machine"
            f" ({self.rounds} marginals, a model of {self.megabytes:.2g} MB)"
        )


@dataclass(frozen=True)
class Work:
    """What a fit does, by size.

    Args:
        sizes: Cells of every column.
        rows: Public or released number of rows.
        scored: Marginals that are counted, and compared with the model in every round.
        rounds: Marginals to be measured.
        round_iterations: Steps of estimation after each; 0 if there is one estimation only.
        iterations: Steps of the last estimation.
        megabytes: Size of the last model.
    """

    sizes: Sequence[int]
    rows: float
    scored: Sequence[Clique]
    rounds: int
    round_iterations: int
    iterations: int
    megabytes: float


def grown_megabytes(sizes: Sequence[int], rows: float, rho: float, limit: float) -> float:
    """Return the size that AIM's last model is expected to have, at most ``limit``.

    Between a tree of mean pairs, where noise allows no more than those, and the limit.
    """
    pairs = [cells(sizes, pair) for pair in combinations(range(len(sizes)), 2)]
    if not pairs:
        return min(sum(sizes) * CELL_BYTES / 2**20, limit)
    mean = math.fsum(pairs) / len(pairs)
    tree = min(mean * (len(sizes) - 1) * CELL_BYTES / 2**20, limit)
    if not math.isfinite(rho):
        return limit
    noise = math.sqrt(2 / math.pi) / math.sqrt(2 * rho * LAST_ROUND)
    share = (MEAN_DISTANCE * rows / noise / mean - 1) / (FULL_GROWTH - 1)
    return tree * (limit / tree) ** min(max(share, 0.0), 1.0)


def forecast(work: Work) -> Forecast:
    """Time a few steps of the work and return what all of it should take; well below a second itself."""
    last = _pairs(work, work.megabytes)
    finish, _ = _timed_estimate(work, last, work.iterations)
    seconds = finish + _count_seconds(work)
    if work.round_iterations:
        middle = _pairs(work, ROUND_SIZE * work.megabytes)
        between, found = _timed_estimate(work, middle, work.round_iterations)
        seconds += work.rounds * (between + _score_seconds(work, found))
    return Forecast(work.rounds, model_megabytes(work.sizes, last), seconds)


def _pairs(work: Work, megabytes: float) -> list[Clique]:
    """Draw a chain of all columns, then pairs at random, as long as their model stays within a size."""
    rng, width = np.random.default_rng(0), len(work.sizes)
    found: list[Clique] = [tuple(sorted(pair)) for pair in pairwise(rng.permutation(width).tolist())]
    found = found[: work.rounds]
    pairs = [pair for pair in combinations(range(width), 2) if pair not in set(found)]
    refused = 0
    for i in rng.permutation(len(pairs))[:MOST_DRAWS]:
        if len(found) >= work.rounds or refused >= MOST_REFUSALS:
            break
        if model_megabytes(work.sizes, [*found, pairs[i]]) <= megabytes:
            found.append(pairs[i])
        else:
            refused += 1
    return found


def _timed_estimate(work: Work, pairs: Sequence[Clique], iterations: int) -> tuple[float, Estimate]:
    """Return the seconds of an estimation with so many steps, and what a few steps found."""
    rng = np.random.default_rng(0)
    cliques = [*((c,) for c in range(len(work.sizes))), *pairs]
    tables = [rng.random(cells(work.sizes, clique)) for clique in cliques]
    measured = [
        Measurement(clique, work.rows * table / table.sum(), np.ones(table.size))
        for clique, table in zip(cliques, tables, strict=True)
    ]

    def steps(number: int) -> Estimate:
        return estimate(work.sizes, measured, work.rows, iterations=number, tolerance=0.0)

    alone = _timed(lambda: steps(0))
    each = max(_timed(lambda: steps(TIMED_STEPS)) - alone, 0.0) / TIMED_STEPS
    return alone + iterations * each, steps(1)


def _score_seconds(work: Work, found: Estimate) -> float:
    """Return the seconds of the model's tables of all scored marginals.

    Pairs come all at once. Larger ones need a walk each: some are timed for all.
    """
    small = [clique for clique in work.scored if len(clique) < 3]
    large = [clique for clique in work.scored if len(clique) > 2]
    some = large[:: math.ceil(len(large) / MOST_WALKS) or 1]

    def tables(cliques: Sequence[Clique]) -> float:
        return sum(float(table.sum()) for table in marginals(found.model, cliques))

    walks = _timed(lambda: tables(some)) * len(large) / max(len(some), 1)
    return walks + _timed(lambda: tables(small))


def _count_seconds(work: Work) -> float:
    """Return the seconds of counting every scored marginal, from one pass over drawn rows."""
    if not work.scored:
        return 0.0
    clique = max(work.scored, key=len)
    rows = min(TIMED_ROWS, max(int(work.rows), 1))
    codes = np.zeros((rows, len(work.sizes)), dtype=np.int32, order="F")
    for column, size in enumerate(work.sizes):
        codes[:, column] = np.random.default_rng(column).integers(0, size, rows)
    return _timed(lambda: count(codes, work.sizes, clique)) * work.rows / rows * len(work.scored)


def _timed(action: Callable[[], object]) -> float:
    """Return the processor seconds of the fastest of a few turns: others may use the machine as well."""
    found = []
    for _ in range(REPEATS):
        start = time.thread_time()
        action()
        found.append(time.thread_time() - start)
    return min(found)


def _rounded(seconds: float) -> str:
    if seconds < 1:
        return "1 s"
    if seconds < 120:
        return f"{float(f'{seconds:.2g}'):g} s"
    return f"{seconds / 60:.0f} min"
