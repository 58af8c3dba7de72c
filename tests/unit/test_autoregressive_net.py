"""The autoregressive network: who sees whom, likelihoods, sizes, and per-example gradients."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import nn

from dpforge.nets.autoregressive import AutoregressiveNet, embedding_width, regressor_widths
from dpforge.nets.masked import MaskedLinear
from dpforge.privacy.engines import make_engine

SIZES = (3, 2, 5, 2, 4, 3)
COLUMNS = (0, 1, 1, 2, 3, 3)
ADULT = (74, 9, 100, 16, 16, 7, 15, 6, 5, 2, 33, 33, 99, 42, 2)
ORDERS = [(0, 1, 2, 3), (3, 2, 1, 0), (2, 0, 3, 1)]
PRESETS = [None, "S", "M", "L"]


def network(sizes=SIZES, columns=COLUMNS, order=None, size=None, direct=True, seed=0, scale=1.0):
    """A network with random masses, basis and weights, so that nothing is zero by accident."""
    torch.manual_seed(seed)
    masses = [torch.from_numpy(np.random.default_rng(seed).dirichlet(np.full(k, 3.0))) for k in sizes]
    basis = [torch.eye(k) - mass.float() for k, mass in zip(sizes, masses, strict=True)]
    order = list(range(max(columns) + 1)) if order is None else order
    net = AutoregressiveNet(columns, masses, basis, basis, order, direct=direct, size=size)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.normal_().mul_(scale)
    return net


def codes_of(net, rows, seed=0, absent=False):
    rng = np.random.default_rng(seed)
    codes = np.stack([rng.integers(0, k + absent, rows) for k in net.sizes], axis=1)
    return torch.from_numpy(codes)


def seen(net):
    """By perturbation: the pairs (s, t) such that another code of s changes a logit of t."""
    codes = codes_of(net, 200)
    base, found = net.logits(codes), set()
    for s, size in enumerate(net.sizes):
        other = codes.clone()
        other[:, s] = (other[:, s] + 1) % size
        changed = net.logits(other)
        found |= {(s, t) for t in range(len(net.sizes)) if not torch.equal(base[t], changed[t])}
    return found


def predecessors(columns, order):
    """By definition: parts of earlier columns, and earlier parts of the own column."""
    rank = [order.index(column) for column in columns]
    pairs = itertools.permutations(range(len(columns)), 2)
    return {(s, t) for s, t in pairs if rank[s] < rank[t] or (columns[s] == columns[t] and s < t)}


@pytest.mark.parametrize("size", PRESETS)
@pytest.mark.parametrize("order", ORDERS)
def test_every_sub_column_sees_exactly_its_predecessors(size, order):
    assert seen(network(order=order, size=size)) == predecessors(COLUMNS, list(order))


@pytest.mark.parametrize("size", [None, "M"])
def test_another_order_changes_who_sees_whom_and_back_again(size):
    net = network(size=size)
    before = net.logits(codes_of(net, 5))
    for order in ORDERS[1:]:
        net.set_order(order)
        assert seen(net) == predecessors(COLUMNS, list(order))
        assert [COLUMNS[s] for s in net.steps] == [c for column in order for c in COLUMNS if c == column]
    net.set_order(ORDERS[0])
    assert all(torch.equal(a, b) for a, b in zip(before, net.logits(codes_of(net, 5)), strict=True))


def test_a_mask_that_lets_a_sub_column_see_itself_would_be_noticed(monkeypatch):
    honest = AutoregressiveNet._mask

    def off_by_one(self, layer, outgoing, incoming):
        honest(self, layer, outgoing, incoming)
        blocks = [torch.ones(o, i) for o, i in zip(outgoing, incoming, strict=True)]
        mask = torch.clamp(layer.mask + torch.block_diag(*blocks), max=1)
        layer.set_mask(mask, layer.mask_factors)

    monkeypatch.setattr(AutoregressiveNet, "_mask", off_by_one)
    net = network()
    assert seen(net) != predecessors(COLUMNS, [0, 1, 2, 3])
    assert total_probability(net) != pytest.approx(1, abs=1e-3)


def test_the_factors_of_a_mask_multiply_to_the_mask():
    net = network(size="M", order=ORDERS[2])
    for layer in (net.direct, net.regressor):
        outgoing, incoming = layer.mask_factors
        assert torch.equal(outgoing.T @ incoming, layer.mask)


def total_probability(net):
    cells = torch.tensor(list(itertools.product(*(range(k) for k in net.sizes))))
    with torch.no_grad():
        return float(net.log_probs(cells).double().sum(1).exp().sum())


@pytest.mark.parametrize("size", PRESETS)
@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_probabilities_of_all_cells_sum_to_one(size, order):
    assert total_probability(network((2, 3, 2), (0, 1, 2), order, size)) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("size", PRESETS)
def test_one_column_has_the_same_logits_in_every_row(size):
    net = network((4,), (0,), size=size)
    (logits,) = net.logits(torch.arange(4)[:, None])
    assert torch.equal(logits, logits[:1].expand(4, -1))


@pytest.mark.parametrize("size", [None, "M"])
def test_at_zero_weights_the_network_is_the_independent_model(size):
    net = network(size=size, scale=0.0)
    for logits, mass in zip(net.logits(codes_of(net, 7)), net.masses, strict=True):
        np.testing.assert_allclose(torch.softmax(logits, 1).detach(), mass.expand(7, -1), rtol=1e-5)


def test_a_fresh_network_of_direct_connections_is_the_independent_model():
    masses = [torch.tensor([0.2, 0.8]), torch.tensor([0.5, 0.3, 0.2])]
    basis = [torch.eye(2), torch.eye(3)]
    net = AutoregressiveNet([0, 1], masses, basis, basis, [0, 1])
    for logits, mass in zip(net.logits(codes_of(net, 4)), masses, strict=True):
        np.testing.assert_allclose(torch.softmax(logits, 1).detach(), mass.expand(4, -1), rtol=1e-6)


@pytest.mark.parametrize("size", PRESETS)
@pytest.mark.parametrize("order", ORDERS)
def test_rows_filled_step_by_step_have_the_logits_of_whole_rows(size, order):
    net = network(order=order, size=size)
    codes = codes_of(net, 50, absent=True)
    whole, prefix = net.logits(codes), net.begin(50)
    with torch.no_grad():
        for sub in net.steps:
            torch.testing.assert_close(prefix.logits(sub), whole[sub], rtol=1e-4, atol=1e-4)
            prefix.fill(sub, codes[:, sub])


@pytest.mark.parametrize("size", [None, "M"])
def test_a_code_that_is_not_there_is_no_input_and_has_no_loss(size):
    net = network(size=size)  # the weights are random everywhere, as DP noise leaves them
    codes = codes_of(net, 20)
    codes[:, 2] = net.sizes[2]
    assert not net.log_probs(codes)[:, 2].any()
    later = net.logits(codes)[4]
    silent = network(size=size)
    with torch.no_grad():
        silent.inputs[2].zero_()
        if silent.embeddings is not None:
            silent.embeddings[2].weight.zero_()
    torch.testing.assert_close(later, silent.logits(codes)[4])
    prefix = net.begin(20)
    with torch.no_grad():
        for sub in range(4):
            prefix.fill(sub, codes[:, sub])
        torch.testing.assert_close(prefix.logits(4), later, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("size", [None, "M"])
def test_a_code_that_is_not_there_moves_no_parameter_of_its_own(size):
    net = network(size=size)
    codes = codes_of(net, 20)
    codes[:, 5] = net.sizes[5]  # the last sub-column: nothing can see it, and it has no loss
    net.log_probs(codes).sum().backward()
    assert net.direct.bias.grad[-net.sizes[5] :].abs().sum() == 0
    if size is not None:
        assert all(not p.grad.any() for p in net.heads[5].parameters())
        assert not net.embeddings[5].weight.grad.any()


# ---- sizes


def count(net):
    """Parameters of the published form: rows of codes that are not there are this project's own."""
    absent = sum(layer.embedding_dim for layer in net.embeddings)
    return sum(p.numel() for p in net.parameters()) - absent


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [((2, 5, 42, 100), (5662, 18438, 37474)), (ADULT, (33346, 121720, 305034))],
)
def test_parameter_counts_are_those_of_the_published_networks(sizes, expected):
    for preset, number in zip("SML", expected, strict=True):
        net = network(sizes, range(len(sizes)), size=preset, direct=False)
        assert count(net) == number
        idle = int((net.regressor.mask == 0).sum())
        net.set_order(list(reversed(range(len(sizes)))))
        assert int((net.regressor.mask == 0).sum()) + idle == net.regressor.weight.numel() + sum(
            h * e for h, e in zip(net.hidden, net.embedded, strict=True)
        )


