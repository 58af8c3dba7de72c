"""Bytes, floats and sizes of images."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.ndimage import map_coordinates

from dpforge.nets.images import resize, to_pixels, to_unit


def noise(*shape, seed=0):
    return np.random.default_rng(seed).random(shape, dtype=np.float32)


def by_pillow(image, size, filter_):
    return np.asarray(Image.fromarray(image, mode=None).resize(size[::-1], filter_))


@pytest.mark.parametrize("size", [(8, 8), (7, 13), (1, 1), (28, 11)])
def test_shrinking_averages_as_pillow_does_on_floats(size):
    image = noise(28, 30)
    ours = resize(torch.from_numpy(image)[None, None], size)[0, 0].numpy()
    np.testing.assert_allclose(ours, by_pillow(image, size, Image.Resampling.BILINEAR), atol=1e-5)


@pytest.mark.parametrize("size", [(40, 40), (299, 299), (10, 12)])
def test_bicubic_is_the_clean_resize_of_pillow_whether_it_shrinks_or_grows(size):
    image = noise(28, 30)
    ours = resize(torch.from_numpy(image)[None, None], size, "bicubic")[0, 0].numpy()
    np.testing.assert_allclose(ours, by_pillow(image, size, Image.Resampling.BICUBIC), atol=1e-5)


def test_growing_interpolates_between_pixel_centres():
    image = noise(6, 9)
    ours = resize(torch.from_numpy(image)[None, None], (18, 36))[0, 0].numpy()
    where = np.meshgrid((np.arange(18) + 0.5) / 3 - 0.5, (np.arange(36) + 0.5) / 4 - 0.5, indexing="ij")
    np.testing.assert_allclose(ours, map_coordinates(image, where, order=1, mode="nearest"), atol=1e-5)


def test_height_and_width_are_not_exchanged():
    assert resize(torch.zeros(2, 3, 10, 20), (5, 40)).shape == (2, 3, 5, 40)


def test_the_same_size_changes_nothing_and_no_image_has_a_size_too():
    x = torch.from_numpy(noise(2, 1, 8, 8))
    assert torch.equal(resize(x, (8, 8)), x)
    assert resize(x[:0], (4, 5)).shape == (0, 1, 4, 5)


@pytest.mark.parametrize("channels", [1, 3])
def test_every_byte_survives_the_way_to_floats_and_back(channels):
    pixels = np.arange(256 * channels, dtype=np.uint8).reshape(1, 16, 16, channels)
    assert np.array_equal(to_pixels(to_unit(pixels)), pixels)


def test_channels_move_to_the_front_and_values_into_the_unit_interval():
    pixels = np.zeros((1, 2, 3, 3), dtype=np.uint8)
    pixels[0, 1, 2] = (255, 51, 0)
    x = to_unit(pixels)
    assert x.shape == (1, 3, 2, 3)
    assert x.dtype == torch.float32
    assert x[0, :, 1, 2].tolist() == pytest.approx([1.0, 0.2, 0.0])


def test_read_only_pixels_are_taken_and_stay_as_they_are():
    pixels = np.full((1, 2, 2, 1), 7, dtype=np.uint8)
    pixels.setflags(write=False)
    to_unit(pixels).zero_()
    assert (pixels == 7).all()


def test_floats_are_rounded_and_cut_off_not_wrapped_around():
    x = torch.tensor([-0.2, 0.4999 / 255, 0.5001 / 255, 1.3]).reshape(1, 1, 2, 2)
    assert to_pixels(x).ravel().tolist() == [0, 0, 1, 255]


@pytest.mark.parametrize(
    "call",
    [
        lambda: resize(torch.zeros(1, 1, 4, 4), (0, 4)),
        lambda: resize(torch.zeros(1, 1, 4, 4, dtype=torch.uint8), (2, 2)),
        lambda: resize(torch.zeros(4, 4), (2, 2)),
        lambda: to_unit(np.zeros((1, 4, 4, 1), dtype=np.float32)),
        lambda: to_unit(np.zeros((4, 4), dtype=np.uint8)),
        lambda: to_pixels(torch.zeros(4, 4)),
        lambda: to_pixels(torch.full((1, 1, 2, 2), float("nan"))),
    ],
)
def test_what_is_no_image_is_refused(call):
    with pytest.raises(ValueError, match="expected"):
        call()
