"""Sub-columns: layout from the schema alone, the way there and back, and what any codes decode to."""

from __future__ import annotations

import calendar
import datetime as dt
from decimal import Decimal

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from dpforge.data.encode.cells import CellCodec
from dpforge.data.encode.subcolumns import SubColumnCodec
from dpforge.data.schema import Categories, Column, Schema, schema_from_dict
from dpforge.data.table import conform, violations
from dpforge.errors import ConfigError, DataError


def schema_of(**columns):
    return schema_from_dict({"nominal_rows": 10, "columns": columns})


def integer(low, high, **more):
    return {"kind": "integer", "bounds": {"min": low, "max": high}, **more}


def numeric(low, high, **more):
    return {"kind": "numeric", "bounds": {"min": low, "max": high}, **more}


def moment(low, high, resolution, **more):
    bounds = {"min": low, "max": high}
    return {"kind": "datetime", "bounds": bounds, "resolution": resolution, "codec": "datetime_parts", **more}


def words(count, **more):
    values = [f"w{i:03d}" for i in range(count)]
    return {"kind": "categorical", "categories": {"values": values}, **more}


def decoded(codec, rows, seed=0):
    return codec.decode(np.asarray(rows), np.random.default_rng(seed))


def mistakes_of(schema, **arguments):
    with pytest.raises(ConfigError) as caught:
        SubColumnCodec(schema, **arguments)
    return caught.value.mistakes


# ---- layout


def test_sub_columns_stand_in_schema_order_with_is_null_first():
    codec = SubColumnCodec(
        schema_of(
            age=integer(17, 90),
            amount=numeric(-99.5, 120, granularity=0.01, codec="digit", nullable=True),
            when=moment("2019-03-01", "2021-05-31", "hour"),
            zip=words(20),
        ),
        split_above=15,
        codecs={"age": "binned"},
    )
    assert codec.names == (
        "age.high",
        "age.low",
        "amount.is_null",
        "amount.sign",
        *(f"amount.digit_{place}" for place in range(1, 6)),
        *(f"when.{part}" for part in ("year", "month", "day", "hour")),
        "zip.high",
        "zip.low",
    )
    assert codec.sizes == (6, 6, 2, 2, 10, 10, 10, 10, 10, 3, 12, 31, 24, 5, 5)
    assert codec.columns == ((0, 1), (2, 3, 4, 5, 6, 7, 8), (9, 10, 11, 12), (13, 14))
    assert codec.null_of == (-1, -1, -1, *[2] * 6, *[-1] * 6)
    assert codec.ordered == (True, True, False, False, *[True] * 9, False, False)
    assert codec.labels(9) == ("2019", "2020", "2021")
    assert codec.labels(11)[::30] == ("1", "31")
    assert codec.labels(2) == ("present", "missing")
    assert codec.labels(13)[0] == "unknown … w003"
    assert [len(codec.labels(sub)) for sub in range(len(codec.sizes))] == list(codec.sizes)


@pytest.mark.parametrize(
    ("column", "names"),
    [
        (integer(0, 999), ["digit_1", "digit_2", "digit_3"]),
        (integer(0, 1000), ["digit_1", "digit_2", "digit_3", "digit_4"]),
        (integer(-5, -1), ["digit_1"]),
        (integer(-120, 5), ["sign", "digit_1", "digit_2", "digit_3"]),
        (integer(-1, 0), ["digit_1"]),
        (integer(1000, 20_000, granularity=1000), ["digit_1", "digit_2"]),
        (integer(0, 20_000, granularity=2500), ["digit_1", "digit_2", "digit_3"]),
        (integer(0, 20, granularity=5, special_values=[7]), ["digit_1", "digit_2"]),
        (integer(0, 20, granularity=10, special_values=[7]), ["digit_1", "digit_2"]),
        (numeric(0, 1, granularity=0.25), ["digit_1", "digit_2", "digit_3"]),
        (numeric(0.005, 0.05, granularity=0.01), ["digit_1"]),
    ],
)
def test_digit_positions_reach_from_the_largest_magnitude_to_the_granularity(column, names):
    codec = SubColumnCodec(schema_of(a=column), codecs={"a": "digit"})
    assert codec.names == tuple(f"a.{name}" for name in names)
    assert codec.sizes == tuple(2 if name == "sign" else 10 for name in names)


