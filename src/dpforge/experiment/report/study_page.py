"""The report of a study: its runs, what they cost together, and how its generators compare."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from dpforge.experiment.plots_style import PRIVATE_NOTE
from dpforge.experiment.report import frontier
from dpforge.experiment.report.expected import Expected, read_expected, remarks_of
from dpforge.experiment.report.page import Block, Figure, Page, Section, Text
from dpforge.experiment.report.published import published_blocks
from dpforge.experiment.report.study_blocks import (
    composition_blocks,
    mean_blocks,
    runs_table,
    tiles,
    unfinished,
    warnings,
)
from dpforge.experiment.report.study_comparison import comparison_blocks, leader_blocks
from dpforge.experiment.study import Study, read_study
from dpforge.experiment.study_cells import Cell, cells, metrics_of
from dpforge.experiment.study_metrics import FIDELITY, UTILITY, chosen, direction, shown_name

FIDELITY_PICTURE, UTILITY_PICTURE, COMPARISON_PICTURE = (
    "epsilon_fidelity.png", "epsilon_utility.png", "comparison.png",
)  # fmt: skip
PICTURES = (FIDELITY_PICTURE, UTILITY_PICTURE, COMPARISON_PICTURE)
LEFT_OUT = (
    "This is the public version. Left out: every score, time, picture and error text of a run, because"
    " they were computed from real rows without noise and no ε pays for them."
)


def study_page(study: Path, *, public: bool, expected: Path | None) -> Page:
    """Build the report of the runs below ``study`` from their folders alone.

    Args:
        study: Folder that holds run folders, at any depth.
        public: Whether to leave out everything computed from real rows that was not charged.
        expected: CSV of published numbers to set beside the measured ones.

    Raises:
        RunError: No run below the folder.
        DataError: The CSV of published numbers is wrong; the text names the line.
    """
    found = read_study(study)
    found = found.public() if public else found
    known = read_expected(expected) if expected is not None else ()
    remarks = remarks_of(expected) if expected is not None else ()
    return page_of(found, draw(found), known, public=public, remarks=remarks)


def page_of(
    study: Study,
    pictures: dict[str, bytes],
    known: Sequence[Expected],
    *,
    public: bool,
    remarks: Sequence[str] = (),
) -> Page:
    """The page of a study that was read, and stripped if ``public``, already.

    Args:
        remarks: What the file of published numbers says of them.
    """
    compared = headline_metrics(study)
    first: list[Block] = [tiles(study), *([Text([LEFT_OUT], "note")] if public else []), *warnings(study)]
    sections = [
        Section("This study", [*first, *unfinished(study, public=public)]),
        Section("What all runs cost together", composition_blocks(study)),
        Section("Means over seeds", mean_blocks(study)),
        Section("Scores over ε", _figures(study, pictures, PICTURES[:2])),
        Section(
            "Generators at equal ε",
            [
                *_figures(study, pictures, PICTURES[2:]),
                *leader_blocks(study, compared),
                *comparison_blocks(study, compared),
            ],
        ),
        Section(
            "Published and measured",
            published_blocks(study, known, public=public, remarks=remarks) if known else [],
        ),
        Section("All runs", [runs_table(study)]),
    ]
    name = study.folder.resolve().name
    return Page(f"Study {name}", _subtitle(study), [s for s in sections if s.blocks], _badge(study))


def headline_metrics(study: Study) -> list[str]:
    """One score of fidelity and one of utility, as far as the study has them."""
    there = metrics_of(study)
    return [metric for wanted in (FIDELITY, UTILITY) if (metric := chosen(wanted, there)) is not None]


def draw(study: Study) -> dict[str, bytes]:
    """The pictures of a study as PNG, by file name; one whose score no run has is missing."""
    by_dataset: dict[str, list[Cell]] = {}
    for cell in cells(study):
        by_dataset.setdefault(cell.first.dataset, []).append(cell)
    there, note = metrics_of(study), _note(study)
    jobs: dict[str, Callable[[Path], None]] = {}
    for name, wanted in ((FIDELITY_PICTURE, FIDELITY), (UTILITY_PICTURE, UTILITY)):
        if (metric := chosen(wanted, there)) is not None:
            jobs[name] = _frontier_job(by_dataset, metric, note)
    if compared := headline_metrics(study):
        jobs[COMPARISON_PICTURE] = lambda path: frontier.comparison(by_dataset, compared, path, note=note)
    with TemporaryDirectory() as folder:
        for name, job in jobs.items():
            job(Path(folder) / name)
        return {name: (Path(folder) / name).read_bytes() for name in jobs}


def _frontier_job(by_dataset: dict[str, list[Cell]], metric: str, note: str) -> Callable[[Path], None]:
    return lambda path: frontier.frontier(by_dataset, metric, path, note=note)


def _note(study: Study) -> str:
    """What stands under each picture, which may travel without its page."""
    research = any(run.label == "RESEARCH NOISE" for run in study.runs)
    public = all(run.public_benchmark for run in study.runs)
    words = ["RESEARCH NOISE: not for release."] if research else []
    return "\n".join([*words, "Drawn from real rows of a public benchmark." if public else PRIVATE_NOTE])


def _figures(study: Study, pictures: dict[str, bytes], names: Sequence[str]) -> list[Block]:
    there = metrics_of(study)
    score = {
        FIDELITY_PICTURE: chosen(FIDELITY, there),
        UTILITY_PICTURE: chosen(UTILITY, there),
        COMPARISON_PICTURE: None,
    }
    blocks: list[Block] = []
    for name in names:
        if name not in pictures:
            continue
        metric = score[name]
        title = f"{shown_name(metric)} over ε" if metric else "Side by side"
        blocks.append(Figure(title, pictures[name], _caption(study, metric), _alt(study, metric)))
    if UTILITY_PICTURE in names and UTILITY_PICTURE not in pictures and pictures:
        blocks.append(
            Text(["No run has a utility score: the schema names no target, or it was not asked for."])
        )
    return blocks


def _caption(study: Study, metric: str | None) -> str:
    words = "Means over seeds with 95 % t-intervals; a hollow marker is a single seed, which has none."
    if metric is None:
        return words + " Dashed: floor, shuffled columns. Dash-dotted: ceiling, held-out real rows."
    cells_ = [cell for cell in cells(study) if cell.values(metric)]
    generators = len({(cell.first.dataset, cell.first.generator) for cell in cells_})
    if generators > frontier.MOST_LINES:
        words += (
            f" Only the {frontier.MOST_LINES} generators with the best score are drawn; the tables have all."
        )
    return f"{words} In this score {direction(metric)}."


def _alt(study: Study, metric: str | None) -> str:
    generators = ", ".join(sorted({run.generator for run in study.runs}))
    what = f"{shown_name(metric)} against epsilon" if metric else "Scores at equal epsilon"
    return f"{what} for {generators}; the numbers are in the table of means."


def _subtitle(study: Study) -> str:
    datasets = ", ".join(sorted({run.dataset for run in study.runs}))
    return f"{len(study.runs)} runs on {datasets}, read from their folders."


def _badge(study: Study) -> tuple[str, str]:
    labels = {run.label for run in study.runs}
    if "RESEARCH NOISE" in labels:
        return "RESEARCH NOISE", "warn"
    if "NOT DP" in labels or any(not run.enabled for run in study.runs):
        return "holds runs that are NOT DP", "warn"
    return ("every finished run is DP", "good") if "DP" in labels else ("no finished run", "plain")
