"""The contract of every generator in conf/model: sound plan, bounded sensitivity, valid samples."""

from __future__ import annotations

import dataclasses
import math
from functools import cache

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from dpforge.config import conf_dir
from dpforge.data import Images
from dpforge.data.schema import Unit
from dpforge.data.table import violations
from dpforge.errors import ConfigError
from dpforge.generators.base import Runtime
from dpforge.nets.masked import MaskedLinear
from dpforge.privacy.rng import KeyedRandom
from dpforge.privacy.spec import PrivacySpec

from .checks import (
    check_follows_from_releases,
    check_ledger,
    check_neighbours,
    check_noise,
    described_release,
)
from .harness import (
    NOT_REPLACED,
    TARGETS,
    VARIANTS,
    buys_values,
    fit,
    model_of,
    schema_for,
    small_model,
    table_for,
    without_last,
)

# A generator that says it is not DP, to reproduce a published one, has no releases to check.
NAMES = sorted(
    path.stem
    for path in (conf_dir() / "model").glob("*.yaml")
    if not getattr(model_of(path.stem), "not_dp", False)
)
NAMES += sorted(VARIANTS)
SIZES = [0, 1, 2, 64, 93, 100, 104]


@cache
def generator(name):
    model = small_model(name)
    return model, schema_for(model, name)


def neighbours(name, folder, target="in range", rows=40, **options):
    model, schema = generator(name)
    table = table_for(schema, rows, TARGETS[target])
    whole = fit(model, schema, table, folder / "whole", **options)
    less = fit(model, schema, without_last(table), folder / "less", replay=whole.outputs, **options)
    return whole, less


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("target", TARGETS)
def test_removing_one_record_moves_each_release_by_at_most_its_sensitivity(name, target, tmp_path):
    whole, less = neighbours(name, tmp_path, target)
    check_neighbours(whole, less)
    check_follows_from_releases(whole, less)
    assert max(a.distance(b) for a, b in zip(whole.releases, less.releases, strict=True)) > 0


@pytest.mark.parametrize("name", NAMES)
def test_removing_the_first_record_moves_no_other_into_a_release(name, tmp_path):
    """Subsets and codes by the order of the file would; samples by place are checked by their law instead."""
    model, schema = generator(name)
    table = table_for(schema, 41)
    whole = fit(model, schema, table, tmp_path / "whole")
    less = fit(model, schema, table.take(np.arange(1, 41)), tmp_path / "less", replay=whole.outputs)
    for a, b in zip(whole.releases, less.releases, strict=True):
        piece = whole.plan.piece(a.name)
        if piece.mechanism != "dp_sgd" and piece.sampling_rate == 1:
            assert a.distance(b) <= a.sensitivity * (1 + 1e-5), f"{a.name} moves beyond its sensitivity"


@pytest.mark.parametrize("name", NAMES)
def test_neighbours_spend_and_release_the_same_however_many_rows_there_are(name, tmp_path):
    model, schema = generator(name)
    traces = [fit(model, schema, table_for(schema, SIZES[0]), tmp_path / str(SIZES[0]))]
    # What is measured may follow from what was released before: that is frozen.
    replay = traces[0].outputs
    for rows in SIZES[1:]:
        traces.append(fit(model, schema, table_for(schema, rows), tmp_path / str(rows), replay=replay))
    shapes = [[described_release(r) for r in trace.releases] for trace in traces]
    assert all(shape == shapes[0] for shape in shapes)
    normalizers = [[record.get("normalizer") for record in trace.ledger._records] for trace in traces]
    assert all(values == normalizers[0] for values in normalizers)
    for trace in traces:
        trace.ledger.check_complete()


@pytest.mark.parametrize("name", NAMES)
def test_the_ledger_holds_exactly_what_was_released(name, tmp_path):
    model, schema = generator(name)
    check_ledger(fit(model, schema, table_for(schema, 50), tmp_path))


@pytest.mark.parametrize("name", NAMES)
def test_noise_is_per_element_of_the_declared_scale_and_never_repeats(name, tmp_path):
    model, schema = generator(name)
    trace = fit(model, schema, table_for(schema, 50), tmp_path)
    assert trace.releases[0].scale > 0
    check_noise(trace)


@pytest.mark.parametrize("name", NAMES)
def test_the_whole_plan_meets_its_target_epsilon(name):
    model, schema = generator(name)
    plan = model.plan(schema, PrivacySpec(target_epsilon=2.0))
    assert 1.9999 < plan.epsilon() <= 2.0
    assert plan.epsilon() <= plan.epsilon("rdp")


@pytest.mark.parametrize("name", NAMES)
def test_replacing_a_record_doubles_what_the_noise_must_hide(name):
    model, schema = generator(name)
    if name in NOT_REPLACED:
        with pytest.raises(ConfigError, match=NOT_REPLACED[name]):
            model.plan(schema, PrivacySpec(relation="replace"))
        return
    add, replace = (
        model.plan(schema, PrivacySpec(relation=relation)) for relation in ("add_remove", "replace")
    )
    for before, after in zip(add.pieces, replace.pieces, strict=True):
        assert after.sensitivity / before.sensitivity >= math.sqrt(2) - 1e-9


@pytest.mark.parametrize("name", NAMES)
def test_samples_satisfy_the_schema_and_have_the_asked_length(name, tmp_path):
    model, schema = generator(name)
    trace = fit(model, schema, table_for(schema, 60), tmp_path)
    for rows in (0, 1, 500):
        sample = trace.fitted.sample(rows, np.random.default_rng(0))
        assert len(sample) == rows
        if isinstance(sample, Images):
            assert sample.pixels.shape[1:] == schema.shape
            assert set(sample.labels) <= set(range(schema.num_classes))
            assert (np.diff(sample.labels) >= 0).all()
            continue
        assert tuple(sample.columns) == schema.names
        assert not any(violations(sample, schema).values())


