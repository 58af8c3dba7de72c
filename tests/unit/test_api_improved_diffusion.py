from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from dpforge.errors import ConfigError, DataError
from dpforge.generators.private_evolution.apis.batching import in_batches
from dpforge.generators.private_evolution.apis.diffusion_sampling import Sampler, kept_steps
from dpforge.generators.private_evolution.apis.improved_diffusion import ImprovedDiffusion

diffusers = pytest.importorskip("diffusers")


def tiny_unet(classes=5, channels=3):
    torch.manual_seed(0)
    return diffusers.UNet2DModel(
        sample_size=8, in_channels=channels, out_channels=channels, layers_per_block=1,
        block_out_channels=(8, 16), down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2,
        norm_num_groups=4, num_class_embeds=classes, add_attention=False,
    ).eval()  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("unet")
    tiny_unet().save_pretrained(folder)
    diffusers.DDPMScheduler(num_train_timesteps=1000, beta_schedule="squaredcos_cap_v2").save_pretrained(
        folder
    )
    return folder


@pytest.fixture
def api(folder):
    made = ImprovedDiffusion(str(folder), timestep_respacing=5, batch_size=4)
    made.prepare((), "cpu")
    return made


def rng(seed=0):
    return np.random.default_rng(seed)


def test_a_number_keeps_the_first_and_the_last_step_and_spreads_the_others():
    kept = kept_steps(1000, "100")
    assert (kept[0], kept[-1], len(kept)) == (0, 999, 100)
    assert set(np.diff(kept)) <= {10, 11}


def test_ddim_keeps_every_hundredth_of_a_thousand_steps():
    assert kept_steps(1000, "ddim10") == tuple(range(0, 1000, 100))
    assert kept_steps(4000, "ddim10") == tuple(range(0, 4000, 400))


def test_sections_are_spaced_apart_from_each_other():
    kept = kept_steps(300, "10,15,20")
    assert [sum(low <= step < low + 100 for step in kept) for low in (0, 100, 200)] == [10, 15, 20]
    assert kept_steps(7, "") == tuple(range(7))


@pytest.mark.parametrize("respacing", ["ddim7000", "ten", "1001", "0", "500,501"])
def test_a_respacing_that_cannot_be_is_refused_before_anything_is_loaded(respacing):
    with pytest.raises(ConfigError, match="timestep_respacing"):
        ImprovedDiffusion("nowhere", timestep_respacing=respacing)


def test_sampling_equals_the_ddim_of_diffusers():
    unet, labels = tiny_unet(), torch.tensor([1, 4, 0])
    noise = torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(3))
    theirs = diffusers.DDIMScheduler(
        num_train_timesteps=1000,
        beta_schedule="squaredcos_cap_v2",
        clip_sample=True,
        timestep_spacing="leading",
    )
    theirs.set_timesteps(10)
    x = noise
    with torch.no_grad():
        for step in theirs.timesteps:
            output = unet(x, step, class_labels=labels).sample
            x = theirs.step(output, int(step), x, use_clipped_model_output=True).prev_sample
        ours = Sampler(unet, theirs.alphas_cumprod.double(), kept_steps(1000, "ddim10"))
        found = ours.denoised(noise, labels)
    torch.testing.assert_close(found, x.clamp(-1, 1), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("prediction", ["epsilon", "sample", "v_prediction"])
def test_a_network_that_knows_the_image_gets_it_back_from_every_start(prediction):
    clean = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(1)) * 2 - 1
    noise = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(2))
    signal = torch.cumprod(1 - torch.linspace(1e-3, 0.2, 50).double(), 0)

    class Oracle:
        class config:
            in_channels = 3

        dtype = torch.float32

        def __call__(self, x, time, class_labels=None):
            share = float(signal[int(time[0])])
            known = (x - share**0.5 * clean) / (1 - share) ** 0.5
            answers = {
                "epsilon": known,
                "sample": clean,
                "v_prediction": share**0.5 * known - (1 - share) ** 0.5 * clean,
            }
            return type("Out", (), {"sample": answers[prediction]})

    sampler = Sampler(Oracle(), signal, kept_steps(50, "5"), prediction)
    for start in (0, 2, 4):
        found = sampler.denoised(sampler.noised(clean, noise, start), None, start)
        torch.testing.assert_close(found, clean, atol=1e-3, rtol=0)


def test_a_later_start_leaves_more_of_the_image():
    signal = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000).double(), 0)
    sampler = Sampler(tiny_unet(), signal, kept_steps(1000, "10"))
    clean, noise = torch.ones(1, 3, 8, 8), torch.zeros(1, 3, 8, 8)
    shares = [float(sampler.noised(clean, noise, s).mean()) for s in range(10)]
    assert shares == sorted(shares)
    assert shares[0] == pytest.approx(float(signal[999]) ** 0.5)
    assert shares[-1] == pytest.approx(float(signal[0]) ** 0.5)


def test_guidance_moves_the_output_away_from_that_of_no_class():
    unet, x, labels = tiny_unet(), torch.randn(2, 3, 8, 8), torch.tensor([0, 1])
    signal = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 100).double(), 0)
    with torch.no_grad():
        time = torch.full((2,), 7.0)
        given = unet(x, time, class_labels=labels).sample
        free = unet(x, time, class_labels=torch.tensor([4, 4])).sample
        sampler = Sampler(unet, signal, kept_steps(100, "10"), null_class=4, guidance=2.5)
        found = sampler._output(x, labels, 7)
    torch.testing.assert_close(found, free + 2.5 * (given - free))


