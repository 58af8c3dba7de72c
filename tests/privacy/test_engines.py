"""Both engines against one-example-at-a-time autograd, on every kind of layer."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dpforge.errors import ConfigError, PrivacyError
from dpforge.nets.made import MADE, MaskedAutoregressiveFlow
from dpforge.nets.masked import MaskedLinear
from dpforge.privacy import engines
from dpforge.privacy.engines import ENGINES, make_engine


class Tokens(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(7, 5)
        self.norm = nn.LayerNorm(5)
        self.linear = nn.Linear(5, 3)

    def forward(self, x):
        return self.linear(self.norm(self.embedding(x))).mean((1, 2))


class Images(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(2, 4, 3, padding=1, stride=2),
            nn.GroupNorm(2, 4),
            nn.ReLU(),
            nn.Conv2d(4, 4, 3, groups=2),
        )
        self.head = nn.Linear(4, 1)

    def forward(self, x):
        return self.head(self.net(x).mean((2, 3))).squeeze(1)


class Sequences(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv1d(3, 4, 3, padding=2, dilation=2)

    def forward(self, x):
        return self.conv(x).tanh().sum((1, 2))


class Twice(nn.Module):
    """Calls one layer twice in a forward pass."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x):
        return self.layer(self.layer(x).tanh()).sum(1)


class Made(nn.Module):
    def __init__(self, layer_norm=False):
        super().__init__()
        self.made = MADE(5, (8, 9), zero_init_last=False, layer_norm=layer_norm)

    def forward(self, x):
        shift, log_scale = self.made(x)
        return (shift.square() + log_scale).sum(1)


class Flow(nn.Module):
    def __init__(self):
        super().__init__()
        self.flow = MaskedAutoregressiveFlow(4, 2, [[3, 2, 1, 0]] * 2, (16, 16), zero_init_last=False)

    def forward(self, x):
        return -self.flow.log_prob(x)


NETS = {
    "tokens": (Tokens, lambda n: torch.randint(0, 7, (n, 4))),
    "images": (Images, lambda n: torch.randn(n, 2, 8, 8)),
    "sequences": (Sequences, lambda n: torch.randn(n, 3, 10)),
    "made": (Made, lambda n: torch.randn(n, 5)),
    "made_layer_norm": (lambda: Made(True), lambda n: torch.randn(n, 5)),
    "flow": (Flow, lambda n: torch.randn(n, 4)),
}


def reference(net, x, clip):
    """Sum of clipped gradients, one example and one backward at a time."""
    total = [torch.zeros_like(p) for p in net.parameters()]
    for row in range(len(x)):
        gradients = torch.autograd.grad(
            net(x[row : row + 1]).sum(), list(net.parameters()), allow_unused=True
        )
        gradients = [
            torch.zeros_like(p) if g is None else g for p, g in zip(net.parameters(), gradients, strict=True)
        ]
        norm = torch.sqrt(sum(g.square().sum() for g in gradients))
        if torch.isfinite(norm):
            scale = min(1.0, clip / float(norm))
            total = [t + scale * g for t, g in zip(total, gradients, strict=True)]
    return total


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", NETS)
def test_clipped_sum_equals_one_example_at_a_time(name, engine):
    torch.manual_seed(0)
    make, draw = NETS[name]
    net, x = make(), draw(6)
    expected = reference(net, x, 0.3)
    attached = make_engine(engine, net)
    got = attached.clipped_sum(lambda batch: net(batch), x, 0.3)
    attached.close()
    for left, right in zip(got.gradients, expected, strict=True):
        torch.testing.assert_close(left, right, rtol=1e-5, atol=1e-6)


