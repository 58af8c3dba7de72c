"""Pictures of how columns depend on each other, in the data and in a flow's latent space."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike
from scipy import stats

from dpforge.errors import DataError
from dpforge.experiment.plots_style import (
    BLUE,
    PRIVATE_NOTE,
    VERMILION,
    light_grid,
    picture,
    plain,
    rows_and_columns,
)

LATENT_NOTE = "A near-normal u does not imply right data marginals:\nerrors of the codec are invisible in u."
MOST_PAIRS = 10
_DRAWN_ROWS = 2000


def correlation_difference(
    corr_real: ArrayLike, corr_synthetic: ArrayLike, names: Sequence[str], path: Path
) -> None:
    """Draw the association matrices of real and synthetic rows, shape (d, d), and their difference.

    Raises:
        DataError: If a matrix does not have one row and column per name.
    """
    size = len(names)
    corr_real, corr_synthetic = np.asarray(corr_real), np.asarray(corr_synthetic)
    if corr_real.shape != (size, size) or corr_synthetic.shape != (size, size):
        got = f"{corr_real.shape} and {corr_synthetic.shape}"
        raise DataError(f"expected two association matrices of shape ({size}, {size}), got {got}")
    difference = corr_synthetic - corr_real
    side = min(max(3.2, 0.34 * size), 12)
    with picture(path, (3 * side + 2.6, side + 1.7), note=PRIVATE_NOTE) as figure:
        left, middle, right = figure.subplots(1, 3)
        _matrix(left, corr_real, names, "Real", 1.0)
        shared = _matrix(middle, corr_synthetic, names, "Synthetic", 1.0)
        worst = float(np.nanmax(np.abs(difference), initial=0.0))
        mean = _mean_off_diagonal(np.abs(difference))
        title = f"Synthetic − real\nmean {mean:.3f}, largest {worst:.3f}"
        own = _matrix(right, difference, names, title, max(worst, 0.05))
        figure.colorbar(shared, ax=[left, middle], shrink=0.8, label="association")
        figure.colorbar(own, ax=right, shrink=0.8, label="difference")
        for axes in (middle, right):
            axes.set_yticklabels([])


def _matrix(axes: Axes, matrix: np.ndarray, names: Sequence[str], title: str, limit: float) -> Any:
    image = axes.imshow(matrix, cmap="RdBu_r", vmin=-limit, vmax=limit)
    size = 9 if len(names) <= 30 else 6
    labels = [plain(name, 20) for name in names]
    axes.set_xticks(range(len(names)), labels, rotation=90, fontsize=size)
    axes.set_yticks(range(len(names)), labels, fontsize=size)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_title(title)
    if len(names) <= 8:
        _annotate(axes, matrix, limit)
    return image


def _annotate(axes: Axes, matrix: np.ndarray, limit: float) -> None:
    for (row, column), value in np.ndenumerate(matrix):
        shade = "white" if abs(value) > 0.6 * limit else "black"
        axes.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=8, color=shade)


def _mean_off_diagonal(matrix: np.ndarray) -> float:
    outside = ~np.eye(len(matrix), dtype=bool)
    return float(np.nanmean(matrix[outside])) if outside.any() else 0.0


def latent_marginals(u: np.ndarray, names: Sequence[str], path: Path) -> None:
    """Draw each latent dimension of real rows, shape (n, d), against the standard normal.

    Each title gives the Kolmogorov-Smirnov statistic and p-value, the mean and the standard deviation.

    Raises:
        DataError: If ``u`` is empty or not (n, d) with one name per dimension.
    """
    _check_latent(u, names)
    rows, columns = rows_and_columns(len(names))
    note = f"{LATENT_NOTE}\n{PRIVATE_NOTE}"
    with picture(path, (3.3 * columns, 2.5 * rows + 1.0), note=note) as figure:
        grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
        for index, axes in enumerate(grid.flat):
            if index >= len(names):
                axes.set_visible(False)
                continue
            _latent_panel(axes, _finite(u[:, index]), names[index])
            axes.tick_params(labelbottom=index >= len(names) - columns)
        figure.suptitle("Latent values of held-out rows; line: standard normal", ha="left", x=0.01)


def _latent_panel(axes: Axes, values: np.ndarray, name: str) -> None:
    grid = np.linspace(-5, 5, 201)
    axes.hist(values, bins=list(np.linspace(-5, 5, 41)), density=True, color=BLUE, alpha=0.45)
    if np.unique(values[:_DRAWN_ROWS]).size > 2:
        axes.plot(grid, stats.gaussian_kde(values[:_DRAWN_ROWS])(grid), color=BLUE, linewidth=1.4)
    axes.plot(grid, stats.norm.pdf(grid), color=VERMILION, linewidth=1.4)
    axes.set_xlim(-5, 5)
    axes.set_title(f"{plain(name)}\n{_latent_facts(values)}", fontsize=9)
    light_grid(axes)


def _latent_facts(values: np.ndarray) -> str:
    if values.size == 0:
        return "no finite value"
    test = stats.kstest(values, "norm")
    return f"KS {test.statistic:.3f} (p {test.pvalue:.2g})  mean {values.mean():.2f}  sd {values.std():.2f}"


def latent_pairs(u: np.ndarray, names: Sequence[str], path: Path) -> None:
    """Draw pairwise scatters of the latent dimensions of real rows, shape (n, d).

    Of more than ten dimensions, the ten with the largest absolute correlation are drawn.

    Raises:
        DataError: If ``u`` is empty or not (n, d) with one name per dimension.
    """
    _check_latent(u, names)
    finite = u[np.isfinite(u).all(axis=1)]
    strength = _absolute_correlation(finite)
    chosen = np.sort(np.argsort(-strength.max(axis=1), kind="stable")[:MOST_PAIRS])
    with picture(path, _pairs_size(len(chosen)), note=f"{LATENT_NOTE}\n{PRIVATE_NOTE}") as figure:
        _pair_grid(figure, finite[:_DRAWN_ROWS, chosen], [str(names[i]) for i in chosen])
        dropped = f"; {len(chosen)} of {len(names)} dimensions" if len(chosen) < len(names) else ""
        title = f"Latent pairs of held-out rows, largest |correlation| {strength.max():.3f}{dropped}"
        figure.suptitle(title, ha="left", x=0.01)


def _pairs_size(count: int) -> tuple[float, float]:
    side = max(4.5, 1.35 * count)
    return side + 0.6, side + 1.0


def _pair_grid(figure: Figure, u: np.ndarray, names: Sequence[str]) -> None:
    count = len(names)
    grid = figure.subplots(count, count, squeeze=False)
    for (row, column), axes in np.ndenumerate(grid):
        if row == column:
            axes.hist(u[:, row], bins=list(np.linspace(-8, 8, 49)), color=BLUE, alpha=0.6)
        else:
            axes.plot(u[:, column], u[:, row], ".", color=BLUE, markersize=0.8, alpha=0.6)
            axes.set_ylim(-8, 8)
        axes.set_xlim(-8, 8)
        axes.set_box_aspect(1)
        axes.set_xticks([-5, 0, 5], [] if row < count - 1 else None)
        axes.set_yticks([] if row == column else [-5, 0, 5], [] if column or row == column else None)
        axes.tick_params(length=2, labelsize=8)
        _pair_names(axes, names, row, column)


def _pair_names(axes: Axes, names: Sequence[str], row: int, column: int) -> None:
    if row == len(names) - 1:
        axes.set_xlabel(plain(names[column], 16), fontsize=9)
    if column == 0:
        axes.set_ylabel(plain(names[row], 16), fontsize=9)


def _absolute_correlation(u: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore", divide="ignore"):
        matrix = np.corrcoef(u, rowvar=False).reshape(u.shape[1], u.shape[1])
    strength = np.abs(np.nan_to_num(matrix))
    np.fill_diagonal(strength, 0.0)
    return strength


def _check_latent(u: np.ndarray, names: Sequence[str]) -> None:
    if u.ndim != 2 or u.shape[1] != len(names) or u.shape[0] < 2 or not names:
        raise DataError(f"expected latent values of shape (n >= 2, {len(names)}), got {u.shape}")


def _finite(values: np.ndarray) -> np.ndarray:
    return values[np.isfinite(values)]
