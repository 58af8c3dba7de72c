"""Membership attacks of a run's evaluation, for the report of its audit; every value is private."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from dpforge.configuration.building import Experiment
from dpforge.data.table import read_table
from dpforge.errors import ConfigError
from dpforge.evaluation import Guarantee, attack_notes
from dpforge.experiment import runner
from dpforge.experiment.attempt import locked
from dpforge.experiment.certificate import make_certificate
from dpforge.experiment.rundir import RunDir
from dpforge.experiment.sampling import finished_model
from dpforge.privacy.ledger import Ledger

FILE, PREFIX = "audit.json", "attack/"


@dataclass(frozen=True)
class Membership:
    """What membership attacks found.

    Args:
        metrics: Values by name, None for one that could not be computed.
        sentences: For people.
    """

    metrics: dict[str, float | None]
    sentences: tuple[str, ...]

    @property
    def violated(self) -> bool:
        """Whether an attack's bound exceeds the guarantee."""
        return any("VIOLATION" in sentence for sentence in self.sentences)

    def to_json(self) -> dict[str, Any]:
        """Return the entry of ``audit.json``; computed from real rows, private."""
        return {"metrics": self.metrics, "sentences": list(self.sentences), "visibility": "private"}


def evaluated_attacks(folder: RunDir) -> Membership | None:
    """Return the attacks that the run's evaluation made, or None if it made none."""
    content = folder.read_json(folder.metrics)
    metrics = {key: entry.get("value") for key, entry in content["metrics"].items() if key.startswith(PREFIX)}
    notes = [str(note) for note in content.get("notes", ()) if str(note).startswith(PREFIX)]
    return Membership(metrics, tuple(notes)) if metrics else None


def fresh_attacks(folder: RunDir, experiment: Experiment) -> Membership:
    """Make the attacks of the evaluation on the released table of a finished run.

    Costs no privacy; the certificate is written again, naming ``audit.json`` as a sink of private values.

    Raises:
        ConfigError: The run made images: their attacks are part of their evaluation.
        RunError, PrivacyError, DataError: The run or its data are not what they were.
    """
    if experiment.dataset.modality != "table":
        raise ConfigError(
            "--attacks is for tables. Evaluate images with evaluation=images_full; an audit of the run then"
            " includes what their attacks found."
        )
    with locked(folder):
        ledger = Ledger.open(folder.ledger)
        data = runner.bound_data(folder, experiment, runner.noise_key(folder, experiment, ledger), ledger)()
        schema = finished_model(folder).schema
        synthetic, _ = read_table(folder.synthetic, schema)
        certificate = folder.read_json(folder.certificate)
        epsilon = certificate["epsilon"]
        guarantee = None if epsilon is None else Guarantee(float(epsilon), float(certificate["delta"]))
        suite = replace(experiment.evaluation, metrics=("attacks",))
        results = suite.evaluate(
            data.train, data.holdout, synthetic, schema, seed=experiment.seed, guarantee=guarantee
        )
        content = results.to_json()["metrics"]
        metrics = {key: entry["value"] for key, entry in content.items() if key.startswith(PREFIX)}
        for sink in (FILE, "terminal"):
            ledger.taint("membership attacks", sink)
        folder.write_json(folder.certificate, make_certificate(ledger, folder.released()))
    return Membership(metrics, tuple(attack_notes(results)))