def test_images_have_the_promised_form_and_repeat_with_the_same_random_numbers(api):
    images, info = api.random(np.zeros(6, dtype=np.int64), rng())
    again, _ = api.random(np.zeros(6, dtype=np.int64), rng())
    assert images.shape == (6, 8, 8, 3)
    assert images.dtype == np.uint8
    assert info.dtype == np.int64
    assert set(info) <= set(range(5))
    np.testing.assert_array_equal(images, again)
    assert not np.array_equal(images, api.random(np.zeros(6, dtype=np.int64), rng(1))[0])


def test_images_do_not_depend_on_the_batch_size(api, folder):
    whole = ImprovedDiffusion(str(folder), timestep_respacing=5, batch_size=100)
    whole.prepare((), "cpu")
    labels = np.zeros(7, dtype=np.int64)
    parts, at_once = api.random(labels, rng())[0], whole.random(labels, rng())[0]
    assert np.abs(parts.astype(int) - at_once.astype(int)).max() <= 1


def test_a_variation_of_the_last_degree_resembles_its_parent_more_than_one_of_the_first(api):
    parents, info = api.random(np.zeros(8, dtype=np.int64), rng())
    far, near = (api.variation(parents, info, d, rng(2)).astype(float) for d in (0, 4))
    assert np.abs(near - parents).mean() < np.abs(far - parents).mean() / 2


def test_a_variation_is_made_with_the_class_of_its_ancestor(api):
    parents, info = api.random(np.zeros(4, dtype=np.int64), rng())
    same = api.variation(parents, info, 1, rng(2))
    other = api.variation(parents, (info + 1) % 5, 1, rng(2))
    assert not np.array_equal(same, other)


@pytest.mark.parametrize("degree", [-1, 5, 1.5])
def test_a_degree_out_of_range_is_named_with_the_range(api, degree):
    (text,) = api.degree_mistakes([0, degree, 4])
    assert repr(degree) in text
    assert "to 4" in text


def test_the_own_schedule_rises_to_four_tenths_of_the_steps(folder):
    degrees = ImprovedDiffusion(str(folder), timestep_respacing=100).default_degrees(20)
    assert len(degrees) == 21
    assert (degrees[0], degrees[-1]) == (0, 40)
    assert degrees == [float(2 * t) for t in range(21)]
    assert ImprovedDiffusion(str(folder)).degree_mistakes(degrees) == []


def test_a_grey_network_takes_and_gives_three_equal_channels(tmp_path):
    tiny_unet(classes=None, channels=1).save_pretrained(tmp_path)
    api = ImprovedDiffusion(str(tmp_path), timestep_respacing=3, noise_schedule="linear", diffusion_steps=50)
    api.prepare((), "cpu")
    images, info = api.random(np.zeros(2, dtype=np.int64), rng())
    assert api.channels == 1
    assert (images == images[..., :1]).all()
    assert api.variation(images, info, 2, rng()).shape == images.shape


def test_a_pipeline_folder_and_a_class_for_none_are_recognised(tmp_path, folder):
    tiny_unet().save_pretrained(tmp_path / "unet")
    diffusers.DDPMScheduler(num_train_timesteps=20).save_pretrained(tmp_path / "scheduler")
    (tmp_path / "unet" / "training.json").write_text(json.dumps({"null_class": 4}))
    api = ImprovedDiffusion(str(tmp_path), timestep_respacing="", guidance_scale=2.0)
    api.prepare((), "cpu")
    assert len(api.default_degrees(2)) == 3
    assert api.describe()["generator_classes"] == 4
    assert api.describe()["diffusion_steps"] == 20
    assert api.random(np.zeros(50, dtype=np.int64), rng())[1].max() == 3
    with pytest.raises(ConfigError, match="no class 'none'"):
        ImprovedDiffusion(str(folder), guidance_scale=2.0).prepare((), "cpu")


def test_a_missing_folder_and_damaged_weights_say_how_to_make_them(tmp_path, folder):
    with pytest.raises(DataError, match="dpforge-pretrain"):
        ImprovedDiffusion(str(tmp_path / "none")).prepare((), "cpu")
    broken = tmp_path / "broken"
    tiny_unet().save_pretrained(broken)
    weights = broken / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises((DataError), match="damaged"):
        ImprovedDiffusion(str(broken)).prepare((), "cpu")


def test_a_missing_library_names_the_extra(monkeypatch, folder):
    monkeypatch.setitem(__import__("sys").modules, "diffusers", None)
    with pytest.raises(ConfigError, match=r"dpforge\[diffusion\]"):
        ImprovedDiffusion(str(folder)).prepare((), "cpu")


def test_batches_are_halved_until_they_fit_into_memory(monkeypatch):
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    seen = []

    def make(part):
        if part.stop - part.start > 3:
            raise torch.cuda.OutOfMemoryError
        seen.append(part)
        return np.arange(part.start, part.stop)

    np.testing.assert_array_equal(in_batches(make, 10, 8), np.arange(10))
    assert max(part.stop - part.start for part in seen) == 2


def test_every_mistake_among_the_settings_is_named_at_once():
    with pytest.raises(ConfigError) as caught:
        ImprovedDiffusion("", batch_size=0, precision="float17", guidance_scale=-1)
    assert len(caught.value.mistakes) == 4
