"""What TabularARGN reads of private rows, and that every read is bounded, noisy and on the ledger."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pandas as pd
import pytest
import torch
from contract.harness import KEY, fit

from dpforge.data import Dataset
from dpforge.data.schema import schema_from_dict
from dpforge.data.table import conform
from dpforge.errors import BudgetExceeded, ConfigError, PrivacyError
from dpforge.generators import argn_marginals, tabular_argn
from dpforge.generators.base import RunContext, Runtime
from dpforge.generators.histograms import histogram_release
from dpforge.generators.tabular_argn import TabularARGN
from dpforge.nets.masked import MaskedLinear
from dpforge.privacy.ledger import Ledger
from dpforge.privacy.mechanisms import PrivateAccess
from dpforge.privacy.rng import KeyedRandom
from dpforge.privacy.spec import PrivacySpec
from dpforge.privacy.values import stand_in

LEVELS = ["low", "middle", "high"]
SCHEMA = schema_from_dict(
    {
        "nominal_rows": 100,
        "target": "answer",
        "constraints": ["rank = position(level)"],
        "columns": {
            "level": {"kind": "categorical", "categories": {"values": LEVELS}, "unseen": "drop"},
            "rank": {"kind": "integer", "bounds": {"min": 1, "max": 3}},
            "gain": {"kind": "integer", "bounds": {"min": 0, "max": 9999}, "special_values": [0]},
            "amount": {
                "kind": "numeric",
                "bounds": {"min": -50, "max": 999},
                "granularity": 0.1,
                "codec": "digit",
                "nullable": True,
            },
            "zip": {"kind": "categorical", "categories": {"values": [f"z{i:04d}" for i in range(1500)]}},
            "day": {
                "kind": "datetime",
                "bounds": {"min": "2020-01-01", "max": "2021-12-31"},
                "resolution": "day",
                "codec": "datetime_parts",
            },
            "answer": {"kind": "categorical", "categories": {"values": ["no", "yes"]}, "unseen": "drop"},
        },
    }
)
# level, gain, amount: is_null, sign, four digits; zip: high, low; day: year, month, day; answer
WIDTH = 1 + 1 + 6 + 2 + 3 + 1
MODEL = TabularARGN(steps=3, expected_batch_size=None, sampling_rate=0.4, refine=4)
VARIANTS = {
    "direct": {},
    "M": {"size": "M", "direct": False, "ema": 0.5},
    "M and direct, random order, dropout": {"size": "M", "column_order": "random", "dropout": 0.25},
    "list": {"column_order": ["answer", "zip", "day", "gain", "level", "amount", "rank"]},
}
PAIRED = dataclasses.replace(MODEL, cross_columns="all", parents=1.5, target_parents=2)
TARGETS = {
    "in range": {},
    "out of range": {"gain": 10**9, "amount": -1e9, "zip": "atlantis", "day": "1900-01-01"},
    "missing": {"amount": np.nan},
}


def variant(name):
    return dataclasses.replace(MODEL, **VARIANTS[name])


def table(rows, target="in range"):
    rng = np.random.default_rng(0)
    level = rng.integers(0, 3, rows)
    raw = pd.DataFrame(
        {
            "level": np.array(LEVELS)[level],
            "rank": level + 1,
            "gain": np.where(level == 2, rng.integers(1, 9999, rows), 0),
            "amount": rng.uniform(-50, 999, rows).round(1),
            "zip": [f"z{i:04d}" for i in rng.integers(0, 1500, rows)],
            "day": pd.Timestamp("2020-03-01") + pd.to_timedelta(rng.integers(0, 500, rows), unit="D"),
            "answer": rng.choice(["no", "yes"], rows).astype(str),
        }
    ).astype(object)
    for column, value in TARGETS[target].items():
        raw.loc[rows - 1, column] = value
    return conform(raw, SCHEMA)


def neighbours(folder, model, target="in range", spec=None, rows=40):
    spec = spec or PrivacySpec(max_grad_norm=0.05)
    data = table(rows, target)
    whole = fit(model, SCHEMA, data, folder / "whole", spec=spec)
    return whole, fit(model, SCHEMA, data.iloc[:-1], folder / "less", spec=spec, replay=whole.outputs)


def state(fitted):
    """Everything that a fitted model keeps or saves."""
    arrays = [*fitted.marginals.masses, *fitted.marginals.crossed.values(), *fitted.pieces.inputs]
    arrays += [*fitted.pieces.of_cell, *fitted.pieces.outputs, np.asarray(fitted.marginals.rows)]
    arrays.append(np.asarray(fitted.net.pairs or []))
    return [*arrays, *(tensor.numpy() for tensor in fitted.net.state_dict().values())]


def check(folder, model, target="in range"):
    """Bounded releases, and a model that follows from the releases alone."""
    whole, less = neighbours(folder, model, target)
    assert [(r.name, r.step, r.value.shape) for r in whole.releases] == [
        (r.name, r.step, r.value.shape) for r in less.releases
    ]
    for a, b in zip(whole.releases, less.releases, strict=True):
        assert a.distance(b) <= a.sensitivity * (1 + 1e-5), f"{a.name} moves too far"
    same = [np.array_equal(a, b) for a, b in zip(state(whole.fitted), state(less.fitted), strict=True)]
    assert all(same), "something is kept that was not released"
    for trace in (whole, less):
        trace.ledger.check_complete()
    return whole


@pytest.mark.parametrize("name", VARIANTS)
def test_with_the_same_releases_the_model_is_the_same_without_a_record(name, tmp_path):
    whole = check(tmp_path, variant(name))
    assert [(p.name, p.count) for p in whole.plan.pieces] == [("marginals", 1), ("train", 3)]
    assert whole.plan.piece("marginals").sensitivity == pytest.approx(math.sqrt(WIDTH))
    assert [r.name for r in whole.releases] == ["marginals", *["train"] * 3]


@pytest.mark.parametrize("target", TARGETS)
def test_no_record_moves_a_release_by_more_than_its_sensitivity(target, tmp_path):
    check(tmp_path, MODEL, target)


def test_a_record_with_a_value_everywhere_uses_the_whole_sensitivity_of_the_histograms(tmp_path):
    uniform = dataclasses.replace(MODEL, allocation="uniform")
    whole, less = neighbours(tmp_path, uniform)
    moved = whole.releases[0].distance(less.releases[0])
    assert moved == pytest.approx(math.sqrt(WIDTH))


@pytest.mark.parametrize("target", TARGETS)
def test_connected_pairs_follow_from_one_bounded_release(target, tmp_path):
    whole = check(tmp_path, PAIRED, target)
    assert [(p.name, p.count) for p in whole.plan.pieces] == [("marginals", 1), ("pairs", 1), ("train", 3)]
    within = sum(math.comb(subs, 2) for subs in (6, 2, 3))
    assert whole.plan.piece("pairs").sensitivity == pytest.approx(math.sqrt(math.comb(WIDTH, 2) - within))
    assert whole.fitted.net.pairs


@pytest.mark.parametrize("rows", [0, 1, 2])
@pytest.mark.parametrize("name", VARIANTS)
def test_tiny_tables_spend_what_the_plan_says(name, rows, tmp_path):
    trace = fit(variant(name), SCHEMA, table(40).iloc[:rows], tmp_path)
    trace.ledger.check_complete()
    assert len(trace.fitted.sample(5, np.random.default_rng(0))) == 5


# ---- planted bugs


def counts_are_exact(monkeypatch):
    """Target scores from the counts before noise."""
    honest = argn_marginals.release_marginals

    def leaking(access, fine, codes, *rest, **options):
        released = honest(access, fine, codes, *rest, **options)
        target, levels = released.target, fine.codec.sizes[released.target]
        exact = {
            s: argn_marginals._pair_counts(codes[:, s], codes[:, target], fine.codec.sizes[s], levels)
            for s in released.crossed
        }
        exact = {s: counts.reshape(-1, levels).astype(float) for s, counts in exact.items()}
        return dataclasses.replace(released, crossed=exact)

    monkeypatch.setattr(tabular_argn, "release_marginals", leaking)


def sensitivity_of_columns(monkeypatch):
    """A row counted once a column, not once a sub-column."""
    monkeypatch.setattr(
        tabular_argn,
        "histogram_release",
        lambda schema, relation, width: histogram_release(schema, relation),
    )


def rows_from_the_table(monkeypatch):
    honest = argn_marginals.release_marginals
    monkeypatch.setattr(
        tabular_argn,
        "release_marginals",
        lambda access, fine, codes, allocation, rows, **o: honest(
            access, fine, codes, allocation, float(len(codes)), **o
        ),
    )


def test_a_plan_of_too_low_a_sensitivity_for_all_pairs_is_refused(tmp_path, monkeypatch):
    honest = tabular_argn.pair_release
    monkeypatch.setattr(
        tabular_argn,
        "pair_release",
        lambda *a: [dataclasses.replace(release, sensitivity=1.0) for release in honest(*a)],
    )
    with pytest.raises(PrivacyError, match=r"sensitivity 1\.0 for"):
        check(tmp_path, PAIRED)


@pytest.mark.parametrize("bug", [counts_are_exact, sensitivity_of_columns, rows_from_the_table])
def test_a_planted_bug_is_caught(bug, tmp_path, monkeypatch):
    bug(monkeypatch)
    with pytest.raises((AssertionError, PrivacyError)):
        check(tmp_path, dataclasses.replace(MODEL, allocation="uniform"))


def test_the_sensitivity_of_columns_alone_would_be_caught_by_the_distance_too(tmp_path, monkeypatch):
    whole, less = neighbours(tmp_path, dataclasses.replace(MODEL, allocation="uniform"))
    columns = math.sqrt(len(SCHEMA.columns))
    assert whole.releases[0].distance(less.releases[0]) > columns * (1 + 1e-5)


# ---- masks and orders


def test_each_step_of_a_random_order_releases_the_entries_that_its_order_allows(tmp_path, monkeypatch):
    kept = []
    honest = tabular_argn.ARGNModule.before_step

    def spy(self, step):
        honest(self, step)
        masked = [m for m in self.net.modules() if isinstance(m, MaskedLinear)]
        others = sum(p.numel() for p in self.net.parameters()) - sum(m.weight.numel() for m in masked)
        kept.append((tuple(self.net.order), others + sum(int(m.mask.sum()) for m in masked)))

    monkeypatch.setattr(tabular_argn.ARGNModule, "before_step", spy)
    model = dataclasses.replace(variant("M and direct, random order, dropout"), steps=6)
    trace = fit(model, SCHEMA, table(40), tmp_path)
    assert len({order for order, _ in kept}) > 3
    assert len({count for _, count in kept}) > 1
    assert [r.value.size for r in trace.releases[1:]] == [count for _, count in kept]


def test_the_orders_are_public_and_everything_drawn_for_a_row_is_secret(tmp_path, monkeypatch):
    drawn, honest = set(), KeyedRandom.generator
    monkeypatch.setattr(
        KeyedRandom, "generator", lambda self, *a: drawn.add((self.kind, a[0])) or honest(self, *a)
    )
    fit(variant("M and direct, random order, dropout"), SCHEMA, table(30), tmp_path)
    assert {purpose for kind, purpose in drawn if kind == "public"} == {"initialisation", "order"}
    assert ("entropy", "train/dropout") in drawn


def test_the_orders_do_not_depend_on_the_table(tmp_path, monkeypatch):
    orders, honest = [], tabular_argn.ARGNModule.before_step

    def spy(self, step):
        honest(self, step)
        orders.append(tuple(self.net.order))

    monkeypatch.setattr(tabular_argn.ARGNModule, "before_step", spy)
    model = variant("M and direct, random order, dropout")
    for rows in (5, 40):
        fit(model, SCHEMA, table(40).iloc[:rows], tmp_path / str(rows))
    assert orders[:3] == orders[3:]


@pytest.mark.parametrize("name", VARIANTS)
def test_ghost_clipping_and_hooks_release_the_same(name, tmp_path):
    model = variant(name)
    ghost, hooks = (
        fit(model, SCHEMA, table(40), tmp_path / engine, runtime=Runtime(engine=engine))
        for engine in ("ghost", "hooks")
    )
    for a, b in zip(ghost.releases, hooks.releases, strict=True):
        assert np.array_equal(a.noise, b.noise)
        np.testing.assert_allclose(a.value, b.value, atol=1e-4, rtol=1e-4)


def test_a_row_that_is_clipped_has_the_gradient_it_has_alone(tmp_path):
    """The sum of a batch is the sum over its rows: nothing in the loss mixes them."""
    trace = fit(variant("M"), SCHEMA, table(40), tmp_path)
    fitted, net = trace.fitted, trace.fitted.net
    codes = fitted._codes(table(12))
    total = torch.autograd.grad(net.log_probs(codes).sum(), list(net.parameters()), allow_unused=True)
    alone = [
        torch.autograd.grad(net.log_probs(row[None]).sum(), list(net.parameters()), allow_unused=True)
        for row in codes
    ]
    for number, gradient in enumerate(total):
        if gradient is not None:
            torch.testing.assert_close(gradient, sum(own[number] for own in alone), atol=1e-4, rtol=1e-4)


# ---- the plan


def open_schema(**columns):
    return schema_from_dict({"nominal_rows": 500, "columns": columns})


PRIVATE = {"provenance": "private", "epsilon": 0.5}
OPEN = {
    "many categories": open_schema(
        c={
            "kind": "categorical",
            "categories": {**PRIVATE, "delta": 1e-7, "max_values": 3000},
        }
    ),
    "no limit of categories": open_schema(
        c={"kind": "categorical", "categories": {**PRIVATE, "delta": 1e-7}}
    ),
    "few categories": open_schema(
        c={
            "kind": "categorical",
            "categories": {
                **PRIVATE,
                "delta": 1e-7,
                "max_values": 5,
                "public_values": ["v1", "v2"],
            },
        }
    ),
    "digits": open_schema(
        c={
            "kind": "integer",
            "bounds": {**PRIVATE, "method": "quantile", "levels": [0.01, 0.99], "outer": [-99999, 99999]},
            "codec": "digit",
        }
    ),
    "cells": open_schema(
        c={
            "kind": "integer",
            "bounds": {**PRIVATE, "method": "log_histogram", "outer": [0, 5000], "granularity": 1.0},
            "special_values": [0],
        }
    ),
}


@pytest.mark.parametrize("name", OPEN)
@pytest.mark.parametrize("spread", [3, 4000])
def test_the_planned_sensitivity_covers_whatever_values_are_released(name, spread, tmp_path):
    schema = OPEN[name]
    rng = np.random.default_rng(0)
    numbers = np.repeat(rng.integers(0, spread, 400), 40)
    categorical = schema.columns[0].kind == "categorical"
    values = [f"v{n}" for n in numbers] if categorical else numbers
    frame = pd.DataFrame({"c": pd.Series(values, dtype="str" if categorical else "Int64")})
    trace = fit(MODEL, schema, frame, tmp_path, spec=PrivacySpec(target_epsilon=3.0, delta=1e-5))
    histograms = len(trace.fitted.fine.codec.sizes)
    assert trace.plan.piece("marginals").sensitivity ** 2 >= histograms - 1e-9
    assert (
        sum(map(len, MODEL._columns(schema))) == len(MODEL._fine(stand_in(schema)).codec.sizes) >= histograms
    )
    assert {p.name for p in trace.plan.pieces} > {"marginals", "train"}
    trace.ledger.check_complete()
    assert len(trace.fitted.sample(20, np.random.default_rng(0))) == 20


def test_planned_steps_that_a_largest_epsilon_cuts_are_the_steps_that_are_trained(tmp_path):
    spec = PrivacySpec(target_epsilon=None, noise_multiplier=2.0)
    model = dataclasses.replace(MODEL, steps=16)
    limit = model.plan(SCHEMA, spec).epsilon() - 0.05
    spec = dataclasses.replace(spec, max_epsilon=limit)
    trace = fit(model, SCHEMA, table(40), tmp_path, spec=spec)
    count = trace.plan.piece("train").count
    assert 0 < count < 16
    assert len(trace.releases) == 1 + count
    assert trace.plan.epsilon() <= limit
    with pytest.raises(BudgetExceeded):
        model.plan(SCHEMA, dataclasses.replace(spec, max_epsilon=0.1))


def test_patience_is_refused_under_dp_by_the_plan_and_again_before_training(tmp_path):
    model = dataclasses.replace(MODEL, patience=2)
    with pytest.raises(ConfigError, match="patience"):
        model.plan(SCHEMA, PrivacySpec())
    assert model.plan(SCHEMA, PrivacySpec(enabled=False)).epsilon() == math.inf
    plan = MODEL.plan(SCHEMA, PrivacySpec())
    access = PrivateAccess(Ledger.create(tmp_path / "ledger.jsonl", plan, {}), KeyedRandom("entropy", KEY))
    data = Dataset(SCHEMA, table(40), table(40), None, False, "fingerprint")
    with pytest.raises(PrivacyError, match="patience"):
        model.fit(data, RunContext(access, PrivacySpec(), Runtime(), 0, tmp_path))
    assert access.ledger.reserved("train") == 0


def test_a_plan_with_too_small_a_sensitivity_is_refused_before_noise(tmp_path):
    plan = MODEL.plan(SCHEMA, PrivacySpec())
    small = dataclasses.replace(plan.pieces[0], sensitivity=math.sqrt(WIDTH - 1))
    plan = dataclasses.replace(plan, pieces=(small, *plan.pieces[1:]))
    access = PrivateAccess(Ledger.create(tmp_path / "ledger.jsonl", plan, {}), KeyedRandom("entropy", KEY))
    data = Dataset(SCHEMA, table(40), table(40), None, False, "fingerprint")
    with pytest.raises(PrivacyError, match="sensitivity"):
        MODEL.fit(data, RunContext(access, PrivacySpec(), Runtime(), 0, tmp_path))
    assert access.ledger.reserved("marginals") == 0


def test_the_plan_is_a_function_of_configuration_and_public_schema_alone():
    first = MODEL.plan(SCHEMA, PrivacySpec())
    assert MODEL.plan(SCHEMA, PrivacySpec()) == first
    assert first.piece("train").sampling_rate == 0.4
    by_size = dataclasses.replace(MODEL, sampling_rate=None, expected_batch_size=25)
    assert by_size.plan(SCHEMA, PrivacySpec()).piece("train").sampling_rate == 0.25


@pytest.mark.parametrize("relation", ["add_remove", "replace"])
def test_a_replaced_row_moves_twice_as_far_and_the_plan_says_so(relation, tmp_path):
    spec = PrivacySpec(max_grad_norm=0.05, relation=relation)
    uniform = dataclasses.replace(MODEL, allocation="uniform")
    data = table(40)
    whole = fit(uniform, SCHEMA, data, tmp_path / "whole", spec=spec)
    swapped = pd.concat([data.iloc[:-1], table(60).iloc[[-1]]], ignore_index=True)
    other = fit(uniform, SCHEMA, swapped, tmp_path / "other", spec=spec, replay=whole.outputs)
    moved = [a.distance(b) / a.sensitivity for a, b in zip(whole.releases, other.releases, strict=True)]
    assert (max(moved) <= 1 + 1e-5) == (relation == "replace")


def test_no_private_column_means_nothing_is_left_for_the_release_but_one_vector(tmp_path):
    trace = fit(MODEL, SCHEMA, table(40), tmp_path)
    sizes = trace.fitted.fine.codec.sizes
    refined = trace.fitted.fine.refined
    cells = sum(size * (2 if cut else 1) for size, cut in zip(sizes, refined, strict=True))
    assert trace.releases[0].value.size == cells