@pytest.mark.parametrize(("resolution", "count"), [("day", 3), ("hour", 4), ("minute", 5), ("second", 6)])
def test_date_parts_reach_down_to_the_resolution_with_full_public_ranges(resolution, count):
    codec = SubColumnCodec(schema_of(t=moment("2020-06-15 10:00:00", "2020-06-20 11:00:00", resolution)))
    assert codec.sizes == (1, 12, 31, 24, 60, 60)[:count]


def test_an_automatic_codec_is_the_cell_codec():
    schema = schema_of(
        a=integer(0, 90),
        b=integer(0, 10_000),
        c=words(7, nullable=True),
        d=numeric(-1, 1, special_values=[0]),
    )
    codec, cells = SubColumnCodec(schema), CellCodec(schema)
    assert codec.sizes == cells.sizes
    assert codec.names == schema.names
    assert [codec.labels(j) for j in range(4)] == [column.labels for column in cells.columns]
    assert codec.ordered == (True, True, False, True)
    codes = np.random.default_rng(0).integers(0, cells.sizes, size=(500, 4))
    pd.testing.assert_frame_equal(decoded(codec, codes, 3), cells.decode(codes, np.random.default_rng(3)))


def test_a_stated_codec_overrides_the_automatic_one():
    schema = schema_of(
        a=integer(0, 50), b=integer(-3, 496, granularity=5, special_values=[7]), c=integer(0, 900)
    )
    codec = SubColumnCodec(schema, codecs={"a": "binned", "b": "discrete"}, default_bins=4)
    assert codec.sizes == (4, 101, 4)  # b: 0, 5, ..., 495 and 7
    assert codec.labels(1)[:4] == ("0", "5", "7", "10")
    written = schema_of(a=integer(0, 50, codec="binned"), c=integer(0, 900, codec="digit"))
    assert SubColumnCodec(written, default_bins=4).sizes == (4, 10, 10, 10)
    assert SubColumnCodec(written, default_bins=4, codecs={"c": "auto"}).sizes == (4, 4)
    assert SubColumnCodec(schema_of(a=integer(0, 2000, codec="discrete"))).sizes == (45, 45)


def test_the_codec_of_a_column_survives_the_mapping_of_its_schema():
    schema = schema_of(a=integer(0, 900, codec="digit"), b=integer(0, 900))
    assert schema_from_dict(schema.to_dict()) == schema
    assert "codec" not in schema.to_dict()["columns"][1]
    assert schema.digest != schema_of(a=integer(0, 900), b=integer(0, 900)).digest


def test_a_schema_file_names_only_codecs_that_fit_the_kind():
    with pytest.raises(ConfigError) as caught:
        schema_of(a=integer(0, 9, codec="digits"), b=words(3, codec="datetime_parts"))
    first, second = caught.value.mistakes
    assert "columns.a.codec='digits': expected one of auto, discrete, binned, digit" in first
    assert "Did you mean 'digit'?" in first
    assert "columns.b.codec='datetime_parts': expected one of auto, categorical" in second


def test_all_mistakes_of_the_codecs_come_in_one_error():
    schema = schema_of(
        age=integer(0, 9),
        wage=numeric(0, 1e6),
        huge=integer(0, 10**15, granularity=1),
        place=words(3),
        when={"kind": "datetime", "bounds": {"min": "2020-01-01", "max": "2021-01-01"}},
        open={"kind": "numeric", "bounds": {"provenance": "private", "epsilon": 1, "outer": [0, 9]}},
        text={"kind": "categorical", "categories": {"provenance": "private", "epsilon": 1, "delta": 1e-6}},
    )
    codecs = {
        "agee": "digit",
        "age": "discret",
        "wage": "digit",
        "huge": "digit",
        "place": "digit",
        "when": "digit",
        "open": "digit",
    }
    text = "\n".join(mistakes_of(schema, codecs=codecs, split_above=0))
    for part in (
        "split_above=0",
        "codecs.agee: schema 'table' has no such column. Did you mean 'age'?",
        "columns.age: codec='discret' does not fit kind integer",
        "Did you mean 'discrete'?",
        "columns.wage: codec digit needs a granularity",
        "columns.huge: codec digit needs 16 digits, at most 15",
        "columns.place: codec='digit' does not fit kind categorical; expected one of auto, categorical",
        "columns.when: codec='digit' does not fit kind datetime; expected one of auto, binned, datetime",
        "the bounds of column 'open' are private",
        "the categories of column 'text' are private",
    ):
        assert part in text
    assert len(mistakes_of(schema, codecs=codecs, split_above=0)) == 9
    assert "at most 65,536" in mistakes_of(schema_of(a=integer(0, 10**6, codec="discrete")))[0]


