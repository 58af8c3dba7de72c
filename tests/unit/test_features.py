"""Feature extractors: what they compute, what they say about themselves, what they refuse."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import subprocess
import sys
from importlib import resources

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from dpforge.data import glyphs
from dpforge.errors import ConfigError, DataError, RunError
from dpforge.features import EXTRACTORS, cached_features, clip, extractor, inception, lenet, mobilenet
from dpforge.features.network import file_of_weights, read_weights
from dpforge.features.registry import Request
from dpforge.features.train_lenet import main, train
from dpforge.nets.inception import FIDInception
from dpforge.nets.lenet import LeNet
from dpforge.nets.mobilenet import MobileNetV2, fused

SIZES = {"height": 28, "width": 28, "channels": 1}


def noise(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


@pytest.fixture(scope="module")
def random_mobilenet():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = MobileNetV2().eval()
        for module in net.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.5, 1.5)
    return net


def test_importing_the_package_imports_no_deep_learning_library():
    code = "import sys, dpforge.features; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# pixels


def test_pixels_are_means_of_two_by_two_squares_in_the_unit_interval():
    images = noise(5, 28, 32, 3)
    found = extractor("pixels", height=28, width=32, channels=3)(images)
    means = images.reshape(5, 14, 2, 16, 2, 3).mean(axis=(2, 4)) / 255
    np.testing.assert_allclose(found, means.transpose(0, 3, 1, 2).reshape(5, -1), atol=1e-6)


def test_small_images_are_not_pooled_unless_asked():
    images = noise(3, 8, 8, 1)
    plain = extractor("pixels", height=8, width=8, channels=1)
    np.testing.assert_allclose(plain(images), images.reshape(3, 64) / 255, atol=1e-6)
    assert extractor("pixels", height=8, width=8, channels=1, pool=2).dim == 16


def test_squares_at_the_edge_are_averaged_over_the_pixels_inside():
    images = noise(2, 17, 17, 1)
    found = extractor("pixels", height=17, width=17, channels=1)(images).reshape(2, 9, 9)
    np.testing.assert_allclose(found[:, 8, 8], images[:, 16, 16, 0] / 255, atol=1e-6)
    np.testing.assert_allclose(found[:, 8, 0], images[:, 16, :2, 0].mean(axis=1) / 255, atol=1e-6)


@pytest.mark.parametrize("name", ["pixels", "lenet_public"])
def test_grey_images_give_the_same_features_with_one_channel_and_with_three(name):
    grey = noise(4, 28, 28, 1)
    of = extractor(name, **SIZES)
    assert np.array_equal(of(grey), of(np.repeat(grey, 3, axis=3)))


def test_candidates_of_another_size_are_brought_to_the_real_one_first():
    large = noise(2, 64, 50, 1)
    found = extractor("pixels", **SIZES, pool=1)(large)
    for image, features in zip(large[..., 0], found, strict=True):
        small = Image.fromarray(image.astype(np.float32)).resize((28, 28), Image.Resampling.BILINEAR)
        np.testing.assert_allclose(features, np.asarray(small).ravel() / 255, atol=1e-5)
    assert extractor("lenet_public", **SIZES)(large).shape == (2, 84)


@pytest.mark.parametrize("name", ["pixels", "lenet_public"])
def test_features_do_not_depend_on_the_batch_size(name):
    images = noise(23, 28, 28, 1)
    one, many = (extractor(name, **SIZES, batch_size=size)(images) for size in (1, 16))
    np.testing.assert_allclose(one, many, atol=1e-5)
    assert one.dtype == np.float32


@pytest.mark.parametrize("name", ["pixels", "lenet_public"])
def test_no_image_has_features_of_the_right_width(name):
    of = extractor(name, **SIZES)
    assert of(noise(0, 28, 28, 1)).shape == (0, of.dim)


@pytest.mark.parametrize(
    "pixels", [np.zeros((2, 28, 28, 1)), noise(2, 28, 28), noise(2, 28, 28, 2), noise(2, 0, 28, 1)]
)
def test_what_is_no_set_of_images_is_a_typed_error(pixels):
    with pytest.raises(DataError, match="expected uint8"):
        extractor("pixels", **SIZES)(pixels)


# lenet_public


def test_the_public_lenet_reads_digits_it_never_saw():
    rng = np.random.default_rng(99)
    fonts = glyphs.find_fonts(system=False)
    params = glyphs.draw_glyphs(1000, glyphs.DIGITS, fonts, glyphs.GlyphRanges(size=(20, 28)), rng)
    of = extractor("lenet_public", **SIZES)
    found = of.class_probabilities(of(glyphs.render_glyphs(params, glyphs.DIGITS, fonts, 28, 28)))
    np.testing.assert_allclose(found.sum(axis=1), 1)
    assert (found.argmax(axis=1) == params["text"]).mean() > 0.9


def test_the_public_lenet_knows_more_of_handwriting_than_chance():
    digits = load_digits()
    pixels = np.rint(digits.images * 255 / 16).astype(np.uint8)[..., None]
    of = extractor("lenet_public", height=8, width=8, channels=1)
    assert (of.class_probabilities(of(pixels)).argmax(axis=1) == digits.target).mean() > 0.5


def test_the_public_lenet_names_its_weights_and_what_made_them():
    file = resources.files("dpforge.features").joinpath("weights", lenet.FILE)
    described = extractor("lenet_public", **SIZES).describe()
    assert described["weights_sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
    assert described["dim"] == 84
    assert described["trained_on"] == ["font_digits"]
    assert len(file.read_bytes()) < 300_000


def test_training_the_public_lenet_learns_and_gives_the_same_weights_again():
    losses = []
    first = train(640, 2, 0, lambda _, loss: losses.append(loss)).state_dict()
    second = train(640, 2, 0).state_dict()
    assert losses[1] < losses[0]
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_the_training_command_writes_weights_that_the_extractor_can_read(tmp_path, capsys):
    threads = torch.get_num_threads()
    main(["--output", str(tmp_path / lenet.FILE), "--images", "256", "--epochs", "1"])
    torch.set_num_threads(threads)
    assert "accuracy on other rendered digits: 0." in capsys.readouterr().out
    state = lenet.load((tmp_path / lenet.FILE).read_bytes())
    LeNet().load_state_dict({name: tensor.float() for name, tensor in state.items()}, strict=True)


# mobilenet_v2


def test_mobilenet_has_the_tensors_of_the_published_weights(random_mobilenet):
    state = random_mobilenet.state_dict()
    assert len(state) == 314
    assert sum(parameter.numel() for parameter in random_mobilenet.parameters()) == 3_504_872
    assert state["features.1.conv.1.weight"].shape == (16, 32, 1, 1)
    assert state["features.2.conv.1.0.weight"].shape == (96, 1, 3, 3)
    assert state["features.17.conv.3.running_var"].shape == (320,)
    assert state["features.18.0.weight"].shape == (1280, 320, 1, 1)
    assert state["classifier.1.bias"].shape == (1000,)


def test_folding_the_normalisations_keeps_the_function(random_mobilenet):
    copy = MobileNetV2().eval()
    copy.load_state_dict(random_mobilenet.state_dict())
    x = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = random_mobilenet.pooled(x)
        torch.testing.assert_close(fused(copy).pooled(x), expected, rtol=1e-3, atol=1e-4)
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in copy.modules())


def test_mobilenet_sees_normalised_colour_images_of_its_own_size(random_mobilenet):
    copy = MobileNetV2().eval()
    copy.load_state_dict(random_mobilenet.state_dict())
    of = mobilenet.around(copy, Request(64, 64, 3, batch_size=2), 64)
    images = noise(3, 64, 64, 3)
    x = (images / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    x = torch.tensor(x.transpose(0, 3, 1, 2), dtype=torch.float32)
    with torch.inference_mode():
        expected = random_mobilenet.features(x).mean(dim=(2, 3)).numpy()
    np.testing.assert_allclose(of(images), expected, rtol=1e-3, atol=1e-4)
    assert of.class_probabilities(of(images)).shape == (3, 1000)


def test_mobilenet_takes_grey_images_as_grey_colour_images(random_mobilenet):
    copy = MobileNetV2().eval()
    copy.load_state_dict(random_mobilenet.state_dict())
    grey = noise(2, 28, 28, 1)
    from_grey = mobilenet.around(copy, Request(28, 28, 1), 64)(grey)
    from_color = mobilenet.around(copy, Request(28, 28, 3), 64)(np.repeat(grey, 3, axis=3))
    np.testing.assert_allclose(from_grey, from_color, atol=1e-5)


def test_weights_of_another_content_are_refused(tmp_path):
    (tmp_path / "weights.pth").write_bytes(b"something else")
    with pytest.raises(DataError, match="sha256"):
        extractor("mobilenet_v2", **SIZES, weights=tmp_path / "weights.pth")
    with pytest.raises(DataError, match=r"mobilenet_v2-b0353104\.pth"):
        extractor("mobilenet_v2", **SIZES, weights=tmp_path / "missing.pth")


def test_weights_of_another_network_and_pickled_code_are_refused(tmp_path, random_mobilenet):
    torch.save(random_mobilenet.state_dict(), tmp_path / "mobile.pth")
    with pytest.raises(DataError, match="not those of LeNet"):
        read_weights(tmp_path / "mobile.pth", LeNet())
    torch.save({"classifier.bias": Planted(tmp_path)}, tmp_path / "code.pth")
    with pytest.raises(DataError, match="not those of LeNet"):
        read_weights(tmp_path / "code.pth", LeNet())
    assert not (tmp_path / "executed").exists()


class Planted:
    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder / "executed"),)


def test_weights_inside_a_gzip_are_read(tmp_path):
    net, copy = LeNet(), LeNet()
    torch.save(net.state_dict(), tmp_path / "plain.pth")
    (tmp_path / "w.pth.gz").write_bytes(gzip.compress((tmp_path / "plain.pth").read_bytes()))
    read_weights(tmp_path / "w.pth.gz", copy)
    assert torch.equal(copy.classifier.weight, net.classifier.weight)


@pytest.mark.network
def test_mobilenet_gives_the_golden_features():
    try:
        file_of_weights(mobilenet.WEIGHTS, None)
    except DataError:
        pytest.skip("the weights cannot be fetched here")
    row = np.arange(32)
    images = np.zeros((4, 32, 32, 3), dtype=np.uint8)
    images[1], images[2] = 128, 255
    images[3, :, :, 0], images[3, :, :, 1] = 8 * row[:, None], 8 * row
    images[3, :, :, 2] = 255 - images[3, :, :, 0]
    found = extractor("mobilenet_v2", height=32, width=32, channels=3)(images)
    np.testing.assert_allclose(found.sum(axis=1), [13.3728, 15.6251, 18.3883, 452.7793], atol=1e-3)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), [1.2213, 1.4127, 1.5076, 23.3327], atol=1e-3)
    assert (found[:3] > 0).sum(axis=1).tolist() == [399, 418, 469]
    np.testing.assert_allclose(found[3, :5], [0.61882, 0.98467, 0.01257, 0.02215, 0.50614], atol=1e-3)


# inception_v3


@pytest.fixture(scope="module")
def random_inception():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return FIDInception().eval()


def test_inception_has_the_tensors_of_the_published_weights(random_inception):
    state = random_inception.state_dict()
    # 94 convolutions, each with the five tensors of its normalisation, and the last layer; parameters as of
    # the published classifier of 1,000 classes (23,834,568), with eight more classes.
    assert len(state) == 94 * 6 + 2
    assert sum(p.numel() for p in random_inception.parameters()) == 23_834_568 + 8 * 2049
    assert state["Mixed_6b.branch7x7dbl_4.conv.weight"].shape == (128, 128, 7, 1)
    assert state["Mixed_7c.branch3x3dbl_3a.conv.weight"].shape == (384, 384, 1, 3)
    assert state["fc.weight"].shape == (1008, 2048)


def test_inception_sees_the_clean_resize_of_pillow_between_minus_one_and_one(random_inception, monkeypatch):
    seen = []
    monkeypatch.setattr(random_inception, "pooled", lambda x: seen.append(x) or torch.zeros(len(x), 2048))
    images = noise(1, 32, 40, 3)
    of = inception.around(random_inception, Request(32, 40, 3))
    assert of(images).shape == (1, 2048)
    red = Image.fromarray(images[0, :, :, 0].astype(np.float32)).resize((299, 299), Image.Resampling.BICUBIC)
    np.testing.assert_allclose(seen[0][0, 0].numpy(), np.asarray(red) / 127.5 - 1, atol=1e-4)


def test_inception_runs_and_is_a_classifier_of_1008_classes(random_inception):
    with torch.inference_mode():
        pooled = random_inception.pooled(torch.zeros(1, 3, 299, 299))
        assert random_inception.fc(pooled).shape == (1, 1008)
    assert torch.isfinite(pooled).all()


# clip_vit_b_32


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory):
    transformers = pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("clip")
    config = transformers.CLIPVisionConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=64,
        patch_size=32, projection_dim=24,
    )  # fmt: skip
    transformers.CLIPVisionModelWithProjection(config).save_pretrained(folder)
    return folder


def test_clip_is_read_from_a_local_folder(clip_folder):
    of = extractor("clip_vit_b_32", height=32, width=48, channels=3, weights=clip_folder)
    images = noise(3, 32, 48, 3)
    assert of(images).shape == (3, of.dim) == (3, 24)
    np.testing.assert_allclose(of(images)[1:], of(images[1:]), atol=1e-5)
    assert len(of.describe()["weights_sha256"]) == 64
    with pytest.raises(ConfigError, match="no classifier"):
        of.class_probabilities(of(images))


def test_clip_cuts_the_middle_of_a_bicubic_resize():
    images = noise(1, 40, 80, 3)
    x = torch.tensor(images.transpose(0, 3, 1, 2) / 255, dtype=torch.float32)
    found = clip.centred(x, 20)[0, 0].numpy()
    red = Image.fromarray(images[0, :, :, 0].astype(np.float32)).resize((40, 20), Image.Resampling.BICUBIC)
    np.testing.assert_allclose(found, np.clip(np.asarray(red) / 255, 0, 1)[:, 10:30], atol=1e-5)


def test_clip_without_a_model_says_how_to_get_it(tmp_path):
    with pytest.raises(DataError, match="openai/clip-vit-base-patch32"):
        extractor("clip_vit_b_32", **SIZES)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(DataError, match=r"lacks model\.safetensors"):
        extractor("clip_vit_b_32", **SIZES, weights=tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"not tensors")
    with pytest.raises(DataError, match="holds no CLIP model"):
        extractor("clip_vit_b_32", **SIZES, weights=tmp_path)


# names, requests, descriptions


def test_an_unknown_name_is_refused_with_a_guess():
    with pytest.raises(ConfigError, match="Did you mean 'mobilenet_v2'"):
        extractor("mobilenetv2", **SIZES)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("pixels", {"weights": "x"}),
        ("pixels", {"size": 64}),
        ("lenet_public", {"pool": 2}),
        ("mobilenet_v2", {"pool": 2}),
        ("pixels", {"pool": 0}),
        ("pixels", {"batch_size": 0}),
        ("pixels", {"device": "abacus"}),
        ("pixels", {"channels": 2}),
        ("pixels", {"height": 0}),
    ],
)
def test_an_option_that_cannot_be_is_refused(name, options):
    with pytest.raises(ConfigError):
        extractor(name, **(SIZES | options))


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_a_missing_gpu_is_a_typed_error():
    with pytest.raises(ConfigError, match="device=cpu"):
        extractor("pixels", **SIZES, device="cuda")


def test_descriptions_are_plain_and_tell_settings_apart():
    variants = [
        extractor("pixels", **SIZES),
        extractor("pixels", **SIZES, pool=1),
        extractor("pixels", height=28, width=28, channels=3),
        extractor("lenet_public", **SIZES),
    ]
    texts = {json.dumps(of.describe(), sort_keys=True) for of in variants}
    assert len(texts) == len(variants)
    for of in variants:
        described = of.describe()
        assert json.loads(json.dumps(described)) == described
        assert (described["name"], described["dim"]) == (of.name, of.dim)
        assert of.name in EXTRACTORS
        assert {"weights_sha256", "layer", "trained_on", "preprocessing"} <= described.keys()


def test_networks_of_imagenet_declare_tiny_imagenet_as_seen(random_inception):
    of = inception.around(random_inception, Request(32, 32, 3))
    assert {"imagenet", "tiny_imagenet32"} <= set(of.describe()["trained_on"])


# cache


class Counting:
    name, dim = "counting", 3

    def __init__(self, variant=0):
        self.calls, self.variant = 0, variant

    def describe(self):
        return {"name": self.name, "variant": self.variant}

    def __call__(self, pixels):
        self.calls += 1
        return pixels.reshape(len(pixels), -1)[:, :3].astype(np.float32)


def test_cached_features_are_computed_once_for_the_same_images_and_extractor(tmp_path):
    of, images = Counting(), noise(5, 4, 4, 1)
    first, second = (cached_features(of, images, tmp_path / "cache") for _ in range(2))
    assert of.calls == 1
    assert np.array_equal(first, second)
    assert np.array_equal(first, of(images))


def test_other_images_another_shape_or_another_extractor_miss_the_cache(tmp_path):
    of, images = Counting(), noise(5, 4, 4, 1)
    changed = images.copy()
    changed[4, 3, 3] ^= 1
    for pixels in (images, changed, images.reshape(5, 2, 8, 1), images[:4]):
        cached_features(of, pixels, tmp_path)
    assert of.calls == 4
    other = Counting(variant=1)
    cached_features(other, images, tmp_path)
    assert other.calls == 1


@pytest.mark.parametrize("damage", [b"", b"\x93NUMPY", b"some text"])
def test_a_damaged_cache_file_is_computed_again(tmp_path, damage):
    of, images = Counting(), noise(5, 4, 4, 1)
    expected = cached_features(of, images, tmp_path)
    (file,) = tmp_path.glob("*.npy")
    file.write_bytes(damage)
    assert np.array_equal(cached_features(of, images, tmp_path), expected)
    assert of.calls == 2


def test_cache_files_are_private_and_nothing_else_is_left(tmp_path):
    cached_features(Counting(), noise(5, 4, 4, 1), tmp_path)
    (file,) = tmp_path.iterdir()
    assert file.stat().st_mode & 0o077 == 0


def test_a_folder_that_cannot_be_made_is_a_typed_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot be kept"):
        cached_features(Counting(), noise(5, 4, 4, 1), tmp_path / "file")
