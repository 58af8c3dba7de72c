"""What all runs on a data set cost together: nothing is forgotten, nothing counts twice."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import pytest
from study_folders import DELTA, write_run

from dpforge.errors import RunError
from dpforge.experiment.dataset_ledger import Total, totals
from dpforge.experiment.rundir import RunDir
from dpforge.experiment.spending import read_spending, remember, spending_of
from dpforge.privacy.accounting import epsilon, gaussian_noise_multiplier
from dpforge.privacy.events import Gaussian
from dpforge.privacy.selection import RepeatAndSelect


def run_in(root: Path, study: str, dataset: str = "toy", key: str | None = None, **options) -> Path:
    """A run folder with a schema that names its data set and a noise key of its own."""
    path = write_run(root / study, dataset=dataset, **options)
    folder = RunDir(path)
    folder.write_json(folder.schema, {"name": dataset})
    folder.ledger.write_text(folder.ledger.read_text().replace('"key_id":"k"', f'"key_id":"{key or path}"'))
    return path


def whole(root: Path, dataset: str = "toy") -> Total:
    (found,) = [total for total in totals(root, dataset) if not total.study]
    return found


def together(*targets: float) -> float:
    """Closed form: Gaussian releases of noise z(epsilon) compose to one of 1 / sqrt(sum 1 / z^2)."""
    precision = sum(gaussian_noise_multiplier(target, DELTA) ** -2 for target in targets)
    return epsilon(Gaussian(precision**-0.5), DELTA)


def test_every_study_and_all_of_them_are_composed(tmp_path):
    run_in(tmp_path, "a", epsilon=1.0, seed=0)
    run_in(tmp_path, "a", epsilon=2.0, seed=1)
    run_in(tmp_path, "b", epsilon=1.0, seed=2)
    run_in(tmp_path, "b", epsilon=5.0, dataset="other")
    first, second, everything = totals(tmp_path, "toy")
    assert (first.study, second.study, everything.study) == ("a", "b", "")
    assert (first.runs, second.runs, everything.runs) == (2, 1, 3)
    assert first.composed == pytest.approx(together(1, 2), abs=1e-3)
    assert second.composed == pytest.approx(1.0, abs=1e-3)
    assert everything.composed == pytest.approx(together(1, 2, 1), abs=1e-3)
    assert everything.single == pytest.approx(2.0, abs=1e-3)
    assert everything.selected is None


def test_a_run_that_failed_half_way_counts_with_what_it_reserved(tmp_path):
    run_in(tmp_path, "a", epsilon=1.0, state="failed", reserved=1)
    half = gaussian_noise_multiplier(1.0, DELTA) * 2**0.5
    assert whole(tmp_path).composed == pytest.approx(epsilon(Gaussian(half), DELTA), abs=1e-6)


def test_a_removed_run_still_counts_and_its_repetition_counts_again(tmp_path):
    path = run_in(tmp_path, "a", epsilon=1.0, key="first")
    remember(path, tmp_path)
    assert whole(tmp_path).composed == pytest.approx(1.0, abs=1e-3)
    shutil.rmtree(path)
    gone = whole(tmp_path)
    assert (gone.runs, gone.removed) == (1, 1)
    assert gone.composed == pytest.approx(1.0, abs=1e-3)
    run_in(tmp_path, "a", epsilon=1.0, key="second")
    again = whole(tmp_path)
    assert (again.runs, again.removed) == (2, 1)
    assert again.composed == pytest.approx(together(1, 1), abs=1e-3)
    (study, everything) = totals(tmp_path / "a", "toy")
    assert (study.runs, everything.runs) == (2, 2)


def test_a_copied_run_counts_once(tmp_path):
    path = run_in(tmp_path, "a", epsilon=1.0)
    shutil.copytree(path, tmp_path / "copy" / path.name)
    assert len(read_spending(tmp_path)) == 1
    assert whole(tmp_path).composed == pytest.approx(1.0, abs=1e-3)


def test_runs_without_noise_and_damaged_ledgers_are_named_and_not_summed(tmp_path):
    run_in(tmp_path, "a", epsilon=1.0)
    run_in(tmp_path, "a", epsilon=None, seed=1)
    damaged = run_in(tmp_path, "a", epsilon=1.0, seed=2)
    (damaged / "ledger.jsonl").write_text("not a ledger\n")
    found = whole(tmp_path)
    assert (found.runs, found.without_noise, found.unreadable) == (1, 1, 1)
    assert found.composed == pytest.approx(1.0, abs=1e-3)
    assert math.isnan(spending_of(damaged).single)


def test_what_stays_of_a_removed_run_holds_all_that_was_read_of_it(tmp_path):
    path = run_in(tmp_path, "a", epsilon=1.0)
    before = spending_of(path)
    kept = remember(path, tmp_path)
    assert kept == tmp_path / "spent" / "toy.jsonl"
    shutil.rmtree(path)
    (after,) = read_spending(tmp_path)
    assert after.removed
    assert (after.events, after.origin, after.certified) == (before.events, before.origin, before.certified)


def test_a_private_selection_costs_its_winner_beside_all_runs_composed(tmp_path):
    inside = [run_in(tmp_path, "tuned", epsilon=1.0, seed=seed, key=f"k{seed}") for seed in range(12)]
    run_in(tmp_path, "plain", epsilon=1.0, seed=9)
    search = RunDir(tmp_path / "tuned" / "search")
    event = Gaussian(gaussian_noise_multiplier(1.0, DELTA))
    search.private.mkdir(parents=True)
    law = {"selection": "repeat_and_select", "mean": 5.0, "shape": 1.0, "candidates": [event.to_json()]}
    (search.root / "search.json").write_text(json.dumps(law))
    (search.private / "runs.json").write_text(json.dumps({"runs": [path.name for path in inside]}))
    plain, tuned, everything = totals(tmp_path, "toy")
    assert plain.selected is None
    assert tuned.composed == pytest.approx(together(*[1] * 12), abs=1e-3)
    assert tuned.selected == pytest.approx(RepeatAndSelect(5.0, 1.0).epsilon([event], DELTA), abs=1e-6)
    assert tuned.selected < everything.selected < everything.composed


def test_an_unknown_data_set_is_named_with_those_there_are(tmp_path):
    run_in(tmp_path, "a")
    with pytest.raises(RunError, match=r"called 'adult'\. There is: toy"):
        totals(tmp_path, "adult")
    with pytest.raises(RunError, match="not a folder"):
        totals(tmp_path / "nowhere")
