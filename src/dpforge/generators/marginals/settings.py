"""What MST and AIM share: settings, their checks, one-way counts, estimation."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import ClassVar

import numpy as np

from dpforge.data import Schema
from dpforge.data.encode.cells import CellCodec
from dpforge.data.encode.probabilities import noisy_total
from dpforge.errors import ConfigError, did_you_mean
from dpforge.generators.base import rows_per_unit
from dpforge.generators.marginals.compression import Domain, compressed
from dpforge.generators.marginals.estimation import Estimate, Measurement, estimate
from dpforge.generators.marginals.forecast import Work, forecast
from dpforge.generators.marginals.junction import CELL_BYTES, Clique, cells
from dpforge.generators.marginals.mbi_backend import estimate_mbi, require_mbi
from dpforge.privacy.spec import replace_factor

MOST_CELLS = 200_000_000
ESTIMATORS = ("native", "mbi")
EXACT_VARIANCE = 1.0  # of counts without noise: only ratios of variances matter then
_log = logging.getLogger("dpforge")


@dataclass(frozen=True)
class MarginalSettings:
    """Settings of a marginal generator.

    Args:
        iterations: Most steps of mirror descent for the final model.
        max_model_size: Largest junction tree, in MB of float64, > 0.
        compress_sigmas: Cells whose released one-way count is below so many standard deviations are
            merged (post-processing); 0 keeps all.
        estimator: ``native`` (numpy) or ``mbi`` (the library, an extra).
        default_bins, discrete_max: Cells of columns without public bins; see ``CellCodec``.

    Raises:
        ConfigError: With every mistake among the values.
    """

    modalities: ClassVar[tuple[str, ...]] = ("table",)

    iterations: int = 1000
    max_model_size: float = 16.0
    compress_sigmas: float = 3.0
    estimator: str = "native"
    default_bins: int = 32
    discrete_max: int = 128

    def __post_init__(self) -> None:
        mistakes = self._mistakes()
        if mistakes:
            raise ConfigError(mistakes)

    def _mistakes(self) -> list[str]:
        mistakes = []
        if self.estimator not in ESTIMATORS:
            mistakes.append(
                f"model.estimator={self.estimator!r}: expected native or mbi."
                + did_you_mean(str(self.estimator), ESTIMATORS)
            )
        for name in ("iterations", "default_bins", "discrete_max"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                mistakes.append(f"model.{name}={value!r}: expected an integer >= 1.")
        if not self.max_model_size > 0:
            mistakes.append(f"model.max_model_size={self.max_model_size!r}: expected megabytes > 0.")
        if not self.compress_sigmas >= 0:
            mistakes.append(f"model.compress_sigmas={self.compress_sigmas!r}: expected a number >= 0.")
        return mistakes

    @property
    def most_cells(self) -> float:
        """Cells of the largest table that fits into ``max_model_size``."""
        return self.max_model_size * 2**20 / CELL_BYTES

    def codec(self, schema: Schema) -> CellCodec:
        """Return the cells of a schema whose private values have been bought."""
        return CellCodec(schema, default_bins=self.default_bins, discrete_max=self.discrete_max)

    def check(self, schema: Schema, order: int) -> None:
        """Refuse what cannot be fitted, before data is read.

        Raises:
            ConfigError: A missing library, a column with too many cells, or too many cells in all marginals.
        """
        if self.estimator == "mbi":
            require_mbi()
        if schema.private_columns:
            return  # how many cells they will have is not known yet
        codec = self.codec(schema)
        wide = [c for c, size in zip(schema.names, codec.sizes, strict=True) if size > self.most_cells]
        if wide:
            raise ConfigError(
                f"columns {', '.join(wide)} have more cells than model.max_model_size={self.max_model_size:g}"
                " MB holds, even alone. Give them fewer bins or categories, or raise the limit."
            )
        total = self.cells_to_count(codec.sizes, order)
        if total > MOST_CELLS:
            raise ConfigError(
                f"the {order}-way marginals of dataset '{schema.name}' have {total:.2g} cells in all; at most"
                f" {MOST_CELLS:.2g} are counted. Use fewer default_bins or a smaller max_model_size."
            )

    def cells_to_count(self, sizes: Sequence[int], order: int) -> int:
        """Return the cells of all marginals of ``order`` columns that fit into the model."""
        tables = (cells(sizes, c) for c in combinations(range(len(sizes)), min(order, len(sizes))))
        return sum(size for size in tables if size <= self.most_cells)

    def announce(self, name: str, before: Sequence[int], domain: Domain, order: int, work: Work) -> None:
        """Log what a fit will cost: released sizes only, and steps timed on them."""
        sizes = domain.sizes
        largest = max(cells(sizes, c) for c in combinations(range(len(sizes)), min(order, len(sizes))))
        _log.info(
            "%s: %d cells of %d columns merged into %d; %d cells in all %d-way marginals, at most %d in one;"
            " the model may grow to %g MB",
            name, sum(before), len(before), sum(sizes), self.cells_to_count(sizes, order), order, largest,
            self.max_model_size,
        )  # fmt: skip
        if self.estimator == "native":
            _log.info("%s: %s", name, forecast(work))

    def estimated(
        self,
        sizes: Sequence[int],
        measurements: Sequence[Measurement],
        total: float,
        *,
        iterations: int,
        tolerance: float = 1e-3,
        start: Mapping[Clique, np.ndarray] | None = None,
    ) -> Estimate:
        """Estimate with the chosen library."""
        if self.estimator == "mbi":
            return estimate_mbi(sizes, measurements, total, iterations=iterations, start=start)
        return estimate(sizes, measurements, total, iterations=iterations, tolerance=tolerance, start=start)


@dataclass(frozen=True)
class OneWay:
    """What the released one-way counts give.

    Args:
        domain: Merged cells.
        measurements: One a column, over merged cells.
        total: Estimated number of rows, >= 1.
    """

    domain: Domain
    measurements: tuple[Measurement, ...]
    total: float

    def masses(self) -> list[np.ndarray]:
        """Return the released probabilities of the merged cells of every column."""
        return [self.domain.merged(mass, j)[0] for j, mass in enumerate(self.domain.masses)]


def one_way(
    settings: MarginalSettings, codec: CellCodec, noisy: Sequence[np.ndarray], scales: Sequence[float]
) -> OneWay:
    """Merge rare cells and return the counts over merged cells: post-processing."""
    total = noisy_total(noisy, scales)
    domain = compressed(codec, noisy, scales, total, settings.compress_sigmas)
    measurements = []
    for j, (counts, scale) in enumerate(zip(noisy, scales, strict=True)):
        values, members = domain.merged(counts, j)
        measurements.append(Measurement((j,), values, members * variance_of(scale)))
    return OneWay(domain, tuple(measurements), total)


def variance_of(scale: float) -> float:
    """Return the variance of counts with noise of this standard deviation; 1 for exact ones."""
    return scale**2 if scale > 0 else EXACT_VARIANCE


def marginal_sensitivity(schema: Schema, relation: str) -> float:
    """Return how far one unit moves the counts of one marginal in L2: its rows, times sqrt(2) if replaced."""
    return rows_per_unit(schema) * replace_factor(relation, histogram=True)


def score_sensitivity(schema: Schema, relation: str) -> float:
    """Return how far one unit moves the L1 distance of a marginal to public counts.

    A row moves one cell by 1; replacing it moves two.
    """
    return rows_per_unit(schema) * (2.0 if relation == "replace" else 1.0)


def as_lists(cliques: Iterable[Clique]) -> list[list[int]]:
    """Return cliques as JSON states them."""
    return [list(clique) for clique in cliques]
