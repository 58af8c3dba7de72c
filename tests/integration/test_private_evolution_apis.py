"""Whole runs of Private Evolution with each of its public generators: stopped, resumed, paid once."""

from __future__ import annotations

import base64
import hashlib
import io
import itertools
import json
import time
from collections import Counter
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest
from image_service_stub import Stub, answer
from PIL import Image
from tiny_diffusion import stable_diffusion_folder, unet_folder
from whole_runs import certificate, only_run, reserved

from dpforge import verify
from dpforge.cli.sample import main as sample
from dpforge.data.image_files import read_samples
from dpforge.experiment.stages import StopFlag
from dpforge.generators.private_evolution.apis import image_service

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("no_pictures")]

COMMON = (
    "model=private_evolution",
    "model.num_iterations=2",
    "model.lookahead_degree=2",
    "privacy.target_epsilon=2",
    "privacy.rng=seeded",
    "privacy.seed=5",
    "logger=csv",
    "evaluation=images_quick",
    "evaluation.metrics=[validity]",
    "runtime.progress=false",
)
FONTS = ("dataset=font_digits", "dataset.rows=120", "dataset.image_size=8", "privacy.delta=1e-3")
# Each iteration looks whether to stop before it begins and before each lookahead: the sixth look is within
# the second iteration, where images are made, and paid for, that are part of no saved population.
IN_THE_SECOND_ITERATION = 6
SIDE = 256


