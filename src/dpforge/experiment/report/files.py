"""The files of a study's report: page, tables and pictures."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from dpforge.errors import RunError
from dpforge.experiment.report.expected import read_expected, remarks_of
from dpforge.experiment.report.page import MISSING, make_folder, write_page
from dpforge.experiment.report.sinks import record_sink
from dpforge.experiment.report.study_blocks import leading, shown_mean
from dpforge.experiment.report.study_page import PICTURES, draw, page_of
from dpforge.experiment.rundir import RunDir
from dpforge.experiment.study import Study, read_study, table
from dpforge.experiment.study_cells import aggregate, cells
from dpforge.experiment.study_metrics import shown_name
from dpforge.generators.storage import write_atomic

FOLDER = "report"
TABLES = ("table.csv", "table.md", "runs.csv")


def write_study(
    study: Path, *, public: bool = False, expected: Path | None = None, out: Path | None = None
) -> Path:
    """Write the report of a study; return the path of ``index.html``.

    Beside it: ``table.csv`` and ``table.md`` (means over seeds), ``runs.csv`` (every run), and
    ``epsilon_fidelity.png``, ``epsilon_utility.png``, ``comparison.png`` as far as there are scores. Each
    file is written atomically; a picture of an earlier report that is not drawn now is removed, so that a
    public report never keeps a private one. Of a report with private values, each run's certificate names
    the report among the places that received them.

    Args:
        study: Folder that holds run folders, at any depth.
        public: Whether to leave out everything computed from real rows that was not charged.
        expected: CSV of published numbers.
        out: Folder for the files; ``report/`` of the study by default.

    Raises:
        RunError: No run below the folder, or a place that cannot be written.
        DataError: The CSV of published numbers is wrong.
    """
    known = read_expected(expected) if expected is not None else ()
    remarks = remarks_of(expected) if expected is not None else ()
    found = read_study(study)
    place = out or study / FOLDER
    make_folder(place)
    if public:
        found = found.public()
    else:
        _record_sinks(found, place)
    pictures = draw(found)
    for name in PICTURES:
        if name in pictures:
            write_atomic(place / name, pictures[name])
        else:
            _remove(place / name)
    _write_csv(place / "runs.csv", table(found))
    _write_csv(place / "table.csv", aggregate(found))
    write_atomic(place / "table.md", markdown(found).encode())
    write_page(page_of(found, pictures, known, public=public, remarks=remarks), place / "index.html")
    return place / "index.html"


def _record_sinks(study: Study, place: Path) -> None:
    inside = place.resolve().is_relative_to(study.folder.resolve())
    sink = "report/ of the study" if inside else "a report outside the study"
    for run in study.runs:
        if any(score.private for score in run.scores.values()):
            record_sink(RunDir(run.path), sink, ("scores", "times"))


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise RunError(
            f"the old {path.name} cannot be removed ({error.strerror}). Choose another folder with --out."
        ) from error


def _write_csv(path: Path, frame: pd.DataFrame) -> None:
    write_atomic(path, frame.to_csv(index=False).encode())


def markdown(study: Study) -> str:
    """Means over seeds as a Markdown table, with the words that belong to the epsilons in it."""
    metrics = leading(study)
    columns = ["data set", "generator", "ε", "δ", "label", "n", *map(shown_name, metrics)]
    lines = [f"# Study {study.folder.resolve().name}", "", "Mean over seeds ± half the 95 % t-interval.", ""]
    lines += ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    for cell in cells(study):
        run = cell.first
        labels = ", ".join(sorted({one.label or one.status for one in cell.runs}))
        named = [
            run.dataset,
            run.generator,
            f"{cell.budget:.3g}",
            f"{run.delta:g}",
            labels,
            str(len(cell.runs)),
        ]
        scores = [shown_mean(cell.interval(metric)) or MISSING for metric in metrics]
        lines.append("| " + " | ".join(text.replace("|", "\\|") for text in (*named, *scores)) + " |")
    return "\n".join(lines) + "\n"
