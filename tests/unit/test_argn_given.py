"""Rows with given cells: exact conditional distributions, imputation, proportions, probabilities."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest
import torch

from dpforge.data import Dataset
from dpforge.data.constraints import satisfied
from dpforge.data.schema import schema_from_dict
from dpforge.data.table import conform, violations
from dpforge.errors import ConfigError, DataError
from dpforge.generators.base import RunContext, Runtime
from dpforge.generators.tabular_argn import TabularARGN
from dpforge.privacy.ledger import Ledger
from dpforge.privacy.mechanisms import PrivateAccess
from dpforge.privacy.rng import fresh_random
from dpforge.privacy.spec import PrivacySpec

OPEN = PrivacySpec(enabled=False)
SIZES = (2, 3, 2)
CELLS = list(itertools.product(*(range(k) for k in SIZES)))


def words(*values, **more):
    return {"kind": "categorical", "categories": {"values": list(values)}, "unseen": "drop", **more}


TOY = schema_from_dict(
    {
        "nominal_rows": 12_000,
        "columns": {"a": words("0", "1"), "b": words("0", "1", "2"), "c": words("0", "1")},
    }
)


def toy_joint():
    """A joint distribution with all interactions."""
    joint = np.random.default_rng(4).dirichlet(np.full(12, 1.5)).reshape(SIZES) + 0.02
    return joint / joint.sum()


def fit(model, schema, table, folder):
    random = fresh_random("seeded", 1)
    ledger = Ledger.create(folder / "ledger.jsonl", model.plan(schema, OPEN), {})
    run = RunContext(PrivateAccess(ledger, random), OPEN, Runtime(), 0, folder)
    return model.fit(Dataset(schema, table, table.head(0), None, False, "fingerprint"), run)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    counts = np.rint(toy_joint().reshape(-1) * 12_000).astype(int)
    cells = np.repeat(np.array(CELLS), counts, axis=0)
    table = conform(pd.DataFrame(cells.astype(str), columns=list("abc")), TOY)
    common = {"size": "M", "steps": 250, "expected_batch_size": 1000, "learning_rate": 0.02}
    return {
        order: fit(TabularARGN(**common, column_order=order), TOY, table, tmp_path_factory.mktemp(order))
        for order in ("schema", "random")
    }


def joint_of(model, order):
    """The model's joint by enumeration, with the columns in ``order``."""
    model.net.set_order(order)
    with torch.no_grad():
        logs = model.net.log_probs(torch.tensor(CELLS)).double().sum(1)
    model.net.set_order([0, 1, 2])
    joint = logs.exp().numpy().reshape(SIZES)
    assert joint.sum() == pytest.approx(1, abs=1e-5)
    return joint


def given(**cells):
    return pd.DataFrame({name: [value] for name, value in cells.items()})


def repeated(frame, rows):
    return pd.concat([frame] * rows, ignore_index=True)


def within(found, expected, rows, bias=0.0):
    """Every frequency within three standard errors (twelve cells at most) of its probability."""
    error = 3.5 * np.sqrt(expected * (1 - expected) / rows) + bias
    return bool((np.abs(found - expected) <= error).all())


def shares(frame, names):
    codes = [frame[name].astype(str).astype(int).to_numpy() for name in names]
    sizes = [SIZES["abc".index(name)] for name in names]
    flat = np.ravel_multi_index(codes, sizes)
    return np.bincount(flat, minlength=int(np.prod(sizes))).reshape(sizes) / len(frame)


ROWS = 6000


@pytest.mark.parametrize(
    ("names", "values"), [("a", "1"), ("b", "2"), ("c", "0"), ("ac", "01"), ("bc", "11"), ("ab", "02")]
)
def test_any_order_draws_from_the_exact_conditional_distribution(models, names, values):
    model = models["random"]
    frame = repeated(given(**dict(zip(names, values, strict=True))), ROWS)
    rows = model.complete(frame, np.random.default_rng(0))
    known = ["abc".index(name) for name in names]
    free = [column for column in range(3) if column not in known]
    joint = joint_of(model, [*known, *free])
    at = tuple(int(values[names.index(n)]) if n in names else slice(None) for n in "abc")
    expected = joint[at] / joint[at].sum()
    assert all((rows[n].astype(str) == v).all() for n, v in zip(names, values, strict=True))
    assert within(shares(rows, ["abc"[c] for c in free]), expected, ROWS)
    truth = toy_joint()[at] / toy_joint()[at].sum()
    assert np.abs(expected - truth).max() < 0.05


