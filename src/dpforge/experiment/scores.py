"""The final numbers of a run: ``metrics.json``, the trackers, and the facts of the summary."""

from __future__ import annotations

from typing import Any

import pandas as pd
from rich.console import Console

from dpforge.evaluation import Results, attack_notes, headline
from dpforge.experiment.score_tables import write_tables
from dpforge.experiment.stages import Work
from dpforge.experiment.tracking import Value, Visibility


def write_scores(work: Work, results: Results, facts: dict[str, Any]) -> None:
    """Write ``metrics.json`` and send the final numbers to the trackers."""
    private = {
        key: Value(value, Visibility(results.visibility(key))) for key, value in results.metrics.items()
    }
    sentences = attack_notes(results)
    for key in results.private:
        work.tracker.taint(key, "metrics.json")
        if key in {row.name for row in headline(results)} or (sentences and key.startswith("attack/")):
            work.tracker.taint(key, "terminal")
    for name in write_tables(work.folder, results):
        work.tracker.taint(name, "tables.json")
    for sentence in sentences:
        Console(highlight=False).print(sentence, markup=False)
    content = results.to_json()
    measured = _own_metrics(work, facts)
    content["metrics"] |= measured
    work.folder.write_json(work.folder.metrics, content)
    own = {
        k: Value(v["value"], Visibility(v["visibility"]))
        for k, v in measured.items()
        if v["value"] is not None
    }
    work.tracker.summary({**private, **own})
    if work.folder.preview.is_file():
        work.tracker.table("samples/preview", pd.read_csv(work.folder.preview), Visibility.DP)
    for released in (work.folder.preview, work.folder.grid):
        if released.is_file():
            work.tracker.artifact(released, Visibility.DP)


def _own_metrics(work: Work, facts: dict[str, Any]) -> dict[str, Any]:
    privacy = ("epsilon", "epsilon_rdp", "delta", "noise_multiplier")
    entries = {f"privacy/{key}": (facts[key], "public") for key in privacy}
    # How long a stage took depends on the number of private rows.
    entries |= {f"time/{key}": (facts[key], "private") for key in ("fit_s", "sample_s", "evaluate_s")}
    for key, (_, visibility) in entries.items():
        if visibility == "private":
            for sink in ("metrics.json", "status.json", "log.txt", "terminal"):
                work.tracker.taint(key, sink)
    return {
        key: {"value": value, "version": "1", "visibility": visibility}
        for key, (value, visibility) in entries.items()
    }


def run_facts(work: Work, rows: int) -> dict[str, Any]:
    """Return what the end of a run states: epsilon, noise, steps, rows, seconds, folder."""
    plan = work.access.ledger.plan
    main = plan.pieces[-1]
    epsilon, rdp = plan.epsilon(), plan.epsilon("rdp")
    finite = epsilon != float("inf")
    times = {f"{stage}_s": work.seconds(stage) for stage in ("fit", "sample", "evaluate")}
    return {
        "epsilon": epsilon if finite else None,
        "epsilon_rdp": rdp if finite else None,
        "delta": plan.delta,
        "noise_multiplier": main.noise_multiplier,
        "steps": main.count if main.count > 1 else getattr(work.experiment.model, "steps", None) or 1,
        "images" if work.folder.images.is_file() else "rows": rows,
        "rng": work.access.ledger.header["rng"],
        "run_dir": str(work.folder.root),
        **times,
    }
