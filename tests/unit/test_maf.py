"""The flow by mathematics: masks, inverse, Jacobian, normalisation, gradients."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dpforge.nets.made import MADE, MaskedAutoregressiveFlow, made_masks
from dpforge.nets.masked import MaskedLinear


def flow(features=5, blocks=2, layer_norm=False, zero=False, hidden=(16, 16), limit=1.5, activation="relu"):
    torch.manual_seed(0)
    permutations = [list(range(features))[::-1]] * blocks
    return MaskedAutoregressiveFlow(
        features,
        blocks,
        permutations,
        hidden,
        activation,
        log_scale_limit=limit,
        zero_init_last=zero,
        layer_norm=layer_norm,
    ).double()


@pytest.mark.parametrize(
    ("features", "width", "count"), [(6, 512, 1_361_980), (6, 64, 26_940), (4, 512, 1_346_600)]
)
def test_parameter_counts_equal_the_published_ones(features, width, count):
    net = MaskedAutoregressiveFlow(features, 5, [list(range(features))] * 5, (width, width))
    assert sum(p.numel() for p in net.parameters()) == count


def test_masks_connect_an_output_to_earlier_inputs_only():
    masks = made_masks(5, (9, 7))
    reach = masks[2] @ masks[1] @ masks[0] > 0
    for output in range(10):
        assert set(torch.nonzero(reach[output]).flatten().tolist()) <= set(range(output % 5))
    assert not reach[0].any()
    assert reach[4].all() or set(torch.nonzero(reach[4]).flatten().tolist()) == {0, 1, 2, 3}


@pytest.mark.parametrize("layer_norm", [False, True])
def test_a_coordinate_depends_on_earlier_ones_only(layer_norm):
    torch.manual_seed(1)
    made = MADE(5, (16, 16), zero_init_last=False, layer_norm=layer_norm).double()
    jacobian = torch.autograd.functional.jacobian(lambda x: made(x)[0].sum(0), torch.randn(4, 5).double())
    assert torch.equal(jacobian.sum(1).triu(), torch.zeros(5, 5).double())
    assert (jacobian.sum(1).tril(-1) != 0).any()


@pytest.mark.parametrize("layer_norm", [False, True])
def test_inverse_undoes_forward_and_log_determinants_cancel(layer_norm):
    net, x = flow(layer_norm=layer_norm), torch.randn(64, 5).double()
    u, forward = net(x)
    back, inverse = net.inverse(u)
    torch.testing.assert_close(back, x, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(forward + inverse, torch.zeros(64).double(), atol=1e-6, rtol=0)


def test_log_determinant_equals_the_jacobian_of_autograd():
    net, x = flow(4), torch.randn(1, 4).double()
    jacobian = torch.autograd.functional.jacobian(lambda v: net(v[None])[0][0], x[0])
    assert float(net(x)[1].detach()) == pytest.approx(float(torch.linalg.slogdet(jacobian)[1]), abs=1e-9)


def test_density_integrates_to_one():
    net = flow(2, limit=0.5)
    axis = torch.linspace(-12, 12, 801).double()
    grid = torch.cartesian_prod(axis, axis)
    with torch.no_grad():
        mass = net.log_prob(grid).exp().sum() * (axis[1] - axis[0]) ** 2
    assert float(mass) == pytest.approx(1, abs=1e-3)


def test_a_zero_last_layer_makes_the_flow_the_identity_up_to_order():
    net, x = flow(zero=True), torch.randn(3, 5).double()
    u, log_det = net(x)
    assert torch.equal(u, x)
    assert torch.equal(log_det, torch.zeros(3).double())
    assert torch.allclose(net.log_prob(x), torch.distributions.Normal(0, 1).log_prob(x).sum(1))


def test_every_unmasked_parameter_gets_a_gradient_and_masked_ones_none():
    net = flow(hidden=(12, 12), activation="tanh")  # no dead units
    net.log_prob(torch.randn(200, 5).double()).sum().backward()
    for layer in net.modules():
        if isinstance(layer, MaskedLinear):
            assert torch.equal(layer.weight.grad * (1 - layer.mask), torch.zeros_like(layer.weight))
            used = layer.weight.grad[layer.mask.bool()]
            assert float((used != 0).double().mean()) == 1.0


def test_log_scales_are_bounded():
    net = flow()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.mul_(1e3)
        _, log_scale = net.blocks[0](torch.randn(50, 5).double() * 1e3)
    assert float(log_scale.abs().max()) <= 1.5


def test_training_without_privacy_reaches_the_entropy_of_a_known_density():
    """x1 ~ N(0, 4), x2 | x1 ~ N(x1^2 / 4, 1): entropy 3.531 nats."""
    torch.manual_seed(0)
    net = MaskedAutoregressiveFlow(2, 2, [[1, 0]] * 2, (32, 32), log_scale_limit=3.0)
    optimizer = torch.optim.Adam(net.parameters(), 5e-3)
    rng = np.random.default_rng(0)

    def draw(count):
        first = rng.normal(0, 2, count)
        return torch.from_numpy(np.stack([first, rng.normal(first**2 / 4, 1)], 1).astype("float32"))

    for step in range(1200):
        for group in optimizer.param_groups:
            group["lr"] = 5e-3 * (1 - step / 1200)
        optimizer.zero_grad()
        (-net.log_prob(draw(256)).mean()).backward()
        optimizer.step()
    with torch.no_grad():
        held_out = -float(net.log_prob(draw(20_000)).mean())
    assert 3.50 < held_out < 3.58


def test_masks_survive_a_change_of_type():
    layer = MaskedLinear(torch.tensor([[1.0, 0.0]])).double()
    assert layer.mask.dtype == torch.float64
    assert "mask" not in layer.state_dict()
    assert layer.weight[0, 1].item() == 0.0