def test_widths_follow_the_published_formulas_at_small_sizes():
    assert [embedding_width(k, "M") for k in (1, 9, 100, 100_000)] == [1, 9, 12, 54]
    assert regressor_widths(1, 1, 100, "S") == [4]
    assert regressor_widths(1, 1, 1, "L") == [16, 16]
    assert regressor_widths(100, 12, 54, "L") == [64, 80]


# ---- per-example gradients


def materialised(net, codes, clip):
    """Clipped sum of gradients that autograd gives one row at a time."""
    total = [torch.zeros_like(p) for p in net.parameters()]
    for row in codes:
        loss = -net.log_probs(row[None]).sum()
        own = torch.autograd.grad(loss, list(net.parameters()), allow_unused=True)
        own = [torch.zeros_like(p) if g is None else g for g, p in zip(own, net.parameters(), strict=True)]
        norm = torch.sqrt(sum(g.double().square().sum() for g in own))
        for addend, gradient in zip(total, own, strict=True):
            addend += gradient * min(1.0, clip / float(norm))
    return total


@pytest.mark.parametrize("size", PRESETS)
@pytest.mark.parametrize("absent", [False, True])
@pytest.mark.parametrize("clip", [0.05, 1e3])
def test_ghost_and_hook_gradients_equal_gradients_row_by_row(size, absent, clip):
    net = network(size=size, scale=0.4)
    for order in ORDERS[:2]:
        net.set_order(order)
        codes = codes_of(net, 12, seed=1, absent=absent)
        expected = materialised(net, codes, clip)
        for name in ("ghost", "hooks"):
            engine = make_engine(name, net)
            batch = (codes,)
            found = engine.clipped_sum(lambda b: -net.log_probs(b[0]).sum(1), batch, clip).gradients
            engine.close()
            for a, b in zip(found, expected, strict=True):
                torch.testing.assert_close(a, b, rtol=1e-4, atol=2e-5 * max(clip, 1) ** 0.5)


