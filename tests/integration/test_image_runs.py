"""Whole runs that make images: folder, certificate, resume, report, more images."""

from __future__ import annotations

import json
import shutil
import signal

import numpy as np
import pytest
from whole_runs import certificate, only_run, reserved, snapshot

from dpforge import verify
from dpforge.cli.report import main as report
from dpforge.cli.sample import main as sample
from dpforge.data.image_files import read_samples
from dpforge.data.public_images import load_public_images
from dpforge.errors import ConfigError
from dpforge.experiment.rundir import RunDir
from dpforge.experiment.sampling import finished_model

pytestmark = pytest.mark.integration

QUICK = ("dataset=digits", "logger=csv", "evaluation=images_quick", "study=images", "runtime.progress=false")
WORDS = {
    "dpwgan": ("model=dpwgan", "model.steps=8", "model.width=4", "rows=60"),
    "private_evolution": (
        "model=private_evolution",
        "model.api.system_fonts=false",
        "model.num_samples_schedule=40",
        "model.num_iterations=3",
        "model.lookahead_degree=1",
    ),
}
ITERATIONS = {"dpwgan": 8, "private_evolution": 3}
PIECE = {"dpwgan": "train", "private_evolution": "votes"}


@pytest.fixture(params=sorted(WORDS))
def name(request):
    return request.param


@pytest.fixture
def run(name, command, place):
    outcome = command(*QUICK, *WORDS[name])
    assert outcome.code == 0, outcome.said
    return only_run(place)


def test_a_run_leaves_released_images_scores_pictures_and_a_certificate_that_verifies(name, run, capsys):
    images, names = read_samples(run / "samples" / "samples.npz")
    assert names == tuple("0123456789")
    assert images.pixels.shape[1:] == (8, 8, 3)
    assert (np.diff(images.labels) >= 0).all()
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["metrics"]["utility/accuracy_lr"]["visibility"] == "private"
    assert metrics["metrics"]["utility/accuracy_lr"]["protocol_id"] in metrics["protocols"]
    assert {"images.png", "nearest.png", "scores.png"} <= {path.name for path in (run / "plots").iterdir()}
    stated = certificate(run)
    assert stated["epsilon"] == pytest.approx(3.0, abs=1e-3)
    assert {"samples/samples.npz", "samples/preview.png"} <= set(stated["files"])
    assert any(sink.startswith("plots/") for sink in stated["tainted_sinks"])
    assert reserved(run)[PIECE[name]] == list(range(ITERATIONS[name]))
    with pytest.raises(SystemExit) as stop:
        verify.main([str(run)])
    assert not stop.value.code
    assert "equal to the certificate" in capsys.readouterr().out


def test_a_finished_run_is_found_again_and_one_without_samples_makes_the_same_ones(name, run, command):
    before = (run / "samples" / "samples.npz").read_bytes()
    assert "finished already" in command(*QUICK, *WORDS[name]).said
    (run / "samples" / "samples.npz").unlink()
    ledger = (run / "ledger.jsonl").read_text().count('"kind": "reserve"')
    assert command(*QUICK, *WORDS[name]).code == 0
    assert (run / "samples" / "samples.npz").read_bytes() == before
    assert (run / "ledger.jsonl").read_text().count('"kind": "reserve"') == ledger


def test_a_stopped_run_continues_to_the_images_of_an_uninterrupted_one(name, command, place, monkeypatch):
    words = (*QUICK, *WORDS[name], "privacy.rng=seeded", "privacy.seed=5")
    assert command(*words, "study=whole").code == 0
    whole = only_run(place)
    from dpforge.privacy.access import Access

    original, seen = Access._draw_once, []

    def stop_once(self, piece, step):
        original(self, piece, step)
        seen.append(step)
        if step == 1 and len(seen) == 2:
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(Access, "_draw_once", stop_once)
    assert command(*words, "study=stopped").code != 0
    monkeypatch.setattr(Access, "_draw_once", original)
    assert command(*words, "study=stopped").code == 0
    (stopped,) = (place / "outputs" / "stopped").glob("*/samples")
    assert (stopped / "samples.npz").read_bytes() == (whole / "samples" / "samples.npz").read_bytes()
    assert reserved(stopped.parent) == reserved(whole)


