"""The callback: what it refuses, and that one step is the textbook step."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace

import lightning as L
import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from dpforge.errors import ConfigError, PrivacyError
from dpforge.generators.base import RunContext, Runtime
from dpforge.generators.training import TrainingData, train
from dpforge.privacy.batches import PoissonSteps, microbatches
from dpforge.privacy.dpsgd import DPSGDCallback, PrivateModule
from dpforge.privacy.events import Gaussian, PoissonSampled
from dpforge.privacy.ledger import Ledger
from dpforge.privacy.mechanisms import PrivateAccess
from dpforge.privacy.plan import Piece, Plan
from dpforge.privacy.rng import KeyedRandom, public_random
from dpforge.privacy.sampling import PoissonSampler
from dpforge.privacy.spec import PrivacySpec

RATE, SIGMA, CLIP = 0.25, 1.5, 0.7
RANDOM = KeyedRandom("entropy", bytes(range(32)))


class Regression(PrivateModule):
    def __init__(self, extra=False):
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Linear(3, 1)
        if extra:
            self.head = nn.Linear(1, 1)

    def per_example_loss(self, batch):
        return (self.net(batch[0]).squeeze(1) - batch[1]).square()

    def private_net(self):
        return self.net

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def rows(count=40):
    rng = np.random.default_rng(0)
    return torch.from_numpy(rng.normal(size=(count, 3)).astype("float32")), torch.ones(count)


def access_to(tmp_path, steps, sensitivity=CLIP):
    event = PoissonSampled(RATE, Gaussian(SIGMA))
    plan = Plan((Piece("train", "dp_sgd", event, steps, sensitivity, ""),), 1e-5)
    return PrivateAccess(Ledger.create(tmp_path / "ledger.jsonl", plan, {"rng": "entropy"}), RANDOM)


def context(tmp_path, steps, **runtime):
    spec = PrivacySpec(max_grad_norm=CLIP)
    return RunContext(access_to(tmp_path, steps), spec, Runtime(**runtime), 0, tmp_path)


def data(count=40, units=None):
    x, y = rows(count)
    return TrainingData(lambda r, step: (x[r], y[r]), count, units)


def textbook_step(module, step, count=40, normalizer=10.0, clip=CLIP, units=None):
    """One step of algorithm 1 of Abadi et al., one record at a time."""
    x, y = rows(count)
    total = [torch.zeros_like(p) for p in module.net.parameters()]
    chosen = PoissonSampler(count if units is None else len(set(units)), RATE, RANDOM, "train").sample(step)
    indices = chosen if units is None else [i for i, u in enumerate(units) if u in set(chosen)]
    for i in indices:
        loss = module.per_example_loss((x[i : i + 1], y[i : i + 1])).sum()
        gradients = torch.autograd.grad(loss, list(module.net.parameters()))
        norm = torch.sqrt(sum(g.square().sum() for g in gradients))
        for t, g in zip(total, gradients, strict=True):
            t += g * min(1.0, clip / float(norm))
    noise = RANDOM.normal("train/noise", step, sum(t.numel() for t in total)) * SIGMA * CLIP
    parts = noise.split([t.numel() for t in total])
    with torch.no_grad():
        for p, t, z in zip(module.net.parameters(), total, parts, strict=True):
            p -= 0.1 * (t + z.view_as(t)) / normalizer


@pytest.mark.parametrize("engine", ["ghost", "hooks"])
@pytest.mark.parametrize("microbatch", [None, 3])
def test_training_is_the_textbook_algorithm(tmp_path, engine, microbatch):
    trained, expected = Regression(), Regression()
    run = context(tmp_path, 5, engine=engine, microbatch=microbatch)
    train(trained, data(), run, sampling_rate=RATE, steps=5, expected_rows=10.0)
    for step in range(5):
        textbook_step(expected, step)
    for left, right in zip(trained.net.parameters(), expected.net.parameters(), strict=True):
        torch.testing.assert_close(left, right, rtol=1e-4, atol=1e-6)


def test_rows_of_one_user_share_one_clip(tmp_path):
    units = np.repeat(np.arange(20), 2)
    trained, expected = Regression(), Regression()
    run = context(tmp_path, 3)
    train(trained, data(units=units), run, sampling_rate=RATE, steps=3, expected_rows=10.0, row_limit=2)
    for step in range(3):
        textbook_step(expected, step, clip=CLIP / 2, units=units.tolist())
    for left, right in zip(trained.net.parameters(), expected.net.parameters(), strict=True):
        torch.testing.assert_close(left, right, rtol=1e-4, atol=1e-6)


def test_an_empty_batch_is_a_noise_only_step(tmp_path):
    trained = Regression()
    before = [p.detach().clone() for p in trained.net.parameters()]
    train(trained, data(0), context(tmp_path, 2), sampling_rate=RATE, steps=2, expected_rows=10.0)
    assert all(bool((p != q).all()) for p, q in zip(trained.net.parameters(), before, strict=True))


def test_the_normaliser_is_public_and_not_the_batch_size(tmp_path):
    small, large = Regression(), Regression()
    train(small, data(), context(tmp_path / "a", 1), sampling_rate=RATE, steps=1, expected_rows=10.0)
    train(large, data(), context(tmp_path / "b", 1), sampling_rate=RATE, steps=1, expected_rows=1000.0)
    start = Regression().net.weight
    torch.testing.assert_close(
        (small.net.weight - start) / 100, large.net.weight - start, rtol=1e-3, atol=1e-6
    )


@pytest.fixture(autouse=True)
def _folders(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()


def start(module, callback, **options):
    sampler = PoissonSampler(40, RATE, RANDOM)
    steps = PoissonSteps(sampler, lambda i: i, data().gather, range(2))
    loader = options.pop("loader", DataLoader(steps, batch_size=None))
    trainer = L.Trainer(
        accelerator="cpu", max_steps=2, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, callbacks=[callback], **options,
    )  # fmt: skip
    trainer.fit(module, loader)


def callback(tmp_path, **options):
    defaults = {"normalizer": 10.0, "max_grad_norm": CLIP}
    return DPSGDCallback(access_to(tmp_path, 2), **{**defaults, **options})


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("options", [{"gradient_clip_val": 1.0}, {"accumulate_grad_batches": 2}])
def test_trainer_options_that_break_the_guarantee_are_refused(tmp_path, options):
    with pytest.raises((ConfigError, L.fabric.utilities.exceptions.MisconfigurationException)):
        start(Regression(), callback(tmp_path), **options)


@pytest.mark.filterwarnings("ignore")
def test_shuffled_batches_of_fixed_size_are_refused(tmp_path):
    x, y = rows()
    loader = DataLoader(torch.utils.data.TensorDataset(x, y), batch_size=10, shuffle=True)
    with pytest.raises(PrivacyError, match="Poisson"):
        start(Regression(), callback(tmp_path), loader=loader)


@pytest.mark.filterwarnings("ignore")
def test_a_sampler_at_another_rate_than_planned_is_refused(tmp_path):
    steps = PoissonSteps(PoissonSampler(40, 0.5, RANDOM), lambda i: i, data().gather, range(2))
    with pytest.raises(PrivacyError, match=r"the plan authorises 0\.25"):
        start(Regression(), callback(tmp_path), loader=DataLoader(steps, batch_size=None))


@pytest.mark.filterwarnings("ignore")
def test_a_sampler_with_another_key_than_the_noise_is_refused(tmp_path):
    steps = PoissonSteps(PoissonSampler(40, RATE, public_random(0)), lambda i: i, data().gather, range(2))
    cb = callback(tmp_path)
    with pytest.raises(PrivacyError, match="another key"):
        start(Regression(), cb, loader=DataLoader(steps, batch_size=None))
    assert cb.access.ledger.reserved("train") == 0


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("rows_per_unit", "refused"), [(1, True), (2, True), (3, False)])
def test_rows_of_a_user_clipped_as_if_they_were_apart_are_refused(rows_per_unit, refused, tmp_path):
    plan = access_to(tmp_path, 2).ledger.plan
    header = {"rng": "entropy", "unit": {"kind": "user", "column": "id", "max_rows": 3}}
    access = PrivateAccess(Ledger.create(tmp_path / "user.jsonl", replace(plan, unit="user"), header), RANDOM)
    cb = DPSGDCallback(access, normalizer=10.0, max_grad_norm=CLIP, rows_per_unit=rows_per_unit)
    with pytest.raises(PrivacyError, match="may have 3 rows") if refused else nullcontext():
        start(Regression(), cb)


@pytest.mark.filterwarnings("ignore")
def test_parameters_trained_outside_the_private_network_are_refused(tmp_path):
    with pytest.raises(PrivacyError, match="without noise"):
        start(Regression(extra=True), callback(tmp_path))


@pytest.mark.filterwarnings("ignore")
def test_a_clip_above_the_planned_sensitivity_is_refused(tmp_path):
    with pytest.raises(PrivacyError, match="declares sensitivity"):
        start(Regression(), callback(tmp_path, max_grad_norm=2 * CLIP))


@pytest.mark.filterwarnings("ignore")
def test_training_beyond_the_plan_stops_before_any_noise(tmp_path):
    module = Regression()
    access = access_to(tmp_path, 1)
    cb = DPSGDCallback(access, normalizer=10.0, max_grad_norm=CLIP)
    with pytest.raises(PrivacyError, match="authorises 1"):
        start(module, cb)


def test_microbatches_cover_every_row_once_and_an_empty_batch_has_none():
    x = torch.arange(10)
    assert torch.equal(torch.cat([part[0] for part in microbatches((x,), 3)]), x)
    assert list(microbatches((x[:0],), 3)) == []


@pytest.mark.filterwarnings("ignore")
def test_a_second_epoch_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="max_epochs"):
        start(Regression(), callback(tmp_path), max_epochs=3)


@pytest.mark.filterwarnings("ignore")
def test_a_frozen_layer_that_keeps_statistics_outside_the_private_network_is_refused(tmp_path):
    module = Regression()
    module.norm = nn.BatchNorm1d(3).requires_grad_(False)
    with pytest.raises(PrivacyError, match="mixes the examples"):
        start(module, callback(tmp_path))


def test_a_unit_with_more_rows_than_its_clip_accounts_for_is_refused(tmp_path):
    units = np.array([0] * 3 + [1] * 2)
    with pytest.raises(PrivacyError, match="more than the 2 rows"):
        train(
            Regression(), data(5, units), context(tmp_path, 1),
            sampling_rate=RATE, steps=1, expected_rows=1.0, row_limit=2,
        )  # fmt: skip


def test_rows_of_a_unit_that_are_apart_are_refused():
    with pytest.raises(PrivacyError, match="adjacent"):
        data(4, np.array([0, 1, 0, 1])).rows_of()