@pytest.mark.parametrize("name", ["ghost", "hooks"])
def test_an_open_engine_follows_a_change_of_order(name):
    net = network(size="M", scale=0.4)
    codes, engine, found = codes_of(net, 9), make_engine(name, net), []
    for order in ORDERS:
        net.set_order(order)
        sums = engine.clipped_sum(lambda b: -net.log_probs(b[0]).sum(1), (codes,), 0.1)
        found.append([g.clone() for g in sums.gradients])
    engine.close()
    for order, gradients in zip(ORDERS, found, strict=True):
        net.set_order(order)
        for a, b in zip(gradients, materialised(net, codes, 0.1), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("size", PRESETS)
def test_the_loss_of_a_row_does_not_depend_on_the_rows_beside_it(size):
    net = network(size=size).double()
    codes = codes_of(net, 30, absent=True)
    together = net.log_probs(codes)
    alone = torch.cat([net.log_probs(codes[i : i + 1]) for i in range(30)])
    torch.testing.assert_close(together, alone)


def test_dropout_masks_multiply_the_embeddings_of_their_own_row():
    net = network(size="M", direct=False)
    codes = codes_of(net, 6)
    keep = torch.ones(6, sum(net.embedded))
    keep[0] = 0
    plain, dropped = net.logits(codes), net.logits(codes, keep)
    assert all(torch.equal(a[1:], b[1:]) for a, b in zip(plain, dropped, strict=True))
    assert any(not torch.equal(a[0], b[0]) for a, b in zip(plain, dropped, strict=True))


def test_no_layer_keeps_state_between_rows():
    kinds = {type(m) for m in network(size="L").modules()}
    known = {AutoregressiveNet, MaskedLinear, nn.Linear, nn.Embedding, nn.ReLU, nn.Sequential, nn.ModuleList}
    assert kinds <= known
