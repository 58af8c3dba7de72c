"""What MST and AIM say they will take: sizes by hand, and time on a clock that counts cells."""

from __future__ import annotations

import logging
import math
from dataclasses import replace

import numpy as np
import pytest
from contract.harness import MIXED, fit, schema_of, small_model, table_for

from dpforge.generators.marginals import forecast as forecasts
from dpforge.generators.marginals.aim import AIM
from dpforge.generators.marginals.compression import Domain
from dpforge.generators.marginals.forecast import Forecast, Work, forecast, grown_megabytes
from dpforge.generators.marginals.junction import model_megabytes
from dpforge.generators.marginals.mst import MST
from dpforge.generators.marginals.workload import count
from dpforge.privacy.spec import PrivacySpec

SIZES = (20, 16, 12, 30, 8, 24, 10, 6)
WORK = Work(SIZES, 30_000.0, [(0, 1), (2, 3), (4, 5)], 20, 100, 1000, 2.0)
SPEC = PrivacySpec(target_epsilon=None, noise_multiplier=2.0)


@pytest.fixture
def counted(monkeypatch):
    """A clock that moves by the cells of the model with every step, and by the rows of every pass."""
    clock = {"now": 0.0}
    estimate, passes = forecasts.estimate, forecasts.count

    def stepping(sizes, measurements, total, *, iterations, **options):
        found = estimate(sizes, measurements, total, iterations=iterations, **options)
        clock["now"] += (1 + iterations) * found.model.tree.megabytes
        return found

    def passing(codes, sizes, clique):
        clock["now"] += len(codes) * 1e-9
        return passes(codes, sizes, clique)

    monkeypatch.setattr(forecasts, "estimate", stepping)
    monkeypatch.setattr(forecasts, "count", passing)
    monkeypatch.setattr(forecasts.time, "thread_time", lambda: clock["now"])
    return clock


def test_seconds_are_those_of_every_step_round_and_pass(counted):
    """One estimation is 1 + its steps model sizes; every round has one; every scored marginal one pass."""
    found = forecast(replace(WORK, round_iterations=0))
    passes = 30_000 * 1e-9 * 3
    assert found.seconds == pytest.approx(1001 * found.megabytes + passes)
    middle = model_megabytes(SIZES, forecasts._pairs(WORK, forecasts.ROUND_SIZE * 2.0))
    whole = forecast(WORK)
    assert whole.seconds == pytest.approx(1001 * whole.megabytes + 20 * 101 * middle + passes)


@pytest.mark.parametrize(
    "less",
    [{"megabytes": 0.2}, {"iterations": 100}, {"rounds": 5}, {"round_iterations": 10}, {"rows": 300.0}],
    ids=lambda change: next(iter(change)),
)
def test_less_work_is_expected_to_take_less_time(counted, less):
    assert forecast(replace(WORK, **less)).seconds < forecast(WORK).seconds


def test_the_expected_model_stays_within_its_limit_unless_a_chain_of_columns_is_larger():
    chain = model_megabytes(SIZES, forecasts._pairs(WORK, 0.0))
    assert chain < 0.05
    for limit in (0.1, 0.5, 4.0):
        assert chain <= forecast(replace(WORK, megabytes=limit)).megabytes <= limit


def test_models_grow_with_budget_and_rows_up_to_the_limit_they_are_given():
    sizes = [grown_megabytes(SIZES, 30_000.0, rho, 16.0) for rho in (1e-4, 1e-3, 1e-2, 1e-1, 1.0, math.inf)]
    assert sizes == sorted(sizes)
    assert sizes[0] < 0.1
    assert sizes[-2:] == [16.0, 16.0]
    assert grown_megabytes(SIZES, 1000.0, 0.01, 16.0) < grown_megabytes(SIZES, 100_000.0, 0.01, 16.0)
    assert grown_megabytes(SIZES, 30_000.0, 1.0, 2.0) == 2.0
    assert grown_megabytes((5,), 100.0, 1.0, 16.0) == pytest.approx(40 / 2**20)


