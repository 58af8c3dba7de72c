from __future__ import annotations

import json
import time

import numpy as np
import pytest
import torch

from dpforge.cli.pretrain import _presets, first_of_each, read_settings
from dpforge.data import Images
from dpforge.errors import ConfigError, DataError, RunError
from dpforge.generators.private_evolution.apis.improved_diffusion import ImprovedDiffusion
from dpforge.pretrain.batches import batch_of
from dpforge.pretrain.network import build_unet
from dpforge.pretrain.settings import PretrainSettings
from dpforge.pretrain.training import train_diffusion

pytest.importorskip("diffusers")
NAMES = ("dark", "light")


def settings(**changes):
    small = {
        "size": 8, "channels": 1, "block_channels": (8, 16), "norm_groups": 4, "attention": False,
        "diffusion_steps": 50, "batch_size": 16, "steps": 12, "learning_rate": 3e-3, "warmup": 2,
        "save_every": 4, "ema": 0.9,
    }  # fmt: skip
    return PretrainSettings("own", **{**small, **changes})


@pytest.fixture(scope="module")
def images():
    labels = np.repeat([0, 1], 20)
    pixels = np.where(labels[:, None, None, None] == 1, 220, 30) * np.ones((1, 8, 8, 1))
    return Images(pixels.astype(np.uint8), labels)


def weights(folder):
    from safetensors.torch import load_file

    return load_file(folder / "diffusion_pytorch_model.safetensors")


def test_a_batch_is_a_function_of_seed_and_step(images):
    one, same = (batch_of(images, 2, settings(), 3) for _ in range(2))
    other, reseeded = batch_of(images, 2, settings(), 4), batch_of(images, 2, settings(seed=1), 3)
    for name in one:
        assert torch.equal(one[name], same[name])
    assert not torch.equal(one["noise"], other["noise"])
    assert not torch.equal(one["noise"], reseeded["noise"])


def test_a_batch_has_clean_images_in_range_and_the_promised_share_of_dropped_labels(images):
    batch = batch_of(images, 2, settings(batch_size=4000, label_dropout=0.25), 0)
    assert batch["clean"].unique().tolist() == pytest.approx([30 / 127.5 - 1, 220 / 127.5 - 1])
    assert float((batch["labels"] == 2).float().mean()) == pytest.approx(0.25, abs=0.03)
    kept = batch["labels"] != 2
    light = batch["clean"][:, 0, 0, 0] > 0
    assert torch.equal(light[kept].long(), batch["labels"][kept])
    assert (int(batch["times"].min()), int(batch["times"].max())) == (0, 49)


def test_flipping_mirrors_about_half_of_the_images_from_left_to_right():
    pixels = np.zeros((1, 8, 8, 1), dtype=np.uint8)
    pixels[:, :, 0] = 255
    batch = batch_of(Images(pixels, np.zeros(1, np.int64)), 1, settings(flip=True, batch_size=2000), 0)
    left, right = batch["clean"][:, 0, :, 0].mean(1) > 0, batch["clean"][:, 0, :, -1].mean(1) > 0
    assert bool((left ^ right).all())
    assert float(right.float().mean()) == pytest.approx(0.5, abs=0.05)


def test_training_learns_the_classes_and_the_folder_serves_private_evolution(images, tmp_path):
    losses = []
    record = train_diffusion(
        images,
        NAMES,
        settings(steps=120),
        tmp_path / "model",
        report=lambda done, total, loss: losses.append(loss),
    )
    assert record["steps_done"] == 120
    assert losses[-1] < losses[5] / 2
    api = ImprovedDiffusion(str(tmp_path / "model"), timestep_respacing="10", guidance_scale=1.5)
    api.prepare((), "cpu")
    made, classes = api.random(np.zeros(16, dtype=np.int64), np.random.default_rng(0))
    brightness = made.mean(axis=(1, 2, 3))
    assert set(classes) == {0, 1}
    assert brightness[classes == 1].mean() > brightness[classes == 0].mean() + 80
    told = json.loads((tmp_path / "model" / "training.json").read_text())
    assert told["classes"] == list(NAMES)
    assert told["weights_sha256"] == api.describe()["weights_sha256"]


def test_a_stopped_training_continues_to_the_same_weights(images, tmp_path):
    class Stop(Exception):
        pass

    def stop_at_6(done, total, loss):
        if done == 6:
            raise Stop

    train_diffusion(images, NAMES, settings(), tmp_path / "whole")
    with pytest.raises(Stop):
        train_diffusion(images, NAMES, settings(), tmp_path / "halves", report=stop_at_6)
    assert not (tmp_path / "halves" / "training.json").exists()
    steps = []
    train_diffusion(
        images, NAMES, settings(), tmp_path / "halves", report=lambda done, total, loss: steps.append(done)
    )
    assert 1 < steps[0] <= 7
    whole, halves = weights(tmp_path / "whole"), weights(tmp_path / "halves")
    for name, tensor in whole.items():
        assert torch.equal(tensor, halves[name]), name


