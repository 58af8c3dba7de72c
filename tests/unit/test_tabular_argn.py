"""TabularARGN as a whole: what it learns, what its rows are, and that an interrupted run is the same run."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pandas as pd
import pytest
import torch

from dpforge.data import Dataset
from dpforge.data.constraints import satisfied
from dpforge.data.schema import Unit, schema_from_dict
from dpforge.data.table import conform, violations
from dpforge.errors import ConfigError, Interrupted
from dpforge.generators.argn_sampling import tempered
from dpforge.generators.base import RunContext, Runtime
from dpforge.generators.tabular_argn import TabularARGN
from dpforge.privacy.ledger import Ledger
from dpforge.privacy.mechanisms import PrivateAccess
from dpforge.privacy.rng import fresh_random
from dpforge.privacy.spec import PrivacySpec

OPEN = PrivacySpec(enabled=False)


def words(*values, **more):
    return {"kind": "categorical", "categories": {"values": list(values)}, "unseen": "drop", **more}


def number(kind, low, high, **more):
    return {"kind": kind, "bounds": {"min": low, "max": high}, **more}


def schema_of(columns, rows=1000, **more):
    return schema_from_dict({"nominal_rows": rows, "columns": columns, **more})


BIT = words("0", "1")
TOY = schema_of({"a": BIT, "b": BIT, "c": BIT}, 20_000)
NOISE = 0.1


def toy_joint():
    """P(a, b, c): a and b are unfair coins and c is their exclusive or, wrong once in ten times."""
    joint = np.zeros((2, 2, 2))
    for a, b, c in itertools.product(range(2), repeat=3):
        joint[a, b, c] = [0.6, 0.4][a] * [0.3, 0.7][b] * (NOISE if c != a ^ b else 1 - NOISE)
    return joint


def toy_table(rows=20_000):
    """A table whose frequencies are those of the joint, so that only the model can be wrong."""
    cells = np.repeat(np.arange(8), np.rint(toy_joint().reshape(-1) * rows).astype(int))
    bits = np.stack(np.unravel_index(cells, (2, 2, 2)), axis=1)
    return conform(pd.DataFrame(bits.astype(str), columns=list("abc")), TOY)


def access_to(model, schema, folder, spec):
    folder.mkdir(parents=True, exist_ok=True)
    path, random = folder / "ledger.jsonl", fresh_random("seeded", 1)
    ledger = Ledger.open(path) if path.exists() else Ledger.create(path, model.plan(schema, spec), {})
    return PrivateAccess(ledger, random)


def fit(model, schema, table, folder, *, spec=OPEN, runtime=None, units=None, **context):
    access = access_to(model, schema, folder, spec)
    run = RunContext(access, spec, runtime or Runtime(), 0, folder, **context)
    return model.fit(Dataset(schema, table, table.head(0), units, False, "fingerprint"), run)


def frequencies(frame):
    cells = frame.astype(str).astype(int).to_numpy()
    return np.bincount(cells @ [4, 2, 1], minlength=8) / len(frame)


def divergence(p, q):
    return float(np.sum(p * np.log(p / q)))


XOR = {"size": "M", "steps": 250, "expected_batch_size": 1000, "learning_rate": 0.02}


@pytest.mark.parametrize("order", ["schema", "random", ("c", "b", "a")])
@pytest.mark.parametrize("recalibrate", ["none", "rake"])
def test_a_network_with_regressors_learns_an_exclusive_or_in_any_order(order, recalibrate, tmp_path):
    model = TabularARGN(**XOR, column_order=order, recalibrate_marginals=recalibrate)
    fitted = fit(model, TOY, toy_table(), tmp_path)
    found = frequencies(fitted.sample(100_000, np.random.default_rng(0)))
    assert divergence(toy_joint().reshape(-1), found) < 0.01


def test_direct_connections_alone_cannot_see_an_exclusive_or(tmp_path):
    """Its logits are sums over the columns before: a and b stay right, and c is as good as a coin."""
    model = TabularARGN(**{**XOR, "size": None}, recalibrate_marginals="none")
    fitted = fit(model, TOY, toy_table(), tmp_path)
    found = frequencies(fitted.sample(100_000, np.random.default_rng(0))).reshape(2, 2, 2)
    joint = toy_joint()
    np.testing.assert_allclose(found.sum(axis=2), joint.sum(axis=2), atol=0.02)
    assert best_additive_divergence(joint) > 0.2
    assert divergence(joint.reshape(-1), found.reshape(-1)) > best_additive_divergence(joint) - 0.02


def best_additive_divergence(joint):
    """KL of the joint from the best model whose log-odds of c are u + v a + w b, by Newton's method."""
    weights = joint.sum(axis=2).reshape(-1)
    share = (joint[:, :, 1] / joint.sum(axis=2)).reshape(-1)
    x = np.array([[1, a, b] for a, b in itertools.product(range(2), repeat=2)], dtype=float)
    beta = np.zeros(3)
    for _ in range(50):
        p = 1 / (1 + np.exp(-x @ beta))
        beta += np.linalg.solve(x.T @ (x * (weights * p * (1 - p))[:, None]), x.T @ (weights * (share - p)))
    parts = share * np.log(share / p) + (1 - share) * np.log((1 - share) / (1 - p))
    return float(weights @ parts)


