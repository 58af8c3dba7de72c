from __future__ import annotations

import io
import json
import logging
import time
from types import SimpleNamespace

import numpy as np
import pytest
from image_service_stub import Stub, answer, png
from PIL import Image

from dpforge.data import ImageSchema
from dpforge.errors import ConfigError, RunError
from dpforge.generators.private_evolution.apis import image_service
from dpforge.generators.private_evolution.apis.dalle import Dalle
from dpforge.generators.private_evolution.settings import PrivateEvolution
from dpforge.privacy.spec import PrivacySpec

pytest.importorskip("openai")
KEY = "sk-secret-of-the-test"
PROMPTS = {"cat": ["a cat"], "dog": ["a dog"]}


@pytest.fixture
def stub():
    made = Stub()
    yield made
    made.close()


@pytest.fixture
def waits(monkeypatch):
    seconds = []
    monkeypatch.setattr(image_service, "time", SimpleNamespace(sleep=seconds.append))
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    return seconds


def api(stub, folder=None, prompts="a cat", classes=(), **changes):
    made = Dalle(prompts, **{"max_requests": 60, "base_url": stub.url, "timeout_s": 20, **changes})
    made.prepare(classes, "cpu", folder)
    return made


def rng(seed=0):
    return np.random.default_rng(seed)


def one(api):
    return api.random(np.zeros(1, dtype=np.int64), rng())[0]


def test_prompts_are_asked_for_in_requests_of_at_most_ten_images(stub, waits):
    labels = np.repeat([0, 1], [12, 3])
    images, info = api(stub, prompts=PROMPTS, classes=("cat", "dog")).random(labels, rng())
    asked = [json.loads(body) for body in stub.bodies]
    assert [(a["prompt"], a["n"]) for a in asked] == [("a cat", 10), ("a cat", 2), ("a dog", 3)]
    assert {(a["size"], a["response_format"], a["model"]) for a in asked} == {
        ("256x256", "b64_json", "dall-e-2")
    }
    assert images.shape == (15, 256, 256, 3)
    assert images[:, 0, 0, 0].tolist() == list(range(15))
    assert info.tolist() == ["a cat"] * 12 + ["a dog"] * 3
    assert waits == []


def test_equal_parents_share_a_request_and_every_child_lands_in_its_place(stub, waits):
    parents = np.stack([np.full((256, 256, 3), level, dtype=np.uint8) for level in (7, 9, 7, 7)])
    children = api(stub).variation(parents, np.array(["a"] * 4), 0.0, rng())
    assert stub.paths == ["/v1/images/variations"] * 2
    assert children[:, 0, 0, 0].tolist() == [0, 3, 1, 2]
    sent = Image.open(io.BytesIO(stub.bodies[0][stub.bodies[0].index(b"\x89PNG") :]))
    assert np.asarray(sent)[0, 0].tolist() == [7, 7, 7]


def test_a_full_service_is_asked_again_after_the_time_it_names(stub, waits):
    stub.plan = [(429, {"retry-after": "7"}, b"{}"), (500, {}, b"{}"), (503, {}, b"oops")]
    assert one(api(stub)).shape == (1, 256, 256, 3)
    assert len(stub.bodies) == 4
    assert waits[0] == 7
    assert 1 <= waits[1] <= 4
    assert 1 <= waits[2] <= 8


def test_waits_grow_up_to_a_minute_and_end_after_fifteen_attempts(stub, waits):
    stub.plan = [(500, {}, b"{}")] * 20
    with pytest.raises(RunError, match="15 attempts; the last was: status 500"):
        one(api(stub))
    assert len(stub.bodies) == 15
    assert len(waits) == 14
    assert all(1 <= wait <= min(60, 2 ** (i + 1)) for i, wait in enumerate(waits))


def test_a_bad_request_is_never_repeated(stub, waits):
    error = json.dumps({"error": {"message": f"bad, key {KEY}", "code": "content_policy_violation"}}).encode()
    stub.plan = [(400, {}, error)]
    with pytest.raises(ConfigError, match="status 400, content_policy_violation") as caught:
        one(api(stub))
    assert len(stub.bodies) == 1
    assert waits == []
    assert KEY not in str(caught.value)


def test_a_refused_key_is_not_repeated_and_not_shown(stub, waits, capfd, caplog):
    stub.plan = [(401, {}, json.dumps({"error": {"message": f"Incorrect key: {KEY}"}}).encode())]
    with caplog.at_level(logging.DEBUG, logger="dpforge"), pytest.raises(ConfigError, match="key") as caught:
        one(api(stub))
    shown = capfd.readouterr()
    assert KEY not in str(caught.value) + caplog.text + shown.out + shown.err
    assert caught.value.__cause__ is None


def test_an_answer_that_does_not_come_in_time_is_asked_for_again(stub, waits):
    def late():
        time.sleep(0.8)
        return answer([png(1)])

    stub.plan = [late]
    assert one(api(stub, timeout_s=0.3)).shape == (1, 256, 256, 3)
    assert len(stub.bodies) == 2


