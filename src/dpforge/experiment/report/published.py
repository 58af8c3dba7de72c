"""The section of a study's report that sets published numbers beside measured ones."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from dpforge.experiment.intervals import Interval
from dpforge.experiment.report.expected import CONTEXTS, Expected, compare
from dpforge.experiment.report.page import Block, Table, Text
from dpforge.experiment.report.page import Cell as Shown
from dpforge.experiment.report.study_blocks import shown_mean
from dpforge.experiment.report.wording import LEGACY_TEXT
from dpforge.experiment.study import Study
from dpforge.experiment.study_metrics import shown_name

PUBLIC = ("privacy/",)
_GROWING = ("wasserstein", "pmse")
_KINDS = {
    "R": (
        "To reproduce",
        "Published for the same model. Within: the measured mean is off by at most the tolerance, ±.",
    ),
    "O": (
        "To check the scores themselves",
        "Known values of floors and ceilings, and of published tables scored with dpforge-evaluate.",
    ),
    "B": (
        "To beat",
        "Better: nearer to the best value than the published number by more than the tolerance. Each"
        " generator enters at its largest ε that is no larger than the published one (5 % slack); an"
        " unknown ε counts as any.",
    ),
}
_DP_MAF = (
    "The published DP-MAF figures cannot tell the model from independent Gaussian noise: noise columns"
    " reach a legacy SRA of .87, .50 and .46 where the model has .60, .17 and .71, and real rows against"
    " real rows have the same legacy Wasserstein value as the model, .08 to .09.",
    "Scored with the corrections, the published tables have wrong single columns (1-D Wasserstein ratios"
    " of 4 to 6, where 1 is right) and hold little more dependence than columns shuffled by themselves."
    " So the corrected numbers are the ones to beat, and the legacy ones are for recognition.",
    "The published figures come without an ε, and they belong to the published tables: scoring those"
    " again gives the figures back, while a model trained again gives other legacy values. Outside is no"
    " failure there.",
)


def published_blocks(
    study: Study, expected: Sequence[Expected], *, public: bool, remarks: Sequence[str] = ()
) -> list[Block]:
    """Published numbers of the study's data sets beside measured means, with what the difference means.

    Args:
        study: The runs.
        expected: Published numbers.
        public: Whether to leave out what was measured on real rows.
        remarks: What the file says of its numbers: protocol, accounting, why ours may differ.
    """
    here = {run.dataset for run in study.runs}
    mine = [entry for entry in expected if entry.dataset in here]
    blocks: list[Block] = []
    if public:
        mine = [entry for entry in mine if entry.metric.startswith(PUBLIC)]
        blocks.append(
            Text(["Numbers that were measured on real rows are left out of a public report."], "note")
        )
    frame = compare(study, mine)
    if not public and any(entry.metric.endswith(_legacy(entry)) for entry in mine if _legacy(entry)):
        blocks.append(Text([*_DP_MAF, *LEGACY_TEXT], "note"))
    for kind, (title, caption) in _KINDS.items():
        part = [row for row in frame.to_dict("records") if row["kind"] == kind]
        if part:
            blocks += [_table(title, caption, part), _sources(part)]
    if remarks and mine:
        blocks.append(Text([" ".join(["The file of published numbers says:", *remarks])], "note"))
    return [*blocks, *_remarks(study, expected, here, mine)]


def _legacy(entry: Expected) -> str:
    name = entry.part[0]
    return name if name.startswith("legacy/") else ""


def _table(title: str, caption: str, part: Sequence[Mapping[Any, Any]]) -> Table:
    columns = ["data set", "score", "published for", "at ε", "published", "measured for", "at our ε"]
    columns += ["measured", "n", "measured − published", "verdict"]
    rows = [_cells(row) for row in part]
    constant = [i for i in (0, 3) if len({row[i] for row in rows}) == 1]
    kept = [i for i in range(len(columns)) if i not in constant or (i == 3 and rows[0][3] is not None)]
    shown = [[row[i] for i in kept] for row in rows]
    return Table(title, [columns[i] for i in kept], shown, caption)


def _cells(row: Mapping[Any, Any]) -> list[Shown]:
    interval = Interval(row["mean"], math.nan, row["n"], row["low"], row["high"])
    epsilon = row["published_epsilon"]
    tolerance = f" ± {row['tolerance']:g}" if row["tolerance"] else ""
    return [
        row["dataset"],
        _metric_name(row["metric"]),
        row["published_model"] or "any",
        None if pd.isna(epsilon) else float(epsilon),
        f"{row['published']:g}{tolerance}",
        row["generator"] or None,
        None if math.isnan(row["epsilon"]) else float(row["epsilon"]),
        shown_mean(interval) or None,
        int(row["n"]),
        None if math.isnan(row["difference"]) else f"{row['difference']:+.3g}",
        row["verdict"],
    ]


def _sources(part: Sequence[Mapping[Any, Any]]) -> Text:
    named = dict.fromkeys((row["published_model"], row["source"]) for row in part)
    return Text([f"Published numbers: {'; '.join(_source(*pair) for pair in named)}."])


def _source(model: str, source: str) -> str:
    return f"{model}: {source}" if model else source


def _metric_name(metric: str) -> str:
    context, _, name = metric.partition("/")
    return f"{context} of {shown_name(name)}" if context in CONTEXTS else shown_name(metric)


def _remarks(
    study: Study, expected: Sequence[Expected], here: Iterable[str], mine: Sequence[Expected]
) -> list[Block]:
    texts = []
    for key in _GROWING:
        rows = sorted({run.rows[key] for run in study.runs if key in run.rows})
        if rows and any(key in entry.metric for entry in mine):
            counts = " to ".join(f"{count:,}" for count in dict.fromkeys((rows[0], rows[-1])))
            name = {"wasserstein": "Wasserstein", "pmse": "pMSE"}[key]
            texts.append(
                f"{name} ratios were measured here on {counts} rows of each table. The ratio of a wrong"
                " table grows with the rows compared: against a number published for more rows, fewer"
                " rows flatter."
            )
    others = sorted({entry.dataset for entry in expected} - set(here))
    if others:
        texts.append(f"The file also holds numbers of data sets that this study lacks: {', '.join(others)}.")
    return [Text(texts, "note")] if texts else []