def test_the_report_shows_released_images_to_everyone_and_real_ones_to_the_owner_only(name, run, command):
    assert command(run, main=report).code == 0
    page = (run / "report" / "index.html").read_text()
    assert "Synthetic images" in page
    assert "Real and synthetic images" in page
    assert "one image" in page
    assert command(run, "--public", "--out", run.parent / "public", main=report).code == 0
    public = (run.parent / "public" / "index.html").read_text()
    assert "Synthetic images" in public
    assert "Real and synthetic" not in public
    assert "nearest training" not in public


def test_the_floor_of_an_evolution_is_what_its_generator_draws_before_any_vote(command, place):
    assert command(*QUICK, *WORDS["private_evolution"]).code == 0
    run = only_run(place)
    fitted = finished_model(RunDir(run))
    first, _ = read_samples(run / "samples" / "0" / "samples.npz")
    assert len(fitted.public_floor) == len(first)
    assert np.array_equal(fitted.public_floor.labels, first.labels)
    content = json.loads((run / "metrics.json").read_text())
    floors = [value["protocol_id"] for name, value in content["metrics"].items() if name.startswith("floor/")]
    assert floors
    assert all("public" in json.dumps(content["protocols"][number]) for number in floors)
    (run / "samples" / "0" / "samples.npz").unlink()
    assert finished_model(RunDir(run)).public_floor is None


@pytest.mark.parametrize("model", ["dpwgan", "private_evolution"])
def test_images_made_without_regard_to_class_have_no_labels_to_learn_from(model, command, place):
    outcome = command(*QUICK, *WORDS[model], "model.conditional=false")
    assert outcome.code == 0, outcome.said
    run = only_run(place)
    images, names = read_samples(run / "samples" / "samples.npz")
    assert names == ()
    assert not images.labels.any()
    metrics = json.loads((run / "metrics.json").read_text())["metrics"]
    assert "fidelity/frechet_pixels" in metrics
    assert not [name for name in metrics if name.startswith("utility/")]


def test_more_images_come_as_one_file_or_as_pictures_and_leave_the_run_as_it_was(run, command, place):
    before = snapshot(run)
    assert command(run, "-n", 25, "--out", "more.npz", main=sample).code == 0
    assert len(read_samples(place / "more.npz")[0]) == 25
    assert command(run, "-n", 25, "--out", "again.npz", main=sample).code == 0
    assert (place / "more.npz").read_bytes() == (place / "again.npz").read_bytes()
    assert command(run, "-n", 10, "--out", "pictures", main=sample).code == 0
    assert len(list((place / "pictures").glob("*_*.png"))) == 10
    for public in (place / "more.npz", place / "pictures", run / "samples" / "samples.npz"):
        with pytest.raises(ConfigError, match="is not public"):
            load_public_images(str(public), size=8)
    for made in (place / "more.npz", run / "samples" / "samples.npz"):
        with np.load(made, allow_pickle=False) as content:
            said = json.loads(str(content["origin"][0]))
        assert (said["dataset"], said["status"]) == ("digits", "DP")
        assert said["epsilon"] == pytest.approx(certificate(run)["epsilon"])
    refused = command(run, "-n", 5, "--out", "more.csv", main=sample)
    assert refused.code == 2
    assert ".npz" in refused.said
    assert snapshot(run) == before


def test_a_damaged_sample_file_is_said_and_made_again_at_no_cost(name, run, command):
    path = run / "samples" / "samples.npz"
    path.write_bytes(path.read_bytes()[:100])
    (run / "metrics.json").unlink()
    outcome = command(*QUICK, *WORDS[name])
    assert outcome.code != 0
    assert "Delete the folder 'samples'" in outcome.said
    shutil.rmtree(run / "samples")
    assert command(*QUICK, *WORDS[name]).code == 0