# ---- digits


@pytest.mark.parametrize("granularity", [0.01, 0.002, 0.25, 0.1, 1, 5])
def test_every_point_of_a_decimal_grid_comes_back_exactly(granularity):
    column = numeric(-12, 31, granularity=granularity, codec="digit")
    codec = SubColumnCodec(schema_of(a=column))
    frame = conform(pd.DataFrame({"a": np.arange(-12, 31.0001, granularity)}), codec.schema)
    codes = codec.encode(frame)
    pd.testing.assert_frame_equal(decoded(codec, codes), frame)
    exponent = Decimal(str(granularity)).as_tuple().exponent
    for value, row in zip(frame["a"], codes, strict=True):
        written = f"{abs(value):.{-exponent}f}".replace(".", "").rjust(len(row) - 1, "0")
        assert "".join(map(str, row[1:])) == written
        assert row[0] == (value < 0)


def test_negative_numbers_without_a_sign_sub_column_stay_negative():
    codec = SubColumnCodec(schema_of(a=integer(-250, -3, codec="digit")))
    assert codec.encode(pd.DataFrame({"a": [-250, -3, -41]})).tolist() == [[2, 5, 0], [0, 0, 3], [0, 4, 1]]
    found = decoded(codec, [[2, 5, 0], [0, 4, 1], [9, 9, 9], [0, 0, 0]])["a"]
    assert found.tolist() == [-250, -41, -250, -3]


def test_digits_beyond_the_bounds_or_off_the_grid_move_to_the_nearest_value():
    column = integer(-40, 120, granularity=5, special_values=[7], codec="digit", nullable=True)
    codec = SubColumnCodec(schema_of(a=column))
    rows = [
        [0, 0, 9, 9, 9],
        [0, 1, 9, 9, 9],
        [0, 1, 0, 1, 3],
        [0, 0, 0, 0, 7],
        [1, 0, 0, 4, 2],
        [0, 1, 0, 0, 0],
    ]
    assert decoded(codec, rows)["a"].tolist()[:4] == [120, -40, -15, 7]
    assert decoded(codec, rows)["a"].isna().tolist() == [False] * 4 + [True, False]
    assert decoded(codec, rows)["a"].iloc[5] == 0  # minus zero


def test_a_special_value_off_the_grid_keeps_its_own_digits():
    codec = SubColumnCodec(
        schema_of(a=numeric(0, 500, granularity=0.5, special_values=[99.99], codec="digit"))
    )
    frame = pd.DataFrame({"a": [99.99, 100.0, 99.5, 500.0]})
    assert codec.encode(frame).tolist()[0] == [0, 9, 9, 9, 9]
    pd.testing.assert_frame_equal(decoded(codec, codec.encode(frame)), frame)
    assert decoded(codec, [[0, 9, 9, 9, 8]])["a"].tolist() == [100.0]


def test_fifteen_digits_are_exact():
    top = 10**15 - 1
    codec = SubColumnCodec(schema_of(a=integer(-top, top, codec="digit")))
    frame = conform(pd.DataFrame({"a": [top, -top, 0, top - 1, -123456789012345]}), codec.schema)
    assert codec.sizes == (2, *[10] * 15)
    pd.testing.assert_frame_equal(decoded(codec, codec.encode(frame)), frame)


# ---- dates


def test_an_impossible_date_becomes_the_last_day_of_its_month():
    codec = SubColumnCodec(schema_of(t=moment("1896-01-01", "2104-12-31", "hour")))
    rows = [(y - 1896, m, 30, 7) for y in (1900, 1999, 2000, 2004, 2100) for m in range(12)]
    found = decoded(codec, rows)["t"]
    for (year, month, _, _), value in zip(rows, found, strict=True):
        last = calendar.monthrange(1896 + year, month + 1)[1]
        assert value == pd.Timestamp(1896 + year, month + 1, last, 7)


