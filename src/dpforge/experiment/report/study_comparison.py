"""How the generators of a study compare at equal epsilon."""

from __future__ import annotations

import math
from collections.abc import Sequence

from dpforge.experiment.report.page import Block, Table, shown_number
from dpforge.experiment.report.page import Cell as Shown
from dpforge.experiment.study import Study
from dpforge.experiment.study_cells import comparisons, leaders
from dpforge.experiment.study_metrics import shown_name


def comparison_blocks(study: Study, metrics: Sequence[str]) -> list[Block]:
    """Paired differences of generators at equal epsilon, corrected for their number."""
    frame = comparisons(study, metrics)
    if frame.empty:
        return []
    rows: list[list[Shown]] = [
        [
            *(r["dataset"], r["epsilon"], shown_name(r["metric"]), r["first"], r["second"], r["n"]),
            *(r["difference"], _between(r["low"], r["high"]), r["p"], r["p_holm"]),
        ]
        for r in frame.to_dict("records")
    ]
    columns = ["data set", "ε", "score", "first", "second", "seeds", "first − second"]
    columns += ["95 % interval", "p", "p, Holm"]
    caption = (
        "Differences over the seeds that both have, on the same data and evaluation. p-values of the"
        " paired t-test, corrected by Holm over this whole table. Few seeds find only large differences:"
        " a large p is no proof that two generators are equal."
    )
    return [Table("Paired differences", columns, rows, caption, digits=4)]


def leader_blocks(study: Study, metrics: Sequence[str]) -> list[Block]:
    """Which generator to take at which epsilon, as far as the seeds tell."""
    rows: list[list[Shown]] = [
        [
            *(r["dataset"], r["epsilon"], shown_name(r["metric"]), r["best"], r["mean"], r["n"]),
            *(", ".join(r["not_told_apart"]) or None, ", ".join(r["behind"]) or None),
        ]
        for r in leaders(study, metrics).to_dict("records")
    ]
    if not rows:
        return []
    columns = ["data set", "ε", "score", "best mean", "mean", "seeds", "not told apart from it", "behind it"]
    caption = (
        "Behind: the 95 % interval of the paired difference over the seeds excludes 0, each pair by itself."
        " With one shared seed nothing can be told apart."
    )
    return [Table("Which to take", columns, rows, caption, digits=4)]


def _between(low: float, high: float) -> str:
    return "" if math.isnan(low) else f"{shown_number(low, 4)} to {shown_number(high, 4)}"
