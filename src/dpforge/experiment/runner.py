"""One run from configuration to certificate: prepare, fit, sample, evaluate, certify; each step resumes."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from dpforge.config import build, check_pool, check_public, check_release
from dpforge.configuration.building import Experiment
from dpforge.configuration.keys import node_mistakes
from dpforge.data import Dataset
from dpforge.errors import ConfigError, DPForgeError, PrivacyError, RunError
from dpforge.evaluation import Results, headline
from dpforge.experiment import pictures, stages
from dpforge.experiment.attempt import locked, recorded
from dpforge.experiment.certificate import caution, make_certificate
from dpforge.experiment.display import print_summary, progress
from dpforge.experiment.environment import check_same_numerics, environment
from dpforge.experiment.rundir import RunDir
from dpforge.experiment.scores import run_facts, write_scores
from dpforge.experiment.skipping import SKIPPED, announce
from dpforge.experiment.stages import StopFlag, Work
from dpforge.experiment.tracking import Tracker, Visibility
from dpforge.generators.base import Fitted, Synthetic
from dpforge.identity import Identity
from dpforge.privacy.accounting import DISCRETIZATION, has_noise
from dpforge.privacy.ledger import Ledger
from dpforge.privacy.ledger_lines import RESTORE
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
    check_release(experiment.privacy, experiment.dataset.public_schema())
    check_pool(experiment.privacy, experiment.dataset)
    check_public(experiment.model, experiment.dataset)
    folder = RunDir(identity.folder)
    folder.create()
    with locked(folder):
        if folder.complete():
            _check_own_data(folder, experiment)
            announce(folder, SKIPPED)
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
    config = stored_config(folder)
    mistakes = [text for _, text in node_mistakes(config)]
    if mistakes:  # for one, a _target_ that is none of ours
        raise ConfigError([f"{folder.config}: {text}" for text in mistakes])
    slug, _, run_id = path.resolve().name.rpartition("-")
    with locked(folder), recorded(folder):
        _complete(folder, build(config), Identity(run_id, slug, path))
    return RunOutcome(path, skipped=False, ok=True)


def stored_config(folder: RunDir) -> DictConfig:
    """Return the configuration that a run wrote; raises ``RunError`` if it is missing or damaged."""
    try:
        config = OmegaConf.load(folder.config)
    except (OSError, YAMLError, OmegaConfBaseException) as error:
        raise RunError(
            f"{folder.config} is missing or damaged ({type(error).__name__})."
            " Start the command of the run again with another study=…, or restore the file."
        ) from error
    if not isinstance(config, DictConfig):
        raise RunError(f"{folder.config} does not hold a configuration. Restore the file.")
    if "${" in folder.config.read_text(
        encoding="utf-8"
    ):  # what a run wrote is resolved; another could read secrets
        raise RunError(f"{folder.config} holds an interpolation, which no run writes. Restore the file.")
    return config


def _complete(folder: RunDir, experiment: Experiment, identity: Identity) -> None:
    ledger = _ledger(folder, experiment)
    random = noise_key(folder, experiment, ledger)
    access = PrivateAccess(ledger, random)
    load = bound_data(folder, experiment, random, ledger)
    tracker = Tracker(
        experiment.logger,
        run_dir=folder.root,
        csv_path=folder.metrics_csv,
        run_id=identity.run_id,
        study=experiment.study,
        name=identity.slug,
        run_config=_logged_config(folder, experiment),
        on_taint=ledger.taint,
        guaranteed=has_noise(ledger.plan.event()),
        label=caution(ledger.plan, ledger.header["rng"]),
    )
    with tracker, StopFlag().installed() as flag:
        with progress(experiment.runtime.progress) as display:
            work = Work(experiment, folder, access, tracker, display, flag, load)
            fitted = stages.fit(work)
            synthetic = stages.sample(work, fitted)
            results = stages.evaluate(work, fitted, synthetic)
            if experiment.runtime.pictures:
                with display.task("draw pictures", 1) as stage:
                    _draw(work, fitted, synthetic, results)
                    stage.advance()
        facts = run_facts(work, len(synthetic))
        write_scores(work, results, facts)
        ledger.close()
        folder.write_json(folder.certificate, make_certificate(ledger, folder.released()))
        tracker.artifact(folder.certificate, Visibility.PUBLIC)
    folder.set_status("done")
    print_summary(facts, headline(results))


def _draw(work: Work, fitted: Fitted, synthetic: Synthetic, results: Results) -> None:
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


def noise_key(folder: RunDir, experiment: Experiment, ledger: Ledger) -> KeyedRandom:
    """Return the run's noise streams: from its key file, or from a new key that is on disk first."""
    kind, path = experiment.privacy.rng, folder.private / "key"
    if not path.is_file():
        if ledger.begun and kind != "seeded":
            raise PrivacyError(f"private/key of {folder.root} is gone: {_NO_KEY}")
        if not ledger.begun:
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
    if (folder.private / "key").is_file():  # written after the ledger
        raise RunError(f"{folder.ledger} is gone, and the run had begun. {RESTORE}")
    schema = experiment.dataset.public_schema()
    plan = experiment.model.plan(schema, experiment.privacy)
    unit = {"kind": schema.unit.kind, "column": schema.unit.column, "max_rows": schema.unit.max_rows}
    header = {
        "unit": unit,
        "rng": experiment.privacy.rng,
        "schema_digest": schema.digest,
        "nominal_rows": schema.nominal_rows,
        "discretization": DISCRETIZATION,
        "environment": environment(experiment.runtime.device),
    }
    return Ledger.create(folder.ledger, plan, header)


def bound_data(
    folder: RunDir, experiment: Experiment, random: KeyedRandom, ledger: Ledger
) -> Callable[[], Dataset]:
    """Return a loader that reads the data once and refuses data other than the run's."""
    path = folder.private / "data.commitment"

    @cache
    def load() -> Dataset:
        data = experiment.dataset.load()
        for name in getattr(experiment.dataset, "logs_privately", ()):
            ledger.taint(name, "log.txt")
        if data.schema.digest != ledger.header["schema_digest"]:
            raise RunError("the schema was edited after the run began. Start the command again.")
        commitment = random.commitment(data.fingerprint)
        if not path.is_file():
            if ledger.begun:
                raise PrivacyError(f"private/data.commitment of {folder.root} is gone: {_NO_KEY}")
            folder.write_secret(path, commitment.encode())
        elif path.read_bytes() != commitment.encode():
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
    ledger = Ledger.open(folder.ledger)
    bound_data(folder, experiment, noise_key(folder, experiment, ledger), ledger)()


def _logged_config(folder: RunDir, experiment: Experiment) -> dict[str, Any]:
    """Return the configuration for the trackers; to a public one, without places of this machine."""
    content = OmegaConf.to_container(OmegaConf.load(folder.config), resolve=True)
    if not isinstance(content, dict):
        return {}
    if getattr(experiment.logger, "release", "all") == "public":
        content = _without_places(content)
        dataset = content.get("dataset")
        if isinstance(dataset, dict) and dataset.get("path"):
            dataset["path"] = Path(dataset["path"]).name
    return {str(key): value for key, value in content.items()}


def _without_places(content: Any) -> Any:
    """Copy of a configuration in which an absolute path is its last part."""
    if isinstance(content, dict):
        return {key: _without_places(value) for key, value in content.items()}
    if isinstance(content, list):
        return [_without_places(value) for value in content]
    return Path(content).name if isinstance(content, str) and Path(content).is_absolute() else content
