"""Scores of every kept iteration of a finished run."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from whole_runs import certificate, only_run, snapshot

from dpforge import verify
from dpforge.cli.iterations import main as iterations
from dpforge.config import build
from dpforge.data.image_files import read_samples
from dpforge.evaluation.images.frechet_distance import frechet
from dpforge.experiment.iterations import kept_iterations, landmarks
from dpforge.experiment.rundir import RunDir
from dpforge.experiment.runner import stored_config
from dpforge.nets.images import resize, to_pixels, to_unit

pytestmark = pytest.mark.integration

WORDS = (
    "dataset=digits", "model=private_evolution", "model.api.system_fonts=false",
    "model.num_samples_schedule=60",
    "model.num_iterations=2", "model.lookahead_degree=1", "privacy.target_epsilon=10", "privacy.delta=1e-4",
    "evaluation.metrics=[frechet]", "evaluation.extractors=[pixels]", "evaluation.classifiers=[lr]",
    "evaluation.bootstraps=0", "logger=csv", "runtime.progress=false", "runtime.pictures=false",
    "study=images",
)  # fmt: skip


@pytest.fixture
def run(command, place):
    outcome = command(*WORDS)
    assert outcome.code == 0, outcome.said
    return only_run(place)


def call(*words):
    with pytest.raises(SystemExit) as ended:
        iterations([str(word) for word in words])
    return ended.value.code


def test_the_first_middle_and_last_iteration_are_the_landmarks():
    assert landmarks([0, 1, 2, 3, 4, 5, 6]) == [0, 3, 6]
    assert landmarks([0, 2]) == [0, 2]
    assert landmarks([4]) == [4]


def test_every_iteration_gets_scores_and_the_certificate_names_who_saw_them(run, capsys):
    before = snapshot(run / "samples")
    assert call(run) == 0
    said = capsys.readouterr().out
    assert "Scores are private" in said
    table = pd.read_csv(run / "iterations.csv").set_index("iteration")
    assert list(table.index) == ["0", "1", "2", "real"]
    assert table["accuracy_lr"].between(0, 1).all()
    assert table.loc["real", "frechet_pixels"] < table.loc["0", "frechet_pixels"]
    stated = certificate(run)
    assert {"iterations/frechet_pixels", "iterations/accuracy_lr"} <= set(
        stated["tainted_sinks"]["iterations.csv"]
    )
    assert "iterations/accuracy_lr" in stated["tainted_sinks"]["terminal"]
    assert "equal to the certificate" in verify.compare(run)
    assert snapshot(run / "samples") == before
    with Image.open(run / "plots" / "iterations.png") as shown:
        assert shown.width > shown.height


def test_a_distance_is_that_of_the_images_of_its_own_iteration(run):
    assert call(run, "--only", 2) == 0
    found = float(pd.read_csv(run / "iterations.csv")["frechet_pixels"][0])
    data = build(stored_config(RunDir(run))).dataset.load()
    made, _ = read_samples(run / "samples" / "2" / "samples.npz")
    small = to_pixels(resize(to_unit(made.pixels[..., :1]), (8, 8)))

    def distance(images):
        return frechet(*(each.reshape(len(each), -1) / 255 for each in images))

    real = data.holdout.pixels[..., 0].astype(float)
    draws = [np.random.default_rng(seed).permutation(len(real))[: len(small)] for seed in range(20)]
    possible = [distance((small[..., 0].astype(float), real[draw])) for draw in draws]
    assert min(possible) * 0.9 < found < max(possible) * 1.1
    other, _ = read_samples(run / "samples" / "0" / "samples.npz")
    first = to_pixels(resize(to_unit(other.pixels[..., :1]), (8, 8)))[..., 0].astype(float)
    assert min(distance((first, real[draw])) for draw in draws) > 1.1 * found


def test_what_is_not_kept_is_refused_with_what_is(run, tmp_path, capsys):
    assert kept_iterations(run) == [0, 1, 2]
    assert call(run, "--only", 7) == 2
    assert "expected some of 0 to 2" in capsys.readouterr().err
    assert call(tmp_path / "nothing") != 0
    assert "is not a run folder" in capsys.readouterr().err
