"""The gradient penalty inside a record's clipped loss, and a loss scaled by pairs of fakes."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from contract.harness import KEY, Record, Replay
from torch import nn

from dpforge.data import ImageDataset, Images, ImageSchema
from dpforge.errors import ConfigError, Interrupted
from dpforge.generators import gan_module, gan_penalty
from dpforge.generators.base import RunContext, Runtime
from dpforge.generators.dpwgan import DPWGAN
from dpforge.generators.gan_module import GANModule, score
from dpforge.generators.gan_penalty import CriticTwin, slope_penalty
from dpforge.nets.gan import categorical_mlp, conv_critic
from dpforge.privacy.engines import ENGINES, make_engine
from dpforge.privacy.ledger import Ledger
from dpforge.privacy.rng import KeyedRandom
from dpforge.privacy.spec import PrivacySpec

CRITICS = {
    "categorical_mlp": (lambda: categorical_mlp(3, [6, 5], [3, 4])[1], (7,), 0),
    "conv8": (lambda: conv_critic(8, 1, 3, width=4), (1, 8, 8), 3),
}
RATES = {"critic_learning_rate": 1e-3, "generator_learning_rate": 1e-3, "optimizer": "rmsprop"}
PENALTY = {"loss": "wasserstein", "loss_scale": 1.0, "constraint": "none", "penalty": "gradient"}


def module_of(critic, classes, clip=1.0, **changes):
    chosen = DPWGAN(**(RATES | PENALTY | {"n_critics": 2} | changes)).training_settings(8, 6)
    mass = np.full(classes, 1 / classes) if classes else None
    random = KeyedRandom("entropy", KEY)
    return GANModule(nn.Linear(2, 2), critic, lambda n: torch.randn(n, 2), chosen, random, mass, clip=clip)


def prepared(name, rows=5, **changes):
    torch.manual_seed(0)
    make, shape, classes = CRITICS[name]
    module = module_of(make(), classes, **changes)
    module._pool = torch.randn(module._per_class * max(classes, 1), *shape)
    labels = torch.randint(0, classes, (rows,)) if classes else None
    return module, (torch.randn(rows, *shape), *module.companions(rows, labels, 0))


def gradient_of(loss, net):
    weights = list(net.parameters())
    found = torch.autograd.grad(loss, weights, allow_unused=True)
    pairs = zip(weights, found, strict=True)
    return torch.cat([(torch.zeros_like(w) if g is None else g).flatten() for w, g in pairs])


@pytest.mark.parametrize("name", CRITICS)
def test_the_penalty_has_value_and_gradient_of_differentiating_twice(name, monkeypatch):
    # So short that no kink lies within it.
    monkeypatch.setattr(gan_penalty, "STEP", 1e-6)
    torch.manual_seed(1)
    make, shape, classes = CRITICS[name]
    net = make().double()
    points, labels = torch.randn(6, *shape).double(), torch.randint(0, classes, (6,)) if classes else None
    inputs = points.clone().requires_grad_()
    (slopes,) = torch.autograd.grad(score(net, inputs, labels).sum(), inputs, create_graph=True)
    twice = (slopes.flatten(1).norm(dim=1) - 1).square()
    ours = slope_penalty(net, CriticTwin(net, torch.device("cpu")), points, labels, score)
    torch.testing.assert_close(ours, twice, rtol=1e-5, atol=1e-7)
    expected, got = gradient_of(twice.sum(), net), gradient_of(ours.sum(), net)
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", CRITICS)
def test_a_pair_and_its_penalty_are_clipped_as_one(name, engine):
    module, batch = prepared(name)
    singles = [
        gradient_of(module.per_example_loss(tuple(t[row : row + 1] for t in batch)).sum(), module.critic)
        for row in range(5)
    ]
    clip = float(torch.stack([g.norm() for g in singles]).median())
    expected = torch.stack([g * min(1.0, clip / float(g.norm())) for g in singles]).sum(0)
    attached = make_engine(engine, module.critic)
    found = attached.clipped_sum(module.per_example_loss, batch, clip).gradients
    attached.close()
    used = torch.cat([g.flatten() for g in found])
    torch.testing.assert_close(used, expected, rtol=1e-3, atol=1e-4 * clip)


def test_mixing_weights_are_uniform_and_stay_when_another_record_goes():
    module = module_of(nn.Linear(2, 1), 0)
    mixes, fewer = (module.companions(rows, None, 3)[-1] for rows in (4000, 3999))
    assert torch.equal(mixes[:-1], fewer)
    assert float(mixes.min()) >= 0
    assert float(mixes.max()) < 1
    assert float(mixes.mean()) == pytest.approx(0.5, abs=0.02)
    assert not torch.equal(mixes, module.companions(4000, None, 4)[-1])


def test_the_penalty_brings_the_slope_of_a_linear_critic_to_one():
    net = nn.Linear(3, 1)
    with torch.no_grad():
        net.weight.copy_(torch.tensor([[3.0, 0.0, 4.0]]))
    twin = CriticTwin(net, torch.device("cpu"))
    found = slope_penalty(net, twin, torch.randn(4, 3), None, score)
    torch.testing.assert_close(found, torch.full((4,), 16.0), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", CRITICS)
def test_the_fake_median_scale_gives_half_of_the_pairs_of_fakes_a_longer_gradient_than_the_norm(
    name, monkeypatch
):
    monkeypatch.setattr(gan_module, "SCALE_PAIRS", 400)
    make, shape, classes = CRITICS[name]
    torch.manual_seed(0)
    module = module_of(make(), classes, clip=0.7, penalty="none", loss_scale="fake_median")
    generator = nn.Sequential(nn.Linear(2 + classes, int(np.prod(shape))), nn.Unflatten(1, shape))
    net = _WithLabels(generator, classes) if classes else generator
    module._public = (net, None)
    module.before_step(0)
    rng = np.random.default_rng(0)
    first = torch.from_numpy(rng.integers(0, len(module._pool), 200))
    labels = first // module._per_class if classes else None
    batch = (module._pool[first], *module.companions(200, labels, 7))
    norms = [
        float(gradient_of(module.per_example_loss(tuple(t[i : i + 1] for t in batch)).sum(), module.critic)
              .norm())
        for i in range(200)
    ]  # fmt: skip
    assert np.median(norms) == pytest.approx(0.7, rel=0.15)


class _WithLabels(nn.Module):
    def __init__(self, net, classes):
        super().__init__()
        self.net, self.classes = net, classes

    def forward(self, noise, labels):
        return self.net(torch.cat([noise, nn.functional.one_hot(labels, self.classes).float()], 1))


MODEL = DPWGAN(steps=6, sampling_rate=0.4, width=4, noise_dim=5, n_critics=2, ema=0.5)
VARIANTS = {
    "penalty": dataclasses.replace(MODEL, penalty="gradient", loss="wasserstein"),
    "fake_median": dataclasses.replace(MODEL, loss_scale="fake_median"),
}
SPEC = PrivacySpec(target_epsilon=None, noise_multiplier=1.0, max_grad_norm=0.5)


def image_data(rows=40):
    rng = np.random.default_rng(0)
    images = Images(rng.integers(0, 256, (rows, 8, 8, 1), dtype=np.uint8), rng.integers(0, 2, rows))
    return ImageDataset(
        ImageSchema("tiny", 40, 8, 8, 1, ("a", "b")), images, images.head(0), None, False, "x"
    )


def fit(model, data, folder, replay=None, stopping=None):
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "ledger.jsonl"
    plan = model.plan(data.schema, SPEC)
    ledger = Ledger.open(path) if path.exists() else Ledger.create(path, plan, {"rng": SPEC.rng})
    seen, random = [], KeyedRandom("entropy", KEY)
    parts = (ledger, random, [seen.append])
    access = Record(*parts) if replay is None else Replay(*parts, replay)
    options = {} if stopping is None else {"stopping": stopping}
    fitted = model.fit(data, RunContext(access, SPEC, Runtime(checkpoint_every=2), 0, folder, **options))
    return fitted, seen, access


@pytest.mark.parametrize("name", VARIANTS)
def test_removing_one_image_moves_no_sum_by_more_than_the_clipping_norm(name, tmp_path):
    data = image_data()
    data.train.pixels[-1] = 255
    _, whole, access = fit(VARIANTS[name], data, tmp_path / "whole")
    less = dataclasses.replace(data, train=data.train.head(39))
    _, other, _ = fit(VARIANTS[name], less, tmp_path / "less", replay=access.outputs)
    moved = [a.distance(b) for a, b in zip(whole, other, strict=True)]
    assert 0 < max(moved) <= SPEC.max_grad_norm * (1 + 1e-5)


@pytest.mark.parametrize("name", VARIANTS)
def test_a_resumed_training_goes_on_with_the_same_scale_and_twin(name, tmp_path, monkeypatch):
    monkeypatch.setattr(gan_module, "SCALE_EVERY", 4)
    data, calls = image_data(), []
    straight = fit(VARIANTS[name], data, tmp_path / "straight")[0]
    with pytest.raises(Interrupted):
        fit(VARIANTS[name], data, tmp_path / "stop", stopping=lambda: len(calls) == 3 or calls.append(1))
    resumed = fit(VARIANTS[name], data, tmp_path / "stop")[0]
    for key, tensor in straight.net.state_dict().items():
        assert torch.equal(tensor, resumed.net.state_dict()[key]), key


def test_penalty_and_scale_change_nothing_about_epsilon():
    schema = image_data().schema
    assert len({MODEL.plan(schema, SPEC), *(m.plan(schema, SPEC) for m in VARIANTS.values())}) == 1


@pytest.mark.parametrize(("settings", "text"), [
    ({"penalty": "gradent"}, "Did you mean 'gradient'"),
    ({"penalty_weight": 0}, "penalty_weight=0"),
    ({"loss_scale": "fake_medium"}, "Did you mean 'fake_median'"),
    ({"loss_scale": -1.0}, "loss_scale=-1.0"),
    ({"mode": "upstream", "penalty": "gradient"}, "upstream has no penalty"),
])  # fmt: skip
def test_a_wrong_penalty_or_scale_is_named_with_what_was_expected(settings, text):
    with pytest.raises(ConfigError, match=text):
        DPWGAN(**settings)


def test_a_penalty_leaves_the_weights_free_unless_a_constraint_is_asked_for():
    schema = image_data().schema
    assert DPWGAN(loss="wasserstein").resolved(schema).constraint == "clamp"
    assert DPWGAN(loss="wasserstein", penalty="gradient").resolved(schema).constraint == "none"
    asked = DPWGAN(loss="wasserstein", penalty="gradient", constraint="spectral")
    assert asked.resolved(schema).constraint == "spectral"
