"""One run from configuration to certificate: prepare, fit, sample, evaluate, certify; each step resumes."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from dpforge.config import build
from dpforge.configuration.building import Experiment
from dpforge.data import Dataset
from dpforge.errors import DPForgeError, PrivacyError, RunError
from dpforge.evaluation import Results, headline
from dpforge.experiment import pictures, stages
from dpforge.experiment.attempt import locked, recorded
from dpforge.experiment.certificate import make_certificate
from dpforge.experiment.display import print_summary, progress, warning_line
from dpforge.experiment.environment import check_same_numerics, environment
from dpforge.experiment.rundir import RunDir
from dpforge.experiment.stages import StopFlag, Work
from dpforge.experiment.tracking import Tracker, Value, Visibility
from dpforge.generators.base import FittedTable
from dpforge.identity import Identity
from dpforge.privacy.accounting import DISCRETIZATION
from dpforge.privacy.ledger import Ledger
from dpforge.privacy.mechanisms import PrivateAccess
from dpforge.privacy.rng import KEY_BYTES, KeyedRandom, fresh_random

_NO_KEY = (
    "noise drawn with it can be neither replayed nor continued. Put the file back from a copy,"
    " or delete the run folder to start a new run."
)
_log = logging.getLogger("dpforge")


@dataclass(frozen=True)
class RunOutcome:
    """What became of a run.

    Args:
        path: Run folder.
        skipped: It was finished already.
        ok: It is finished now.
    """

    path: Path
    skipped: bool
    ok: bool


def run(config: DictConfig, *, identity: Identity, overrides: Sequence[str] = ()) -> RunOutcome:
    """Make a run complete: start it, continue it, or find that nothing is left to do.

    Args:
        config: Composed configuration.
        identity: Where the run lives.
        overrides: The command line, for the record.

    Raises:
        DPForgeError: What stopped the run; its folder keeps everything needed to go on.
    """
    experiment = build(config)
    folder = RunDir(identity.folder)
    folder.create()
    with locked(folder):
        if folder.complete():
            _check_own_data(folder, experiment)
            _announce(folder, "finished already; nothing was run again")
            return RunOutcome(folder.root, skipped=True, ok=True)
        _prepare(folder, config, experiment, overrides)
        with recorded(folder):
            _complete(folder, experiment, identity)
    return RunOutcome(folder.root, skipped=False, ok=True)


def evaluate(path: Path) -> RunOutcome:
    """Evaluate the samples of a finished run again, in place; costs no privacy."""
    folder = RunDir(path)
    if folder.status()["state"] != "done":
        raise RunError(f"{path} is not a finished run. Start its command again first.")
    config = _stored_config(folder)
    slug, _, run_id = path.resolve().name.rpartition("-")
    with locked(folder), recorded(folder):
        _complete(folder, build(config), Identity(run_id, slug, path))
    return RunOutcome(path, skipped=False, ok=True)


def _stored_config(folder: RunDir) -> DictConfig:
    try:
        config = OmegaConf.load(folder.config)
    except (OSError, YAMLError, OmegaConfBaseException) as error:
        raise RunError(
            f"{folder.config} is missing or damaged ({type(error).__name__})."
            " Start the command of the run again with another study=…, or restore the file."
        ) from error
    if not isinstance(config, DictConfig):
        raise RunError(f"{folder.config} does not hold a configuration. Restore the file.")
    return config


def _complete(folder: RunDir, experiment: Experiment, identity: Identity) -> None:
    ledger = _ledger(folder, experiment)
    random = _key(folder, experiment, ledger)
    access = PrivateAccess(ledger, random)
    load = _data(folder, experiment, random)
    tracker = Tracker(
        experiment.logger,
        run_dir=folder.root,
        csv_path=folder.metrics_csv,
        run_id=identity.run_id,
        study=experiment.study,
        name=identity.slug,
        run_config=_logged_config(folder),
        on_taint=ledger.taint,
    )
    with tracker, StopFlag().installed() as flag:
        with progress(experiment.runtime.progress) as display:
            work = Work(experiment, folder, access, tracker, display, flag, load)
            fitted = stages.fit(work)
            synthetic = stages.sample(work, fitted)
            results = stages.evaluate(work, fitted, synthetic)
            with display.task("draw pictures", 1) as stage:
                _draw(work, fitted, synthetic, results)
                stage.advance()
        facts = _facts(work, len(synthetic))
        _report(work, results, facts)
    ledger.close()
    folder.write_json(folder.certificate, make_certificate(ledger))
    folder.set_status("done")
    print_summary(facts, headline(results))


def _draw(work: Work, fitted: FittedTable, synthetic: pd.DataFrame, results: Results) -> None:
    """Draw the pictures; a table that cannot be drawn must not cost a run its certificate."""
    try:
        pictures.draw(work, work.load(), fitted, synthetic, results)
    except (DPForgeError, OSError):
        raise
    except Exception as error:
        # The text of the error could quote a cell.
        _log.warning(
            "some pictures could not be drawn (%s); everything else is complete", type(error).__name__
        )
        for path in sorted(work.folder.plots.rglob("*.png")):
            work.tracker.taint(f"plots/{path.stem}", path.relative_to(work.folder.root).as_posix())


def _report(work: Work, results: Results, facts: dict[str, Any]) -> None:
    """Write ``metrics.json`` and send the final numbers to the trackers."""
    private = {
        key: Value(value, Visibility(results.visibility(key))) for key, value in results.metrics.items()
    }
    for key in results.private:
        work.tracker.taint(key, "metrics.json")
        if key in {row.name for row in headline(results)}:
            work.tracker.taint(key, "terminal")
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
    work.tracker.artifact(work.folder.preview, Visibility.DP)


def _own_metrics(work: Work, facts: dict[str, Any]) -> dict[str, Any]:
    privacy = ("epsilon", "epsilon_rdp", "delta", "noise_multiplier")
    entries = {f"privacy/{key}": (facts[key], "public") for key in privacy}
    # How long a stage took depends on the number of private rows.
    entries |= {f"time/{key}": (facts[key], "private") for key in ("fit_s", "sample_s", "evaluate_s")}
    for key, (_, visibility) in entries.items():
        if visibility == "private":
            work.tracker.taint(key, "metrics.json")
    return {
        key: {"value": value, "version": "1", "visibility": visibility}
        for key, (value, visibility) in entries.items()
    }


def _facts(work: Work, rows: int) -> dict[str, Any]:
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
        "steps": main.count if main.mechanism == "dp_sgd" else getattr(work.experiment.model, "steps", 1),
        "rows": rows,
        "rng": work.access.ledger.header["rng"],
        "run_dir": str(work.folder.root),
        **times,
    }


def _prepare(folder: RunDir, config: DictConfig, experiment: Experiment, overrides: Sequence[str]) -> None:
    schema = experiment.dataset.public_schema()
    folder.write_text(folder.config, OmegaConf.to_yaml(config, resolve=True))
    hydra = folder.root / ".hydra"
    hydra.mkdir(exist_ok=True)
    folder.write_text(hydra / "config.yaml", OmegaConf.to_yaml(config))
    folder.write_text(hydra / "overrides.yaml", OmegaConf.to_yaml(list(overrides)))
    folder.write_json(folder.schema, schema.to_dict())
    folder.write_json(folder.environment, environment(experiment.runtime.device))
    folder.set_status("running", error=None)
    folder.traceback.unlink(missing_ok=True)


def _key(folder: RunDir, experiment: Experiment, ledger: Ledger) -> KeyedRandom:
    """Return the run's noise streams: from its key file, or from a new key that is on disk first."""
    kind, path = experiment.privacy.rng, folder.private / "key"
    if not path.is_file():
        if ledger.begun and kind != "seeded":
            raise PrivacyError(f"private/key of {folder.root} is gone: {_NO_KEY}")
        (folder.private / "data.commitment").unlink(missing_ok=True)
        folder.write_secret(path, fresh_random(kind, experiment.privacy.seed).key)
    key = path.read_bytes()
    if len(key) != KEY_BYTES:
        raise PrivacyError(f"private/key of {folder.root} has {len(key)} bytes, not {KEY_BYTES}: {_NO_KEY}")
    return KeyedRandom(kind, key)


