"""``dpforge-account [overrides]``: sigma and epsilon of a run by accountant, with no data."""

from __future__ import annotations

import argparse
import dataclasses
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from dpforge.cli.errors import clean_errors

if TYPE_CHECKING:
    from rich.table import Table

    from dpforge.config import CheckedRun

_FRACTIONS = (0.25, 0.5, 1.0, 2.0, 4.0)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command; exits with 2 when the configuration is refused."""
    parser = argparse.ArgumentParser(prog="dpforge-account", description=__doc__)
    parser.add_argument("overrides", nargs="*", help="as for dpforge: GROUP=CHOICE, KEY=VALUE, KEY=A,B,C")
    arguments = parser.parse_intermixed_args(argv)
    with clean_errors():
        _account(arguments.overrides)


def _account(overrides: Sequence[str]) -> None:
    from rich.console import Console

    from dpforge.config import check

    console = Console(highlight=False)
    shown: list[Any] = []
    for run in check(overrides).runs:
        if run.plan in shown:
            continue
        shown.append(run.plan)
        _show(run, console)


def caveat(run: CheckedRun) -> str | None:
    """Return the words without which the epsilon of ``run`` may not be printed, or None.

    A run with an access that adds no noise is ``NOT DP``; one with seeded noise is ``RESEARCH NOISE``.
    """
    if not run.experiment.privacy.enabled or math.isinf(run.plan.epsilon()):
        return "NOT DP: private data is read without noise."
    if run.experiment.privacy.rng == "seeded":
        return (
            "RESEARCH NOISE: privacy.rng=seeded can be repeated by anyone who knows the seed; do not release."
        )
    return None


def epsilons(plan: Any) -> dict[str, float]:
    """Return the epsilon of a plan by accountant, ``nan`` where an accountant cannot certify it."""
    from dpforge.errors import PrivacyError

    found = {}
    for accountant in ("pld", "rdp"):
        try:
            found[accountant] = plan.epsilon(accountant)
        except PrivacyError:
            found[accountant] = math.nan
    return found


def over_steps(plan: Any, fractions: Sequence[float] = _FRACTIONS) -> list[tuple[int, dict[str, float]]]:
    """Return the epsilon if the piece used most often were used a quarter, half, ... as often.

    Its noise stays that of the plan. Empty for a plan whose pieces are all used once.
    """
    main_piece = max(plan.pieces, key=lambda piece: piece.count)
    if main_piece.count == 1:
        return []
    rows = []
    for count in sorted({max(1, round(main_piece.count * fraction)) for fraction in fractions}):
        other = dataclasses.replace(main_piece, count=count)
        pieces = tuple(other if piece is main_piece else piece for piece in plan.pieces)
        rows.append((count, epsilons(dataclasses.replace(plan, pieces=pieces))))
    return rows


def _show(run: CheckedRun, console: Any) -> None:
    console.print(f"\n[bold]{run.identity.slug}[/]")
    warning = caveat(run)
    if warning is not None:
        console.print(f"[bold red]{warning}[/]")
    console.print(_pieces(run.plan))
    for piece in run.plan.pieces:
        console.print(f"  {piece.name}: {piece.reason}", markup=False, style="dim")
    found = epsilons(run.plan)
    console.print(
        f"epsilon {_accounted(run.plan, found)} at "
        f"delta {run.plan.delta:g}, relation {run.plan.relation}, unit {run.plan.unit}, "
        f"{run.schema.nominal_rows} nominal rows",
        soft_wrap=True,
    )
    foreseen = getattr(run.experiment.model, "forecast", lambda schema, plan: None)(run.schema, run.plan)
    if foreseen is not None:
        console.print(f"fit: {foreseen}", soft_wrap=True)
    rows = [] if math.isinf(found["rdp"]) else over_steps(run.plan)
    if rows:
        console.print(_steps(rows, max(piece.count for piece in run.plan.pieces)))


def _accounted(plan: Any, found: dict[str, float]) -> str:
    """Both values; where zCDP occurs, only RDP certifies."""
    from dpforge.privacy.accounting import best_order, certifying_accountant

    rdp = _number(found["rdp"])
    order = best_order(plan.event(), plan.delta) if math.isfinite(found["rdp"]) else None
    at = "" if order is None else f" at order α = {order:g}"
    if certifying_accountant(plan.event()) == "rdp":
        return f"{rdp} (RDP, of record){at}"
    return f"{_number(found['pld'])} (PLD, of record), {rdp} (RDP){at}"


def _pieces(plan: Any) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(title="What the plan may spend", title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("piece", overflow="fold", min_width=9)
    table.add_column("mechanism", no_wrap=True)
    for name in ("noise multiplier", "sampling rate", "count", "sensitivity"):
        table.add_column(name, justify="right")
    for piece in plan.pieces:
        numbers = (piece.noise_multiplier, piece.sampling_rate, piece.count, piece.sensitivity)
        table.add_row(piece.name, piece.mechanism, *map(_number, numbers))
    return table


def _steps(rows: Sequence[tuple[int, dict[str, float]]], planned: int) -> Table:
    from rich.table import Table

    table = Table(title="Epsilon over steps, at this noise", title_justify="left")
    for name in ("steps", "epsilon (PLD)", "epsilon (RDP)"):
        table.add_column(name, justify="right")
    for count, found in rows:
        mark = "* " if count == planned else ""
        table.add_row(f"{mark}{count}", _number(found["pld"]), _number(found["rdp"]))
    return table


def _number(value: float) -> str:
    if isinstance(value, int):
        return str(value)
    return "-" if math.isnan(value) else f"{value:.4g}"


if __name__ == "__main__":
    main()