@pytest.mark.parametrize("resolution", ["second", "minute", "hour", "day"])
@pytest.mark.parametrize("start", ["2019-12-30 00:00:00", "2019-12-30 06:30:17"])
def test_moments_are_written_as_the_calendar_reads_them_and_come_back(start, resolution):
    codec = SubColumnCodec(schema_of(t=moment(start, "2024-03-05 03:04:05", resolution)))
    leap = ["2020-02-29", "2024-02-29 23:59:59", "2019-12-31", "2021-01-31T12:00:01", start, "2024-03-05"]
    frame = conform(pd.DataFrame({"t": [*leap, "1999-01-01", "2050-01-01"]}), codec.schema)
    codes = codec.encode(frame)
    for value, row in zip(frame["t"].dt.to_pydatetime(), codes, strict=True):
        parts = (value.year - 2019, value.month - 1, value.day - 1, value.hour, value.minute, value.second)
        assert tuple(row) == parts[: len(row)]
    pd.testing.assert_frame_equal(decoded(codec, codes), frame)


def test_moments_outside_the_bounds_move_to_the_nearer_bound():
    codec = SubColumnCodec(schema_of(t=moment("2020-06-15 10:00:00", "2021-02-10 11:00:00", "day")))
    found = decoded(codec, [[0, 0, 0], [1, 11, 30], [0, 5, 15]])["t"]
    assert found.dt.to_pydatetime().tolist() == [
        dt.datetime(2020, 6, 15, 10),
        dt.datetime(2021, 2, 10, 10),
        dt.datetime(2020, 6, 16, 10),
    ]


# ---- high and low


def test_fifty_thousand_categories_take_two_short_sub_columns_and_come_back():
    values = tuple(f"z{i:05d}" for i in range(50_000))
    column = Column("zip", "categorical", categories=Categories(values), nullable=True)
    codec = SubColumnCodec(Schema("big", 10, (column,)))
    assert codec.sizes == (2, 224, 224)
    rows = [values[7], "unknown", None, values[-1], values[0], values[25_000]]
    frame = conform(pd.DataFrame({"zip": rows}), codec.schema)
    codes = codec.encode(frame)
    index = np.array([1 + 7, 0, 0, 50_000, 1, 25_001])
    np.testing.assert_array_equal(codes[:, 1] * 224 + codes[:, 2], index)
    assert codes[:, 0].tolist() == [0, 0, 1, 0, 0, 0]
    pd.testing.assert_frame_equal(decoded(codec, codes), frame)


def test_combinations_beyond_the_last_category_spread_over_its_block_alone():
    codec = SubColumnCodec(schema_of(c=words(21, unseen="drop")), split_above=20)
    assert codec.sizes == (5, 5)
    drawn = decoded(codec, [[4, low] for low in range(1, 5)] * 50 + [[3, 4]] * 5)["c"]
    assert (drawn[:200] == "w020").all()  # the last block has one category only
    assert (drawn[200:] == "w019").all()
    codec = SubColumnCodec(schema_of(c=words(24, unseen="drop")), split_above=20)
    counts = decoded(codec, [[4, 4]] * 4000)["c"].value_counts()
    assert set(counts[counts > 0].index) == {"w020", "w021", "w022", "w023"}
    assert stats.chisquare(counts[counts > 0]).pvalue > 1e-4


def test_a_split_column_keeps_the_policy_for_unknown():
    codec = SubColumnCodec(schema_of(c=words(30, decode_unknown="resample")), split_above=20)
    assert codec.null_of == (-1, -1)
    drawn = decoded(codec, [[0, 0]] * 50 + [[2, 1]] * 5)["c"]
    assert (drawn == "w012").all()  # 2 * 6 + 1 is number 13; unknown is number 0


# ---- properties over schemas and rows

granularities = st.sampled_from([0.01, 0.002, 0.1, 1, 0.25])


@st.composite
def number_columns(draw):
    kind = draw(st.sampled_from(["integer", "numeric"]))
    low, high = sorted(draw(st.lists(st.integers(-3000, 3000), min_size=2, max_size=2, unique=True)))
    column = {"kind": kind, "bounds": {"min": low, "max": high}, "nullable": draw(st.booleans())}
    if kind == "numeric":
        column["granularity"] = draw(granularities)
    column["special_values"] = draw(st.lists(st.sampled_from([low, high]), max_size=2))
    column["codec"] = draw(st.sampled_from(["auto", "digit", "digit", "binned"]))
    if kind == "integer" and draw(st.booleans()):
        column["codec"] = "discrete"
    column["outside"] = draw(st.sampled_from(["clip", "null"] if column["nullable"] else ["clip", "drop"]))
    return column


@st.composite
def categorical_columns(draw):
    nullable = draw(st.booleans())
    count = draw(st.integers(1, 40))
    decode = ["token", "resample", "null"] if nullable else ["token", "resample"]
    return words(
        count,
        nullable=nullable,
        null_tokens=["?"],
        unseen=draw(st.sampled_from(["unknown", "drop", {"map": "w000"}])),
        decode_unknown=draw(st.sampled_from(decode)),
    )


