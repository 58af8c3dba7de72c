"""Run folders in the real format with chosen scores, made without training anything."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from dpforge.experiment.certificate import make_certificate
from dpforge.experiment.rundir import RunDir
from dpforge.privacy.accounting import gaussian_noise_multiplier
from dpforge.privacy.events import Gaussian, NonPrivate
from dpforge.privacy.ledger import Ledger
from dpforge.privacy.plan import Piece, Plan

DELTA = 1e-5
TVD, AUROC = "fidelity/tvd_2way", "utility/tstr_auroc_hgb"


def write_run(
    study: Path,
    *,
    model: str = "dp_maf",
    dataset: str = "toy",
    epsilon: float | None = 1.0,
    seed: int = 0,
    scores: Mapping[str, float] | None = None,
    state: str = "done",
    reserved: int = 2,
    rng: str = "entropy",
    benchmark: bool = False,
    rows: Mapping[str, int] | None = None,
    **settings: Any,
) -> Path:
    """Write the folder of one run: two Gaussian releases that give ``epsilon`` together.

    Args:
        epsilon: Target; None for a run without privacy.
        reserved: How many of the releases the ledger holds; both are needed for a certificate.
        settings: Keys of ``model``.
    """
    budget = "nodp" if epsilon is None else f"eps{epsilon:g}"
    number = abs(hash((tuple(settings.items()), rng))) % 10**10
    folder = RunDir(study / f"{model}-{dataset}-{budget}-seed{seed}-{number:010d}")
    folder.create()
    config = {
        "study": study.name,
        "seed": seed,
        "dataset": {"name": dataset, "public_benchmark": benchmark},
        "model": {"_target_": f"dpforge.generators.{model}.Model", **settings},
        "privacy": {"enabled": epsilon is not None, "target_epsilon": epsilon, "delta": DELTA, "seed": seed},
        "evaluation": {"learners": ["hgb"]},
        "runtime": {"device": "cpu"},
    }
    folder.write_text(folder.config, OmegaConf.to_yaml(OmegaConf.create(config)))
    folder.write_json(folder.environment, {"dpforge": "0.1.0"})
    folder.write_json(folder.schema, {"name": dataset})
    stages = {name: {"seconds": 1.5} for name in ("fit", "sample", "evaluate")} if state == "done" else {}
    folder.set_status(state, stages=stages, error="it broke" if state == "failed" else None)
    ledger = _ledger(folder, epsilon, rng, reserved)
    if state == "done":
        _finish(folder, ledger, scores or {TVD: 0.1 + 0.01 * seed}, rows or {"real": 900})
    return folder.root


def _ledger(folder: RunDir, epsilon: float | None, rng: str, reserved: int) -> Ledger:
    event = NonPrivate() if epsilon is None else Gaussian(gaussian_noise_multiplier(epsilon, DELTA) * 2**0.5)
    plan = Plan(
        (Piece("release", "gaussian", event, 2, 1.0, "one row, once"),), DELTA, target_epsilon=epsilon
    )
    header = {"rng": rng, "unit": {"kind": "row"}, "nominal_rows": 900, "schema_digest": "0"}
    ledger = Ledger.create(folder.ledger, plan, header)
    for _ in range(reserved):
        ledger.reserve("release", 1, key_id="k")
    return ledger


def _finish(folder: RunDir, ledger: Ledger, scores: Mapping[str, float], rows: Mapping[str, int]) -> None:
    entries: dict[str, Any] = {
        key: {"value": value, "version": "1", "visibility": "private"} for key, value in scores.items()
    }
    for key in [key for key in scores if key.startswith(("fidelity/", "utility/"))]:
        for context, value in (("floor", 0.4), ("ceiling", 0.05), ("normalised", 0.8)):
            entries[f"{context}/{key}"] = {"value": value, "version": "1", "visibility": "private"}
    entries["privacy/delta"] = {"value": DELTA, "version": "1", "visibility": "public"}
    folder.write_json(folder.metrics, {"metrics": entries, "rows": dict(rows)})
    ledger.close()
    folder.write_json(folder.certificate, make_certificate(ledger, {}))
    (folder.model / "model.json").write_text(json.dumps({}))
    folder.synthetic.write_bytes(b"")
