"""The GAN in three lines: what is checked first, what a saved one is, and a training that is continued."""

from __future__ import annotations

import stat

import pytest
import torch
from torch import nn

from dpforge.errors import ConfigError, PrivacyError, RunError
from dpforge.gan import DPWGAN, PrivacySpec
from dpforge.generators.gan_layers import described
from dpforge.generators.gan_module import GANModule
from dpforge.generators.gan_networks import own_networks
from dpforge.privacy.ledger import Ledger

SPEC = PrivacySpec(noise_multiplier=1.0, delta=1e-5, max_grad_norm=0.3)
RECORDS = torch.rand(40, 3, generator=torch.Generator().manual_seed(0))
CALL = {"epochs": 10, "batch_size": 10, "n_critics": 1, "privacy": SPEC, "nominal_rows": 40}


def noise(n):
    return torch.randn(n, 2)


def gan(critic=None):
    generator = nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 3))
    return DPWGAN(generator, critic or nn.Linear(3, 1), noise)


@pytest.mark.parametrize(
    ("critic", "text"), [(nn.Linear(3, 2), "one score a record"), (nn.Linear(7, 1), r"shape \(3,\)")]
)
def test_a_critic_that_does_not_fit_is_refused_before_a_record_is_read(critic, text, tmp_path):
    made = gan(critic)
    with pytest.raises(ConfigError, match=text):
        made.train(RECORDS, folder=tmp_path / "run", **CALL)
    assert not (tmp_path / "run").exists()
    made.critic = nn.Linear(3, 1)
    assert made.train(RECORDS, **CALL).certificate()["status"] == "DP"
    with pytest.raises(ConfigError, match=text):
        own_networks(nn.Linear(2, 3), critic, 2, (3,), 0, 0)


def test_three_lines_work_with_batch_normalisation_in_the_generator():
    assert gan().train(RECORDS, **CALL).generate(5).shape == (5, 3)


LAYERS = {
    "gelu": nn.Sequential(nn.Linear(2, 8), nn.GELU(approximate="tanh")),
    "dilation": nn.Sequential(nn.Linear(2, 49), nn.Unflatten(1, (1, 7, 7)), nn.Conv2d(1, 2, 3, dilation=2)),
    "padding mode": nn.Sequential(
        nn.Linear(2, 16), nn.Unflatten(1, (1, 4, 4)), nn.Conv2d(1, 2, 3, padding=1, padding_mode="reflect")
    ),
    "groups": nn.Sequential(nn.Linear(2, 32), nn.Unflatten(1, (2, 4, 4)), nn.Conv2d(2, 4, 3, groups=2)),
    "output padding": nn.Sequential(
        nn.Linear(2, 16), nn.Unflatten(1, (1, 4, 4)), nn.ConvTranspose2d(1, 2, 3, 2, 1, output_padding=1)
    ),
}


@pytest.mark.parametrize("name", LAYERS)
def test_a_saved_generator_makes_what_it_made_before(name, tmp_path):
    net = LAYERS[name]
    shape = net(torch.zeros(2, 2)).shape[1:]
    made = DPWGAN(net, nn.Sequential(nn.Flatten(), nn.Linear(shape.numel(), 1)), noise)
    made.train(torch.rand(20, *shape), epochs=1, n_critics=1).save(tmp_path)
    z = torch.randn(6, 2)
    with torch.no_grad():
        assert torch.equal(DPWGAN.load(tmp_path).generator(z), made.generator.eval()(z))


def test_a_layer_that_its_arguments_do_not_explain_is_a_layer_of_its_own():
    hooked = nn.Sequential(nn.Linear(2, 2))
    hooked[0].register_forward_hook(lambda layer, given, found: 2 * found)
    scaled = nn.Sequential(nn.Tanh())
    scaled[0].forward = lambda x: 2 * x
    strange = [
        hooked,
        scaled,
        nn.Sequential(nn.Linear(2, 2, bias=False)),
        nn.Sequential(nn.Linear(2, 2).double()),
    ]
    assert [described(net) for net in strange] == [None] * 4
    assert described(nn.Sequential(nn.Linear(2, 2))) is not None


def failing_at(monkeypatch, step):
    own = GANModule.after_step

    def after(self, number):
        if number == step:
            raise OSError("the disk is full")
        own(self, number)

    monkeypatch.setattr(GANModule, "after_step", after)


def weights(made):
    return torch.cat([p.detach().flatten() for p in made.generator.parameters()])


def test_a_training_that_failed_says_so_and_is_not_begun_again(monkeypatch):
    made = gan()
    failing_at(monkeypatch, 3)
    with pytest.raises(OSError, match="full"):
        made.train(RECORDS, **CALL)
    monkeypatch.undo()
    with pytest.raises(RunError, match=r"begun and failed.*new networks"):
        made.train(RECORDS, **CALL)


@pytest.mark.parametrize("where", ["in the same process", "with networks of other first weights"])
def test_the_same_call_continues_a_failed_training_exactly(where, monkeypatch, tmp_path):
    call = {**CALL, "epochs": 30, "folder": tmp_path / "run"}
    made = gan()
    failing_at(monkeypatch, 70)
    with pytest.raises(OSError, match="full"):
        made.train(RECORDS, **call)
    monkeypatch.undo()
    assert (tmp_path / "run" / "state.pt").is_file()
    first = DPWGAN(*(gan().generator, nn.Linear(3, 1), noise))
    if where == "in the same process":
        with pytest.raises(RunError, match="repeat the call with folder="):
            made.train(RECORDS, **CALL)
        first = made
    again = first.train(RECORDS, **call)
    whole = continued_from_the_start(call, tmp_path)
    assert torch.equal(weights(again), weights(whole))
    assert again.certificate()["pieces"] == whole.certificate()["pieces"]
    assert Ledger.open(tmp_path / "run" / "ledger.jsonl").closed


def continued_from_the_start(call, folder):
    """The same training without a checkpoint: every step from first weights and noise key."""
    other = folder / "run"
    for name in ("state.pt", "state.previous.pt"):
        (other / name).unlink(missing_ok=True)
    return gan().train(RECORDS, **call)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"learning_rate": 1e-2}, "another training"),
        ({"epochs": 31}, "another .*plan"),
        ({"data": RECORDS[1:]}, "other records"),
        ({"seed": 5}, "another training"),
    ],
)
def test_a_folder_continues_no_other_training(change, text, monkeypatch, tmp_path):
    call = {"data": RECORDS, **CALL, "epochs": 30, "folder": tmp_path}
    gan().train(**call)
    with pytest.raises(RunError, match=text):
        gan().train(**{**call, **change})


def test_the_noise_key_is_its_owner_s_and_without_it_nothing_is_repeated(tmp_path):
    gan().train(RECORDS, **CALL, folder=tmp_path)
    key = tmp_path / "private" / "key"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert stat.S_IMODE(key.parent.stat().st_mode) == 0o700
    key.unlink()
    with pytest.raises(PrivacyError, match="is gone"):
        gan().train(RECORDS, **CALL, folder=tmp_path)


def test_a_training_that_was_refused_before_it_drew_noise_leaves_the_folder_free(tmp_path):
    bad = gan(nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1)))
    with pytest.raises(PrivacyError, match="BatchNorm1d mixes"):
        bad.train(RECORDS, **CALL, folder=tmp_path)
    assert gan().train(RECORDS, **CALL, folder=tmp_path).certificate()["status"] == "DP"