datetime_columns = st.builds(
    lambda resolution, nullable, codec, start: moment(
        start, "2021-03-01", resolution, nullable=nullable, codec=codec
    ),
    st.sampled_from(["second", "minute", "hour", "day"]),
    st.booleans(),
    st.sampled_from(["datetime_parts", "datetime_parts", "binned"]),
    st.sampled_from(["2019-12-30 06:30:00", "2020-02-01"]),
)
schemas = st.lists(
    st.one_of(number_columns(), categorical_columns(), datetime_columns), min_size=1, max_size=4
).map(lambda columns: schema_of(**{f"c{i}": column for i, column in enumerate(columns)}))
splits = st.sampled_from([3, 30, 1024])
cells = st.one_of(
    st.sampled_from(["", "?", "nan", "inf", "x", "w000", "w003", "w012", "unknown", "1e400", "7.0"]),
    st.floats(-5000, 5000).map(lambda x: str(round(x, 3))),
    st.integers(-4000, 4000).map(str),
    st.datetimes(dt.datetime(2019, 1, 1), dt.datetime(2022, 1, 1)).map(lambda t: t.isoformat(" ", "seconds")),
    st.sampled_from(["2020-02-29", "2020-12-31 23:59:59", "9999-12-31", "0001-01-01"]),
)


@st.composite
def tables(draw):
    schema = draw(schemas)
    width = len(schema.names)
    rows = draw(st.lists(st.lists(cells, min_size=width, max_size=width), max_size=12))
    frame = pd.DataFrame(rows, columns=list(schema.names), dtype=object)
    return SubColumnCodec(schema, split_above=draw(splits)), conform(frame, schema)


@settings(max_examples=100, deadline=None)
@given(tables(), st.integers(0, 2**32))
def test_what_was_encoded_comes_back_exactly_or_in_the_same_bin(case, seed):
    codec, typed = case
    codes = codec.encode(typed)
    assert ((codes >= 0) & (codes < np.asarray(codec.sizes))).all()
    back = decoded(codec, codes, seed)
    assert not any(violations(back, codec.schema).values())
    pd.testing.assert_series_equal(back.dtypes, typed.dtypes)
    again = codec.encode(back)
    exact = {"digit", "discrete", "datetime_parts"}
    for column, subs in zip(codec.schema.columns, codec.columns, strict=True):
        kept = np.ones(len(typed), dtype=bool)
        if column.has_unknown and column.decode_unknown != "token":
            kept = (typed[column.name] != "unknown").to_numpy(dtype=bool, na_value=True)
        np.testing.assert_array_equal(again[kept][:, subs], codes[kept][:, subs])
        if column.codec in exact or column.kind == "categorical":
            pd.testing.assert_series_equal(back[column.name][kept], typed[column.name][kept])
        pd.testing.assert_series_equal(back[column.name].isna()[kept], typed[column.name].isna()[kept])


@settings(max_examples=60, deadline=None)
@given(schemas, splits, st.integers(0, 2**32))
def test_any_codes_at_all_decode_to_a_valid_table(schema, split_above, seed):
    codec = SubColumnCodec(schema, split_above=split_above)
    codes = np.random.default_rng(seed).integers(0, codec.sizes, size=(40, len(codec.sizes)))
    back = decoded(codec, codes, seed)
    assert not any(violations(back, schema).values())
    for column, subs in zip(schema.columns, codec.columns, strict=True):
        if len(subs) > 1 and column.nullable and column.decode_unknown != "null":
            np.testing.assert_array_equal(back[column.name].isna(), codes[:, subs[0]] == 1)


@settings(max_examples=60, deadline=None)
@given(tables())
def test_each_row_is_encoded_alike_alone_and_in_any_table(case):
    codec, typed = case
    together = codec.encode(typed)
    for i in range(len(typed)):
        np.testing.assert_array_equal(codec.encode(typed.iloc[[i]])[0], together[i])
    np.testing.assert_array_equal(codec.encode(typed.iloc[::-1]), together[::-1])


