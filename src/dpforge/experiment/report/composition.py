"""How the epsilon of a run was composed: its pieces, each alone, and all together."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from matplotlib.axes import Axes

from dpforge.experiment.plots_style import BLUE, GREY, ORANGE, VERMILION, light_grid, picture, plain
from dpforge.experiment.report.page import Block, Cell, Figure, Table, Text
from dpforge.privacy.accounting import certifying_accountant, compose, epsilon
from dpforge.privacy.events import SelfComposed
from dpforge.privacy.plan import Piece, Plan, plan_from_json

MOST_BARS = 16
MEANINGS = {
    "gaussian": "Gaussian noise",
    "rounded_gaussian": "Gaussian noise, rounded",
    "laplace": "Laplace noise",
    "dp_sgd": "DP-SGD steps",
    "exponential": "exponential mechanism",
    "discrete_laplace": "discrete Laplace noise",
    "threshold": "noisy threshold",
    "none": "no noise",
}


@dataclass(frozen=True)
class Part:
    """Pieces that belong together, such as all private bounds.

    Args:
        name: Their common name.
        alone: Epsilon if the run did nothing else.
        before: Epsilon of all parts before this one.
        after: Epsilon of this part and all before it.
    """

    name: str
    alone: float
    before: float
    after: float


def composition_blocks(plan_json: dict[str, object]) -> list[Block]:
    """Table, picture and words on how epsilon was composed.

    Args:
        plan_json: ``delta``, ``relation``, ``unit``, ``target_epsilon`` and ``pieces`` of a certificate.
    """
    plan = plan_from_json(plan_json)
    parts = parts_of(plan)
    blocks: list[Block] = [_table(plan)]
    if all(math.isfinite(part.after) for part in parts) and parts:
        blocks += [Text([_words(plan, parts)]), _figure(plan, parts)]
    else:
        words = "At least one piece read the private rows without noise, so no finite ε exists."
        blocks.append(Text([words], "warning"))
    return blocks


def parts_of(plan: Plan) -> list[Part]:
    """Epsilon of each part alone, and of the parts one after another, by the accountant of record."""
    groups: dict[str, list[Piece]] = {}
    for piece in plan.pieces:
        groups.setdefault(piece.name.split("/")[0], []).append(piece)
    parts: list[Part] = []
    seen: list[Piece] = []
    for name, pieces in groups.items():
        seen += pieces
        before = parts[-1].after if parts else 0.0
        alone = epsilon_of(pieces, plan)
        after = alone if len(seen) == len(pieces) else epsilon_of(seen, plan)
        parts.append(Part(name, alone, before, after))
    return parts


def epsilon_of(pieces: list[Piece], plan: Plan) -> float:
    """Epsilon of some pieces of a plan at the plan's delta, by the accountant of record of the whole plan."""
    tree = compose(*(SelfComposed(piece.event, piece.count) for piece in pieces))
    return epsilon(tree, plan.delta, certifying_accountant(plan.event()))


def _table(plan: Plan) -> Table:
    columns = ["piece", "mechanism", "uses", "noise multiplier", "sampling rate", "sensitivity", "ε alone"]
    rows: list[list[Cell]] = [
        [
            piece.name,
            MEANINGS.get(piece.mechanism, piece.mechanism),
            piece.count,
            piece.noise_multiplier or None,
            piece.sampling_rate,
            piece.sensitivity,
            epsilon_of([piece], plan),
            piece.reason,
        ]
        for piece in plan.pieces
    ]
    caption = (
        "Each row is one kind of access to the private rows. The noise has a standard deviation of noise"
        " multiplier × sensitivity; a sampling rate of 1 means that every record takes part."
    )
    return Table("Pieces of the plan", [*columns, "why the sensitivity holds"], rows, caption, digits=4)


def _words(plan: Plan, parts: list[Part]) -> str:
    accountant = certifying_accountant(plan.event()).upper()
    added = sum(part.alone for part in parts)
    total = parts[-1].after
    if len(parts) == 1:
        return f"There is one part, so its ε is the ε of the run: {total:.3f} (accountant: {accountant})."
    return (
        f"Added up, the parts would give ε = {added:.3f}. Composed by {accountant} they cost {total:.3f}:"
        " the worst outcome of one part rarely meets the worst outcome of the others."
    )


def _figure(plan: Plan, parts: list[Part]) -> Figure:
    def draw(path: Path) -> None:
        shown = parts[-MOST_BARS:]
        with picture(path, (7, max(4.2, 1.9 + 0.4 * len(shown)))) as figure:
            axes = figure.add_subplot()
            for place, part in enumerate(shown):
                _bar(axes, place, part)
            _finish(axes, plan, [plain(part.name) for part in shown], parts[-1].after)

    names = ", ".join(f"{part.name} {part.after:.3f}" for part in parts)
    return Figure(
        "ε after each part",
        drawn(draw),
        "Bar: what the part adds to ε, from left to right in the order of the run. Diamond: its ε alone.",
        f"Epsilon after each part: {names}",
    )


def _bar(axes: Axes, place: int, part: Part) -> None:
    axes.barh(place, part.before, height=0.42, color="#EDEFF2")
    axes.barh(place, part.after - part.before, left=part.before, height=0.42, color=BLUE)
    axes.plot(part.alone, place, "D", color=ORANGE, markersize=8, markeredgecolor="white")
    axes.annotate(
        f"{part.after:.3f}", (max(part.after, part.alone), place), (9, 0), textcoords="offset points",
        va="center", weight="bold",
    )  # fmt: skip


def _finish(axes: Axes, plan: Plan, names: list[str], total: float) -> None:
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.18 * max(total, plan.target_epsilon or 0.0, 1e-3))
    axes.set_xlabel(f"ε at δ = {plan.delta:g}")
    light_grid(axes, "x")
    if plan.target_epsilon is not None:
        axes.axvline(plan.target_epsilon, color=VERMILION, linewidth=1.2, linestyle=":")
        label = f"target {plan.target_epsilon:g}"
        place = (plan.target_epsilon, 1.01)
        axes.annotate(
            label, place, xycoords=("data", "axes fraction"), ha="center", va="bottom", color=VERMILION
        )
    axes.spines["left"].set_color(GREY)


def drawn(draw: Callable[[Path], None]) -> bytes:
    """Bytes of the PNG that ``draw`` writes to the path it is given."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "picture.png"
        draw(path)
        return path.read_bytes()
