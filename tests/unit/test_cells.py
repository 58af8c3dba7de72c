"""Cells: layout from the schema alone, and the way there and back."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from dpforge.data.encode.cells import CellCodec
from dpforge.data.schema import schema_from_dict
from dpforge.data.table import conform, repair, satisfied, violations
from dpforge.errors import ConfigError, DataError


def schema_of(constraints=(), **columns):
    return schema_from_dict({"nominal_rows": 10, "columns": columns, "constraints": list(constraints)})


def intervals(codec, j=0):
    cells = codec.columns[j]
    return list(zip(cells.lower.tolist(), cells.upper.tolist(), cells.atom.tolist(), strict=True))


# ---- layout


def test_a_small_integer_column_has_one_atom_a_value():
    codec = CellCodec(
        schema_of(a={"kind": "integer", "bounds": {"min": -2, "max": 3}, "special_values": [0]})
    )
    assert codec.columns[0].labels == ("-2", "-1", "0", "1", "2", "3")
    assert codec.columns[0].atom.all()
    assert (codec.columns[0].lower == codec.columns[0].upper).all()
    assert CellCodec(codec.schema, discrete_max=5, default_bins=2).sizes == (3,)  # [-2,0) {0} [1,4)


def test_codes_stand_as_null_unknown_then_values_in_ascending_order():
    codec = CellCodec(
        schema_of(
            c={"kind": "categorical", "categories": {"values": ["b", "a"]}, "nullable": True},
            g={
                "kind": "integer",
                "bounds": {"min": 0, "max": 99999},
                "nullable": True,
                "special_values": [0, 99999, 3000],
                "bins": {"edges": [1, 1000, 5000, 99999]},
            },
        )
    )
    assert codec.columns[0].labels == ("missing", "unknown", "b", "a")
    assert intervals(codec, 1)[1:] == [
        (0, 0, True),
        (1, 1000, False),
        (1000, 3000, False),
        (3000, 3000, True),
        (3001, 5000, False),
        (5000, 99999, False),
        (99999, 99999, True),
    ]
    assert codec.offsets.tolist() == [0, 4, 12]
    np.testing.assert_allclose(codec.columns[1].jitter, [1, 1, 1 / 999, 1 / 2000, 1, 1 / 1999, 1 / 94999, 1])


def test_the_last_bin_is_closed_and_edges_that_stop_short_are_completed():
    whole = {"kind": "integer", "bounds": {"min": 17, "max": 90}}
    assert intervals(CellCodec(schema_of(a={**whole, "bins": {"edges": [17, 40, 90]}}))) == [
        (17, 40, False),
        (40, 91, False),
    ]
    assert intervals(CellCodec(schema_of(a={**whole, "bins": {"edges": [30, 40]}}))) == [
        (17, 30, False),
        (30, 40, False),
        (40, 91, False),
    ]


def test_a_special_value_splits_a_continuous_bin_and_a_granular_one():
    column = {
        "kind": "numeric",
        "bounds": {"min": 0.0, "max": 2.0},
        "bins": {"equal_width": 2},
        "special_values": [0.5],
    }
    assert intervals(CellCodec(schema_of(a=column))) == [
        (0, 0.5, False),
        (0.5, 0.5, True),
        (0.5, 1, False),
        (1, 2, False),
    ]
    granular = intervals(
        CellCodec(schema_of(a={**column, "granularity": 0.1, "bins": {"edges": [0.0, 1.0, 2.0]}}))
    )
    assert granular == [(0, 0.5, False), (0.5, 0.5, True), (0.6, 1, False), (1, 2.1, False)]


def test_a_special_value_off_the_grid_keeps_whole_steps_around_it():
    column = {
        "kind": "numeric",
        "bounds": {"min": 14_999, "max": 500_001},
        "granularity": 100,
        "special_values": [14_999, 500_001],
        "bins": {"edges": [15_000, 100_000, 500_000]},
    }
    codec = CellCodec(schema_of(a=column))
    assert intervals(codec) == [
        (14_999, 14_999, True),
        (15_000, 100_000, False),
        (100_000, 500_000, False),
        (500_000, 500_100, False),
        (500_001, 500_001, True),
    ]
    frame = conform(pd.DataFrame({"a": [14_999, 15_049, 500_001, 500_000, 1e9, 0]}), codec.schema)
    assert frame["a"].tolist() == [14_999, 15_000, 500_001, 500_000, 500_001, 14_999]
    assert codec.encode(frame).codes[:, 0].tolist() == [0, 1, 4, 3, 4, 0]


def test_log_bins_are_even_in_the_logarithm():
    codec = CellCodec(
        schema_of(a={"kind": "numeric", "bounds": {"min": -1e4, "max": 1e6}, "bins": {"log_width": 12}})
    )
    edges = np.append(codec.columns[0].lower, codec.columns[0].upper[-1])
    steps = np.diff(np.sign(edges) * np.log1p(np.abs(edges)))
    np.testing.assert_allclose(steps, steps[0])
    assert edges[0] == -1e4
    assert edges[-1] == 1e6


def test_datetimes_are_a_grid_of_ticks():
    column = {"kind": "datetime", "bounds": {"min": "2020-01-01", "max": "2020-01-04"}, "resolution": "hour"}
    codec = CellCodec(schema_of(t={**column, "bins": {"equal_width": 4}}))
    assert intervals(codec) == [(24 * k, 24 * (k + 1), False) for k in range(4)]
    assert codec.columns[0].labels[1] == "from 2020-01-02 00:00:00"
    frame = conform(
        pd.DataFrame({"t": ["2020-01-01 23:59:59", "2020-01-04T23:30", "1999-01-01"]}), codec.schema
    )
    assert codec.encode(frame).codes[:, 0].tolist() == [0, 3, 0]
    back = codec.decode(codec.encode(frame).codes, np.random.default_rng(0), codec.encode(frame).position)
    pd.testing.assert_frame_equal(back, frame)


def test_cells_still_to_be_bought_are_refused():
    private = {"kind": "categorical", "categories": {"provenance": "private", "epsilon": 1, "delta": 1e-6}}
    with pytest.raises(ConfigError, match="categories of column 'a' are private"):
        CellCodec(schema_of(a=private))
    bounds = {"provenance": "private", "epsilon": 1, "outer": [0, 9]}
    with pytest.raises(ConfigError, match="bounds of column 'b' are private"):
        CellCodec(schema_of(b={"kind": "numeric", "bounds": bounds}))


# ---- properties over schemas and rows

values = st.floats(-1e4, 1e4).map(lambda x: round(x, 2))


@st.composite
def number_columns(draw, kind):
    whole = kind == "integer"
    numbers = values.map(round) if whole else values
    low, high = sorted(draw(st.lists(numbers, min_size=2, max_size=2, unique=True)))
    inside = numbers.filter(lambda x: low <= x <= high) if high - low > 2000 else st.sampled_from([low, high])
    column = {"kind": kind, "bounds": {"min": low, "max": high}, "nullable": draw(st.booleans())}
    column["special_values"] = draw(st.lists(inside, max_size=3))
    bins = draw(st.sampled_from(["default", "equal", "log", "edges"]))
    if bins in ("equal", "log"):
        column["bins"] = {f"{bins}_width": draw(st.integers(1, 40))}
    if bins == "edges":
        edges = {low, high, *draw(st.lists(inside, max_size=4))}
        column["bins"] = {"edges": sorted(edges)}
    if not whole and draw(st.booleans()):
        column["granularity"] = draw(st.sampled_from([0.01, 0.002, 0.1, 1, 0.25]))
        if not _has_grid_point(low, high, column["granularity"]):
            del column["granularity"]
    column["outside"] = draw(
        st.sampled_from(["clip", "null", "drop"] if column["nullable"] else ["clip", "drop"])
    )
    return column


def _has_grid_point(low, high, step):
    return any(low <= round(k * step, 9) <= high for k in range(int(low // step), int(low // step) + 3))


@st.composite
def categorical_columns(draw):
    words = st.sampled_from(["a", "b", " c", "7", "<=50K", "x y", "unknown"])
    listed = draw(st.lists(words, min_size=1, max_size=5, unique=True))
    nullable = draw(st.booleans())
    policies = ["unknown", "drop", {"map": listed[0]}]
    decode = ["token", "resample", "null"] if nullable else ["token", "resample"]
    return {
        "kind": "categorical",
        "categories": {"values": listed},
        "nullable": nullable,
        "null_tokens": ["?"],
        "unseen": draw(st.sampled_from(policies)),
        "decode_unknown": draw(st.sampled_from(decode)),
    }


datetime_columns = st.builds(
    lambda resolution, nullable: {
        "kind": "datetime",
        "bounds": {"min": "2019-12-30 06:30:00", "max": "2021-03-01"},
        "resolution": resolution,
        "nullable": nullable,
    },
    st.sampled_from(["second", "minute", "hour", "day"]),
    st.booleans(),
)
schemas = st.lists(
    st.one_of(number_columns("integer"), number_columns("numeric"), categorical_columns(), datetime_columns),
    min_size=1,
    max_size=4,
).map(lambda columns: schema_of(**{f"c{i}": column for i, column in enumerate(columns)}))

NASTY = [
    "",
    "?",
    " ",
    "nan",
    "inf",
    "-inf",
    "1e400",
    "1_0",
    "0x1",
    "x",
    "a",
    "b",
    " c ",
    "7",
    "7.0",
    "unknown",
    "null",
]
DATES = [
    "2020-02-29",
    "2020-01-01T05:06:07",
    "2020-01-01T05:06:07+02:00",
    "9999-12-31",
    "0001-01-01",
    "2020-13-01",
]
texts = st.one_of(
    st.sampled_from(NASTY + DATES),
    values.map(str),
    st.integers(-(2**70), 2**70).map(str),
    st.text(max_size=4),
)


@st.composite
def tables(draw, cells=texts):
    schema = draw(schemas)
    rows = draw(
        st.lists(st.lists(cells, min_size=len(schema.names), max_size=len(schema.names)), max_size=12)
    )
    return schema, pd.DataFrame(rows, columns=list(schema.names), dtype=object)


@settings(max_examples=80, deadline=None)
@given(tables())
def test_each_row_is_treated_alike_alone_and_in_any_table(case):
    schema, raw = case
    codec = CellCodec(schema)
    together = codec.encode(conform(raw, schema))
    alone = [codec.encode(conform(raw.iloc[[i]], schema)) for i in range(len(raw))]
    np.testing.assert_array_equal(
        together.codes, np.concatenate([a.codes for a in alone] or [together.codes])
    )
    np.testing.assert_array_equal(
        together.position, np.concatenate([a.position for a in alone] or [together.position])
    )


@settings(max_examples=80, deadline=None)
@given(tables())
def test_a_conformed_table_is_valid_and_conforming_it_again_changes_nothing(case):
    schema, raw = case
    typed = conform(raw, schema)
    assert not any(violations(typed, schema).values())
    pd.testing.assert_frame_equal(conform(typed, schema), typed)


@settings(max_examples=120, deadline=None)
@given(tables(), st.integers(0, 2**32), st.booleans())
def test_decoding_gives_a_valid_table_in_the_same_cells(case, seed, own_position):
    schema, raw = case
    codec = CellCodec(schema)
    typed = conform(raw, schema)
    cells = codec.encode(typed)
    assert ((cells.codes >= 0) & (cells.codes < np.asarray(codec.sizes))).all()
    assert ((cells.position >= 0) & (cells.position < 1)).all()
    back = codec.decode(cells.codes, np.random.default_rng(seed), cells.position if own_position else None)
    assert not any(violations(back, schema).values())
    pd.testing.assert_series_equal(back.dtypes, typed.dtypes)
    again = codec.encode(back).codes
    for j, column in enumerate(schema.columns):
        kept = np.ones(len(typed), dtype=bool)
        if column.has_unknown and column.decode_unknown != "token":
            kept = (typed[column.name] != "unknown").to_numpy(dtype=bool, na_value=True)
        np.testing.assert_array_equal(again[kept, j], cells.codes[kept, j])
        if codec.columns[j].atom.all():
            pd.testing.assert_series_equal(back[column.name][kept], typed[column.name][kept])


@settings(max_examples=60, deadline=None)
@given(schemas)
def test_every_code_decodes_into_its_own_cell_at_both_ends(schema):
    codec = CellCodec(schema)
    for j, column in enumerate(schema.columns):
        if column.kind == "categorical":
            continue
        cells = codec.columns[j]
        codes = np.zeros((cells.size, len(codec.sizes)), dtype=np.int64)
        codes[:, j] = np.arange(cells.size)
        for place in (0.0, 0.5, 1 - 1e-12):
            back = codec.decode(codes, np.random.default_rng(0), np.full(codes.shape, place))
            np.testing.assert_array_equal(codec.encode(back).codes[:, j], codes[:, j])
            if column.kind == "datetime":
                continue
            found = back[column.name].to_numpy(dtype=float, na_value=np.nan)[column.nullable :]
            special = np.isin(found, column.special_values)
            assert not (special & ~cells.atom[column.nullable :]).any()
        body = slice(int(column.nullable), None)
        assert (np.diff(cells.lower[body]) >= 0).all()
        assert ((cells.lower[body] < cells.upper[body]) ^ cells.atom[body]).all()


@settings(max_examples=60, deadline=None)
@given(schemas)
def test_building_a_codec_reads_no_data(schema):
    first, second = CellCodec(schema), CellCodec(schema)
    first.encode(conform(pd.DataFrame({name: [] for name in schema.names}, dtype=object), schema))
    for a, b in zip(first.columns, second.columns, strict=True):
        assert a.labels == b.labels
        for part in ("lower", "upper", "atom", "jitter"):
            np.testing.assert_array_equal(getattr(a, part), getattr(b, part))


# ---- decoding


def test_an_integer_bin_is_uniform_on_its_grid_points():
    codec = CellCodec(
        schema_of(a={"kind": "integer", "bounds": {"min": 0, "max": 200}, "bins": {"edges": [0, 7, 200]}})
    )
    drawn = codec.decode(np.zeros((14_000, 1), dtype=np.int64), np.random.default_rng(1))["a"].to_numpy(
        dtype=int
    )
    counts = np.bincount(drawn, minlength=7)
    assert counts.size == 7
    assert stats.chisquare(counts).pvalue > 1e-4


def test_position_recovers_every_integer_of_a_wide_bin():
    codec = CellCodec(
        schema_of(
            a={"kind": "integer", "bounds": {"min": -5, "max": 1_000_000}, "bins": {"edges": [-5, 1_000_000]}}
        )
    )
    frame = conform(pd.DataFrame({"a": np.arange(-5, 1_000_001, 7)}), codec.schema)
    cells = codec.encode(frame)
    pd.testing.assert_frame_equal(codec.decode(cells.codes, np.random.default_rng(0), cells.position), frame)


def test_decimals_come_back_without_binary_noise():
    codec = CellCodec(
        schema_of(
            a={
                "kind": "numeric",
                "bounds": {"min": 0, "max": 12},
                "granularity": 0.002,
                "special_values": [0],
            }
        )
    )
    cells = codec.encode(conform(pd.DataFrame({"a": np.linspace(0, 12, 997)}), codec.schema))
    drawn = codec.decode(cells.codes, np.random.default_rng(0))["a"]
    assert all(len(str(value).split(".")[1]) <= 3 for value in drawn)
    np.testing.assert_allclose(drawn * 500, np.rint(drawn * 500), atol=1e-9)


@pytest.mark.parametrize("policy", ["token", "resample", "null"])
def test_a_generated_unknown_is_written_by_its_policy(policy):
    column = {
        "kind": "categorical",
        "categories": {"values": ["a", "b"]},
        "nullable": True,
        "decode_unknown": policy,
    }
    codec = CellCodec(schema_of(c=column))
    codes = np.array([[1]] * 400 + [[2]] * 30 + [[3]] * 10 + [[0]] * 5)
    found = codec.decode(codes, np.random.default_rng(0))["c"]
    first = found[:400]
    if policy == "token":
        assert (first == "unknown").all()
    elif policy == "null":
        assert first.isna().all()
    else:
        assert stats.binomtest(int((first == "a").sum()), 400, 0.75).pvalue > 1e-6
        assert first.isin(["a", "b"]).all()
    assert found[400:440].tolist() == ["a"] * 30 + ["b"] * 10
    assert found[440:].isna().all()


def test_histograms_count_every_row_once_in_every_column():
    codec = CellCodec(
        schema_of(
            a={"kind": "integer", "bounds": {"min": 0, "max": 3}},
            c={"kind": "categorical", "categories": {"values": ["x", "y"]}},
        )
    )
    frame = conform(pd.DataFrame({"a": [0, 3, 3, 1], "c": ["x", "x", "x", "z"]}), codec.schema)
    counts = codec.histogram(codec.encode(frame).codes)
    assert [c.tolist() for c in counts] == [[1, 1, 0, 2], [1, 3, 0]]


def test_wrong_codes_and_unconformed_tables_are_refused():
    codec = CellCodec(schema_of(a={"kind": "integer", "bounds": {"min": 0, "max": 3}}))
    rng = np.random.default_rng(0)
    for codes in (np.array([[4]]), np.array([[-1]]), np.zeros((2, 2), dtype=int), np.zeros((2, 1))):
        with pytest.raises(DataError):
            codec.decode(codes, rng)
    with pytest.raises(DataError, match="a missing value"):
        codec.encode(pd.DataFrame({"a": pd.array([1, None], dtype="Int64")}))
    with pytest.raises(DataError, match="'a'"):
        codec.encode(pd.DataFrame({"b": [1]}))
    closed = CellCodec(
        schema_of(c={"kind": "categorical", "categories": {"values": ["x"]}, "unseen": "drop"})
    )
    with pytest.raises(DataError, match="an unlisted category") as caught:
        closed.encode(pd.DataFrame({"c": ["secret"]}))
    assert "secret" not in str(caught.value)


# ---- constraints

PAIR = {"kind": "integer", "bounds": {"min": 0, "max": 9}, "nullable": True}
GRADE = {"kind": "categorical", "categories": {"values": ["low", "mid", "high"]}}


@settings(max_examples=80, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.one_of(st.none(), st.integers(0, 9)),
            st.one_of(st.none(), st.integers(0, 9)),
            st.sampled_from(["low", "mid", "high", "other"]),
        ),
        max_size=15,
    )
)
def test_constraints_agree_with_plain_python_and_repair_makes_them_hold(rows):
    schema = schema_of(
        ("a == 0 or b == 0", "b = position(g)", "not (a + 2*b > 20 and g != 'low')"), a=PAIR, b=PAIR, g=GRADE
    )
    frame = conform(pd.DataFrame(rows, columns=["a", "b", "g"], dtype=object), schema)
    place = {"low": 1, "mid": 2, "high": 3}

    def holds(a, b, g):
        first = a is None or b is None or a == 0 or b == 0
        second = b is None or g not in place or b == place[g]
        third = a is None or b is None or not (a + 2 * b > 20 and g != "low")
        return first and second and third

    assert satisfied(frame, schema).tolist() == [holds(*row) for row in rows]
    pair = schema_of(("a == 0 or b == 0",), a=PAIR, b=PAIR, g=GRADE)
    fixed = repair(frame, pair)
    assert satisfied(fixed, pair).all()
    broken = ~satisfied(frame, pair)
    pd.testing.assert_frame_equal(fixed[~broken], frame[~broken])
    assert (fixed["b"][broken] == 0).all()
    dependent = schema_of(("b = position(g)",), a=PAIR, b=PAIR, g=GRADE)
    assert satisfied(repair(frame, dependent), dependent).all()
    assert not any(violations(repair(frame, dependent), dependent).values())


def test_constraints_compare_dates_and_chain():
    when = {"kind": "datetime", "bounds": {"min": "2020-01-01", "max": "2020-12-31"}, "nullable": True}
    schema = schema_of(("'2020-02-01' <= t < '2020-03-01'",), t=when)
    frame = conform(pd.DataFrame({"t": ["2020-01-31", "2020-02-01", "2020-02-29", "2020-03-01", ""]}), schema)
    assert satisfied(frame, schema).tolist() == [False, True, True, False, True]