def _ledger(folder: RunDir, experiment: Experiment) -> Ledger:
    if folder.ledger.is_file():
        ledger = Ledger.open(folder.ledger)
        if not folder.fitted():
            check_same_numerics(ledger.header["environment"])
        return ledger
    schema = experiment.dataset.public_schema()
    plan = experiment.model.plan(schema, experiment.privacy)
    header = {
        "rng": experiment.privacy.rng,
        "schema_digest": schema.digest,
        "nominal_rows": schema.nominal_rows,
        "discretization": DISCRETIZATION,
        "environment": environment(experiment.runtime.device),
    }
    return Ledger.create(folder.ledger, plan, header)


def _data(folder: RunDir, experiment: Experiment, random: KeyedRandom) -> Callable[[], Dataset]:
    """Return a loader that reads the data once and refuses data other than the run's."""
    path = folder.private / "data.commitment"

    @cache
    def load() -> Dataset:
        data = experiment.dataset.load()
        commitment = random.commitment(data.fingerprint)
        if not path.is_file():
            folder.write_secret(path, commitment.encode())
        elif path.read_text() != commitment:
            raise RunError(
                "the data are not those the run was started with; noise that was drawn for one table is never"
                " used for another. Use another study=…, or delete the run folder."
            )
        return data

    return load


def _check_own_data(folder: RunDir, experiment: Experiment) -> None:
    """Of a finished run on an own file: refuse to pass it off as a run on changed data."""
    if getattr(experiment.dataset, "path", None) is None:
        return
    _data(folder, experiment, _key(folder, experiment, Ledger.open(folder.ledger)))()


def _logged_config(folder: RunDir) -> dict[str, Any]:
    content = OmegaConf.to_container(OmegaConf.load(folder.config), resolve=True)
    return {str(key): value for key, value in content.items()} if isinstance(content, dict) else {}


def _announce(folder: RunDir, text: str) -> None:
    certificate = folder.read_json(folder.certificate)
    epsilon = certificate["epsilon"]
    facts = {"epsilon": epsilon, "rng": certificate["rng"]}
    stated = warning_line(facts) or f"ε {epsilon:.4g} at δ {certificate['delta']:g}"
    print(f"{folder.root}: {text} ({stated})")
