"""The scores of a run: tables by family for the page, and the same as CSV and Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from dpforge.evaluation.collecting import EXACT_FLOORS
from dpforge.experiment.report.finished import FinishedRun, Score
from dpforge.experiment.report.page import MISSING, Block, Cell, Table, Text, shown_number
from dpforge.experiment.report.wording import FAMILIES, LEGACY_PAIRS, LEGACY_TEXT, OTHER, family_of
from dpforge.experiment.sampling_images import makes_images

# Beyond it floor and ceiling nearly coincide and the position between them says nothing.
MEANINGLESS = 100
_IMAGES = (
    "Floor: real images with every pixel shuffled independently among them (for accuracy: the share of the"
    " largest class), or the public images a method starts from. Ceiling: as many held-out real images, or"
    " training on real ones. Normalised: 0 at the floor, 1 at the ceiling."
)
_COLUMNS = ("score", "value", "floor", "ceiling", "normalised", "sd", "version")


def score_blocks(run: FinishedRun) -> list[Block]:
    """All scores by family with what they mean; the legacy ones beside their corrections."""
    scores = run.scores()
    groups: dict[str, list[Score]] = {}
    for score in scores.values():
        if not score.name.startswith("legacy/"):
            groups.setdefault(family_of(score.name).title, []).append(score)
    blocks: list[Block] = [_how_to_read(run, scores.values())] if run.shows_private else []
    blocks += [
        _family_table(family.title, family.meaning, groups[family.title])
        for family in (*FAMILIES, OTHER)
        if family.title in groups
    ]
    if any(name.startswith("legacy/") for name in scores):
        blocks += [_legacy_table(scores), Text(LEGACY_TEXT, "warning")]
    # The introduction explains exact floors already.
    if notes := [f"• {note}." for note in run.notes() if "floor is exact by construction" not in note]:
        blocks.append(Text(["Remarks of the evaluation:", *notes], "note"))
    return blocks


def _how_to_read(run: FinishedRun, scores: Iterable[Score]) -> Text:
    if makes_images(run.folder):
        return Text([_IMAGES])
    words = (
        "Floor: the real table with every column shuffled independently. Ceiling: as many held-out real rows."
        " Normalised: 0 at the floor, 1 at the ceiling; a score without its floor says little."
    )
    if any(score.name in EXACT_FLOORS for score in scores):
        words += (
            " Shuffling leaves single columns as they are, so for 1-way scores and coverage the floor is"
            " exact: there 0 is perfect and 1 is as close as fresh real rows."
        )
    return Text([words])


def _family_table(title: str, meaning: str, scores: list[Score]) -> Table:
    """One row a score, without the columns that are empty for the whole family."""
    cells: dict[str, list[Cell]] = {
        "value": [score.value for score in scores],
        "sd of repeats": [score.std for score in scores],
        "floor": [score.floor for score in scores],
        "ceiling": [score.ceiling for score in scores],
        "normalised": [meaningful(score.normalised) for score in scores],
        "version": [score.version for score in scores],
    }
    kept = {name: column for name, column in cells.items() if any(cell is not None for cell in column)}
    rows = list(zip([score.name for score in scores], *kept.values(), strict=True))
    return Table(title, ["score", *kept], rows, meaning)


def _legacy_table(scores: Mapping[str, Score]) -> Table:
    columns = ["score", "legacy", "legacy floor", "corrected score", "corrected", "floor", "ceiling"]
    rows: list[list[Cell]] = []
    for name, corrected in LEGACY_PAIRS.items():
        if name not in scores:
            continue
        found = [scores[key] for key in corrected if key in scores]
        old = scores[name]
        rows += [
            [name, old.value, old.floor, new.name, new.value, new.floor, new.ceiling] for new in found
        ] or [[name, old.value, old.floor, None, None, None, None]]
    return Table("Legacy scores beside the corrected ones", columns, rows)


def meaningful(normalised: float | None) -> float | None:
    """The normalised score, ``None`` where floor and ceiling nearly coincide."""
    return normalised if normalised is not None and abs(normalised) <= MEANINGLESS else None


def scores_csv(run: FinishedRun) -> str:
    """Every score that may be shown, in full precision, one line each."""
    lines = [",".join(_COLUMNS)]
    for score in run.scores().values():
        numbers = (score.value, score.floor, score.ceiling, score.normalised, score.std)
        lines.append(",".join([score.name, *("" if n is None else repr(n) for n in numbers), score.version]))
    return "\n".join(lines) + "\n"


def scores_markdown(run: FinishedRun) -> str:
    """The same as a Markdown table, rounded, below what the run guarantees."""
    certificate = run.certificate
    spent = (
        f"accounted ε {certificate['epsilon']:.3f}" if certificate["epsilon"] is not None else "no finite ε"
    )
    head = [
        f"# {run.model} on {run.dataset}",
        "",
        f"{run.status}: {spent} at δ = {certificate['delta']:g}",
        "",
    ]
    lines = ["| " + " | ".join(_COLUMNS[:5]) + " |", "|---|--:|--:|--:|--:|"]
    for score in run.scores().values():
        numbers = (score.value, score.floor, score.ceiling, meaningful(score.normalised))
        shown = (MISSING if number is None else shown_number(number) for number in numbers)
        lines.append(f"| {score.name} | " + " | ".join(shown) + " |")
    return "\n".join([*head, *lines]) + "\n"