def test_direct_connections_alone_learn_a_dependence_of_two_columns(tmp_path):
    rows = pd.DataFrame({"a": ["0"] * 3000 + ["1"] * 1000, "b": (["0"] * 900 + ["1"] * 100) * 4})
    rows.loc[3000:, "b"] = ["1"] * 950 + ["0"] * 50
    schema = schema_of({"a": BIT, "b": BIT}, 4000)
    table = conform(rows, schema)
    fitted = fit(
        TabularARGN(steps=200, learning_rate=0.05, recalibrate_marginals="none"), schema, table, tmp_path
    )
    sample = fitted.sample(50_000, np.random.default_rng(0)).astype(str)
    real, found = (pd.crosstab(f["a"], f["b"], normalize=True).to_numpy() for f in (table, sample))
    assert np.abs(real - found).max() < 0.01


@pytest.mark.parametrize("spec", [OPEN, PrivacySpec(target_epsilon=5.0, rng="seeded", seed=1)])
def test_one_column_alone_is_its_marginal(spec, tmp_path):
    schema = schema_of({"a": words("x", "y", "z")}, 2000)
    table = conform(pd.DataFrame({"a": ["x"] * 1000 + ["y"] * 700 + ["z"] * 300}), schema)
    fitted = fit(TabularARGN(steps=30), schema, table, tmp_path, spec=spec)
    shares = fitted.sample(50_000, np.random.default_rng(0))["a"].value_counts(normalize=True)
    assert shares[["x", "y", "z"]].to_numpy() == pytest.approx([0.5, 0.35, 0.15], abs=0.01)


# ---- mixed tables

RAW = {
    "level": words("low", "middle", "high"),
    "rank": number("integer", 1, 3),
    "gain": number("integer", 0, 9999, special_values=[0]),
    "amount": number("numeric", -50, 999, granularity=0.1, codec="digit", nullable=True),
    "when": {
        **number("datetime", "2020-01-01", "2021-12-31"),
        "resolution": "day",
        "codec": "datetime_parts",
        "nullable": True,
    },
    "answer": words("no", "yes"),
}
MIXED = schema_of(RAW, target="answer", constraints=["rank = position(level)"])


def mixed_table(rows=1000, schema=MIXED):
    rng = np.random.default_rng(0)
    level = rng.integers(0, 3, rows)
    days = pd.Series(pd.Timestamp("2020-03-01") + pd.to_timedelta(rng.integers(0, 500, rows), unit="D"))
    raw = pd.DataFrame(
        {
            "level": np.array(["low", "middle", "high"])[level],
            "rank": level + 1,
            "gain": np.where(level == 2, 7688, np.where(level == 1, rng.integers(1, 9999, rows), 0)),
            "amount": np.where(rng.random(rows) < 0.4, np.nan, rng.uniform(-50, 999, rows).round(1)),
            "when": days.where(rng.random(rows) < 0.7),
            "answer": np.where(level + rng.random(rows) > 1.5, "yes", "no"),
        }
    )
    return conform(raw[list(schema.names)], schema)


