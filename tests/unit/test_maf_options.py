"""The piecewise flow: knots, density, inverse, recalibration, and the settings that choose it."""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special, stats

from dpforge.data import Dataset
from dpforge.data.encode.cells import CellCodec
from dpforge.data.encode.knots import make_knots
from dpforge.data.schema import schema_from_dict
from dpforge.data.table import conform, violations
from dpforge.errors import ConfigError
from dpforge.generators.base import RunContext, Runtime
from dpforge.generators.dp_maf import DPMAF
from dpforge.nets.made import MaskedAutoregressiveFlow
from dpforge.nets.piecewise import PiecewiseFlow
from dpforge.privacy.engines import make_engine
from dpforge.privacy.ledger import Ledger
from dpforge.privacy.mechanisms import PrivateAccess
from dpforge.privacy.rng import fresh_random
from dpforge.privacy.spec import PrivacySpec

PUBLIC = {"provenance": "public"}
SCHEMA = schema_from_dict(
    {
        "schema_version": 1,
        "name": "options",
        "nominal_rows": 2000,
        "columns": {
            "group": {"kind": "categorical", "categories": {**PUBLIC, "values": ["a", "b", "c"]}},
            "size": {"kind": "numeric", "bounds": {**PUBLIC, "min": 0, "max": 1}, "nullable": True},
            "gain": {"kind": "integer", "bounds": {**PUBLIC, "min": 0, "max": 9999}, "special_values": [0]},
        },
    }
)


def codec_and_masses(bins=10):
    codec = CellCodec(SCHEMA, default_bins=bins)
    rng = np.random.default_rng(0)
    return codec, [rng.dirichlet(np.ones(size) * 2) for size in codec.sizes]


def flow(hidden=(), rest=False, zero=False, order=(0, 1, 2)):
    torch.manual_seed(3)
    knots = make_knots(*codec_and_masses(), resolution=16, degree=4)
    affine = MaskedAutoregressiveFlow(3, 1, [[2, 1, 0]], (8,), zero_init_last=False) if rest else None
    net = PiecewiseFlow(
        [torch.from_numpy(m) for m in knots.masses],
        [torch.from_numpy(f) for f in knots.functions],
        order,
        hidden,
        zero_init_last=zero,
        rest=affine,
    )
    return net.double()


def test_pieces_keep_the_mass_of_their_cells_and_atoms_stay_whole():
    codec, masses = codec_and_masses()
    knots = make_knots(codec, masses, resolution=16, degree=4)
    for cells, mass, pieces in zip(codec.columns, masses, knots.masses, strict=True):
        ends = np.r_[0, np.cumsum(pieces)]
        for end in np.cumsum(mass):
            assert np.abs(ends - end).min() < 1e-12
        if cells.kind != "categorical":
            whole = np.sort(mass[cells.atom])
            assert np.isin(whole.round(12), pieces.round(12)).all()
            assert pieces.max() <= max(1 / 16, whole.max()) + 1e-12


def test_polynomials_are_centred_and_the_number_of_functions_follows_from_the_schema_alone():
    codec, masses = codec_and_masses()
    other = [np.random.default_rng(9).dirichlet(np.ones(size) / 3) + 1e-6 for size in codec.sizes]
    other = [mass / mass.sum() for mass in other]
    first, second = (make_knots(codec, m, resolution=16, degree=4) for m in (masses, other))
    for mass, values in zip(first.masses, first.functions, strict=True):
        np.testing.assert_allclose(mass @ values, 0, atol=1e-12)
    assert [f.shape[1] for f in first.functions] == [f.shape[1] for f in second.functions]
    # unknown and three categories; 4 polynomials and the missing cell; 4 polynomials and the special value 0
    assert [f.shape[1] for f in first.functions] == [4, 5, 5]


