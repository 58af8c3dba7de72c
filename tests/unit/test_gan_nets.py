"""Networks of the GAN: one-hot heads with the right law, image builders of every size, sound critics."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

from dpforge.nets.gan import (
    BUILDERS,
    MultiCategoryGumbelSoftmax,
    categorical_mlp,
    conv_critic,
    conv_generator,
    crop,
    pad,
    resnet18_gn,
    supported_size,
)
from dpforge.privacy.norms import parameter_layers


def blocks(rows, sizes):
    return torch.split(rows, list(sizes), dim=1)


def test_every_variable_of_every_row_is_exactly_one_hot():
    torch.manual_seed(0)
    head = MultiCategoryGumbelSoftmax(6, [3, 5, 2])
    rows = head(torch.randn(500, 6))
    for block in blocks(rows, [3, 5, 2]):
        assert set(np.round(block.detach().unique().tolist(), 6)) <= {0.0, 1.0}
        assert torch.allclose(block.sum(1), torch.ones(500))


def test_the_gradient_reaches_every_parameter_of_the_generator():
    torch.manual_seed(0)
    generator, critic = categorical_mlp(4, [8, 8], [3, 4])
    critic(generator(torch.randn(64, 4))).sum().backward()
    assert all(p.grad is not None and float(p.grad.abs().max()) > 0 for p in generator.parameters())


@pytest.mark.parametrize("tau", [0.3, 2 / 3])
def test_drawn_categories_follow_the_softmax_of_the_logits(tau):
    torch.manual_seed(1)
    head = MultiCategoryGumbelSoftmax(2, [4], tau)
    x = torch.ones(1, 2)
    expected = torch.exp(head.logits(x)[0])[0].detach().numpy().astype(float)
    counts = head(x.expand(20_000, 2)).sum(0).detach().numpy().round()
    assert stats.chisquare(counts, 20_000 * expected / expected.sum()).pvalue > 1e-4


@pytest.mark.parametrize("classes", [0, 3])
@pytest.mark.parametrize("size", [8, 16, 28, 32, 64, 128])
def test_a_generator_makes_images_of_its_size_and_its_critic_scores_each(size, classes):
    generator = conv_generator(size, 3, 7, classes, width=4)
    critic = conv_critic(size, 3, classes, width=4)
    labels = torch.tensor([0, 2]) if classes else None
    images = generator(torch.randn(2, 7), labels)
    assert images.shape == (2, 3, size, size)
    assert float(images.detach().abs().max()) <= 1
    assert critic(images, labels).shape == (2,)


@pytest.mark.parametrize(
    "make",
    [lambda: categorical_mlp(3, [4], [2, 2])[1], lambda: conv_critic(8, 1, 2), lambda: resnet18_gn(16, 1, 2)],
)
def test_critics_own_only_layers_with_per_example_gradients(make):
    assert parameter_layers(make())


def test_a_critic_is_not_bounded_by_a_sigmoid():
    critic = conv_critic(8, 1, width=4)
    with torch.no_grad():
        for parameter in critic.parameters():
            parameter.abs_().mul_(10)
    assert float(critic(torch.ones(1, 1, 8, 8)).detach().max()) > 10


def test_class_labels_change_images_and_scores():
    torch.manual_seed(0)
    generator, critic = conv_generator(8, 1, 4, 3).eval(), conv_critic(8, 1, 3)
    noise, x = torch.randn(1, 4), torch.randn(1, 1, 8, 8)
    zero, two = torch.tensor([0]), torch.tensor([2])
    assert not torch.equal(generator(noise, zero), generator(noise, two))
    assert not torch.equal(critic(x, zero), critic(x, two))


@pytest.mark.parametrize(("network", "height", "width", "size"), [
    ("auto", 8, 8, 8), ("auto", 27, 20, 28), ("auto", 48, 48, 64), ("conv_pow2", 8, 8, 32),
    ("conv28", 28, 28, 28), ("conv28", 29, 28, None), ("auto", 300, 300, None),
])  # fmt: skip
def test_odd_sizes_take_the_next_network(network, height, width, size):
    assert supported_size(network, height, width) == size


def test_padding_is_black_and_cropping_undoes_it():
    x = torch.rand(2, 1, 5, 6)
    padded = pad(x, 8)
    assert padded.shape == (2, 1, 8, 8)
    assert torch.equal(crop(padded, 5, 6), x)
    assert float(padded.sum() - x.sum()) == pytest.approx(-2.0 * (64 - 30), abs=1e-4)


def test_the_generator_alone_may_have_batch_norm():
    assert any(isinstance(layer, nn.BatchNorm2d) for layer in conv_generator(28, 1, 8).modules())
    for size in (8, 28, 64):
        assert not any(isinstance(layer, nn.BatchNorm2d) for layer in conv_critic(size, 1).modules())
    assert set(BUILDERS) == {"conv8", "conv28", "conv32", "conv_pow2"}