def near(gain):
    """Whether a gain lies in the fine cell of 7,688: a sixteenth of one of 32 bins."""
    return (gain - 7688).abs() < 9999 / 32 / 16


def without_training(folder, schema, table, **changes):
    """A model after a step of no length."""
    model = TabularARGN(steps=1, learning_rate=1e-12, **changes)
    return model, fit(model, schema, table, folder)


@pytest.mark.parametrize("size", [None, "M"])
@pytest.mark.parametrize("recalibrate", ["none", "rake"])
def test_before_training_rows_have_the_released_marginals_and_no_dependence(size, recalibrate, tmp_path):
    table = mixed_table()
    _, fitted = without_training(tmp_path, MIXED, table, size=size, recalibrate_marginals=recalibrate)
    with torch.no_grad():
        for head in fitted.net.heads or ():
            head[-1].weight.zero_()
    sample = fitted.sample(40_000, np.random.default_rng(0))
    for name in ("level", "rank", "answer"):
        real, found = (f[name].astype(str).value_counts(normalize=True).sort_index() for f in (table, sample))
        np.testing.assert_allclose(found, real, atol=0.012)
    for name in ("amount", "when"):
        assert sample[name].isna().mean() == pytest.approx(table[name].isna().mean(), abs=0.012)
    assert near(sample["gain"]).mean() == pytest.approx(near(table["gain"]).mean(), abs=0.012)
    # Below zero the bound of -50 cuts what the digits say; above it they stand as drawn, of either sign.
    found, real = sample["amount"][sample["amount"] > 0] // 100, table["amount"].dropna().abs() // 100
    shares, fractions = found.value_counts(normalize=True), real.value_counts(normalize=True)
    assert (shares.reindex(fractions.index, fill_value=0) - fractions).abs().max() < 0.02
    assert abs(np.corrcoef(sample["level"].cat.codes, sample["answer"].cat.codes)[0, 1]) < 0.03


@pytest.mark.parametrize("order", ["schema", "random"])
def test_digits_dates_and_missing_cells_survive_the_way_there_and_back(order, tmp_path):
    table = mixed_table()
    model = TabularARGN(steps=150, size="S", column_order=order, expected_batch_size=500)
    fitted = fit(model, MIXED, table, tmp_path)
    sample = fitted.sample(10_000, np.random.default_rng(0))
    assert not any(violations(sample, MIXED).values())
    assert tuple(sample.columns) == MIXED.names
    assert (sample.dtypes == table.dtypes).all()
    assert sample["amount"].isna().mean() == pytest.approx(table["amount"].isna().mean(), abs=0.03)
    present = sample["amount"].dropna().to_numpy(dtype=float)
    np.testing.assert_allclose(present * 10, np.rint(present * 10), atol=1e-6)
    assert np.median(present) == pytest.approx(table["amount"].median(), abs=60)
    months = [f["when"].dropna().dt.to_period("Q").value_counts(normalize=True) for f in (table, sample)]
    assert (months[0] - months[1].reindex(months[0].index, fill_value=0)).abs().max() < 0.05


def test_a_value_that_many_rows_share_is_generated_close_to_itself(tmp_path):
    table = mixed_table()
    model = TabularARGN(steps=150, expected_batch_size=500, learning_rate=0.08)
    sample = fit(model, MIXED, table, tmp_path).sample(10_000, np.random.default_rng(0))
    assert near(sample["gain"]).mean() == pytest.approx(1 / 3, abs=0.03)
    assert near(sample["gain"][sample["level"] == "low"]).mean() < 0.2
    assert near(sample["gain"][sample["level"] == "high"]).mean() > 0.85


@pytest.mark.parametrize("spec", [OPEN, PrivacySpec(target_epsilon=1.0, rng="seeded", seed=1)])
@pytest.mark.parametrize("order", ["random", ("answer", "rank", "when", "gain", "level", "amount")])
def test_a_derived_column_is_not_modelled_and_never_leaves_its_constraint(spec, order, tmp_path):
    model = TabularARGN(steps=3, column_order=order, codecs={"rank": "discrete"})
    fitted = fit(model, MIXED, mixed_table(), tmp_path, spec=spec)
    assert "rank" not in fitted.fine.codec.schema.names
    sample = fitted.sample(2000, np.random.default_rng(0))
    assert satisfied(sample, MIXED).all()
    assert sample["rank"].nunique() == 3