@pytest.mark.parametrize("hidden", [(), (12,)])
def test_the_flow_starts_as_the_identity(hidden):
    x = torch.linspace(-3, 3, 600).double().reshape(200, 3)
    latent, log_det = flow(hidden, zero=True)(x)
    torch.testing.assert_close(latent, x, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(log_det, torch.zeros(200).double(), atol=1e-3, rtol=0)


@pytest.mark.parametrize("rest", [False, True])
@pytest.mark.parametrize("hidden", [(), (12,)])
def test_inverse_undoes_forward_and_log_determinants_cancel(hidden, rest):
    net, x = flow(hidden, rest), torch.randn(500, 3).double()
    latent, forward = net(x)
    back, inverse = net.inverse(latent)
    torch.testing.assert_close(back, x, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(inverse, -forward, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("rest", [False, True])
def test_log_determinant_equals_that_of_the_jacobian(rest):
    net = flow((12,), rest)
    step = 1e-6  # central differences: the map is linear between knots
    for x in torch.randn(5, 3).double():
        with torch.no_grad():
            log_det = net(x[None])[1]
            moved = [(net((x + e)[None])[0], net((x - e)[None])[0]) for e in torch.eye(3) * step]
        columns = [(up - down) / (2 * step) for up, down in moved]
        jacobian = torch.cat(columns).T
        assert float(torch.linalg.slogdet(jacobian)[1]) == pytest.approx(float(log_det), abs=1e-3)


@pytest.mark.parametrize("rest", [False, True])
def test_log_prob_is_the_base_density_plus_the_log_determinant(rest):
    net, x = flow((12,), rest), torch.randn(100, 3).double()
    latent, log_det = net(x)
    expected = stats.norm.logpdf(latent.detach().numpy()).sum(1) + log_det.detach().numpy()
    np.testing.assert_allclose(net.log_prob(x).detach().numpy(), expected, atol=1e-4)


def test_the_density_integrates_to_one():
    net = flow((12,))
    u = torch.rand(200_000, 3, generator=torch.Generator().manual_seed(0)).double()
    x = torch.special.ndtri(u.clamp(1e-6, 1 - 1e-6))
    ratio = net.log_prob(x).detach().numpy() - stats.norm.logpdf(x.numpy()).sum(1)
    assert np.exp(ratio).mean() == pytest.approx(1, abs=5 * np.exp(ratio).std() / 200_000**0.5)


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
def test_a_column_depends_on_the_columns_before_it_in_the_order_only(order):
    net, x = flow((12,), order=order), torch.randn(300, 3).double()
    latent = net(x)[0]
    for position, column in enumerate(order):
        moved = x.clone()
        moved[:, column] = torch.randn(300).double()
        unchanged = list(order[:position])
        torch.testing.assert_close(net(moved)[0][:, unchanged], latent[:, unchanged])
        assert all(not torch.equal(net(moved)[0][:, j], latent[:, j]) for j in order[position + 1 :])


def test_zero_coefficients_sample_the_released_masses():
    net, masses = flow(zero=True), make_knots(*codec_and_masses(), resolution=16, degree=4).masses
    latent = torch.randn(20_000, 3, generator=torch.Generator().manual_seed(1)).double()
    u = special.ndtr(net.inverse(latent)[0].detach().numpy())
    for j, mass in enumerate(masses):
        counts = np.histogram(u[:, j], np.r_[0, np.cumsum(mass)[:-1], 1])[0]
        assert stats.chisquare(counts, 20_000 * mass).pvalue > 1e-3


@pytest.mark.parametrize("rest", [False, True])
def test_recalibrated_samples_have_the_released_marginals(rest):
    net, masses = flow((12,), rest), make_knots(*codec_and_masses(), resolution=16, degree=4).masses
    latent = torch.randn(5000, 3, generator=torch.Generator().manual_seed(1)).double()
    with torch.no_grad():
        plain, raked = (special.ndtr(y.numpy()) for y in (net.inverse(latent)[0], net.recalibrated(latent)))
    errors = []
    for u in (plain, raked):
        ends = [np.r_[0, np.cumsum(mass)[:-1], 1] for mass in masses]
        shares = [np.histogram(u[:, j], ends[j])[0] / len(u) for j in range(3)]
        errors.append([np.abs(s - m).sum() / 2 for s, m in zip(shares, masses, strict=True)])
    assert max(errors[1]) < (0.06 if rest else 0.02)
    assert max(errors[0]) > 3 * max(errors[1])


def test_recalibration_keeps_the_dependence_between_columns():
    net = flow(zero=True)
    latent = torch.randn(5000, 3, generator=torch.Generator().manual_seed(2)).double()
    with torch.no_grad():
        # the first polynomial of 'size' (output 4) rises from group a to group c
        net.conditioner.direct.weight[4, :4] = torch.tensor([0.0, -2.0, 0.0, 2.0])
        plain, raked = net.inverse(latent)[0].numpy(), net.recalibrated(latent).numpy()
    both = [stats.spearmanr(y[:, 0], y[:, 1])[0] for y in (plain, raked)]
    assert both[0] > 0.5
    assert both[1] == pytest.approx(both[0], abs=0.05)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**31 - 1), st.integers(0, 3))
def test_any_weights_give_finite_samples(seed, rows):
    net = flow((12,))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 20)
        latent = torch.randn(rows * 50, 3, generator=generator).double() * 3
        assert torch.isfinite(net.inverse(latent)[0]).all()
        assert torch.isfinite(net.recalibrated(latent)).all()


