"""Properties of schema, cells, ledger and accounting over drawn examples."""

from __future__ import annotations

import json
import math
import tempfile
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dpforge.data.schema import schema_from_dict
from dpforge.data.table import conform, violations
from dpforge.errors import BudgetExceeded, RunError
from dpforge.privacy.accounting import epsilon
from dpforge.privacy.events import Gaussian, PoissonSampled, SelfComposed
from dpforge.privacy.ledger import Ledger
from dpforge.privacy.plan import Piece, Plan

FEW = settings(max_examples=40, deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow])
SLOW = settings(parent=FEW, max_examples=6)
COARSE = 5e-3  # of the accountant: what is compared here holds on any grid
names = st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), min_size=1, max_size=8).filter(
    lambda text: text == text.strip() and text != "unknown"
)


@st.composite
def columns(draw):
    kind = draw(st.sampled_from(["integer", "numeric", "categorical", "datetime"]))
    described = {"kind": kind, "nullable": draw(st.booleans())}
    if kind == "categorical":
        values = draw(st.lists(names, min_size=1, max_size=5, unique=True))
        return described | {"categories": {"values": values}}
    if kind == "datetime":
        return described | {"bounds": {"min": "2000-01-01", "max": "2030-12-31"}, "resolution": "day"}
    low = draw(st.integers(-1000, 1000))
    return described | {"bounds": {"min": low, "max": low + draw(st.integers(1, 1000))}}


@st.composite
def schemas(draw):
    described = draw(st.dictionaries(names, columns(), min_size=1, max_size=4))
    return schema_from_dict({"name": "drawn", "nominal_rows": 100, "columns": described})


cells = st.one_of(
    st.none(),
    st.text(max_size=6),
    st.integers(),
    st.floats(),
    st.booleans(),
    st.sampled_from(["", "NA", "1e9"]),
)


@FEW
@given(schemas())
def test_a_schema_written_and_read_back_is_the_same_schema(schema):
    again = schema_from_dict(json.loads(json.dumps(schema.to_dict())))
    assert again == schema
    assert again.digest == schema.digest


@FEW
@given(schemas(), st.data())
def test_any_cells_become_a_valid_table_and_conforming_twice_changes_nothing(schema, data):
    rows = data.draw(st.integers(0, 6))
    raw = {name: data.draw(st.lists(cells, min_size=rows, max_size=rows)) for name in schema.names}
    typed = conform(pd.DataFrame(raw, dtype=object, columns=list(schema.names)), schema)
    assert not any(violations(typed, schema).values())
    assert len(typed) <= rows
    pd.testing.assert_frame_equal(conform(typed, schema), typed)


@FEW
@given(schemas(), st.data())
def test_valid_cells_come_back_as_they_were(schema, data):
    rows, raw = data.draw(st.integers(1, 6)), {}
    for column in schema.columns:
        if column.categories is not None:
            choice = st.sampled_from(list(column.categories.values))
        elif column.kind == "datetime":
            choice = st.dates(pd.Timestamp("2000-01-01").date(), pd.Timestamp("2030-12-31").date()).map(str)
        else:
            choice = st.integers(int(column.bounds.min), int(column.bounds.max))
        raw[column.name] = data.draw(st.lists(choice, min_size=rows, max_size=rows))
    typed = conform(pd.DataFrame(raw), schema)
    assert len(typed) == rows
    for column in schema.columns:
        found = typed[column.name]
        shown = found.dt.strftime("%Y-%m-%d") if column.kind == "datetime" else found
        expected = [float(v) for v in raw[column.name]] if column.kind == "numeric" else raw[column.name]
        assert shown.tolist() == expected


actions = st.lists(
    st.tuples(st.sampled_from(["one", "many"]), st.integers(1, 40), st.booleans()), max_size=12
)


@FEW
@given(actions, st.integers(0, 60))
def test_a_ledger_counts_every_reservation_through_reopening_and_torn_lines(steps, torn):
    plan = Plan(
        (
            Piece("one", "gaussian", Gaussian(5.0), 1, 2.0, "columns"),
            Piece("many", "gaussian", Gaussian(3.0), 100, 1.0, "clip"),
        ),
        1e-5,
    )
    with tempfile.TemporaryDirectory() as place:
        path, counted = Path(place) / "ledger.jsonl", {"one": 0, "many": 0}
        ledger = Ledger.create(path, plan, {})
        for name, count, reopen in steps:
            try:
                ledger.reserve(name, count, key_id="k")
                counted[name] += count
            except BudgetExceeded:
                assert counted[name] + count > plan.piece(name).count
            if reopen:
                whole = path.read_bytes()
                path.write_bytes(whole + whole.splitlines()[-1][:torn])
                ledger = Ledger.open(path)
                assert path.read_bytes() == whole
            assert {name: ledger.reserved(name) for name in counted} == counted


@FEW
@given(st.integers(0, 10**6), st.integers(0, 7))
def test_one_flipped_bit_anywhere_in_a_ledger_is_refused_or_was_in_its_last_line(place, bit):
    plan = Plan((Piece("many", "gaussian", Gaussian(3.0), 100, 1.0, "clip"),), 1e-5)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ledger.jsonl"
        ledger = Ledger.create(path, plan, {})
        for _ in range(3):
            ledger.reserve("many", 10, key_id="k")
        data = bytearray(path.read_bytes())
        place %= len(data)
        data[place] ^= 1 << bit
        path.write_bytes(bytes(data))
        last = bytes(data[:-1]).rfind(b"\n")
        try:
            found = Ledger.open(path).reserved("many")
        except RunError:
            return
        assert place > last or found == 30, "an altered line before the last was believed"


noise = st.floats(1.0, 20.0)
rate = st.floats(0.001, 0.2)
count = st.integers(1, 60)


def _epsilon(sigma, q, steps, delta, accountant):
    return epsilon(SelfComposed(PoissonSampled(q, Gaussian(sigma)), steps), delta, accountant, COARSE)


@pytest.mark.parametrize("accountant", ["pld", "rdp"])
@SLOW
@given(noise, rate, count, st.floats(1e-8, 1e-3), st.floats(1.05, 3.0))
def test_epsilon_falls_with_noise_and_delta_and_rises_with_steps_and_rate(
    accountant, sigma, q, steps, delta, factor
):
    here = _epsilon(sigma, q, steps, delta, accountant)
    slack = 1e-3 + 1e-2 * here
    assert here >= 0
    assert math.isfinite(here)
    assert _epsilon(sigma * factor, q, steps, delta, accountant) <= here + slack
    assert _epsilon(sigma, q, steps, min(delta * factor, 0.5), accountant) <= here + slack
    assert _epsilon(sigma, q, math.ceil(steps * factor), delta, accountant) >= here - slack
    assert _epsilon(sigma, min(q * factor, 1.0), steps, delta, accountant) >= here - slack


@SLOW
@given(noise, rate, count)
def test_the_accountant_of_record_is_never_above_the_renyi_bound(sigma, q, steps):
    exact, bound = (_epsilon(sigma, q, steps, 1e-5, name) for name in ("pld", "rdp"))
    assert exact <= bound + 0.1


@SLOW
@given(st.floats(0.8, 20.0), st.integers(1, 50))
def test_uses_without_sampling_agree_with_the_closed_form(sigma, steps):
    from scipy.stats import norm

    found = epsilon(SelfComposed(Gaussian(sigma), steps), 1e-5)
    mu = math.sqrt(steps) / sigma
    spent = norm.cdf(-found / mu + mu / 2) - math.exp(found) * norm.cdf(-found / mu - mu / 2)
    assert spent == pytest.approx(1e-5, rel=0.03)
