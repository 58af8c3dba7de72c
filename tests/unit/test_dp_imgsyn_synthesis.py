"""Moments of layers and the alignment of images with them."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch
from unit.dp_imgsyn_runs import noise_images

from dpforge.errors import ConfigError
from dpforge.generators.dp_imgsyn.settings import SynthesisSettings
from dpforge.generators.dp_imgsyn.statistics import (
    LayerStatistics,
    Reference,
    moments_of,
    norm_layers,
    public_reference,
    recorded_statistics,
    release_vector,
    released_statistics,
    standard_error,
    taps,
    warn_of_noise,
)
from dpforge.generators.dp_imgsyn.synthesis import (
    Target,
    aligned,
    jittered,
    loss_terms,
    statistics_loss,
    total_variation,
)
from dpforge.generators.dp_imgsyn.transform import Normalization
from dpforge.nets.resnet import classifier

HALF = Normalization((0.5,), (0.25,))


@pytest.fixture(scope="module")
def net():
    return classifier("resnet18", 1, 3, seed=0, width=4, groups=2).eval().requires_grad_(False)


def all_moments(net, pixels):
    return np.concatenate(list(moments_of(net, norm_layers(net), pixels, HALF, "cpu")))


def test_moments_are_those_of_what_normalisation_layers_receive(net):
    pixels = noise_images(5).pixels
    found = all_moments(net, pixels)
    stem = net[0](HALF.normalized(pixels)).double()
    width = found.shape[1] // 2
    assert width == 5 * 4 * (1 + 2 + 4 + 8)
    np.testing.assert_allclose(found[:, :4], stem.mean((2, 3)).numpy(), atol=1e-6)
    np.testing.assert_allclose(found[:, width : width + 4], stem.square().mean((2, 3)).numpy(), atol=1e-5)


def test_moments_of_an_image_do_not_depend_on_the_images_beside_it(net, monkeypatch):
    pixels = noise_images(7).pixels
    whole = all_moments(net, pixels)
    monkeypatch.setattr("dpforge.generators.dp_imgsyn.statistics.CHUNK_VALUES", 64 * 2)
    np.testing.assert_allclose(all_moments(net, pixels), whole, atol=1e-5)


def test_public_images_have_standardised_moments_of_mean_zero_and_norm_one(net):
    moments = all_moments(net, noise_images(40).pixels)
    u = public_reference(moments, "auto").standardized(moments)
    np.testing.assert_allclose(u.mean(0), 0, atol=1e-9)
    assert np.square(u).sum(1).mean() == pytest.approx(1.0, abs=1e-3)


def test_the_automatic_radius_clips_one_public_image_in_twenty(net):
    moments = all_moments(net, noise_images(40).pixels)
    reference = public_reference(moments, "auto")
    norms = np.linalg.norm(reference.standardized(moments), axis=1)
    assert (norms > reference.radius).sum() == 2
    assert public_reference(moments, 3.5).radius == 3.5


@pytest.mark.parametrize("count", [0.1, 0.0])
def test_without_noise_and_clipping_the_true_moments_come_back(net, count):
    private, public = noise_images(30, seed=1).pixels // 2, noise_images(40).pixels
    reference = public_reference(all_moments(net, public), 1e6)
    vector = release_vector(moments_of(net, norm_layers(net), private, HALF, "cpu"), reference, count)
    found = released_statistics(vector, reference, count, 30)
    x = HALF.normalized(private)
    with taps(norm_layers(net)) as seen:
        net(x)
    values = [a.double().transpose(0, 1).flatten(1) for a in seen]
    mean, variance = (
        torch.cat(parts).numpy()
        for parts in ([a.mean(1) for a in values], [a.var(1, correction=0) for a in values])
    )
    np.testing.assert_allclose(found.mean, mean, rtol=1e-4, atol=1e-5)
    # Deep layers of an image of 8 pixels have one position: their variance over 30 images is small.
    wide = variance > 1e-3
    np.testing.assert_allclose(found.variance[wide], variance[wide], rtol=1e-3)


def test_noise_never_makes_a_variance_vanish():
    reference = Reference(np.array([1.0, 5.0]), np.array([1.0, 1.0]), 1.0)
    # Mean 3 and mean square 0 contradict each other.
    found = released_statistics(np.array([2.0, -5.0, 0.1]) / np.sqrt(2) / np.hypot(1, 0.1), reference, 0.1, 9)
    assert found.mean[0] == pytest.approx(3.0)
    assert found.variance[0] == pytest.approx(4.0 * 1e-3)


def test_the_count_is_at_least_one_record():
    reference = Reference(np.zeros(2), np.ones(2), 1.0)
    found = released_statistics(np.array([1.0, 1.0, -7.0]), reference, 0.1, 9)
    assert np.isfinite(found.mean).all()


def test_the_standard_error_is_that_of_repeated_noise():
    reference = Reference(np.zeros(50), np.full(50, 2.0), 1.5)
    rng, scale, count, rows = np.random.default_rng(0), 4.0, 0.1, 500
    exact = np.append(np.zeros(50), rows * count) / np.hypot(1, count)
    drawn = [
        released_statistics(exact + scale * rng.normal(size=51), reference, 0.0, rows).mean / 2.0
        for _ in range(400)
    ]
    assert standard_error(scale, reference, 0.0, rows) == pytest.approx(np.std(drawn), rel=0.03)
    assert standard_error(scale, reference, count, rows) > standard_error(scale, reference, 0.0, rows)


def test_statistics_that_are_mostly_noise_are_reported(caplog):
    with caplog.at_level(logging.WARNING, "dpforge"):
        warn_of_noise(0.29)
        assert not caplog.records
        warn_of_noise(0.5)
    assert "statistics.kind=off" in caplog.text


def test_layers_are_chosen_by_their_numbers(net):
    assert norm_layers(net, (0, 3)) == [norm_layers(net)[0], norm_layers(net)[3]]
    with pytest.raises(ConfigError, match="0 to 19"):
        norm_layers(net, (20,))


def test_the_original_recorder_is_a_running_mean_of_batch_moments(net):
    pixels = [noise_images(6, seed=s).pixels for s in range(3)]
    layers = norm_layers(net)[:1]
    found = recorded_statistics(net, layers, iter([*pixels, pixels[0][:0]]), HALF, "cpu")
    recorder = torch.nn.BatchNorm2d(4, momentum=0.1).train()
    for part in pixels:
        recorder(net[0](HALF.normalized(part)))
    np.testing.assert_allclose(found.mean, recorder.running_mean.numpy(), atol=1e-6)
    np.testing.assert_allclose(found.variance, recorder.running_var.numpy(), rtol=1e-5)


def target(net, seed=1):
    reference = public_reference(all_moments(net, noise_images(20).pixels), 100.0)
    private = noise_images(20, seed=seed).pixels // 3
    vector = release_vector(moments_of(net, norm_layers(net), private, HALF, "cpu"), reference, 0.1)
    return Target(net, norm_layers(net), released_statistics(vector, reference, 0.1, 20), HALF)


def test_the_statistics_loss_vanishes_for_the_images_themselves(net):
    x = HALF.normalized(noise_images(20).pixels)
    with taps(norm_layers(net)) as seen:
        net(x)
    values = [a.transpose(0, 1).flatten(1) for a in seen]
    own = [(a.mean(1), a.var(1, correction=0)) for a in values]
    assert float(statistics_loss(seen, own)) < 1e-4
    shifted = [(mean + 1, variance) for mean, variance in own]
    expected = sum(np.sqrt(len(mean)) for mean, _ in own)
    assert float(statistics_loss(seen, shifted)) == pytest.approx(expected, rel=1e-3)


def test_total_variation_is_the_mean_of_four_neighbour_differences():
    x = torch.randn(2, 3, 5, 4, generator=torch.Generator().manual_seed(0))
    a = x.numpy()
    expected = (
        np.abs(np.diff(a, axis=3)).mean() + np.abs(np.diff(a, axis=2)).mean()
        + np.abs(a[..., 1:, 1:] - a[..., :-1, :-1]).mean() + np.abs(a[..., 1:, :-1] - a[..., :-1, 1:]).mean()
    )  # fmt: skip
    assert float(total_variation(x)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("alone", [True, False])
def test_jitter_rolls_and_mirrors_images_by_up_to_an_eighth(alone):
    settings = SynthesisSettings(flip=True, augment_per_image=alone)
    x = torch.randn(30, 2, 16, 24, generator=torch.Generator().manual_seed(0))
    found = jittered(x, settings, np.random.default_rng(0))
    moves = []
    for image, moved in zip(x, found, strict=True):
        same = [
            (down, right, mirrored)
            for down in range(-2, 3)
            for right in range(-3, 4)
            for mirrored in (False, True)
            if torch.equal(
                torch.roll(image, (down, right), (1, 2)).flip(2)
                if mirrored
                else torch.roll(image, (down, right), (1, 2)),
                moved,
            )
        ]
        assert len(same) == 1
        moves.append(same[0])
    assert (len(set(moves)) > 10) is alone
    still = SynthesisSettings(jitter=False)
    assert torch.equal(jittered(x, still, np.random.default_rng(0)), x)


def test_one_step_moves_no_pixel_by_more_than_the_learning_rate(net):
    pixels = noise_images(9).pixels
    made, history = aligned(
        pixels, np.arange(9) % 3, target(net), SynthesisSettings(lr=0.1), np.random.default_rng(0)
    )
    moved = np.abs(made.astype(float) - pixels) / 255 / 0.25
    assert history.shape == (1, 5)
    assert 0.05 < moved.max() <= 0.1 + 0.5 / 255 / 0.25 + 1e-6


def test_steps_bring_the_released_statistics_and_the_targets_nearer(net):
    settings = SynthesisSettings(steps=10, jitter=False)
    _, history = aligned(
        noise_images(12).pixels, np.arange(12) % 3, target(net), settings, np.random.default_rng(0)
    )
    assert history[-1, 1] < 0.8 * history[0, 1]
    labels = SynthesisSettings(steps=10, jitter=False, statistics_weight=0.0)
    _, alone = aligned(
        noise_images(12).pixels, np.arange(12) % 3, target(net), labels, np.random.default_rng(0)
    )
    assert alone[-1, 2] < alone[0, 2]


def test_the_best_iterate_is_one_whose_loss_was_the_lowest(net):
    # With so large a step the loss goes up and down.
    settings = SynthesisSettings(steps=6, lr=1.5, jitter=False, keep="best")
    pixels, labels, aim = noise_images(6).pixels, np.arange(6) % 3, target(net)
    best, history = aligned(pixels, labels, aim, settings, np.random.default_rng(0))
    last, _ = aligned(
        pixels, labels, aim, SynthesisSettings(steps=6, lr=1.5, jitter=False), np.random.default_rng(0)
    )

    def loss(images):
        terms = loss_terms(
            HALF.normalized(images), torch.from_numpy(labels), aim, settings, np.random.default_rng(0)
        )
        return float(terms["total"])

    assert loss(best) == pytest.approx(min(*history[:, 0], loss(last)), rel=0.02)


def test_without_statistics_images_follow_the_labels_alone(net):
    aim = Target(net, [], None, HALF)
    terms = loss_terms(
        HALF.normalized(noise_images(3).pixels),
        torch.tensor([0, 1, 2]),
        aim,
        SynthesisSettings(),
        np.random.default_rng(0),
    )
    assert float(terms["statistics"]) == 0.0
    with_statistics = LayerStatistics(np.zeros(4), np.ones(4))
    other = Target(net, norm_layers(net, (0,)), with_statistics, HALF)
    assert (
        float(
            loss_terms(
                HALF.normalized(noise_images(3).pixels),
                torch.tensor([0, 1, 2]),
                other,
                SynthesisSettings(),
                np.random.default_rng(0),
            )["statistics"]
        )
        > 0
    )