def test_a_layer_called_twice_is_clipped_as_one():
    torch.manual_seed(0)
    net, x = Twice(), torch.randn(5, 4)
    expected = reference(net, x, 0.2)
    attached = make_engine("ghost", net)
    got = attached.clipped_sum(net, x, 0.2)
    for left, right in zip(got.gradients, expected, strict=True):
        torch.testing.assert_close(left, right, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("poison", [float("nan"), float("inf"), 1e30])
def test_a_poisonous_record_contributes_nothing_to_the_sum(engine, poison):
    torch.manual_seed(0)
    net, x = Flow(), torch.randn(5, 4)
    attached = make_engine(engine, net)
    clean = attached.clipped_sum(net, x[:4], 1.0)
    x[4] = poison
    dirty = attached.clipped_sum(net, x, 1.0)
    attached.close()
    for left, right in zip(dirty.gradients, clean.gradients, strict=True):
        torch.testing.assert_close(left, right, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("engine", ENGINES)
def test_one_record_moves_the_sum_by_at_most_the_clip(engine):
    torch.manual_seed(1)
    net, x = Flow(), torch.randn(9, 4) * 30
    attached = make_engine(engine, net)
    whole = attached.clipped_sum(net, x, 0.5).gradients
    less = attached.clipped_sum(net, x[:-1], 0.5).gradients
    attached.close()
    moved = torch.sqrt(sum((a - b).square().sum() for a, b in zip(whole, less, strict=True)))
    assert 0.49 < float(moved) <= 0.5 * (1 + 1e-5)


@pytest.mark.parametrize("engine", ENGINES)
def test_masked_entries_have_no_gradient(engine):
    torch.manual_seed(0)
    net, x = Made(), torch.randn(5, 5)
    attached = make_engine(engine, net)
    gradients = attached.clipped_sum(net, x, 1.0).gradients
    attached.close()
    masked = [layer for layer in net.modules() if isinstance(layer, MaskedLinear)]
    by_parameter = dict(zip([id(p) for p in net.parameters()], gradients, strict=True))
    assert masked
    for layer in masked:
        assert torch.equal(by_parameter[id(layer.weight)] * (1 - layer.mask), torch.zeros_like(layer.weight))


def test_the_network_is_an_ordinary_module_after_the_engine_closes():
    net, x = Made(), torch.randn(3, 5)
    before = net(x)
    for name in ENGINES:
        attached = make_engine(name, net)
        attached.clipped_sum(net, x, 1.0)
        attached.close()
    net(x).sum().backward()
    assert torch.equal(net(x), before)
    assert all(p.requires_grad and p.grad is not None for p in net.parameters())


@pytest.mark.parametrize(
    "layer", [nn.BatchNorm1d(3), nn.InstanceNorm1d(3, track_running_stats=True), nn.Bilinear(3, 3, 3)]
)
@pytest.mark.parametrize("engine", ENGINES)
def test_layers_that_mix_examples_or_have_no_rule_are_refused(engine, layer):
    with pytest.raises(PrivacyError):
        make_engine(engine, nn.Sequential(nn.Linear(3, 3), layer))


def test_tied_weights_are_refused():
    first, second = nn.Linear(3, 3), nn.Linear(3, 3)
    second.weight = first.weight
    with pytest.raises(PrivacyError, match="shares a parameter"):
        make_engine("ghost", nn.Sequential(first, second))


def test_an_unknown_engine_is_named_with_a_suggestion():
    with pytest.raises(ConfigError, match="Did you mean 'ghost'"):
        make_engine("ghots", nn.Linear(1, 1))


@pytest.mark.parametrize(
    "layer", [nn.Dropout(0.5), nn.Embedding(3, 3, max_norm=1.0)], ids=["dropout", "renormalised embedding"]
)
def test_layers_that_draw_or_rewrite_themselves_are_refused(layer):
    with pytest.raises(PrivacyError):
        make_engine("ghost", nn.Sequential(nn.Linear(3, 3), layer))


def test_an_input_without_the_examples_in_front_is_refused():
    embedding = nn.Embedding(9, 2)

    def loss(x):
        return (x.unsqueeze(2) * embedding(torch.arange(9))).sum((1, 2))

    with pytest.raises(PrivacyError, match="first dimension"):
        make_engine("ghost", embedding).clipped_sum(loss, torch.randn(4, 9), 1.0)


@pytest.mark.parametrize("engine", ENGINES)
def test_large_cancelling_activations_are_still_clipped(engine):
    """Norms by products of Gram matrices lose all digits in float32 here."""
    torch.manual_seed(0)
    layer = nn.Linear(6, 6)
    x = 1e3 + 1e-2 * torch.randn(3, 16, 6)

    def loss(batch):
        out = layer(batch)
        return (out - out.mean(1, keepdim=True)).square().sum((1, 2))

    attached = make_engine(engine, layer)
    gradients = attached.clipped_sum(loss, x[:1], 1.0).gradients
    attached.close()
    assert float(torch.sqrt(sum(g.square().sum() for g in gradients))) <= 1.01


def test_a_layer_that_sees_other_rows_is_refused_without_the_size_of_the_batch():
    with pytest.raises(PrivacyError, match="another number of rows") as caught:
        engines._check_rows(torch.nn.Linear(2, 2), torch.zeros(7, 2), torch.zeros(7, 2), 53)
    assert not any(digit in str(caught.value) for digit in "573")