@contextmanager
def stopping_at(look):
    """Ask the run to stop when it looks for the ``look``-th time, as a signal would."""
    looks = itertools.count(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(StopFlag, "__call__", lambda self: next(looks) >= look)
        yield


def blocks(seed, n):
    """Images of 8 x 8 random tiles, uint8 ``(n, 256, 256, 3)``."""
    tiles = np.random.default_rng(seed).integers(256, size=(n, 8, 8, 3), dtype=np.uint8)
    return tiles.repeat(SIDE // 8, axis=1).repeat(SIDE // 8, axis=2)


def png(image):
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


def digest(image):
    return hashlib.sha256(np.ascontiguousarray(image).tobytes()).hexdigest()


def picture_folder(folder, seed, names, n):
    """Write ``n`` images of each name."""
    folder.mkdir()
    for number, image in enumerate(blocks(seed, n * len(names))):
        (folder / f"{names[number % len(names)]}_{number:03}.png").write_bytes(png(image))
    return folder


class Seller(Stub):
    """Sells images that depend on what is asked and how often it was asked before, never on the time."""

    def begin(self, *special):
        """Forget all customers; the first answers are the special ones."""
        self.bodies.clear()
        self.plan, self.times, self.sold, self.strange = list(special), Counter(), set(), []

    def answer(self, body):
        shown = self.shown(body)
        if shown is not None and digest(shown) not in self.sold:
            self.strange.append(shown)
        return super().answer(body)

    @staticmethod
    def shown(body):
        """The image in a request for variations."""
        if b"\x89PNG" not in body:
            return None
        return np.asarray(Image.open(io.BytesIO(body[body.index(b"\x89PNG") :])).convert("RGB"))

    def pictures(self, body):
        count, shown = len(super().pictures(body)), self.shown(body)
        question = json.loads(body)["prompt"] if shown is None else digest(shown)
        self.times[question] += 1
        seed = hashlib.sha256(f"{question} {self.times[question]}".encode()).digest()
        images = blocks(int.from_bytes(seed[:8], "big"), count)
        self.sold |= {digest(image) for image in images}
        return [png(image) for image in images]


@pytest.fixture
def seller(monkeypatch):
    pytest.importorskip("openai")
    monkeypatch.setattr(image_service, "time", SimpleNamespace(sleep=lambda seconds: None))
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-the-test")
    made = Seller()
    made.begin()
    yield made
    made.close()


def late():
    """An answer after the client has given up."""
    time.sleep(2.5)
    return answer([])


def troubles():
    """What the service says first: too many requests, an error, nothing in time, no picture, a small one."""
    small = png(blocks(0, 1)[0][:64, :64])
    return (429, {"retry-after": "1"}, b"{}"), (500, {}, b"{}"), late, answer([b"none"]), answer([small])


@pytest.fixture
def paid(seller, place):
    """The words of a run on a folder of private images with a service that must be paid."""
    private = picture_folder(place / "private images", 99, ("cat", "dog"), 12)
    return (
        *COMMON,
        "model/api=dalle",
        f"model.api.base_url={seller.url}",
        "model.api.prompts={cat:[a cat],dog:[a dog]}",
        "model.api.timeout_s=2",
        "model.num_samples_schedule=6",
        "dataset=image_folder",
        f"dataset.path='{private}'",
        "dataset.class_names=[cat,dog]",
        "dataset.nominal_rows=24",
        "dataset.image_size=16",
        "privacy.delta=1e-3",
    )


@pytest.fixture(params=["stable_diffusion", "improved_diffusion", "image_pool"])
def words(request, place):
    """The words of a run with a generator on this machine."""
    if request.param == "stable_diffusion":
        checkpoint = stable_diffusion_folder(place / "sd")
        settings = (
            "prompts=[a digit,one two]",
            "image_size=[32,32]",
            "batch_size=8",
            "local_files_only=true",
        )
        steps = ("random_num_inference_steps=2", "variation_num_inference_steps=4")
        api = (f"checkpoint={checkpoint}", *settings, *steps)
        data = (*FONTS, "model.num_samples_schedule=10", "model.save_png=true")
    elif request.param == "improved_diffusion":
        api = (f"checkpoint={unet_folder(place / 'unet')}", "timestep_respacing=5")
        data = (*FONTS, "model.num_samples_schedule=23")
    else:
        api = (f"pool={picture_folder(place / 'pool', 1, ('x',), 60)}", "image_size=[8,8]")
        data = ("dataset=digits", "model.num_samples_schedule=30", "model.class_prior=dp_counts")
    return (*COMMON, f"model/api={request.param}", *(f"model.api.{word}" for word in api), *data)


def run_of(place, study):
    (config,) = (place / "outputs" / study).glob("*/config.yaml")
    return config.parent


def made(run):
    """Every population and histogram of a run, and the pictures of the last one."""
    files = [path for path in (run / "samples").rglob("*") if path.suffix in (".npz", ".png")]
    return {path.relative_to(run).as_posix(): path.read_bytes() for path in files}


def stopped_and_resumed(command, place, words):
    """Stop a run in its second iteration, and start the same command again."""
    with stopping_at(IN_THE_SECOND_ITERATION):
        outcome = command(*words, "study=stopped")
    assert outcome.code == 130
    assert "stopped before iteration 2 of 2; the same command continues" in outcome.said
    run = run_of(place, "stopped")
    assert (run / "samples" / "1" / "samples.npz").is_file()
    assert not (run / "samples" / "2").exists()
    kept = (run / "samples" / "1" / "samples.npz").stat().st_mtime_ns
    outcome = command(*words, "study=stopped")
    assert outcome.code == 0, outcome.said
    assert (run / "samples" / "1" / "samples.npz").stat().st_mtime_ns == kept
    return run


def same_run(command, one, other):
    """Check that two finished runs have the same images and spent the same, and that their records hold."""
    assert made(one) == made(other)
    assert {"samples/0/samples.npz", "samples/2/samples.npz", "samples/samples.npz"} <= set(made(one))
    assert reserved(one) == reserved(other)
    assert reserved(one)["votes"] == [0, 1]
    for run in (one, other):
        outcome = command(run, main=verify.main)
        assert outcome.code == 0, outcome.said
        assert certificate(run)["epsilon"] == pytest.approx(2, abs=1e-3)


def test_a_stopped_run_continues_to_the_images_of_an_uninterrupted_one(words, command, place):
    outcome = command(*words, "study=whole")
    assert outcome.code == 0, outcome.said
    stopped = stopped_and_resumed(command, place, words)
    same_run(command, run_of(place, "whole"), stopped)
    images, _ = read_samples(stopped / "samples" / "samples.npz")
    assert f"model.num_samples_schedule={len(images)}" in words


def test_a_service_is_paid_once_for_a_run_however_often_it_is_stopped(paid, seller, command, place):
    seller.begin(*troubles())
    outcome = command(*paid, "model.api.max_requests=60", "study=whole")
    assert outcome.code == 0, outcome.said
    needed = len(seller.bodies)
    assert needed > 1 + 24 + 5
    assert "42 images in 5 to " in outcome.said

    seller.begin(*troubles())
    stopped = stopped_and_resumed(command, place, (*paid, f"model.api.max_requests={needed}"))
    assert len(seller.bodies) == needed
    assert len((stopped / "api_answers" / "requests.txt").read_text().splitlines()) == needed
    same_run(command, run_of(place, "whole"), stopped)
    command(*paid, "model.api.max_requests=60", "study=stopped")
    assert len(seller.bodies) == needed


def test_every_image_that_leaves_was_sold_by_the_service_before(paid, seller, command, place):
    assert command(*paid, "model.api.max_requests=60").code == 0
    shown = [image for image in map(seller.shown, seller.bodies) if image is not None]
    assert len(shown) >= 24
    assert seller.strange == []
    sent = b"".join(seller.bodies)
    for path in (place / "private images").iterdir():
        content, pixels = path.read_bytes(), np.asarray(Image.open(path))
        assert digest(pixels) not in {digest(image) for image in shown}
        encoded, raw = base64.b64encode(content)[-200:], pixels.tobytes()[:200]
        for secret in (content[-200:], encoded, raw, path.name.encode()):
            assert secret not in sent


def test_a_limit_below_what_a_run_needs_is_refused_before_anything_is_spent(paid, seller, command, place):
    refused = command(*paid, "model.api.max_requests=4")
    assert refused.code == 2
    assert "max_requests=4, and the run needs at least 5 requests" in refused.said
    assert seller.bodies == []
    assert not list(place.glob("outputs/**/ledger.jsonl"))


def test_at_the_limit_a_run_stops_and_goes_on_with_a_higher_one(paid, seller, command, place):
    words = (*paid, "model.num_iterations=1", "model.lookahead_degree=1")
    outcome = command(*words, "model.api.max_requests=6")
    assert outcome.code != 0
    assert "Raise model.api.max_requests" in outcome.said
    assert len(seller.bodies) == 6
    assert "votes" not in reserved(only_run(place))
    assert command(*words, "model.api.max_requests=20").code == 0
    assert reserved(only_run(place))["votes"] == [0]
    asked = [seller.shown(body) for body in seller.bodies]
    assert len(asked) == 2 + 6 + len({digest(image) for image in asked[8:]})


def test_more_images_of_a_run_are_counted_shown_and_paid_once(paid, seller, command, place, caplog):
    words = (*paid, "model.num_iterations=1", "model.lookahead_degree=0", "model.api.max_requests=14")
    assert command(*words, "model.api.cost_per_image=0.02").code == 0
    run, before = only_run(place), len(seller.bodies)
    first = command(run, "-n", 10, "--out", "more.npz", main=sample)
    assert first.code == 0, first.said
    assert len(seller.bodies) == before + 4
    assert "4 images in 1 to 6 requests, about 0.08; model.api.max_requests=14" in first.said + caplog.text
    assert command(run, "-n", 10, "--out", "again.npz", main=sample).code == 0
    assert len(seller.bodies) == before + 4
    assert (place / "more.npz").read_bytes() == (place / "again.npz").read_bytes()
    assert seller.strange == []
    refused = command(run, "-n", 40, "--out", "many.npz", main=sample)
    assert refused.code != 0
    assert "max_requests=14" in refused.said
    assert "config.yaml" in refused.said
    assert len(seller.bodies) == 14
    assert command(run, main=verify.main).code == 0