@pytest.mark.parametrize(
    ("names", "values"), [("a", "1"), ("b", "2"), ("c", "0"), ("ac", "01"), ("bc", "11")]
)
def test_a_fixed_order_reaches_the_conditional_distribution_by_resampling(models, names, values):
    model = models["schema"]
    rows_wanted = 2000
    frame = repeated(given(**dict(zip(names, values, strict=True))), rows_wanted)
    rows = model.complete(frame, np.random.default_rng(0), candidates=200)
    joint = joint_of(model, [0, 1, 2])
    at = tuple(int(values[names.index(n)]) if n in names else slice(None) for n in "abc")
    expected = joint[at] / joint[at].sum()
    assert within(shares(rows, [n for n in "abc" if n not in names]), expected, rows_wanted, bias=0.01)


def test_without_resampling_a_later_given_cell_says_nothing_about_earlier_ones(models):
    """The reason for the candidates: one candidate is drawn before the given cell is looked at."""
    model, joint = models["schema"], joint_of(models["schema"], [0, 1, 2])
    rows = model.complete(repeated(given(c="0"), ROWS), np.random.default_rng(0), candidates=1)
    first = joint.sum(axis=(1, 2))
    exact = joint[:, :, 0].sum(axis=1) / joint[:, :, 0].sum()
    assert within(shares(rows, ["a"]), first, ROWS)
    assert not within(shares(rows, ["a"]), exact, ROWS)


@pytest.mark.parametrize("order", ["schema", "random"])
def test_probabilities_of_a_column_are_those_of_the_joint(models, order):
    model = models[order]
    joint = joint_of(model, [0, 1, 2])
    cells = conform(pd.DataFrame(np.array(CELLS).astype(str), columns=list("abc")), TOY)
    for axis, name in enumerate("abc"):
        found = model.predict_proba(cells.drop(columns=name), name)
        expected = np.moveaxis(joint / joint.sum(axis=axis, keepdims=True), axis, -1)
        for row, cell in zip(found.to_numpy(), CELLS, strict=True):
            rest = tuple(code for column, code in enumerate(cell) if column != axis)
            np.testing.assert_allclose(row, expected[rest], atol=1e-5)
        assert list(found.columns) == list(TOY.column(name).categories.values)


@pytest.mark.parametrize("order", ["schema", "random"])
def test_log_probabilities_are_normalised_over_all_rows(models, order):
    cells = conform(pd.DataFrame(np.array(CELLS).astype(str), columns=list("abc")), TOY)
    logs = models[order].log_prob(cells)
    assert np.exp(logs).sum() == pytest.approx(1, abs=1e-5)
    np.testing.assert_allclose(np.exp(logs).reshape(SIZES), joint_of(models[order], [0, 1, 2]), atol=1e-6)


@pytest.mark.parametrize("order", ["schema", "random"])
def test_rebalanced_rows_have_the_asked_shares_and_the_models_conditionals(models, order):
    model = models[order]
    rows_wanted = 3000
    rows = model.rebalance(rows_wanted, np.random.default_rng(0), {"b": {"2": 0.7}})
    marginal = model.marginals.masses[1]
    rest = marginal[:2] / marginal[:2].sum() * 0.3
    assert within(shares(rows, ["b"]), np.array([*rest, 0.7]), rows_wanted)
    chosen = rows[rows["b"] == "2"]
    joint = joint_of(model, [1, 0, 2] if order == "random" else [0, 1, 2])
    expected = joint[:, 2, :] / joint[:, 2, :].sum()
    assert within(shares(chosen, ["a", "c"]), expected, len(chosen), bias=0 if order == "random" else 0.015)


