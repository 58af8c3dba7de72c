"""The report of one run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from dpforge.experiment.report.composition import composition_blocks
from dpforge.experiment.report.finished import FinishedRun, read_finished
from dpforge.experiment.report.page import Block, Figure, Page, Section, Text, make_folder, write_page
from dpforge.experiment.report.run_blocks import badge, headline_tiles, notice, origin_table, touched_blocks
from dpforge.experiment.report.run_pictures import epsilon_figures, picture_sections, score_figures
from dpforge.experiment.report.run_scores import score_blocks, scores_csv, scores_markdown
from dpforge.experiment.report.sinks import record_sink
from dpforge.experiment.rundir import RunDir
from dpforge.generators.storage import write_atomic

FILES = ("index.html", "scores.csv", "scores.md")


def run_page(run: Path, *, public: bool) -> Page:
    """Build the report of a finished run from its folder alone.

    Args:
        run: Run folder.
        public: Whether to leave out everything computed from real rows that was not charged.

    Raises:
        RunError: The run is not finished, or a file is missing or damaged.
    """
    return page_of(read_finished(run, public=public))


def page_of(run: FinishedRun) -> Page:
    """The page of a run that was read already."""
    sections = [
        Section("At a glance", [*_label(run), headline_tiles(run), notice(run)]),
        Section("How ε was composed", _composition(run)),
        Section("What the run touched", touched_blocks(run)),
        Section("Scores", _scores(run)),
        *picture_sections(run),
        Section("Where it comes from", [origin_table(run)]),
    ]
    title = f"{run.model} on {run.dataset}"
    name = run.folder.root.resolve().name
    subtitle = f"Run {name} of the study {run.config.get('study', '')}."
    return Page(title, subtitle, [section for section in sections if section.blocks], badge(run.certificate))


def write_run(run: Path, *, public: bool, out: Path | None = None) -> Path:
    """Write ``index.html``, ``scores.csv`` and ``scores.md``; return the path of the page.

    A report with private values is recorded as a sink of them in the ledger and the certificate.

    Args:
        run: Run folder.
        public: See :func:`run_page`.
        out: Folder for the files; ``report/`` of the run by default.

    Raises:
        RunError: The run is not finished, a file is damaged, or the place cannot be written.
    """
    folder = RunDir(run)
    place = out or folder.report
    read_finished(run, public=public)
    make_folder(place)
    if not public:
        record_sink(folder, _sink(place, folder), ("scores", "pictures", "times"))
    finished = read_finished(run, public=public)
    write_atomic(place / "scores.csv", scores_csv(finished).encode())
    write_atomic(place / "scores.md", scores_markdown(finished).encode())
    write_page(page_of(finished), place / "index.html")
    return place / "index.html"


def _sink(place: Path, folder: RunDir) -> str:
    inside = place.resolve().is_relative_to(folder.root.resolve())
    return "report/" if inside else "a report outside the run folder"


def _label(run: FinishedRun) -> list[Text]:
    """The words that must stand before any epsilon of a run that is not to be trusted."""
    if run.status == "DP":
        return []
    words = {
        "NOT DP": "NOT DP: this run has no privacy guarantee.",
        "RESEARCH NOISE": "RESEARCH NOISE: the noise came from a known seed. Do not release.",
    }
    return [Text([words.get(run.status, run.status)], "warning")]


def _composition(run: FinishedRun) -> list[Block]:
    certificate: Mapping[str, Any] = run.certificate
    composed = composition_blocks(cast("dict[str, object]", dict(certificate)))
    curves: list[Figure] = epsilon_figures(run)
    return [*composed, *curves]


def _scores(run: FinishedRun) -> list[Block]:
    figures = score_figures(run)
    return [*figures, *score_blocks(run)]