def test_a_derived_column_costs_nothing_in_the_release():
    free = schema_of(RAW)
    plans = [TabularARGN(steps=2).plan(s, PrivacySpec()) for s in (MIXED, free)]
    squares = [round(plan.piece("marginals").sensitivity ** 2) for plan in plans]
    assert squares[0] == squares[1] - 1


@pytest.mark.parametrize("target", [None, "gain", "when", "level", "rank"])
def test_any_target_or_none_will_do(target, tmp_path):
    schema = dataclasses.replace(MIXED, target=target)
    fitted = fit(TabularARGN(steps=2), schema, mixed_table(), tmp_path)
    assert bool(fitted.marginals.crossed) == (target in ("level", "rank"))
    sample = fitted.sample(300, np.random.default_rng(0))
    assert not any(violations(sample, schema).values())
    assert satisfied(sample, schema).all()


@pytest.mark.parametrize("rows", [0, 1])
@pytest.mark.parametrize("changes", [{}, {"size": "M", "column_order": "random"}, {"patience": 1}])
def test_an_empty_table_and_a_single_row_give_a_model(rows, changes, tmp_path):
    model = TabularARGN(steps=3, **changes)
    fitted = fit(model, MIXED, mixed_table().iloc[:rows], tmp_path)
    for wanted in (0, 1, 50):
        sample = fitted.sample(wanted, np.random.default_rng(0))
        assert len(sample) == wanted
        assert not any(violations(sample, MIXED).values())


def test_fifteen_hundred_categories_are_learned_in_halves(tmp_path):
    values = [f"z{i:04d}" for i in range(1500)]
    schema = schema_of({"zip": words(*values), "a": BIT}, 3000)
    zips = np.array(values)[np.r_[np.full(1500, 700), np.arange(1500)]]
    table = conform(pd.DataFrame({"zip": zips, "a": ["1"] * 1500 + ["0"] * 1500}), schema)
    model = TabularARGN(steps=60, size="S", expected_batch_size=500)
    sample = fit(model, schema, table, tmp_path).sample(5000, np.random.default_rng(0))
    assert (sample["zip"] == "z0700").mean() == pytest.approx(0.5, abs=0.08)
    assert sample["zip"].nunique() > 700


# ---- saving and resuming


@pytest.mark.parametrize(
    "changes", [{}, {"size": "L", "column_order": "random", "dropout": 0.2}, {"ema": 0.9}]
)
def test_a_saved_model_draws_the_same_rows_and_probabilities(changes, tmp_path):
    model, table = TabularARGN(steps=5, **changes), mixed_table(300)
    fitted = fit(model, MIXED, table, tmp_path)
    fitted.save(tmp_path)
    again = model.load(tmp_path)
    first, second = (m.sample(500, np.random.default_rng(2)) for m in (fitted, again))
    pd.testing.assert_frame_equal(first, second)
    given = table[["answer", "amount"]].head(20)
    first, second = (m.complete(given, np.random.default_rng(2), candidates=4) for m in (fitted, again))
    pd.testing.assert_frame_equal(first, second)
    assert np.array_equal(fitted.log_prob(table), again.log_prob(table))


PRIVATE = PrivacySpec(target_epsilon=5.0, rng="seeded", seed=1)
RESUMED = {
    "random order and dropout under DP": (
        {"size": "M", "column_order": "random", "dropout": 0.25},
        PRIVATE,
    ),
    "average under DP": ({"ema": 0.9}, PRIVATE),
    "patience": ({"patience": 2, "learning_rate": 0.5, "expected_batch_size": 200, "steps": 60}, OPEN),
    "random order without DP": ({"size": "S", "column_order": "random"}, OPEN),
}


class Bell:
    """Rings after some steps."""

    def __init__(self, steps):
        self.left = steps

    def __call__(self):
        self.left -= 1
        return self.left == 0


