from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from tiny_diffusion import stable_diffusion_folder

from dpforge.errors import ConfigError, DataError
from dpforge.generators.private_evolution.apis.stable_diffusion import StableDiffusion

diffusers = pytest.importorskip("diffusers")
transformers = pytest.importorskip("transformers")
PROMPTS = {"cat": ["a cat"], "dog": ["a dog"]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return stable_diffusion_folder(tmp_path_factory.mktemp("sd"))


@pytest.fixture(scope="module")
def api(folder):
    made = StableDiffusion(
        str(folder), PROMPTS, image_size=(32, 48), batch_size=2,
        random_num_inference_steps=2, variation_num_inference_steps=5,
    )  # fmt: skip
    made.prepare(("cat", "dog"), "cpu")
    return made


def rng(seed=0):
    return np.random.default_rng(seed)


def test_images_have_the_promised_form_and_remember_their_prompt(api):
    images, info = api.random(np.array([0, 0, 1]), rng())
    assert images.shape == (3, 32, 48, 3)
    assert images.dtype == np.uint8
    assert info.tolist() == ["a cat", "a cat", "a dog"]
    np.testing.assert_array_equal(images, api.random(np.array([0, 0, 1]), rng())[0])
    assert not np.array_equal(images[0], images[1])


def test_images_do_not_depend_on_the_batch_size(api, folder):
    one = StableDiffusion(
        str(folder), PROMPTS, image_size=(32, 48), batch_size=1, random_num_inference_steps=2
    )
    one.prepare(("cat", "dog"), "cpu")
    labels = np.array([0, 0, 1])
    found, expected = one.random(labels, rng())[0], api.random(labels, rng())[0]
    assert np.abs(found.astype(int) - expected.astype(int)).max() <= 1


def test_a_stronger_variation_changes_more(api):
    parents, info = api.random(np.array([0, 1]), rng())
    weak, strong = (api.variation(parents, info, s, rng(1)).astype(float) for s in (0.2, 1.0))
    round_trip = api.variation(parents, info, 0.2, rng(1)).astype(float)
    assert weak.shape == parents.shape
    np.testing.assert_array_equal(weak, round_trip)
    assert not np.array_equal(weak, strong)


@pytest.mark.parametrize("degree", [0.0, 0.19, 1.2, -0.5])
def test_a_strength_that_runs_no_step_is_refused_before_the_first_call(api, degree):
    (text,) = api.degree_mistakes([1.0, degree, 0.4])
    assert "strength from 0.2" in text
    with pytest.raises(ConfigError):
        api.variation(np.zeros((1, 32, 48, 3), np.uint8), np.array(["a cat"]), degree, rng())


def test_the_own_schedule_falls_from_one_to_four_tenths(api):
    degrees = api.default_degrees(3)
    assert degrees == [1.0, 0.8, 0.6, 0.4]
    assert api.degree_mistakes(degrees) == []


def test_the_record_tells_networks_apart_by_their_weights(api, folder):
    told = api.describe()
    assert told["random_weights_sha256"] == told["variation_weights_sha256"]
    assert len(told["random_weights_sha256"]) == 64
    json.dumps(told)


def test_another_model_may_make_the_variations(folder, tmp_path):
    other = diffusers.StableDiffusionPipeline.from_pretrained(folder, safety_checker=None)
    with torch.no_grad():
        next(iter(other.unet.parameters())).add_(1.0)
    other.save_pretrained(tmp_path / "other")
    api = StableDiffusion(
        "", "a cat", image_size=(32, 32), random_checkpoint=str(folder),
        variation_checkpoint=str(tmp_path / "other"),
    )  # fmt: skip
    api.prepare((), "cpu")
    told = api.describe()
    assert told["random_weights_sha256"] != told["variation_weights_sha256"]


def test_a_folder_without_a_model_and_prompts_of_other_classes_are_refused(tmp_path, folder):
    with pytest.raises(DataError, match="model_index"):
        StableDiffusion(str(tmp_path), "a cat", local_files_only=True).prepare((), "cpu")
    with pytest.raises(ConfigError, match="no entry for"):
        StableDiffusion(str(folder), PROMPTS).prepare(("cat", "bird"), "cpu")


def test_every_mistake_among_the_settings_is_named_at_once():
    with pytest.raises(ConfigError) as caught:
        StableDiffusion("", [], image_size=(30, 32), batch_size=0, precision="half")
    assert len(caught.value.mistakes) == 5
