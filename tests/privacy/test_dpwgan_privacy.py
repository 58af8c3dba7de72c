"""What makes the GAN private: paired clipping, critic steps in the ledger, pairing no record disturbs."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from contract.harness import KEY, Record, Replay
from scipy import stats
from torch import nn

from dpforge.data import ImageDataset, Images, ImageSchema
from dpforge.data.schema import Unit, schema_from_dict
from dpforge.errors import ConfigError, Interrupted
from dpforge.gan import DPWGAN as PythonGAN
from dpforge.generators.base import RunContext, Runtime
from dpforge.generators.dpwgan import DPWGAN
from dpforge.generators.gan_module import GANModule, scores
from dpforge.generators.gan_upstream import _add_broadcast_noise
from dpforge.nets.gan import categorical_mlp, conv_critic, conv_generator, resnet18_gn
from dpforge.privacy import norms
from dpforge.privacy.engines import ENGINES, GhostEngine, make_engine
from dpforge.privacy.ledger import Ledger
from dpforge.privacy.norms import EmbeddingRule, LinearRule
from dpforge.privacy.rng import KeyedRandom
from dpforge.privacy.spec import PrivacySpec

CRITICS = {
    "categorical_mlp": (lambda: categorical_mlp(3, [6, 5], [3, 4])[1], (7,), 0),
    "conv8": (lambda: conv_critic(8, 1, 3, width=4), (1, 8, 8), 3),
    "conv28": (lambda: conv_critic(28, 1, width=4), (1, 28, 28), 0),
    "resnet18_gn": (lambda: resnet18_gn(8, 1, 2), (1, 8, 8), 2),
}


def settings(loss="wasserstein", **changes):
    full = {
        "critic_learning_rate": 1e-3, "generator_learning_rate": 1e-3, "loss": loss, "loss_scale": 2.0,
        "constraint": "none", "optimizer": "rmsprop", "n_critics": 2,
    }  # fmt: skip
    return DPWGAN(**(full | changes)).training_settings(8, 6)


def module_of(critic, chosen, classes=0, generator=None):
    mass = np.full(classes, 1 / classes) if classes else None
    generator = generator or nn.Linear(2, 2)
    random = KeyedRandom("entropy", KEY)
    return GANModule(generator, critic, lambda n: torch.randn(n, 2), chosen, random, mass)


def paired(name, rows=5, loss="wasserstein"):
    """A module whose pool is fixed, with a batch of pairs."""
    torch.manual_seed(0)
    make, shape, classes = CRITICS[name]
    module = module_of(make(), settings(loss), classes)
    module._pool = torch.randn(8, *shape)
    batch = (torch.randn(rows, *shape), torch.randint(0, 8, (rows,)))
    return module, (*batch, torch.randint(0, classes, (rows,))) if classes else batch


def one_by_one(module, batch, clip):
    """Sum of clipped gradients of single pairs, by one backward pass each."""
    parameters = list(module.critic.parameters())
    total, found_norms = [torch.zeros_like(p) for p in parameters], []
    for row in range(len(batch[0])):
        single = tuple(tensor[row : row + 1] for tensor in batch)
        found = torch.autograd.grad(module.per_example_loss(single).sum(), parameters, allow_unused=True)
        found = [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, found, strict=True)]
        found_norms.append(math.sqrt(sum(float(g.square().sum()) for g in found)))
        scale = min(1.0, clip / found_norms[-1])
        total = [t + scale * g for t, g in zip(total, found, strict=True)]
    return total, found_norms


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", CRITICS)
def test_clipped_sums_of_pairs_equal_one_pair_at_a_time(name, engine):
    module, batch = paired(name, 3 if name == "resnet18_gn" else 5)
    clip = float(np.median(one_by_one(module, batch, 1.0)[1]))
    expected = one_by_one(module, batch, clip)[0]
    attached = make_engine(engine, module.critic)
    got = attached.clipped_sum(module.per_example_loss, batch, clip).gradients
    attached.close()
    for left, right in zip(got, expected, strict=True):
        torch.testing.assert_close(left, right, rtol=1e-4, atol=1e-5 * clip)


@pytest.mark.parametrize("engine", ENGINES)
def test_the_order_of_an_image_in_memory_changes_no_gradient(engine):
    module, batch = paired("conv8")
    wide = torch.randn(5, 4, 8, 8)
    with torch.no_grad():
        module.critic.layers[0] = nn.Conv2d(4, 4, 4, 2, 1)
    module._pool = torch.randn(8, 4, 8, 8)
    expected, _ = one_by_one(module, (wide, *batch[1:]), 0.5)
    attached = make_engine(engine, module.critic)
    turned = (wide.to(memory_format=torch.channels_last), *batch[1:])
    got = attached.clipped_sum(module.per_example_loss, turned, 0.5).gradients
    attached.close()
    for left, right in zip(got, expected, strict=True):
        torch.testing.assert_close(left, right, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("loss", ["wasserstein", "hinge", "logistic"])
def test_every_loss_has_one_gradient_a_pair(loss):
    module, batch = paired("conv8", loss=loss)
    expected, _ = one_by_one(module, batch, 0.5)
    got = GhostEngine(module.critic).clipped_sum(module.per_example_loss, batch, 0.5).gradients
    for left, right in zip(got, expected, strict=True):
        torch.testing.assert_close(left, right, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("products", [True, False])
@pytest.mark.parametrize("name", ["conv8", "categorical_mlp"])
def test_both_ways_to_a_norm_over_two_calls_agree_with_formed_gradients(name, products, monkeypatch):
    module, batch = paired(name)
    expected, _ = one_by_one(module, batch, 0.5)
    monkeypatch.setattr(norms, "_gram_is_cheaper", lambda a, g: products)
    sums = GhostEngine(module.critic).clipped_sum(module.per_example_loss, batch, 0.5)
    for left, right in zip(sums.gradients, expected, strict=True):
        torch.testing.assert_close(left, right, rtol=1e-4, atol=1e-5)


def test_a_wide_layer_called_twice_forms_no_gradient_of_a_single_record(monkeypatch):
    monkeypatch.setattr(LinearRule, "per_example", lambda *a: pytest.fail("a gradient was formed"))
    monkeypatch.setattr(EmbeddingRule, "per_example", lambda *a: pytest.fail("a gradient was formed"))
    critic = categorical_mlp(3, [64], [40, 40])[1]
    torch.manual_seed(0)
    wide, index = nn.Sequential(*list(critic)[:-1]), nn.Embedding(3, 64)

    class Critic(nn.Module):
        def __init__(self):
            super().__init__()
            self.wide, self.index = wide, index

        def forward(self, x, labels):
            return (self.wide(x) * self.index(labels)).sum(1)

    net, labels = Critic(), torch.randint(0, 3, (6,))
    first, second = torch.randn(6, 80), torch.randn(6, 80)
    sums = GhostEngine(net).clipped_sum(lambda b: net(b, labels) - net(second, labels), first, 1.0)
    assert all(bool(torch.isfinite(g).all()) for g in sums.gradients)


@pytest.mark.parametrize(("h", "v", "c", "bound"), [
    (20, 2, 0.05, 1.2649), (20, 4, 0.05, 1.5811), (10, 2, 0.1, 1.4832), (64, 10, 1.0, 91.92),
])  # fmt: skip
def test_the_bound_from_clamped_weights_holds_and_then_nothing_is_clipped(h, v, c, bound):
    torch.manual_seed(0)
    # A leak of 1 makes the critic linear, with the largest gradient the weights allow.
    critic = nn.Sequential(nn.Linear(3 * v, h), nn.LeakyReLU(1.0), nn.Linear(h, 1))
    with torch.no_grad():
        for parameter in critic.parameters():
            parameter.fill_(c)
    formula = math.sqrt(h * c**2 * v + h * c**2 + h * c**2 * (v + 1) ** 2 + 1)
    assert formula == pytest.approx(bound, abs=5e-3)
    x = nn.functional.one_hot(torch.randint(0, 3, (6, v)), 3).float().flatten(1)
    found = torch.autograd.grad(critic(x[:1]).sum(), list(critic.parameters()))
    norm = math.sqrt(sum(float(g.square().sum()) for g in found))
    assert 0.99 * formula <= norm <= formula * (1 + 1e-5)
    expected = torch.autograd.grad(critic(x).sum(), list(critic.parameters()))
    got = GhostEngine(critic).clipped_sum(lambda b: critic(b).squeeze(1), x, formula * 1.001).gradients
    for left, right in zip(got, expected, strict=True):
        torch.testing.assert_close(left, right, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("constraint", ["clamp", "spectral"])
def test_the_critic_is_constrained_before_its_first_step_and_after_each(constraint):
    torch.manual_seed(0)
    critic = nn.Sequential(nn.Linear(7, 30), nn.LeakyReLU(), nn.Linear(30, 1))
    module = module_of(critic, settings(constraint=constraint, weight_clip=0.05))

    def largest():
        if constraint == "clamp":
            return max(float(p.detach().abs().max()) for p in critic.parameters())
        matrices = [p for p in critic.parameters() if p.dim() > 1]
        return max(np.linalg.norm(p.detach().numpy(), 2) for p in matrices)

    assert largest() <= 0.05 * (1 + 1e-5)
    with torch.no_grad():
        for parameter in critic.parameters():
            parameter.add_(1.0)
    module.after_step(0)
    assert largest() <= 0.05 * (1 + 1e-5)


@pytest.mark.parametrize("classes", [0, 3])
def test_partners_are_uniform_in_the_class_and_stay_when_another_record_goes(classes):
    module = module_of(nn.Linear(2, 1), settings(), classes)
    labels = torch.randint(0, 3, (9000,)) if classes else None
    places = module.partners(9000, labels, 4)
    fewer = module.partners(8999, None if labels is None else labels[:-1], 4)
    assert torch.equal(places[:-1], fewer)
    size = module._per_class
    if labels is not None:
        assert torch.equal(places // size, labels)
    counts = np.bincount((places % size).numpy(), minlength=size)
    assert counts.size == size
    assert stats.chisquare(counts).pvalue > 1e-4
    assert not torch.equal(places, module.partners(9000, labels, 5))


def test_fakes_of_a_step_do_not_depend_on_the_records():
    module = module_of(nn.Linear(2, 1), settings())
    module.before_step(3)
    before = module._pool.clone()
    module.partners(100, None, 3)
    module.before_step(3)
    assert torch.equal(module._pool, before)
    module.before_step(4)
    assert not torch.equal(module._pool, before)


def test_the_original_noise_is_one_number_a_tensor():
    layer = nn.Linear(5, 1)
    for parameter in layer.parameters():
        parameter.grad = torch.zeros_like(parameter)
    _add_broadcast_noise(list(layer.parameters()), 1.0)
    assert layer.weight.grad is not None
    assert layer.weight.grad.unique().numel() == 1


def image_data(rows=40, classes=("a", "b"), **changes):
    rng = np.random.default_rng(0)
    images = Images(rng.integers(0, 256, (rows, 7, 6, 1), dtype=np.uint8), rng.integers(0, 2, rows))
    schema = dataclasses.replace(ImageSchema("tiny", 40, 7, 6, 1, classes), **changes)
    return ImageDataset(schema, images, images.head(0), None, False, "x")


SMALL = DPWGAN(
    steps=6, sampling_rate=0.4, width=4, noise_dim=5, n_critics=2, ema=0.5, class_prior="dp_counts"
)
SPEC = PrivacySpec(target_epsilon=None, noise_multiplier=1.0, max_grad_norm=0.5)


def fit(model, data, folder, *, spec=SPEC, replay=None, runtime=None, stopping=None):
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "ledger.jsonl"
    plan = model.plan(data.schema, spec)
    ledger = Ledger.open(path) if path.exists() else Ledger.create(path, plan, {"rng": spec.rng})
    seen, random = [], KeyedRandom("entropy", KEY)
    access = (
        Record(ledger, random, [seen.append])
        if replay is None
        else Replay(ledger, random, [seen.append], replay)
    )
    options = {} if stopping is None else {"stopping": stopping}
    run = RunContext(access, spec, runtime or Runtime(checkpoint_every=2), 0, folder, **options)
    return model.fit(data, run), seen, access, ledger


@pytest.mark.parametrize("pixel", [0, 255])
def test_removing_one_image_moves_counts_and_critic_sums_by_at_most_their_sensitivity(pixel, tmp_path):
    data = image_data()
    data.train.pixels[-1] = pixel
    _, whole, access, _ = fit(SMALL, data, tmp_path / "whole")
    less = dataclasses.replace(data, train=data.train.head(39))
    _, other, _, _ = fit(SMALL, less, tmp_path / "less", replay=access.outputs)
    assert [r.name for r in whole] == ["class_counts"] + ["train"] * 6
    moved = [a.distance(b) for a, b in zip(whole, other, strict=True)]
    assert all(d <= r.sensitivity * (1 + 1e-5) for d, r in zip(moved, whole, strict=True))
    assert moved[0] == 1.0
    assert max(moved[1:]) > 0


def test_the_ledger_counts_critic_steps_and_no_generator_step(tmp_path):
    _, _, _, ledger = fit(SMALL, image_data(), tmp_path)
    assert {p.name: ledger.reserved(p.name) for p in ledger.plan.pieces} == {"class_counts": 1, "train": 6}
    ledger.check_complete()


def test_critic_steps_a_generator_step_change_nothing_about_epsilon():
    data = image_data()
    plans = [dataclasses.replace(SMALL, n_critics=n).plan(data.schema, SPEC) for n in (1, 3)]
    assert plans[0] == plans[1]


def test_a_unit_with_more_rows_has_that_much_more_of_the_class_counts():
    user = image_data(unit=Unit("user", "person", 3)).schema
    assert SMALL.plan(user, SPEC).piece("class_counts").sensitivity == 3


@pytest.mark.parametrize("model", [
    SMALL, dataclasses.replace(SMALL, optimizer="adam", loss="logistic", adaptive_critics=True),
])  # fmt: skip
def test_a_stopped_and_resumed_training_ends_with_the_same_generator_bit_for_bit(model, tmp_path):
    data = image_data()
    straight = fit(model, data, tmp_path / "straight")[0]
    calls = []
    with pytest.raises(Interrupted):
        fit(model, data, tmp_path / "stopped", stopping=lambda: len(calls) == 3 or calls.append(1))
    resumed = fit(model, data, tmp_path / "stopped")[0]
    for name, tensor in straight.net.state_dict().items():
        assert torch.equal(tensor, resumed.net.state_dict()[name]), name


def test_a_microbatch_changes_nothing(tmp_path):
    data = image_data()
    _, whole, _, _ = fit(SMALL, data, tmp_path / "a")
    _, parts, _, _ = fit(SMALL, data, tmp_path / "b", runtime=Runtime(microbatch=3))
    np.testing.assert_allclose(parts[1].value, whole[1].value, atol=1e-5)


def schema_of(rows):
    values = {"provenance": "public", "values": ["a", "b", "c"]}
    columns = {name: {"kind": "categorical", "unseen": "drop", "categories": values} for name in ("x", "y")}
    return schema_from_dict({"schema_version": 1, "name": "t", "nominal_rows": rows, "columns": columns})


@pytest.mark.parametrize(("rows", "batch", "steps", "sigma", "delta", "epsilon", "rdp"), [
    (30_000, 128, 4685, 1.0, 1e-6, 1.7993, 2.0262), (30_000, 128, 4685, 0.790569, 1e-5, 2.6805, 3.1281),
    (20_000, 128, 3000, 1.0, 1e-6, 2.2303, None), (12_000, 64, 935, 1.0, 1e-5, 0.8977, 1.2374),
    (60_000, 256, 5000, 0.6, 1e-5, 6.6221, None), (32_561, 256, 2560, 2.0, 1e-5, 0.7896, None),
])  # fmt: skip
def test_epsilon_counts_critic_steps_as_published_tables_do(rows, batch, steps, sigma, delta, epsilon, rdp):
    model = DPWGAN(expected_batch_size=batch, steps=steps)
    spec = PrivacySpec(target_epsilon=None, noise_multiplier=sigma, delta=delta)
    plan = model.plan(schema_of(rows), spec)
    assert plan.epsilon() == pytest.approx(epsilon, abs=1e-3)
    if rdp is not None:
        assert plan.epsilon("rdp") == pytest.approx(rdp, abs=1e-3)


@pytest.mark.parametrize(("rows", "batch", "steps", "delta", "epsilon", "sigma"), [
    (1437, 72, 1000, 1e-4, 3.0, 2.0943),
])  # fmt: skip
def test_noise_is_calibrated_for_critic_steps(rows, batch, steps, delta, epsilon, sigma):
    plan = DPWGAN(expected_batch_size=batch, steps=steps).plan(
        schema_of(rows), PrivacySpec(target_epsilon=epsilon, delta=delta)
    )
    assert plan.piece("train").noise_multiplier == pytest.approx(sigma, abs=2e-3)


@pytest.mark.parametrize(("rows", "batch", "epochs", "steps"), [
    (30_000, 128, 20, 4685), (20_000, 128, 10, 1560), (12_000, 64, 5, 935),
])  # fmt: skip
def test_epochs_become_the_critic_steps_of_the_original_formula(rows, batch, epochs, steps):
    model = DPWGAN(expected_batch_size=batch, epochs=epochs, n_critics=5)
    assert model.critic_steps(schema_of(rows)) == steps


def test_the_upstream_arithmetic_has_no_epsilon_under_any_privacy():
    model = DPWGAN(mode="upstream", conditional=False)
    assert model.not_dp
    assert model.plan(schema_of(100), PrivacySpec(target_epsilon=1.0)).epsilon() == math.inf


def test_batch_norm_in_the_generator_is_trained_and_its_statistics_are_of_its_own_fakes(tmp_path):
    generator, critic = conv_generator(8, 1, 4, width=4), conv_critic(8, 1, width=4)
    model = DPWGAN(
        generator=generator, critic=critic, noise_dim=4, steps=2, sampling_rate=0.4, conditional=False
    )
    images = Images(np.zeros((9, 8, 8, 1), np.uint8), np.zeros(9, np.int64))
    data = ImageDataset(ImageSchema("tiny", 9, 8, 8, 1), images, images.head(0), None, False, "x")
    net = fit(model, data, tmp_path)[0].net
    layers = [layer for layer in net.modules() if isinstance(layer, nn.BatchNorm2d)]
    assert layers
    assert all(float(layer.running_mean.abs().max()) > 0 for layer in layers)


@pytest.mark.parametrize(("shape", "shown"), [((53, 2), "(B, 2)"), ((53, 2, 3), "(B, 2, 3)"), ((), "()")])
def test_the_size_of_a_private_batch_is_in_no_error_text(shape, shown):
    with pytest.raises(ConfigError, match=r"one score a record") as caught:
        scores(torch.zeros(shape))
    assert shown in str(caught.value)
    assert "53" not in str(caught.value)


def test_a_generator_with_batch_normalisation_is_checked_with_one_record_and_stays_in_training():
    generator = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    gan = PythonGAN(generator, nn.Linear(2, 1), lambda n: torch.randn(n, 3))
    schema = schema_from_dict(
        {
            "name": "x",
            "nominal_rows": 9,
            "columns": {"a": {"kind": "integer", "bounds": {"min": 0, "max": 1}}},
        }
    )
    records, _ = gan._records(torch.zeros(9, 2), schema)
    assert records is not None
    assert generator.training