@pytest.mark.parametrize("wanted", [{"c": {"0": 1.0}}, {"c": {"0": 0.25, "1": 0.75}}, {"c": {"1": 0.0}}])
def test_extreme_shares_are_met(models, wanted):
    rows = models["random"].rebalance(2000, np.random.default_rng(0), wanted)
    zero = wanted["c"].get("0", 1 - wanted["c"].get("1", 0.0))
    assert within(shares(rows, ["c"]), np.array([zero, 1 - zero]), 2000)


@pytest.mark.parametrize(
    "wanted",
    [
        {},
        {"a": {"0": 0.5}, "b": {"0": 0.5}},
        {"d": {"0": 0.5}},
        {"a": {"5": 0.5}},
        {"a": {"0": 1.2}},
        {"a": {"0": -0.1}},
        {"a": {"0": 0.7, "1": 0.7}},
        {"a": {"0": 0.3, "1": 0.3}},
    ],
)
def test_impossible_shares_are_refused(models, wanted):
    with pytest.raises(ConfigError):
        models["random"].rebalance(10, np.random.default_rng(0), wanted)


def test_imputed_tables_keep_what_is_there_and_differ_in_what_is_not(models):
    model = models["random"]
    cells = pd.DataFrame(np.array(CELLS * 50).astype(str), columns=list("abc"))
    holes = cells.mask(np.random.default_rng(0).random(cells.shape) < 0.3)
    first, second = model.impute(holes, np.random.default_rng(1), draws=2)
    for table in (first, second):
        assert not table.isna().any().any()
        assert (table.astype(str).to_numpy() == cells.to_numpy())[holes.notna().to_numpy()].all()
    assert not first.equals(second)


@pytest.mark.parametrize("index", [[7, 3, 99], ["x", "y", "z"]])
def test_given_rows_may_have_any_index(models, index):
    frame = pd.DataFrame({"b": ["2", None, "0"], "c": [None, "1", "1"]}, index=index)
    rows = models["random"].complete(frame, np.random.default_rng(0))
    assert rows["b"].astype(str).tolist()[::2] == ["2", "0"]
    assert rows["c"].astype(str).tolist()[1:] == ["1", "1"]
    assert not rows.isna().any().any()


def test_nothing_given_is_a_plain_sample_and_no_rows_are_no_rows(models):
    model = models["random"]
    joint = joint_of(model, [0, 1, 2])
    rows = model.complete(pd.DataFrame({"a": [None] * ROWS}), np.random.default_rng(0))
    assert within(shares(rows, list("abc")), joint, ROWS)
    assert len(model.complete(pd.DataFrame({"a": []}, dtype=str), np.random.default_rng(0))) == 0


def test_the_order_of_the_model_is_its_own_again_after_a_completion(models):
    model = models["random"]
    before = model.sample(200, np.random.default_rng(0))
    model.complete(given(c="1"), np.random.default_rng(1))
    pd.testing.assert_frame_equal(model.sample(200, np.random.default_rng(0)), before)
    assert model.net.order == [0, 1, 2]


@pytest.mark.parametrize("frame", [given(d="1"), given(a="7"), given(b="two")])
def test_what_the_schema_does_not_know_is_refused_without_naming_the_value(models, frame):
    with pytest.raises(DataError) as caught:
        models["random"].complete(frame, np.random.default_rng(0))
    assert "two" not in str(caught.value)
    assert "7" not in str(caught.value)


def test_impossible_numbers_of_candidates_and_columns_are_refused(models):
    with pytest.raises(ConfigError, match="candidates"):
        models["schema"].complete(given(a="1"), np.random.default_rng(0), candidates=0)
    with pytest.raises(DataError, match="no column"):
        models["schema"].predict_proba(given(a="1", b="1"), "d")


# ---- mixed columns

MIXED = schema_from_dict(
    {
        "nominal_rows": 600,
        "constraints": ["rank = position(level)"],
        "columns": {
            "level": words("low", "middle", "high"),
            "rank": {"kind": "integer", "bounds": {"min": 1, "max": 3}},
            "gain": {"kind": "integer", "bounds": {"min": 0, "max": 9999}, "special_values": [0]},
            "amount": {
                "kind": "numeric",
                "bounds": {"min": -50, "max": 999},
                "granularity": 0.1,
                "codec": "digit",
                "nullable": True,
            },
            "when": {
                "kind": "datetime",
                "bounds": {"min": "2020-01-01", "max": "2021-12-31"},
                "resolution": "day",
                "codec": "datetime_parts",
            },
            "city": words("x", "y", nullable=True),
            "zip": words(*[f"z{i:04d}" for i in range(1500)]),
        },
    }
)