def test_malformed_and_wrong_images_are_asked_for_again(stub, waits):
    stub.plan = [
        (200, {}, json.dumps({"created": 1, "data": [{"b64_json": "not base64!"}]}).encode()),
        answer([b"no picture"]),
        answer([png(3, size=64)]),
        answer([png(3)[:100]]),
        (200, {}, json.dumps({"created": 1, "data": []}).encode()),
        (200, {}, json.dumps({"created": 1, "data": [{"url": "http://elsewhere/image.png"}]}).encode()),
        (200, {}, b"{ not json"),
    ]
    assert one(api(stub)).shape == (1, 256, 256, 3)
    assert len(stub.bodies) == 8


def test_images_that_an_answer_lacks_are_asked_for_and_the_others_kept(stub, waits):
    stub.plan = [answer([png(100), b"broken", png(101)])]
    images, _ = api(stub).random(np.zeros(5, dtype=np.int64), rng())
    assert [json.loads(body)["n"] for body in stub.bodies] == [5, 3]
    assert images[:, 0, 0, 0].tolist() == [100, 101, 0, 1, 2]


def test_a_resumed_run_asks_for_nothing_twice(stub, waits, tmp_path):
    labels = np.zeros(13, dtype=np.int64)
    stub.plan = [None, (400, {}, b"{}")]
    with pytest.raises(ConfigError):
        api(stub, tmp_path).random(labels, rng())
    first, _ = api(stub, tmp_path).random(labels, rng())
    assert [json.loads(body)["n"] for body in stub.bodies] == [10, 3, 3]
    again, _ = api(stub, tmp_path).random(labels, rng())
    assert len(stub.bodies) == 3
    np.testing.assert_array_equal(first, again)
    api(stub, tmp_path).random(labels, rng(1))
    assert len(stub.bodies) == 5


def test_equal_questions_of_different_places_are_different_requests(stub, waits, tmp_path):
    made, random = api(stub, tmp_path), rng()
    for _ in range(2):
        made.random(np.zeros(1, dtype=np.int64), random)
    assert len(stub.bodies) == 2


def test_no_request_goes_beyond_the_limit_even_after_a_resume(stub, waits, tmp_path):
    with pytest.raises(RunError, match="max_requests=2"):
        api(stub, tmp_path, max_requests=2).random(np.zeros(30, dtype=np.int64), rng())
    with pytest.raises(RunError, match="max_requests=2"):
        api(stub, tmp_path, max_requests=2).random(np.zeros(30, dtype=np.int64), rng())
    assert len(stub.bodies) == 2
    images, _ = api(stub, tmp_path, max_requests=3).random(np.zeros(30, dtype=np.int64), rng())
    assert len(stub.bodies) == 3
    assert len(images) == 30


def test_the_key_is_in_no_file_record_or_text(stub, waits, tmp_path):
    made = api(stub, tmp_path)
    one(made)
    texts = [repr(made), json.dumps(made.describe()), made.estimate(10, 20)]
    content = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert KEY not in "".join(texts)
    assert KEY.encode() not in content
    assert content


def test_without_a_key_nothing_is_sent(stub, waits, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY")
    with pytest.raises(ConfigError, match="OPENAI_API_KEY"):
        api(stub)


def test_the_estimate_counts_requests_and_price():
    text = Dalle("a cat", 500, cost_per_image=0.02).estimate(100, 300)
    assert "400 images in 40 to 311 requests" in text
    assert "8.00" in text
    assert "max_requests=500" in text


def evolution(max_requests, **settings):
    sizes = {"num_samples_schedule": 20, "num_iterations": 2, "lookahead_degree": 2, **settings}
    return PrivateEvolution(Dalle("a cat", max_requests), **sizes)


@pytest.mark.parametrize(("packing", "fewest"), [(1, 14), (3, 30)])
def test_a_limit_below_what_a_run_needs_is_refused_with_its_plan(packing, fewest):
    schema = ImageSchema("cats", 100, 8, 8, 3, ())
    privacy = PrivacySpec(target_epsilon=2, delta=1e-4)
    with pytest.raises(ConfigError, match=f"max_requests={fewest - 1}, and the run needs at least {fewest} "):
        evolution(fewest - 1, packing=packing).plan(schema, privacy)
    assert evolution(fewest, packing=packing).plan(schema, privacy).epsilon() == pytest.approx(2, abs=1e-3)


def test_a_limit_too_low_is_named_together_with_other_mistakes(tmp_path):
    schema = ImageSchema("cats", 100, 8, 8, 3, ())
    missing = str(tmp_path / "none.npz")
    with pytest.raises(ConfigError) as caught:
        evolution(5, initial_samples=missing).plan(schema, PrivacySpec(target_epsilon=2, delta=1e-4))
    assert len(caught.value.mistakes) == 2
    assert "needs at least 12 requests" in caught.value.mistakes[1]


def test_every_mistake_among_the_settings_is_named_at_once():
    with pytest.raises(ConfigError) as caught:
        Dalle([], 0, image_size=(256, 512), timeout_s=0, response_format="url", cost_per_image=-1)
    assert len(caught.value.mistakes) == 6


def test_a_missing_library_names_the_extra(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setitem(__import__("sys").modules, "openai", None)
    with pytest.raises(ConfigError, match=r"dpforge\[dalle\]"):
        Dalle("a cat", 5).prepare((), "cpu")