@pytest.mark.parametrize("name", NAMES)
def test_saved_and_loaded_models_give_the_same_samples(name, tmp_path):
    model, schema = generator(name)
    trace = fit(model, schema, table_for(schema, 60), tmp_path)
    trace.fitted.save(tmp_path)
    again = model.load(tmp_path)
    first, second = (m.sample(200, np.random.default_rng(3)) for m in (trace.fitted, again))
    if isinstance(first, Images):
        assert np.array_equal(first.pixels, second.pixels)
        assert np.array_equal(first.labels, second.labels)
        return
    pd.testing.assert_frame_equal(first, second)


@pytest.mark.parametrize("name", NAMES)
def test_without_dp_the_same_code_runs_and_the_plan_has_no_epsilon(name, tmp_path):
    model, schema = generator(name)
    trace = fit(model, schema, table_for(schema, 60), tmp_path, spec=PrivacySpec(enabled=False))
    assert trace.plan.epsilon() == math.inf
    assert all(not release.noise.any() for release in trace.releases)
    assert len(trace.fitted.sample(10, np.random.default_rng(0))) == 10


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "runtime", [Runtime(engine="hooks"), Runtime(microbatch=3)], ids=["hooks", "microbatch"]
)
def test_runtime_choices_do_not_change_what_is_released(name, runtime, tmp_path):
    model, schema = generator(name)
    table = table_for(schema, 60)
    base = fit(model, schema, table, tmp_path / "base")
    other = fit(model, schema, table, tmp_path / "other", runtime=runtime)
    for left, right in zip(base.releases, other.releases, strict=True):
        assert np.array_equal(left.noise, right.noise)
        np.testing.assert_allclose(left.value, right.value, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_another_key_gives_other_noise_with_the_same_public_seed(name, tmp_path):
    model, schema = generator(name)
    table = table_for(schema, 60)
    first = fit(model, schema, table, tmp_path / "first")
    second = fit(model, schema, table, tmp_path / "second", key=bytes(32))
    for left, right in zip(first.releases, second.releases, strict=True):
        assert not np.array_equal(left.noise, right.noise)


@pytest.mark.parametrize("name", NAMES)
def test_removing_a_user_with_all_rows_moves_each_release_by_at_most_its_sensitivity(name, tmp_path):
    model, row_schema = generator(name)
    schema = dataclasses.replace(row_schema, unit=Unit("user", "person", 3))
    table = table_for(schema, 45, TARGETS["far out of range"])
    units = np.repeat(np.arange(15), 3)
    spec = PrivacySpec(max_grad_norm=0.1)
    if buys_values(name):
        with pytest.raises(ConfigError, match="unit=user"):
            model.plan(schema, spec)
        return
    whole = fit(model, schema, table, tmp_path / "whole", units=units, spec=spec)
    less = fit(
        model,
        schema,
        without_last(table, 3),
        tmp_path / "less",
        units=units[:-3],
        spec=spec,
        replay=whole.outputs,
    )
    moved = [a.distance(b) / a.sensitivity for a, b in zip(whole.releases, less.releases, strict=True)]
    assert 0 < max(moved) <= 1 + 1e-5
    row = model.plan(row_schema, spec)
    assert whole.plan.pieces[0].sensitivity >= row.pieces[0].sensitivity


@pytest.mark.parametrize("name", NAMES)
def test_entries_under_a_mask_get_neither_gradient_nor_noise(name, tmp_path):
    model, schema = generator(name)
    trace = fit(model, schema, table_for(schema, 60), tmp_path)
    net = getattr(trace.fitted, "net", nn.Module())
    masked = [m for m in net.modules() if isinstance(m, MaskedLinear)]
    if getattr(model, "column_order", "schema") == "random":
        # The masks of each step are others; in none are all weights released.
        every = sum(parameter.numel() for parameter in net.parameters())
        assert max(r.value.size for r in trace.releases if r.name == "train") < every
        return
    for layer in masked:
        assert torch.equal(layer.weight * (1 - layer.mask), torch.zeros_like(layer.weight))
    released = {r.value.size for r in trace.releases if r.name == "train"}
    if masked:
        assert released == {sum(int(m.mask.sum()) + m.bias.numel() for m in masked)}


@pytest.mark.parametrize("name", NAMES)
def test_what_is_drawn_for_a_row_comes_from_the_secret_key(name, tmp_path, monkeypatch):
    """Public draws by place in the batch would tell apart the rows behind a record that is missing.

    So would public samples: an amplified epsilon holds only if nobody knows who was drawn.
    """
    drawn = []

    def watch(method):
        original = getattr(KeyedRandom, method)

        def noted(self, purpose, *rest):
            drawn.append((self.kind, purpose))
            return original(self, purpose, *rest)

        monkeypatch.setattr(KeyedRandom, method, noted)

    for method in ("generator", "uniform", "normal", "normal_double"):
        watch(method)
    model, schema = generator(name)
    fit(model, schema, table_for(schema, 30), tmp_path)
    public = {purpose for kind, purpose in drawn if kind == "public"}
    # What a public generator of images draws belongs to candidates, and what a student and an alignment
    # draw to public images: no row is behind them.
    elsewhere = ("evolution/", "student/", "synthesis", "teacher/public")
    public = {purpose for purpose in public if not purpose.startswith(elsewhere)}
    assert public <= {"initialisation", "permutation", "order"}