def test_a_smaller_max_model_size_and_fewer_rounds_lower_the_forecast_of_aim(counted):
    schema = schema_of(MIXED).with_nominal_rows(1_000_000)
    spec = PrivacySpec(target_epsilon=None, noise_multiplier=0.5)
    model = AIM()
    usual = model.forecast(schema, model.plan(schema, spec))
    for changed in (AIM(max_model_size=0.1), AIM(max_rounds=3), AIM(iterations=50)):
        assert changed.forecast(schema, changed.plan(schema, spec)).seconds < usual.seconds
    assert AIM(max_rounds=3).forecast(schema, model.plan(schema, spec)).rounds == 3
    assert usual.rounds == math.ceil(2.3 * 6)


@pytest.mark.parametrize("model", [AIM(), MST()], ids=["aim", "mst"])
def test_nothing_is_foreseen_while_the_number_of_cells_is_private(model):
    bins = {"dp_quantile": 4, "epsilon": 0.1}
    schema = schema_of({**MIXED, "age": {**MIXED["age"], "bins": bins}})
    assert model.forecast(schema, model.plan(schema, SPEC)) is None
    public = schema_of(MIXED)
    assert isinstance(model.forecast(public, model.plan(public, SPEC)), Forecast)


@pytest.mark.parametrize("name", ["aim", "mst"])
def test_the_forecast_is_logged_once_a_fit(name, tmp_path, caplog):
    schema, caught = schema_of(MIXED), []
    with caplog.at_level(logging.INFO, logger="dpforge"):
        for rows in (30, 60):
            caplog.clear()
            fit(small_model(name), schema, table_for(schema, rows), tmp_path / str(rows), spec=SPEC)
            caught.append([r.getMessage() for r in caplog.records if "on this machine" in r.getMessage()])
    assert [len(lines) for lines in caught] == [1, 1]
    assert caught[0][0].startswith(f"{name}: about ")
    assert f"({5 if name == 'mst' else 2} marginals" in caught[0][0]


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.2, "about 1 s"), (34.6, "about 35 s"), (1234.0, "about 21 min")]
)
def test_people_read_two_digits(seconds, text):
    assert str(Forecast(9, 1.0, seconds)).startswith(text)


def test_rows_are_counted_alike_in_blocks_and_at_once():
    rng = np.random.default_rng(0)
    rows = 150_000
    codes = np.stack([rng.integers(0, size, rows) for size in (3, 5, 4)], axis=1).astype(np.int32)
    expected, _ = np.histogramdd(codes, bins=[np.arange(size + 1) for size in (3, 5, 4)])
    for columns, table in (
        ((0, 1, 2), expected),
        ((0, 2), expected.sum(axis=1)),
        ((1,), expected.sum((0, 2))),
    ):
        assert np.array_equal(count(codes, (3, 5, 4), columns), table.reshape(-1).astype(np.int64))
    assert not count(codes[:0], (3, 5, 4), (0, 1)).any()


def test_merged_cells_lie_column_by_column_and_are_those_of_each_row():
    domain = Domain((np.array([0, 0, 1]), np.array([1, 0])), (np.full(3, 1 / 3), np.full(2, 0.5)))
    codes = np.array([[0, 0], [2, 1], [1, 0]], dtype=np.int32)
    merged = domain.encode(codes)
    assert merged.tolist() == [[0, 1], [1, 0], [0, 1]]
    assert merged.dtype == np.int32
    assert merged.flags.f_contiguous


@pytest.mark.parametrize("scored", [[(0,)], [(0, 1, 2), (1, 2, 3), (0, 1)]], ids=["one column", "triples"])
def test_tables_of_one_column_and_marginals_of_three_have_a_forecast_too(scored):
    sizes = SIZES[: max(max(clique) for clique in scored) + 1]
    found = forecast(Work(sizes, 50.0, scored, 2, 3, 5, 0.5))
    assert 0 < found.seconds < math.inf
    assert found.megabytes <= 0.5