@pytest.mark.parametrize("rest", [False, True])
def test_ghost_and_hook_engines_agree_on_the_piecewise_flow(rest):
    x = torch.randn(40, 3).double()
    sums = []
    for name in ("ghost", "hooks"):
        net = flow((12,), rest)
        engine = make_engine(name, net)
        sums.append(engine.clipped_sum(lambda batch, net=net: -net.log_prob(batch), x, 0.5).gradients)
        engine.close()
    for ghost, hook in zip(*sums, strict=True):
        torch.testing.assert_close(ghost, hook, atol=1e-8, rtol=1e-6)


def table(rows=2000):
    rng = np.random.default_rng(0)
    group = rng.integers(0, 3, rows)
    size = np.clip(rng.normal(0.2 + 0.3 * group, 0.05), 0, 1)
    size[rng.random(rows) < 0.1] = np.nan
    gain = np.where(group == 2, rng.integers(5000, 9000, rows), 0)
    names = np.array(["a", "b", "c"])[group]
    return conform(pd.DataFrame({"group": names, "size": size, "gain": gain}), SCHEMA)


def fitted(folder, model):
    spec = PrivacySpec(target_epsilon=5.0, rng="seeded", seed=1)
    random = fresh_random("seeded", 1)
    ledger = Ledger.create(folder / "ledger.jsonl", model.plan(SCHEMA, spec), {"key_id": random.key_id})
    run = RunContext(PrivateAccess(ledger, random), spec, Runtime(), 0, folder)
    data = table()
    return model.fit(Dataset(SCHEMA, data, data, None, True, "0"), run)


def test_the_piecewise_flow_learns_dependence_under_dp_and_survives_saving(tmp_path):
    model = DPMAF(steps=60, expected_batch_size=500, learning_rate=0.1)
    maf = fitted(tmp_path, model)
    sample = maf.sample(2000, np.random.default_rng(0))
    assert sum(violations(sample, SCHEMA).values()) == 0
    means = sample.groupby("group", observed=True)["size"].mean()
    assert means["c"] - means["a"] > 0.3
    # zeros of the gain are an atom of two of the three groups
    assert (sample["gain"] == 0)[sample["group"] == "a"].mean() > 0.9
    assert (sample["gain"] == 0)[sample["group"] == "c"].mean() < 0.1
    maf.save(tmp_path)
    again = model.load(tmp_path).sample(2000, np.random.default_rng(0))
    pd.testing.assert_frame_equal(again, sample)


def test_likelihood_of_dependent_rows_exceeds_that_of_permuted_ones(tmp_path):
    maf = fitted(tmp_path, DPMAF(steps=60, expected_batch_size=500, learning_rate=0.1))
    rows = table()
    mixed = rows.assign(size=np.random.default_rng(5).permutation(rows["size"].to_numpy()))
    likelihood = [maf.log_density(frame, np.random.default_rng(0)) for frame in (rows, mixed)]
    assert np.isfinite(likelihood).all()
    assert likelihood[0].mean() > likelihood[1].mean() + 0.5


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"conditional": "piecewize"}, "Did you mean 'piecewise'?"),
        ({"degree": 0}, "model.degree=0: expected an integer >= 1"),
        ({"transform": "affine", "recalibrate_marginals": "none"}, "set it to affine"),
        ({"conditional": "affine", "hidden": (8,)}, "set it to rank"),
        ({"conditional": "affine", "recalibrate_marginals": "rank"}, "expected one or more widths"),
        ({"normalization": "layer_norm"}, "affine blocks only"),
    ],
)
def test_settings_that_do_not_fit_together_are_refused_with_a_remedy(changes, text):
    with pytest.raises(ConfigError, match=text.replace("?", "\\?")):
        dataclasses.replace(DPMAF(), **changes)
