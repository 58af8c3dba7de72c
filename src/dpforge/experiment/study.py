"""The runs of a study, read from their folders alone."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from dpforge.errors import PrivacyError, RunError
from dpforge.experiment.rundir import RunDir
from dpforge.experiment.study_metrics import column_names
from dpforge.experiment.study_settings import differing, flat, shown
from dpforge.identity import canonical
from dpforge.privacy.events import Event
from dpforge.privacy.ledger import Ledger

UNREADABLE = (OSError, YAMLError, OmegaConfBaseException, RunError, ValueError)
_MADE_OF_A_RUN = ("status.json", "ledger.jsonl", "environment.json")


class Score(NamedTuple):
    """One final number of a run; what is missing is NaN."""

    value: float
    floor: float = math.nan
    ceiling: float = math.nan
    normalised: float = math.nan
    private: bool = True
    protocol: str = ""


@dataclass(frozen=True)
class RunRecord:
    """What the folder of one run says.

    Args:
        path: The run folder.
        status: ``planned``, ``running`` (or killed), ``failed``, ``done``, or ``incomplete`` for a finished
            run whose files are gone.
        model: Choice of generator.
        dataset: Name of the data set.
        seed: Public seed.
        enabled: Whether the run is meant to be private.
        epsilon_target: Asked for; None where a noise multiplier was given, or without privacy.
        epsilon: Of the certificate; None without a certificate, or where there is no finite one.
        delta: Of the configuration.
        label: Status in the certificate: ``DP``, ``RESEARCH NOISE``, ``NOT DP``; empty without one.
        error: Why it failed; may speak of the data, though never of a cell.
        public_benchmark: Whether the data are declared a public benchmark.
        guarantee: Unit and relation of the guarantee, such as ``row, add_remove``.
        settings: Dotted keys of the configuration that differ between the study's runs of this model on
            this data set, seeds and budgets apart.
        bench: Equal for two runs whose data and evaluation are configured alike.
        scores: Final numbers by metric.
        rows: Rows that entered, by table or metric; private.
        seconds: Of each finished stage; private.
        reserved: Events reserved in all attempts with their counts; None if the ledger cannot be read.
    """

    path: Path
    status: str
    model: str
    dataset: str
    seed: int
    enabled: bool
    epsilon_target: float | None
    epsilon: float | None
    delta: float
    label: str = ""
    error: str = ""
    public_benchmark: bool = False
    guarantee: str = ""
    settings: Mapping[str, str] = field(default_factory=dict)
    bench: str = ""
    scores: Mapping[str, Score] = field(default_factory=dict)
    rows: Mapping[str, int] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)
    reserved: tuple[tuple[Event, int], ...] | None = ()

    @property
    def generator(self) -> str:
        """The model with the settings that tell it from others of the study."""
        return self.model + (f" ({self.shown_settings})" if self.settings else "")

    @property
    def shown_settings(self) -> str:
        """The settings as one text, without the group they belong to."""
        return ", ".join(f"{key.rpartition('.')[2]}={value}" for key, value in self.settings.items())

    def public(self) -> RunRecord:
        """The same without anything computed from real rows that was not charged.

        Scores of the synthetic table stay only where the table itself may be released.
        """
        kept = {
            key: score
            for key, score in self.scores.items()
            if not score.private and (self.label == "DP" or key.startswith("privacy/"))
        }
        return replace(self, scores=kept, rows={}, seconds={}, error="")


@dataclass(frozen=True)
class Study:
    """The runs below one folder.

    Args:
        folder: Where they lie.
        runs: Sorted by data set, model, budget and seed, whatever their state.
        ignored: Folders that look like a run and cannot be read, with the reason.
    """

    folder: Path
    runs: tuple[RunRecord, ...]
    ignored: tuple[tuple[Path, str], ...] = ()

    def public(self) -> Study:
        """The same study without private values."""
        return replace(self, runs=tuple(run.public() for run in self.runs))


def read_study(folder: Path) -> Study:
    """Read every run folder below ``folder``, however deep; other folders are passed over.

    Scores of one data set that were measured by different protocols get names of their own.

    Raises:
        RunError: ``folder`` is missing or holds no run.
    """
    if not folder.is_dir():
        raise RunError(f"'{folder}' is not a folder. Name the folder of a study, such as outputs/<study>.")
    found: list[tuple[RunRecord, dict[str, Any]]] = []
    ignored: list[tuple[Path, str]] = []
    for path in run_folders(folder):
        try:
            found.append(_read_run(RunDir(path)))
        except UNREADABLE as error:
            ignored.append((path, f"its configuration cannot be read ({type(error).__name__})"))
    if not found:
        raise RunError(f"no readable run below '{folder}': a run folder holds config.yaml and status.json.")
    return Study(folder, tuple(sorted(_in_columns(_with_settings(found)), key=_order)), tuple(ignored))


def run_folders(folder: Path) -> Iterator[Path]:
    """Folders of runs at or below ``folder``, sorted; nothing inside a run is searched."""
    for place, below, files in os.walk(folder):
        if "config.yaml" in files and any(name in files for name in _MADE_OF_A_RUN):
            below.clear()
            yield Path(place)
        below.sort()


def table(study: Study) -> pd.DataFrame:
    """One row a run: what it was, its state, and every score with floor, ceiling and normalised value."""
    return pd.DataFrame([_row(run) for run in study.runs])


def _row(run: RunRecord) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "run": run.path.name,
        "state": run.status,
        "dataset": run.dataset,
        "model": run.model,
        "settings": run.shown_settings,
        "seed": run.seed,
        "private": run.enabled,
        "epsilon_target": run.epsilon_target,
        "epsilon": run.epsilon,
        "delta": run.delta,
        "label": run.label,
    }
    for key, score in run.scores.items():
        parts = {"": score.value, "floor/": score.floor, "ceiling/": score.ceiling}
        parts["normalised/"] = score.normalised
        facts |= {f"{kind}{key}": value for kind, value in parts.items() if not kind or value == value}
    return facts | {f"seconds/{stage}": seconds for stage, seconds in run.seconds.items()}


def _read_run(folder: RunDir) -> tuple[RunRecord, dict[str, Any]]:
    config = _config(folder)
    privacy, dataset = dict(config["privacy"]), dict(config["dataset"])
    name = folder.root.name.split("-")
    certificate = _json(folder.certificate)
    enabled = bool(privacy.get("enabled", True))
    target = privacy.get("target_epsilon") if enabled else None
    state = _state(folder)
    # An attempt that failed may have left the scores of the one before.
    final = state in ("done", "incomplete") and certificate
    scores, rows = _scores(_json(folder.metrics) if final else {})
    stages = folder.status()["stages"]
    record = RunRecord(
        path=folder.root,
        status=state,
        # The slug tells the choice of a group, which the resolved configuration does not.
        model=name[0] if len(name) == 5 else str(config["model"]["_target_"]).split(".")[-2],
        dataset=str(dataset.get("name", "data")),
        seed=int(config["seed"]),
        enabled=enabled,
        epsilon_target=None if target is None else float(target),
        epsilon=certificate.get("epsilon"),
        delta=float(privacy["delta"]),
        label=str(certificate.get("status", "")),
        error=str(folder.status().get("error") or ""),
        public_benchmark=bool(dataset.get("public_benchmark", False)),
        bench=canonical([flat({"dataset": dataset}), config.get("evaluation")]),
        scores=scores,
        rows=rows,
        seconds={stage: float(facts["seconds"]) for stage, facts in stages.items()},
        **_spent(folder.ledger),
    )
    return record, flat(config) | {"dpforge": _json(folder.environment).get("dpforge")}


def _config(folder: RunDir) -> dict[str, Any]:
    loaded = OmegaConf.load(folder.config)
    content = OmegaConf.to_container(loaded) if isinstance(loaded, DictConfig) else None
    if not isinstance(content, dict) or not {"seed", "privacy", "dataset", "model"} <= content.keys():
        raise RunError(f"{folder.config} is not the configuration of a run.")
    return {str(key): value for key, value in content.items()}


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _state(folder: RunDir) -> str:
    state = str(folder.status()["state"])
    return "incomplete" if state == "done" and not folder.complete() else state


def _scores(content: dict[str, Any]) -> tuple[dict[str, Score], dict[str, int]]:
    entries = content.get("metrics", {})

    def number(key: str) -> float:
        value = entries.get(key, {}).get("value")
        return math.nan if value is None else float(value)

    contexts = ("floor/", "ceiling/", "normalised/")
    names = [key for key in entries if not key.startswith((*contexts, "time/"))]
    scores = {
        key: Score(
            number(key),
            *(number(context + key) for context in contexts),
            private=entries[key].get("visibility") != "public",
            protocol=str(entries[key].get("protocol_id") or f"v{entries[key].get('version')}"),
        )
        for key in names
    }
    return scores, {key: int(value) for key, value in content.get("rows", {}).items()}


def _spent(path: Path) -> dict[str, Any]:
    """What the ledger reserved. It is read only: a run may be writing to it."""
    try:
        whole = path.read_text(encoding="utf-8").rpartition("\n")[0].splitlines() if path.is_file() else []
        ledger = Ledger(path, [json.loads(line) for line in whole], "")
        events = tuple((piece.event, ledger.reserved(piece.name)) for piece in ledger.plan.pieces)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, PrivacyError):
        return {"reserved": None}
    guarantee = f"{ledger.plan.unit}, {ledger.plan.relation}" if whole else ""
    return {"reserved": tuple(pair for pair in events if pair[1]), "guarantee": guarantee}


def _with_settings(found: list[tuple[RunRecord, dict[str, Any]]]) -> Iterator[RunRecord]:
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for record, config in found:
        groups.setdefault((record.model, record.dataset), []).append(config)
    for record, config in found:
        keys = differing(groups[record.model, record.dataset])
        yield replace(record, settings={key: shown(config.get(key)) for key in keys})


def _in_columns(found: Iterator[RunRecord]) -> Iterator[RunRecord]:
    runs = list(found)
    places = [(run.dataset, key, s.protocol) for run in runs for key, s in run.scores.items()]
    names = column_names(places)
    for run in runs:
        yield replace(run, scores={names[run.dataset, k, s.protocol]: s for k, s in run.scores.items()})


def _order(run: RunRecord) -> tuple[Any, ...]:
    budget = run.epsilon_target or run.epsilon or math.inf
    return (run.dataset, run.model, run.shown_settings, budget, run.seed, str(run.path))