@pytest.mark.parametrize("name", RESUMED)
@pytest.mark.parametrize("stop", [1, 7])
def test_an_interrupted_run_ends_with_the_same_bits(name, stop, tmp_path):
    changes, spec = RESUMED[name]
    model = TabularARGN(**{"steps": 12, **changes})
    table = mixed_table(400)
    whole = fit(model, MIXED, table, tmp_path / "whole", spec=spec)
    with pytest.raises(Interrupted):
        fit(model, MIXED, table, tmp_path / "parts", spec=spec, stopping=Bell(stop))
    resumed = fit(model, MIXED, table, tmp_path / "parts", spec=spec)
    for key, tensor in whole.net.state_dict().items():
        assert torch.equal(tensor, resumed.net.state_dict()[key])
    again = fit(model, MIXED, table, tmp_path / "parts", spec=spec)  # nothing is left to do
    first, second = (m.sample(100, np.random.default_rng(0)) for m in (whole, again))
    pd.testing.assert_frame_equal(first, second)


def test_patience_ends_training_before_the_last_step_with_the_best_weights(tmp_path):
    losses = []
    model = TabularARGN(steps=4000, patience=2, expected_batch_size=200, learning_rate=0.1)
    table = mixed_table(400)
    log = lambda step, values, visibility: losses.append((step, visibility))  # noqa: E731
    fitted = fit(model, MIXED, table, tmp_path, log=log)
    assert 2 < max(step for step, _ in losses) < 4000
    _, start = without_training(tmp_path / "start", MIXED, table)
    assert fitted.log_prob(table).mean() > start.log_prob(table).mean()


def test_patience_works_where_a_unit_has_several_rows(tmp_path):
    schema = dataclasses.replace(MIXED, unit=Unit("user", "person", 4))
    model = TabularARGN(steps=20, patience=1, expected_batch_size=100)
    units = np.repeat(np.arange(100), 4)
    fitted = fit(model, schema, mixed_table(400), tmp_path, units=units)
    assert len(fitted.sample(10, np.random.default_rng(0))) == 10


@pytest.mark.parametrize("changes", [{}, {"size": "M"}, {"size": "M", "column_order": "random"}])
def test_microbatches_change_nothing_but_the_memory(changes, tmp_path):
    model, table = TabularARGN(steps=4, **changes), mixed_table(300)
    first = fit(model, MIXED, table, tmp_path / "a", spec=PRIVATE)
    second = fit(model, MIXED, table, tmp_path / "b", spec=PRIVATE, runtime=Runtime(microbatch=7))
    for a, b in zip(first.net.parameters(), second.net.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-3)


# ---- drawing


def test_a_temperature_raises_probabilities_to_its_inverse():
    logits = torch.randn(5, 7, generator=torch.Generator().manual_seed(0))
    for temperature in (0.5, 1.0, 3.0):
        expected = torch.softmax(logits, 1) ** (1 / temperature)
        found = torch.softmax(tempered(logits, temperature), 1)
        torch.testing.assert_close(found, expected / expected.sum(1, keepdim=True))


@pytest.mark.parametrize("top_p", [0.01, 0.4, 0.75, 0.99, 1.0])
def test_top_p_keeps_the_fewest_codes_that_reach_the_mass(top_p):
    logits = torch.randn(20, 6, generator=torch.Generator().manual_seed(1))
    kept = torch.isfinite(tempered(logits, 1.0, top_p))
    for row, keep in zip(torch.softmax(logits, 1).numpy(), kept.numpy(), strict=True):
        count = next(n for n in range(1, 7) if np.sort(row)[::-1][:n].sum() >= top_p - 1e-6)
        assert set(np.flatnonzero(keep)) == set(np.argsort(row)[::-1][:count])


def test_a_low_temperature_draws_the_likeliest_code_and_top_p_leaves_out_rare_ones(tmp_path):
    schema = schema_of({"a": words("x", "y", "z")}, 2000)
    table = conform(pd.DataFrame({"a": ["x"] * 1000 + ["y"] * 700 + ["z"] * 300}), schema)
    _, fitted = without_training(tmp_path, schema, table)
    rng = np.random.default_rng(0)
    assert set(fitted.generate(500, rng, temperature=0.01)["a"]) == {"x"}
    shares = fitted.generate(20_000, rng, top_p=0.8)["a"].value_counts(normalize=True)
    assert shares.get("z", 0) == 0
    assert shares["x"] == pytest.approx(1000 / 1700, abs=0.015)
    shares = fitted.generate(20_000, rng, temperature=2.0)["a"].value_counts(normalize=True)
    roots = np.sqrt([0.5, 0.35, 0.15])
    assert shares[["x", "y", "z"]].to_numpy() == pytest.approx(roots / roots.sum(), abs=0.015)