@settings(max_examples=40, deadline=None)
@given(tables(), splits)
def test_building_a_codec_reads_no_data(case, split_above):
    schema = case[0].schema
    first, second = (SubColumnCodec(schema, split_above=split_above) for _ in range(2))
    first.encode(case[1])
    second.encode(case[1].iloc[:0])
    for part in ("sizes", "names", "columns", "null_of", "ordered"):
        assert getattr(first, part) == getattr(second, part)
    subs = range(len(first.sizes))
    assert [first.labels(s) for s in subs] == [second.labels(s) for s in subs]


@settings(max_examples=40, deadline=None)
@given(tables())
def test_the_value_sub_columns_of_a_missing_cell_are_zero_and_ignored(case):
    codec, typed = case
    codes = codec.encode(typed)
    noisy = codes.copy()
    for sub, null in enumerate(codec.null_of):
        if null < 0:
            continue
        gone = codes[:, null] == 1
        column = next(c for c, subs in zip(codec.schema.columns, codec.columns, strict=True) if sub in subs)
        np.testing.assert_array_equal(gone, typed[column.name].isna())
        assert (codes[gone, sub] == 0).all()
        noisy[gone, sub] = codec.sizes[sub] - 1
    for column in codec.schema.names:
        one, other = decoded(codec, codes)[column], decoded(codec, noisy)[column]
        np.testing.assert_array_equal(one.isna(), other.isna())


# ---- writing in place, counting, refusing


def test_chunks_written_into_a_memory_mapped_array_equal_the_whole_table(tmp_path):
    schema = schema_of(
        a=integer(-500, 500, codec="digit", nullable=True),
        b=words(50),
        t=moment("2020-01-01", "2021-01-01", "day"),
    )
    codec = SubColumnCodec(schema, split_above=20)
    rng = np.random.default_rng(0)
    days = np.datetime64("2020-01-01") + rng.integers(0, 366, 1000)
    raw = {
        "a": rng.integers(-600, 600, 1000).astype(str),
        "b": [f"w{i:03d}" for i in rng.integers(0, 60, 1000)],
    }
    frame = conform(pd.DataFrame({**raw, "t": days}), schema)
    mapped = np.memmap(tmp_path / "codes", dtype=np.int16, mode="w+", shape=(1000, len(codec.sizes)))
    for start in range(0, 1000, 300):
        part = mapped[start : start + 300]
        assert codec.encode(frame.iloc[start : start + 300], part) is part
    whole = codec.encode(frame)
    assert whole.dtype == np.int32
    np.testing.assert_array_equal(mapped, whole)
    pd.testing.assert_frame_equal(decoded(codec, mapped), decoded(codec, whole))


def test_an_array_that_cannot_hold_the_codes_is_refused():
    codec = SubColumnCodec(schema_of(a=integer(0, 199, codec="discrete")))
    frame = pd.DataFrame({"a": [199]})
    for out in (np.empty((1, 1), np.int8), np.empty((2, 1), np.int32), np.empty((1, 1), np.float32)):
        with pytest.raises(DataError, match="expected integers"):
            codec.encode(frame, out)
    assert codec.encode(frame, np.empty((1, 1), np.uint8)).tolist() == [[199]]


def test_histograms_leave_out_the_values_of_missing_cells():
    codec = SubColumnCodec(schema_of(a=integer(0, 19, codec="digit", nullable=True), c=words(2)))
    frame = conform(pd.DataFrame({"a": ["3", "13", "", "10"], "c": ["w001"] * 4}), codec.schema)
    counts = [c.tolist() for c in codec.histogram(codec.encode(frame))]
    assert counts == [[3, 1], [1, 2, *[0] * 8], [1, 0, 0, 2, *[0] * 6], [0, 0, 4]]


def test_wrong_codes_and_unconformed_tables_are_refused():
    codec = SubColumnCodec(
        schema_of(a=integer(0, 99, codec="digit"), t=moment("2020-01-01", "2021-01-01", "day"))
    )
    fine = np.zeros((1, 5), dtype=int)
    assert len(decoded(codec, fine)) == 1
    for codes in (fine - 1, fine + 10, fine[:, :4], fine.astype(float)):
        with pytest.raises(DataError):
            decoded(codec, codes)
    empty = pd.DataFrame({"a": pd.array([1, None], dtype="Int64"), "t": pd.to_datetime(["2020-01-01"] * 2)})
    with pytest.raises(DataError, match="'a' holds a missing value"):
        codec.encode(empty)
    with pytest.raises(DataError, match="'t'"):
        codec.encode(empty[["a"]])
    assert decoded(codec, fine[:0]).dtypes.astype(str).tolist() == ["Int64", "datetime64[s]"]
