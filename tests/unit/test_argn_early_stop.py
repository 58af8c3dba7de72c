"""Early stopping compares networks under the same orders every time."""

from __future__ import annotations

import torch

from dpforge.generators.argn_model import HELD_ORDERS, ARGNModule, EarlyStop
from dpforge.generators.optimization import Optimization
from dpforge.nets.autoregressive import AutoregressiveNet
from dpforge.privacy.rng import public_random

COLUMNS = 4


def module() -> ARGNModule:
    torch.manual_seed(0)
    masses, tables = [torch.full((3,), 1 / 3)] * COLUMNS, [torch.eye(3) - 1 / 3] * COLUMNS
    net = AutoregressiveNet(range(COLUMNS), masses, tables, tables, range(COLUMNS))
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.normal_()
    codes = torch.randint(0, 3, (50, COLUMNS))
    settings = Optimization(0.01, 0.0, lr_decay=False, ema=0.0, steps=10)
    return ARGNModule(net, settings, torch.ones(COLUMNS), public_random(1), EarlyStop(codes, 2, 1))


def test_the_held_out_loss_does_not_depend_on_the_order_of_the_last_step():
    stopping = module()
    losses = []
    for step in (0, 1, 2):
        stopping.before_step(step)
        stopping.course[0] = torch.inf
        stopping.after_step(step)
        losses.append(float(stopping.course[0]))
    assert losses[0] == losses[1] == losses[2]


def test_a_comparison_uses_several_orders_and_leaves_the_order_of_the_step():
    stopping = module()
    stopping.before_step(5)
    before = list(stopping.net.order)
    used = [tuple(stopping.net.order) for _ in stopping._fixed_orders()]
    assert len(used) == HELD_ORDERS
    assert len(set(used)) > 1
    assert stopping.net.order == before