@pytest.mark.parametrize(("temperature", "top_p"), [(0, 1), (-1, 1), (1, 0), (1, 1.5), (float("nan"), 1)])
def test_impossible_ways_of_drawing_are_refused(temperature, top_p, tmp_path):
    _, fitted = without_training(tmp_path, MIXED, mixed_table(50))
    with pytest.raises(ConfigError):
        fitted.generate(1, np.random.default_rng(0), temperature=temperature, top_p=top_p)


def test_recalibrated_rows_have_the_released_marginals_to_the_row(tmp_path):
    table = mixed_table()
    model = TabularARGN(steps=60, learning_rate=0.3, expected_batch_size=100)
    fitted = fit(model, MIXED, table, tmp_path)  # far too large a rate: its own marginals are off
    sample = fitted.sample(20_000, np.random.default_rng(0))
    codes = fitted.fine.codec.encode(sample[list(fitted.fine.codec.schema.names)])
    for sub in range(len(fitted.marginals.masses)):
        null = fitted.fine.codec.null_of[sub]
        shown = codes[:, sub] if null < 0 else codes[codes[:, null] == 0, sub]
        if fitted.fine.codec.names[sub].startswith(("amount", "when")) and null >= 0:
            continue  # impossible combinations of parts are moved into the bounds
        found = np.bincount(fitted.pieces.of_cell[sub][shown]) / len(shown)
        assert np.abs(found - fitted.pieces.masses[sub]).max() < 0.01


def test_a_model_whose_weights_are_not_finite_does_not_draw(tmp_path):
    _, fitted = without_training(tmp_path, MIXED, mixed_table(50))
    with torch.no_grad():
        fitted.net.direct.weight.fill_(float("nan"))
    with pytest.raises(Exception, match="not finite"):
        fitted.sample(5, np.random.default_rng(0))


# ---- settings


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"size": "XL"}, "model.size='XL': expected one of null, S, M, L"),
        ({"column_order": "shema"}, "Did you mean 'schema'?"),
        ({"direct": False}, "needs model.size"),
        ({"dropout": 0.1}, "set one"),
        ({"dropout": 1.0, "size": "M"}, r"\[0, 1\)"),
        ({"steps": 0}, "integer >= 1"),
        ({"sampling_rate": 0.5}, "exactly one"),
        ({"patience": 0}, "integer >= 1"),
        ({"patience": 3, "ema": 0.9}, "one of them"),
        ({"marginal_share": 0.0}, r"\(0, 1\)"),
        ({"codecs": {"a": "digits"}}, "Did you mean 'digit'?"),
        ({"learning_rate": float("nan")}, "number > 0"),
    ],
)
def test_mistakes_among_the_settings_are_explained(changes, text):
    with pytest.raises(ConfigError, match=text):
        TabularARGN(**changes)


def test_all_mistakes_are_told_at_once():
    with pytest.raises(ConfigError) as caught:
        TabularARGN(size="XL", steps=0, ema=1.0)
    assert len(caught.value.mistakes) == 3


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"column_order": ["level", "gain"]}, "every column once"),
        ({"column_order": [*RAW, "level"]}, "every column once"),
        ({"refine_columns": ["gian"]}, "Did you mean 'gain'?"),
        ({"codecs": {"gian": "digit"}}, "Did you mean 'gain'?"),
        ({"codecs": {"level": "digit"}}, "does not fit"),
    ],
)
def test_settings_that_do_not_fit_the_schema_are_refused_by_the_plan(changes, text):
    with pytest.raises(ConfigError) as caught:
        TabularARGN(**changes).plan(MIXED, PrivacySpec())
    assert text in " ".join(caught.value.mistakes)
