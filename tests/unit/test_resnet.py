"""Classifiers of chosen normalisation: sizes, independence of the images, gradients of single ones."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from dpforge.errors import PrivacyError
from dpforge.nets.resnet import BUILDERS, classifier
from dpforge.privacy.engines import GhostEngine
from dpforge.privacy.norms import parameter_layers


def parameters(net):
    return sum(p.numel() for p in net.parameters())


@pytest.mark.parametrize(("arch", "channels", "options", "count"), [
    ("resnet18", 3, {}, 11_173_962), ("resnet18", 3, {"width": 16, "groups": 8}, 701_466),
    ("small_cnn", 1, {}, 61_050),
])  # fmt: skip
def test_networks_have_the_published_numbers_of_parameters(arch, channels, options, count):
    assert parameters(classifier(arch, channels, 10, seed=0, **options)) == count
    # Batch normalisation has as many.
    assert parameters(classifier(arch, channels, 10, seed=0, **options, batch=True)) == count


@pytest.mark.parametrize(("arch", "layers", "channels"), [("resnet18", 20, 4800), ("small_cnn", 4, 176)])
def test_normalisation_layers_and_their_channels_are_those_of_the_paper(arch, layers, channels):
    norms = [m for m in classifier(arch, 3, 10, seed=0).modules() if isinstance(m, nn.GroupNorm)]
    assert len(norms) == layers
    assert sum(norm.num_channels for norm in norms) == channels


def test_a_resnet18_halves_the_image_three_times_and_doubles_the_channels():
    net = classifier("resnet18", 3, 7, seed=0, width=4, groups=2)
    shapes = []
    for layer in net:
        layer.register_forward_hook(lambda _, __, output: shapes.append(tuple(output.shape[1:])))
    assert net(torch.zeros(2, 3, 32, 32)).shape == (2, 7)
    assert (32, 4, 4) in shapes
    assert shapes[-4:-2] == [(32, 4, 4), (32, 1, 1)]


@pytest.mark.parametrize("arch", BUILDERS)
@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_every_example_has_a_gradient_of_its_own_that_the_others_do_not_touch(arch, activation):
    net = classifier(arch, 1, 3, seed=0, width=4, groups=2, activation=activation).double()
    torch.manual_seed(0)
    x, y = torch.randn(3, 1, 8, 8, dtype=torch.float64), torch.tensor([0, 1, 2])
    singles = []
    for row in range(3):
        loss = functional.cross_entropy(net(x[row : row + 1]), y[row : row + 1])
        singles.append(torch.autograd.grad(loss, list(net.parameters())))
    expected = [torch.stack(parts).sum(0) for parts in zip(*singles, strict=True)]
    engine = GhostEngine(net)
    found = engine.clipped_sum(
        lambda batch: functional.cross_entropy(net(batch[0]), batch[1], reduction="none"), (x, y), 1e6
    )
    engine.close()
    for left, right in zip(found.gradients, expected, strict=True):
        torch.testing.assert_close(left, right, rtol=1e-5, atol=1e-9)


def test_pooling_averages_squares_of_pixels_and_changes_no_weight():
    whole, pooled = (classifier("small_cnn", 1, 3, seed=0, pool=pool) for pool in (1, 3))
    x = torch.randn(2, 1, 12, 9)
    means = torch.stack(
        [x[:, :, i : i + 3, j : j + 3].mean((2, 3)) for i in range(0, 12, 3) for j in range(0, 9, 3)], 2
    )
    torch.testing.assert_close(pooled(x), whole(means.view(2, 1, 4, 3)))
    # What is left over at an edge is averaged too.
    assert pooled[0](torch.ones(1, 1, 10, 10)).shape == (1, 1, 4, 4)
    assert float(pooled[0](torch.ones(1, 1, 10, 10)).min()) == 1.0


def test_batch_normalisation_is_refused_for_private_images():
    with pytest.raises(PrivacyError, match="mixes"):
        parameter_layers(classifier("small_cnn", 1, 3, seed=0, batch=True))


def test_a_seed_decides_the_weights_and_leaves_the_other_draws_of_the_program_alone():
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    one, same, other = (classifier("small_cnn", 1, 3, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.random.get_rng_state(), before)
    weights = [net.state_dict()["0.weight"] for net in (one, same, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