def test_a_training_that_ran_out_of_time_has_a_model_and_continues_to_the_same_weights(images, tmp_path):
    folder = tmp_path / "halves"
    train_diffusion(images, NAMES, settings(), tmp_path / "whole")
    half = train_diffusion(
        images, NAMES, settings(), folder, max_minutes=0.005, report=lambda *_: time.sleep(0.06)
    )
    assert half["steps_done"] < 12
    assert (folder / "diffusion_pytorch_model.safetensors").is_file()
    again = train_diffusion(images, NAMES, settings(), folder, max_minutes=5)
    assert again["steps_done"] == 12
    assert again["minutes"] >= half["minutes"]
    whole, halves = weights(tmp_path / "whole"), weights(folder)
    assert all(torch.equal(tensor, halves[name]) for name, tensor in whole.items())
    with pytest.raises(RunError, match="finished"):
        train_diffusion(images, NAMES, settings(), folder)


def test_the_saved_weights_are_the_average_and_not_the_last(images, tmp_path):
    train_diffusion(images, NAMES, settings(ema=0.99), tmp_path / "long")
    train_diffusion(images, NAMES, settings(ema=0.0), tmp_path / "none")
    long, none = weights(tmp_path / "long"), weights(tmp_path / "none")
    assert any(not torch.equal(long[name], none[name]) for name in none)
    assert all(tensor.dtype == torch.float16 for tensor in long.values())


@pytest.mark.parametrize(
    ("size", "channels", "widths", "parameters"),
    [(8, 1, (16, 32), 164_625), (16, 1, (16, 32, 32), 267_953), (32, 3, (32, 64, 64), 1_089_251)],
)
def test_networks_have_the_known_numbers_of_parameters(size, channels, widths, parameters):
    classes = 200 if channels == 3 else 10
    given = settings(size=size, channels=channels, block_channels=widths, norm_groups=8, attention=True)
    with torch.device("meta"):
        unet = build_unet(given, classes)
    # One class more than the images have, for dropped labels.
    assert sum(p.numel() for p in unet.parameters()) == parameters + 4 * widths[0]


def test_other_images_and_a_finished_folder_are_refused(images, tmp_path):
    with pytest.raises(DataError, match="shape"):
        train_diffusion(images, NAMES, settings(size=16), tmp_path)
    (tmp_path / "training.json").write_text("{}")
    with pytest.raises(RunError, match="finished"):
        train_diffusion(images, NAMES, settings(), tmp_path)


@pytest.mark.parametrize("preset", _presets())
def test_every_preset_is_valid(preset):
    assert read_settings(preset, ["steps=7"]).steps == 7


def test_settings_name_every_mistake_and_the_closest_key():
    with pytest.raises(ConfigError, match="Did you mean 'batch_size'"):
        read_settings("fashion_mnist", ["batchsize=3"])
    with pytest.raises(ConfigError, match="Did you mean 'fashion_mnist'"):
        read_settings("fashion_mnst", [])
    with pytest.raises(ConfigError) as caught:
        settings(batch_size=0, ema=1.0, learning_rate=0, noise_schedule="cosin", block_channels=(9,))
    assert len(caught.value.mistakes) == 5


def test_a_share_of_every_class_can_be_used(images):
    assert first_of_each(images, 3).labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert len(first_of_each(images, None)) == 40


def test_a_network_of_the_noise_says_so_to_the_sampler(images, tmp_path):
    for prediction in ("epsilon", "v_prediction"):
        folder = tmp_path / prediction
        train_diffusion(images, NAMES, settings(steps=2, prediction=prediction), folder)
        api = ImprovedDiffusion(str(folder), timestep_respacing="2")
        api.prepare((), "cpu")
        assert api._loaded["sampler"].prediction == prediction


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_the_loss_is_zero_for_a_network_that_knows_the_image(images, prediction):
    from dpforge.pretrain.network import build_scheduler
    from dpforge.pretrain.training import DiffusionModule

    given = settings(prediction=prediction)
    batch = batch_of(images, 2, given, 0)
    scheduler = build_scheduler(given)
    share = scheduler.alphas_cumprod[batch["times"]][:, None, None, None]
    wanted = {
        "epsilon": batch["noise"],
        "v_prediction": share**0.5 * batch["noise"] - (1 - share) ** 0.5 * batch["clean"],
    }

    class Oracle(torch.nn.Module):
        def forward(self, x, times, class_labels):
            torch.testing.assert_close(x, share**0.5 * batch["clean"] + (1 - share) ** 0.5 * batch["noise"])
            return type("Out", (), {"sample": wanted[prediction]})

    module = DiffusionModule(Oracle(), scheduler, given)
    assert float(module.training_step(batch, 0)) == pytest.approx(0.0, abs=1e-6)