@pytest.fixture(scope="module", params=["schema", "random"])
def mixed(request, tmp_path_factory):
    rng = np.random.default_rng(0)
    level = rng.integers(0, 3, 600)
    raw = pd.DataFrame(
        {
            "level": np.array(["low", "middle", "high"])[level],
            "rank": level + 1,
            "gain": np.where(level == 2, 5000, 0),
            "amount": np.where(rng.random(600) < 0.5, np.nan, rng.uniform(-50, 999, 600).round(1)),
            "when": pd.Timestamp("2020-03-01") + pd.to_timedelta(rng.integers(0, 500, 600), unit="D"),
            "city": np.where(rng.random(600) < 0.4, None, np.where(level == 0, "x", "y")),
            "zip": [f"z{i:04d}" for i in rng.integers(0, 1500, 600)],
        }
    )
    table = conform(raw, MIXED)
    model = TabularARGN(steps=80, size="S", expected_batch_size=300, column_order=request.param)
    return fit(model, MIXED, table, tmp_path_factory.mktemp("mixed")), table


def test_given_numbers_dates_and_categories_are_kept_to_the_digit(mixed):
    model, table = mixed
    for names in (["amount", "when"], ["zip", "gain"], ["city"], ["level", "rank"]):
        rows = model.complete(table[names].head(60), np.random.default_rng(0), candidates=4)
        for name in names:
            there = table[name].head(60).notna()
            assert (rows[name][there] == table[name].head(60)[there]).all()
        assert not any(violations(rows, MIXED).values())
        assert satisfied(rows, MIXED).all()
        assert tuple(rows.columns) == MIXED.names


def test_a_given_derived_column_speaks_for_the_column_it_follows_from(mixed):
    model, _ = mixed
    rows = model.complete(pd.DataFrame({"rank": [1, 2, 3] * 20}), np.random.default_rng(0), candidates=4)
    assert rows["level"].astype(str).tolist() == ["low", "middle", "high"] * 20
    assert rows["rank"].tolist() == [1, 2, 3] * 20
    for value in (9, "many"):
        with pytest.raises(DataError, match="no position"):
            model.complete(pd.DataFrame({"rank": [value]}), np.random.default_rng(0))


def test_imputation_leaves_no_hole_and_completion_may(mixed):
    model, table = mixed
    holes = table[["amount", "city"]].head(200)
    (full,) = model.impute(holes, np.random.default_rng(0))
    assert not full.isna().any().any()
    rows = model.complete(table[["level"]].head(200), np.random.default_rng(0), candidates=4)
    assert 0.25 < rows["amount"].isna().mean() < 0.75


def test_a_given_cell_moves_the_columns_that_depend_on_it(mixed):
    model, _ = mixed
    gains = []
    for level in ("low", "high"):
        frame = pd.DataFrame({"level": [level] * 300})
        gains.append((model.complete(frame, np.random.default_rng(0))["gain"] > 0).mean())
    assert gains[0] < 0.2 < 0.8 < gains[1]
    later = model.complete(pd.DataFrame({"gain": [0] * 300}), np.random.default_rng(0))
    assert (later["level"] == "high").mean() < 0.1


def test_a_column_of_several_parts_is_neither_rebalanced_nor_predicted(mixed):
    model, table = mixed
    with pytest.raises(ConfigError, match="2 parts"):
        model.rebalance(5, np.random.default_rng(0), {"zip": {"z0001": 0.5}})
    with pytest.raises(DataError, match="parts"):
        model.predict_proba(table.drop(columns="amount"), "amount")


def test_probabilities_of_a_column_with_missing_cells_beside_it_sum_to_one(mixed):
    model, table = mixed
    found = model.predict_proba(table.drop(columns="level").head(50), "level")
    np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-6)
    certain = found.to_numpy()[np.arange(50), table["level"].head(50).cat.codes]
    assert certain.mean() > 0.45
