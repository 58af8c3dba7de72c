"""Tables and texts of a study's report."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

from dpforge.evaluation.collecting import EXACT_FLOORS
from dpforge.experiment.intervals import Interval
from dpforge.experiment.report.page import Block, Table, Text, Tiles, shown_number
from dpforge.experiment.report.page import Cell as Shown
from dpforge.experiment.report.wording import family_of
from dpforge.experiment.study import RunRecord, Study
from dpforge.experiment.study_cells import Cell, Composition, cells, compositions, metrics_of
from dpforge.experiment.study_metrics import LEADING, direction, of_one_protocol, shown_name

CONTINUE = "The command that started it continues it; what was reserved stays charged."
_RESEARCH = (
    "RESEARCH NOISE: the noise of at least one run came from a known seed, so that the table can be made"
    " again to the bit. Anyone can subtract that noise. The ε below are those of the same runs with"
    " secret noise; none of these tables should be released as private."
)
_PROTOCOLS = (
    "Some scores of one data set were measured by different protocols (other images, numbers of images,"
    " classifiers or versions). They do not compare: each protocol has columns of its own, named after it,"
    " and no comparison uses them. Evaluate the runs again alike: dpforge-evaluate RUN…"
)
_NOT_DP = (
    "Runs marked NOT DP looked at real rows without noise. They show what privacy costs; they protect nobody."
)
_BENCHMARK = (
    "The data are declared a public benchmark. The ε composed over seeds is shown for the record; on"
    " private data it is what a reader of this study would have seen."
)
_RELEASES = (
    "Each seed is a further release of the same people. Whoever reads several runs has seen the composed"
    " ε, not that of one run; so an interval over seeds has a price, which stands beside it."
)
Column = tuple[str, Callable[[Cell], Shown]]


def leading(study: Study) -> list[str]:
    """The scores that lead the report, as far as a run has them."""
    there = set(metrics_of(study))
    return [metric for metric in LEADING if metric in there]


def shown_mean(interval: Interval) -> str:
    """``mean ± half``, or the mean alone where one value has no interval."""
    digits = 4 if abs(interval.mean) < 2 else 2
    if not interval.n:
        return ""
    mean = shown_number(interval.mean, digits)
    return mean if math.isnan(interval.half) else f"{mean} ± {interval.half:.{digits}f}"


def tiles(study: Study) -> Tiles:
    """Runs, generators, seeds and the composed guarantee."""
    runs, finished = study.runs, [run for run in study.runs if run.status == "done"]
    generators = sorted({run.generator for run in runs})
    items = [
        ("finished runs", f"{len(finished)} of {len(runs)}", _states(runs)),
        (
            "generators",
            str(len(generators)),
            ", ".join(generators[:4]) + ("…" if len(generators) > 4 else ""),
        ),
        (
            "data sets",
            str(len({run.dataset for run in runs})),
            ", ".join(sorted({run.dataset for run in runs})),
        ),
        ("seeds", str(len({run.seed for run in runs})), "each one a further release"),
    ]
    for composed in compositions(runs):
        if composed.runs:
            label = f"ε of all runs, {composed.dataset}"
            items.append((label, _composed_epsilon(composed), _composed_words(composed)))
    return Tiles(items)


def _states(runs: Sequence[RunRecord]) -> str:
    counts = {
        state: sum(run.status == state for run in runs) for state in dict.fromkeys(r.status for r in runs)
    }
    return ", ".join(f"{count} {state}" for state, count in counts.items())


def _composed_epsilon(composed: Composition) -> str:
    if composed.unreadable:
        return "unknown"
    return shown_number(composed.epsilon)


def _composed_words(composed: Composition) -> str:
    labels = [label for label in composed.labels if label == "RESEARCH NOISE"]
    return "; ".join([f"{composed.runs} runs at δ = {composed.delta:g}", *labels])


def warnings(study: Study) -> list[Block]:
    """What a reader must know before any number."""
    labels = {run.label for run in study.runs} | {"NOT DP" for run in study.runs if not run.enabled}
    found = [text for label, text in (("RESEARCH NOISE", _RESEARCH), ("NOT DP", _NOT_DP)) if label in labels]
    if any(of_one_protocol(metric) for metric in metrics_of(study)):
        found.append(_PROTOCOLS)
    return [Text(found, "warning")] if found else []


def unfinished(study: Study, *, public: bool) -> list[Block]:
    """Runs that did not finish and folders that could not be read, so that none is dropped unseen."""
    blocks: list[Block] = []
    rows: list[list[Shown]] = [
        [run.path.name, run.status, run.error or _why(run, public=public)]
        for run in study.runs
        if run.status != "done"
    ]
    if rows:
        blocks.append(Table("Runs that are not finished", ["run", "state", "why"], rows, CONTINUE))
    if study.ignored:
        lost: list[list[Shown]] = [[path.name, reason] for path, reason in study.ignored]
        blocks.append(Table("Folders that were passed over", ["folder", "why"], lost))
    return blocks


def _why(run: RunRecord, *, public: bool) -> str:
    reasons = {
        "failed": "left out: the text may speak of the data"
        if public
        else "traceback.txt of the run tells more",
        "running": "at work, or killed",
        "planned": "not begun",
        "incomplete": "finished, but files of it are gone",
    }
    return reasons.get(run.status, "")


def composition_blocks(study: Study) -> list[Block]:
    """What all runs cost together, by data set."""
    found = compositions(study.runs)
    columns = ["data set", "unit, relation", "private runs", "without noise", "δ", "ε, all runs composed"]
    columns += ["accountant", "labels"]
    rows: list[list[Shown]] = [
        [
            c.dataset, c.guarantee, c.runs, c.without_noise, f"{c.delta:g}", _composed_epsilon(c),
            c.accountant.upper(), ", ".join(c.labels),
        ]
        for c in found
    ]  # fmt: skip
    texts = [_RELEASES] + ([_BENCHMARK] if any(c.public_benchmark for c in found) else [])
    if any(c.without_noise and c.runs for c in found):
        texts.append(
            "Runs without noise have no finite ε and are counted apart: whoever saw one has no guarantee."
        )
    if any(c.unreadable for c in found):
        texts.append("A ledger cannot be read, so what its run spent, and the composed ε, are unknown.")
    return [Text(texts), Table("Everything reserved, composed", columns, rows)]


def mean_blocks(study: Study) -> list[Block]:
    """Means over seeds, normalised scores, and the floors and ceilings that give them meaning."""
    measured = [cell for cell in cells(study) if any(run.scores for run in cell.runs)]
    metrics = leading(study)
    if not metrics:
        return []
    words = ["Mean over seeds ± half the 95 % t-interval. A cell with one seed has no interval: n says so."]
    repeated = [cell.first.generator for cell in measured if cell.repeated_seeds]
    if repeated:
        words.append(
            f"The same seed was run more than once for {', '.join(sorted(set(repeated)))}:"
            " those scores are no independent draws, and the interval is too narrow."
        )
    head = _head(measured)
    score: list[Column] = [(shown_name(m), lambda cell, m=m: shown_mean(cell.interval(m))) for m in metrics]
    price = (
        [] if all(run.public_benchmark for run in study.runs) else [("ε, its seeds composed", _cell_price)]
    )
    placed = [m for m in metrics if any(cell.interval(m, "normalised").n for cell in measured)]
    places: list[Column] = [
        (shown_name(m), lambda cell, m=m: shown_mean(cell.interval(m, "normalised"))) for m in placed
    ]
    blocks: list[Block] = [Text(words), _cells_table("Scores", measured, [*head, *price, *score])]
    if placed:
        note = "0 is the floor, 1 the ceiling; mean ± half the interval over seeds."
        if any(metric in EXACT_FLOORS for metric in placed):
            note += " Shuffled columns keep every single column exact: in 1-way scores 0 is perfect."
        blocks.append(_cells_table("Normalised scores", measured, [*head, *places], note))
    return [*blocks, _context_table(measured, metrics), _meanings(metrics)]


def _head(measured: Sequence[Cell]) -> list[Column]:
    """Columns that name a cell; those that never vary are left out."""
    columns: list[Column] = [
        ("data set", lambda cell: cell.first.dataset),
        ("model", lambda cell: cell.first.model),
        ("settings", lambda cell: cell.first.shown_settings),
        ("ε", lambda cell: cell.budget),
        ("δ", lambda cell: f"{cell.first.delta:g}"),
        ("label", lambda cell: ", ".join(sorted({run.label for run in cell.runs if run.label}))),
    ]
    kept = [
        column
        for column in columns
        if column[0] in ("model", "ε", "label") or len({column[1](cell) for cell in measured}) > 1
    ]
    return [*kept, ("n", lambda cell: sum(bool(run.scores) for run in cell.runs))]


def _cell_price(cell: Cell) -> Shown:
    if not cell.first.enabled:
        return math.inf
    (composed,) = compositions(cell.runs) if not cell.first.public_benchmark else (None,)
    return None if composed is None or composed.unreadable else composed.epsilon


def _cells_table(title: str, measured: Sequence[Cell], columns: Sequence[Column], caption: str = "") -> Table:
    rows = [[show(cell) for _, show in columns] for cell in measured]
    return Table(title, [name for name, _ in columns], rows, caption)


def _context_table(measured: Sequence[Cell], metrics: Iterable[str]) -> Table:
    rows: list[list[Shown]] = []
    for dataset in dict.fromkeys(cell.first.dataset for cell in measured):
        together = Cell(tuple(run for cell in measured for run in cell.runs if run.dataset == dataset))
        for metric in metrics:
            floor, ceiling = together.interval(metric, "floor"), together.interval(metric, "ceiling")
            if floor.n or ceiling.n:
                reads = direction(metric)
                rows.append([dataset, shown_name(metric), reads, floor.mean, ceiling.mean, metric])
    caption = (
        "Floor: the real table with every column shuffled by itself. Ceiling: held-out real rows. Means over"
        " the runs of a data set."
    )
    columns = ["data set", "score", "reads", "floor", "ceiling", "key"]
    skip = int(len({row[0] for row in rows}) == 1)
    return Table("Floors and ceilings", columns[skip:], [row[skip:] for row in rows], caption, digits=4)


def _meanings(metrics: Iterable[str]) -> Text:
    families = dict.fromkeys(family_of(metric) for metric in metrics if not metric.startswith("legacy/"))
    ends = {family: " " if family.title.endswith("?") else ". " for family in families}
    return Text([f"{family.title}{ends[family]}{family.meaning}" for family in families], "note")


def runs_table(study: Study) -> Table:
    """Every run, finished or not."""
    metrics = leading(study)
    columns = ["run", "state", "data set", "model", "settings", "seed", "ε asked for", "ε certified", "label"]
    timed = any(run.seconds for run in study.runs)
    rows: list[list[Shown]] = []
    for run in study.runs:
        row: list[Shown] = [run.path.name, run.status, run.dataset, run.model, run.shown_settings, run.seed]
        row += [run.epsilon_target if run.enabled else math.inf, run.epsilon, run.label]
        row += [run.scores[metric].value if metric in run.scores else None for metric in metrics]
        rows.append(row + ([run.seconds.get("fit")] if timed else []))
    names = [*columns, *map(shown_name, metrics), *(["fit, s"] if timed else [])]
    return Table(
        "Runs", names, rows, "A heading sorts. Floors and ceilings of each run stand in runs.csv.", digits=4
    )
