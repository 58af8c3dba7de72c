"""The parts of a run's report that are words, numbers and tables."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from dpforge.data.image_files import read_samples
from dpforge.experiment.report.finished import FinishedRun, Score, command
from dpforge.experiment.report.page import MISSING, Block, Cell, Table, Text, Tiles, shown_number
from dpforge.experiment.report.run_scores import meaningful
from dpforge.experiment.sampling_images import makes_images

_RELATIONS = {
    "add_remove": "adding or removing it",
    "zero_out": "blanking it",
    "replace": "replacing it",
}
_TILES = (
    ("utility/tstr_auroc_hgb", "AUROC, trained on synthetic"),
    ("utility/tstr_r2_hgb", "R², trained on synthetic"),
    ("utility/accuracy_cnn", "accuracy of a CNN trained on synthetic"),
    ("fidelity/frechet_lenet_public", "Fréchet distance, LeNet (0 best)"),
    ("fidelity/frechet_mobilenet_v2", "Fréchet distance, MobileNetV2 (0 best)"),
    ("fidelity/frechet_pixels", "Fréchet distance, pixels (0 best)"),
    ("fidelity/tvd_2way", "2-way TVD (0 best)"),
    ("fidelity/accuracy_overall", "accuracy (1 best)"),
    ("fidelity/c2st_auc", "C2ST AUC (.5 best)"),
    ("fidelity/correlation_mae", "correlation error (0 best)"),
)
_LEFT_OUT = (
    "Public report: left out is everything computed from real rows that the privacy budget was not charged"
    " for, namely the scores, the training loss, pictures of real rows, row counts and times."
)
_PRIVATE = (
    "This page holds values computed from real rows without noise: scores, pictures, losses. They are outside"
    " the guarantee. Show it only to those who may see the real table; --public leaves them out."
)
_NOTHING_RELEASED = {
    "NOT DP": "The run has no privacy guarantee, so its synthetic table and model are left out as well.",
    "RESEARCH NOISE": "The noise came from a known seed, which anyone can subtract, so the synthetic table"
    " and the model are left out as well.",
}


def notice(run: FinishedRun) -> Text:
    """Who may read the page, and what it lacks."""
    if not run.public:
        return Text([_PRIVATE], "note")
    return Text([_LEFT_OUT, *([] if run.shows_released else [_NOTHING_RELEASED[run.status]])], "note")


def badge(certificate: Mapping[str, Any]) -> tuple[str, str]:
    """Words and tone beside the title; never an epsilon without the warning that belongs to it."""
    if certificate["status"] == "DP":
        return f"ε = {certificate['epsilon']:.3f} at δ = {certificate['delta']:g}", "good"
    return str(certificate["status"]), "bad" if certificate["status"] == "NOT DP" else "warn"


def headline_tiles(run: FinishedRun) -> Tiles:
    """The guarantee, the main scores with floor and ceiling, rows and time."""
    scores = run.scores()
    items = [_guarantee(run.certificate), _unit(run)]
    items += [_score_tile(label, scores[name]) for name, label in _TILES if name in scores]
    if (rows := _synthetic_rows(run)) is not None:
        real = run.rows().get("real")
        small = f"scored against {real:,} real rows" if real else "charged to ε, like all of the table"
        items.append(
            ("synthetic rows" if run.folder.synthetic.is_file() else "synthetic images", f"{rows:,}", small)
        )
    if (seconds := run.seconds("fit")) is not None:
        rest = [
            f"{stage} {run.seconds(stage):,.1f} s" for stage in ("sample", "evaluate") if run.seconds(stage)
        ]
        items.append(("fit time", f"{seconds:,.1f} s", ", ".join(rest)))
    return Tiles(items)


def _guarantee(certificate: Mapping[str, Any]) -> tuple[str, str, str]:
    status, epsilon, delta = certificate["status"], certificate["epsilon"], certificate["delta"]
    if epsilon is None:
        return "privacy", status, "an access to the real rows had no noise: no finite ε exists"
    record = str(certificate["accountant_of_record"])
    others = [
        f"{name.upper()} {value:.3f}"
        for name, value in certificate["epsilon_by_accountant"].items()
        if name != record and value is not None
    ]
    small = f"at δ = {delta:g}, by {record.upper()} (of record)" + (
        f"; {', '.join(others)}" if others else ""
    )
    if status == "DP":
        return "ε", f"{epsilon:.3f}", small
    return (
        "privacy",
        status,
        f"accounted ε {epsilon:.3f} {small}; the seed of the noise is known: do not release",
    )


def _unit(run: FinishedRun) -> tuple[str, str, str]:
    certificate = run.certificate
    details = certificate.get("unit_details") or {}
    user = certificate["unit"] == "user"
    record = "image" if makes_images(run.folder) else "row"
    value = "one user" if user else f"one {record}"
    small = f"hidden by {_RELATIONS.get(certificate['relation'], certificate['relation'])}"
    if user and details.get("max_rows"):
        small += f", at most {details['max_rows']} {record}s each"
    return (
        "unit of privacy",
        value,
        f"{small}; about {certificate['nominal_rows']:,} {record}s are public knowledge",
    )


def _score_tile(label: str, score: Score) -> tuple[str, str, str]:
    parts = [
        f"{role} {_short(value)}"
        for role, value in (("floor", score.floor), ("ceiling", score.ceiling))
        if value is not None
    ]
    place = meaningful(score.normalised)
    if place is not None:
        parts.append(f"normalised {_short(place)}")
    return label, _short(score.value), " · ".join(parts)


def _short(value: float | None) -> str:
    return MISSING if value is None else shown_number(value, 3)


def _synthetic_rows(run: FinishedRun) -> int | None:
    if not run.shows_released or not run.folder.sampled():
        return None
    if run.folder.images.is_file():
        return len(read_samples(run.folder.images)[0])
    from pyarrow import parquet

    return int(parquet.read_metadata(run.folder.synthetic).num_rows)


def touched_blocks(run: FinishedRun) -> list[Block]:
    """What the ledger reserved, which sinks received private values, and the caveats."""
    records = run.records()
    blocks: list[Block] = [_reservations(run.certificate["pieces"], records)]
    sinks = run.certificate["tainted_sinks"]
    if sinks:
        blocks.append(_sinks(sinks))
    else:
        blocks.append(Text(["No place outside the private data received a private value."]))
    tone = "plain" if run.status == "DP" else "warning"
    blocks.append(Text([*run.certificate["caveats"], _check(run)], tone))
    return blocks


def _reservations(pieces: Iterable[Mapping[str, Any]], records: Iterable[Mapping[str, Any]]) -> Table:
    reserved = [record for record in records if record["kind"] == "reserve"]
    entries = Counter(record["piece"] for record in reserved)
    uses: Counter[str] = Counter()
    for record in reserved:
        uses[record["piece"]] += record["count"]
    rows: list[list[Cell]] = [
        [p["name"], p["count"], uses[p["name"]], entries[p["name"]], _details(p["name"], reserved)]
        for p in pieces
    ]
    caption = (
        "Every access was written to ledger.jsonl and to disk before its noise was drawn, in blocks."
        " A run ends only if it used each piece exactly as often as planned."
    )
    columns = ["piece", "uses planned", "uses reserved", "entries", "details"]
    return Table("Accesses to the real rows", columns, rows, caption)


_DETAILS = {"clip": "clip", "normalizer": "normaliser", "allocation": "allocation", "columns": "columns"}


def _details(name: str, reserved: Iterable[Mapping[str, Any]]) -> str:
    first = next((record for record in reserved if record["piece"] == name), {})
    found = [f"{label} {_plain(first[key])}" for key, label in _DETAILS.items() if key in first]
    return ", ".join(found)


def _plain(value: Any) -> str:
    return f"{value:g}" if isinstance(value, int | float) else str(value)


def _sinks(sinks: Mapping[str, list[str]]) -> Table:
    folded: dict[str, list[str]] = {}
    for sink, names in sinks.items():
        folded.setdefault("plots/ (pictures)" if sink.startswith("plots/") else sink, []).extend(names)
    rows: list[list[Cell]] = [[sink, len(names), _examples(names)] for sink, names in folded.items()]
    caption = "Whoever reads one of these places sees values outside the guarantee."
    return Table("Places that received private values", ["place", "values", "for example"], rows, caption)


def _examples(names: list[str], most: int = 4) -> str:
    bare = list(dict.fromkeys(name.removeprefix("plots/") for name in names))
    return ", ".join(bare[:most]) + (f" and {len(bare) - most} more" if len(bare) > most else "")


def _check(run: FinishedRun) -> str:
    return (
        f"dpforge-verify {run.folder.root.name} recomputes ε from the ledger alone, without any code of the"
        " training."
    )


def origin_table(run: FinishedRun) -> Table:
    """What made the run: the method, the versions, the command."""
    environment = run.folder.read_json(run.folder.environment) if run.folder.environment.is_file() else {}
    packages = environment.get("packages") or {}
    rows: list[list[Cell]] = [
        ["run", run.folder.root.resolve().name],
        ["study", str(run.config.get("study", ""))],
        ["model", run.model],
        ["data set", run.dataset],
        ["seed", str(run.config.get("seed", ""))],
        ["dpforge", str(environment.get("dpforge", ""))],
        ["commit", str(environment.get("git") or "")],
        ["device", str(environment.get("device", ""))],
        ["libraries", ", ".join(f"{name} {version}" for name, version in packages.items())],
    ]
    if run.shows_private:
        rows.append(["command", command(run.folder)])
    return Table("", ["what", "value"], rows, sortable=False)
