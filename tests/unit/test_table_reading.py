"""Reading, conforming, checking and writing typed tables."""

from __future__ import annotations

import csv
import gzip
import os

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dpforge.data.reading import CHUNK
from dpforge.data.schema import schema_from_dict
from dpforge.data.table import TableFormat, conform, read_table, violations, write_table
from dpforge.errors import ConfigError, DataError

COLUMNS = {
    "age": {"kind": "integer", "bounds": {"min": 17, "max": 90}},
    "wage": {"kind": "numeric", "bounds": {"min": 0, "max": 100}, "granularity": 0.01, "nullable": True},
    "city": {
        "kind": "categorical",
        "categories": {"values": ["Rome", "Oslo"]},
        "nullable": True,
        "null_tokens": ["?"],
    },
    "when": {
        "kind": "datetime",
        "bounds": {"min": "2006-12-16", "max": "2007-12-31"},
        "resolution": "minute",
        "format": "%d/%m/%Y %H:%M:%S",
        "nullable": True,
    },
}
SCHEMA = schema_from_dict({"nominal_rows": 10, "target": "city", "columns": COLUMNS})
HEADER = "age,wage,city,when\n"


@pytest.fixture
def read(tmp_path):
    def reader(text, schema=SCHEMA, name="table.csv", **form):
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return read_table(path, schema, TableFormat(**form))[0]

    return reader


def plain(frame):
    return frame.astype(object).where(frame.notna(), None).to_numpy().tolist()


def test_cells_become_the_types_of_the_schema(read):
    frame = read(HEADER + "39.0,12.345,Rome,16/12/2006 17:24:59\n 40 , ,?,2007-01-02\n")
    assert [str(dtype) for dtype in frame.dtypes] == ["Int64", "float64", "category", "datetime64[s]"]
    assert plain(frame) == [
        [39, 12.34, "Rome", pd.Timestamp("2006-12-16 17:24:00")],
        [40, None, None, pd.Timestamp("2007-01-02")],
    ]
    assert frame["city"].cat.categories.tolist() == ["Rome", "Oslo", "unknown"]


def test_one_bad_record_is_treated_by_itself(read):
    lines = [
        "39,1,Rome,",  # fine
        "40",  # too short: padded with missing cells
        "41,1,Rome,,surplus",  # too long: dropped
        "42,1,Oslo,,",  # surplus blank: kept
        "old,1,Rome,",  # unreadable and not nullable: dropped
        ",1,Rome,",  # missing and not nullable: dropped
        "17.6,text,Paris,31/02/2007 00:00:00",  # rounded, missing, unknown, missing
        "inf,-inf,Rome,01/01/1800 00:00:00",  # clipped
        "",  # blank line
        '"43","2","Ro\nme",',  # quoted line break: an unlisted city
    ]
    assert plain(read(HEADER + "\n".join(lines) + "\n")) == [
        [39, 1.0, "Rome", None],
        [40, None, None, None],
        [42, 1.0, "Oslo", None],
        [18, None, "unknown", None],
        [90, 0.0, "Rome", pd.Timestamp("2006-12-16")],
        [43, 2.0, "unknown", None],
    ]


@pytest.mark.parametrize(
    ("policy", "kept"), [("clip", [17, 50, 90, 90]), ("null", [None, 50, None, None]), ("drop", [50])]
)
def test_values_outside_the_bounds_follow_the_policy(read, policy, kept):
    columns = {"age": {**COLUMNS["age"], "outside": policy, "nullable": policy == "null"}}
    schema = schema_from_dict({"nominal_rows": 1, "columns": columns})
    assert plain(read("age\n3\n50\n1e9\ninf\n", schema)) == [[value] for value in kept]


@pytest.mark.parametrize(
    ("unseen", "kept"),
    [
        ("unknown", ["Rome", "unknown", "unknown"]),
        ({"map": "Oslo"}, ["Rome", "Oslo", "Oslo"]),
        ("drop", ["Rome"]),
    ],
)
def test_unlisted_and_missing_categories_follow_the_policy_where_null_is_impossible(read, unseen, kept):
    columns = {
        "n": {"kind": "integer", "bounds": {"min": 0, "max": 9}},
        "city": {"kind": "categorical", "categories": {"values": ["Rome", "Oslo"]}, "unseen": unseen},
    }
    schema = schema_from_dict({"nominal_rows": 1, "columns": columns})
    assert read("n,city\n1, Rome\n2,Paris\n3,\n", schema)["city"].tolist() == kept


@pytest.mark.parametrize(
    ("form", "text"),
    [
        ({}, "\ufeff" + HEADER + "39,1,Rome,\n"),
        ({}, HEADER.replace("\n", "\r\n") + "39,1,Rome,\r\n"),
        ({}, HEADER.replace("\n", "\r") + "39,1,Rome,\r"),
        ({}, "age, wage, city, when\n39, 1, Rome,\n"),
        ({}, '"age","wage","city","when"\n"39","1","Rome",""\n'),
        ({}, "id,when,city,wage,age\n7,,Rome,1,39\n"),
        ({"separator": ";"}, HEADER.replace(",", ";") + "39;1;Rome;\n"),
        ({"separator": "\\t"}, HEADER.replace(",", "\t") + "39\t1\tRome\t\n"),
        ({"header": False}, "39,1,Rome,\n"),
        ({"header": False, "names": ["city", "x", "age", "wage", "when"]}, "Rome,0,39,1,\n"),
        ({"skip_rows": 2}, "a comment\n\n" + HEADER + "39,1,Rome,\n"),
        ({"rename": {"Age": "age", "City": "city"}}, "Age,wage,City,when\n39,1,Rome,\n"),
        ({"strip_suffix": "."}, HEADER + "39,1,Rome.,\n"),
        ({"encoding": "utf-16"}, (HEADER + "39,1,Rome,\n").encode("utf-16")),
        ({"encoding": "latin-1"}, b"name," + HEADER.encode() + b"\xe9,39,1,Rome,\n"),
    ],
)
def test_the_same_record_is_read_from_every_way_of_writing_it(read, form, text):
    assert plain(read(text, **form)) == [[39, 1.0, "Rome", None]]


def test_a_gzip_file_and_a_parquet_file_hold_the_same_table(read, tmp_path):
    text = HEADER + "39,1.5,Rome,16/12/2006 17:24:00\n40,,,\n"
    expected = read(text)
    pd.testing.assert_frame_equal(read(gzip.compress(text.encode()), name="t.csv.gz"), expected)
    path = tmp_path / "t.parquet"
    native = pd.DataFrame(
        {
            "extra": [[1], [2]],
            "when": pd.to_datetime(["2006-12-16 17:24:00", None]).tz_localize("UTC"),
            "city": pd.Categorical(["Rome", None]),
            "wage": [1.5, np.nan],
            "age": np.array([39, 40], dtype=np.int8),
        }
    )
    native.to_parquet(path)
    pd.testing.assert_frame_equal(read_table(path, SCHEMA)[0], expected)


def test_conforming_moves_a_number_to_the_decimal_it_stands_for():
    column = {"kind": "numeric", "bounds": {"min": 0, "max": 12}, "granularity": 0.002}
    schema = schema_from_dict({"nominal_rows": 1, "columns": {"kw": column}})
    decimals = [str(n / 500) for n in range(6001)]
    noisy = [float(text) * (1 + 1e-13) for text in decimals]
    for cells in (decimals, noisy):
        assert [str(value) for value in conform(pd.DataFrame({"kw": cells}), schema)["kw"]] == decimals


def test_codes_agree_however_a_file_writes_whole_numbers(read, tmp_path):
    columns = {
        "sex": {"kind": "categorical", "categories": {"values": [0, 1]}, "nullable": True, "null_tokens": [9]}
    }
    schema = schema_from_dict({"nominal_rows": 1, "columns": columns})
    expected = ["0", "1", None, "unknown"]
    assert [row[0] for row in plain(read("sex\n0\n1.0\n9\n2\n", schema))] == expected
    for values in ([0, 1, 9, 2], [0.0, 1.0, 9.0, 2.0], ["0", " 1", "9", "x"], [0, "1", None, 2.5]):
        frame = conform(pd.DataFrame({"sex": values}), schema)
        assert [row[0] for row in plain(frame)] == expected


def test_null_tokens_of_a_number_column_work_in_text_and_in_numbers():
    schema = schema_from_dict(
        {
            "nominal_rows": 1,
            "columns": {"n": {**COLUMNS["age"], "nullable": True, "null_tokens": ["-9", "refused"]}},
        }
    )
    for values in (["-9", "refused", "20"], [-9.0, np.nan, 20.0], ["-9.0", "", "20"]):
        assert plain(conform(pd.DataFrame({"n": values}), schema)) == [[None], [None], [20]]


def test_tables_longer_than_one_chunk_are_joined_in_order(read):
    n = CHUNK + 10
    ages = 17 + np.arange(n) % 74
    frame = read(HEADER + "".join(f"{age},,,\n" for age in ages))
    assert (frame["age"].to_numpy(dtype=int) == ages).all()
    assert frame.index.equals(pd.RangeIndex(n))


def test_private_parts_stay_open_until_they_are_bought(read):
    columns = {
        "job": {"kind": "categorical", "categories": {"provenance": "private", "epsilon": 1, "delta": 1e-6}},
        "pay": {"kind": "numeric", "bounds": {"provenance": "private", "epsilon": 1, "outer": [-10, 10]}},
    }
    schema = schema_from_dict({"nominal_rows": 1, "columns": columns})
    frame = read("job,pay\n baker ,3.14159\n,99\nclerk,-inf\n", schema)
    assert plain(frame) == [["baker", 3.14159], ["unknown", 10.0], ["clerk", -10.0]]
    assert str(frame["job"].dtype) == "str"
    pd.testing.assert_frame_equal(conform(frame, schema), frame)
    bought = {**columns, "job": {"kind": "categorical", "categories": {"values": ["clerk"]}}}
    typed = conform(frame, schema_from_dict({"nominal_rows": 1, "columns": bought}))
    assert typed["job"].tolist() == ["unknown", "unknown", "clerk"]


# ---- users

USERS = schema_from_dict(
    {
        "nominal_rows": 1,
        "unit": {"kind": "user", "column": "pid", "max_rows": 2},
        "columns": {"n": {"kind": "integer", "bounds": {"min": 0, "max": 999}}},
    }
)


def users_of(path, rows):
    path.write_text("n,pid\n" + "".join(f"{n},{pid}\n" for n, pid in rows))
    frame, units = read_table(path, USERS)
    return frame["n"].tolist(), units


def test_rows_of_a_user_are_adjacent_bounded_and_keyed_by_name(tmp_path):
    rows = [(1, "b"), (2, "a"), (3, "b"), (4, ""), (5, "b"), (6, "a"), ("x", "c"), (7, "d")]
    values, units = users_of(tmp_path / "t.csv", rows)
    assert units.dtype == np.int64
    assert pd.factorize(units)[0].tolist() == [0, 0, 1, 1, 2]
    assert users_of(tmp_path / "u.csv", [(2, "a")])[1][0] == units[2]
    assert set(values[:2]) < {1, 3, 5}
    assert values[2:] == [2, 6, 7]
    assert values[:2] == sorted(values[:2])


def test_what_is_kept_of_a_user_does_not_depend_on_other_users(tmp_path):
    mine = [(n, "me") for n in range(10)]
    alone, _ = users_of(tmp_path / "a.csv", mine)
    crowd = [row for n, row in enumerate(mine) for row in ((100 + n, f"u{n % 4}"), row)]
    together, units = users_of(tmp_path / "b.csv", crowd)
    assert [n for n in together if n < 100] == alone
    assert np.unique(units, return_counts=True)[1].max() == 2


def test_each_row_of_a_user_is_kept_equally_often(tmp_path):
    rows = [(n, f"user{u}") for u in range(600) for n in range(4)]
    values, _ = users_of(tmp_path / "t.csv", rows)
    counts = np.bincount(values)
    assert counts.sum() == 1200
    assert (abs(counts - 300) < 5 * np.sqrt(600 * 0.25)).all()


# ---- violations and writing


def test_a_valid_table_has_no_violation_and_each_kind_is_counted():
    valid = conform(
        pd.DataFrame({"age": [20, 30], "wage": [1, None], "city": ["Rome", "x"], "when": ["", "2007-01-01"]}),
        SCHEMA,
    )
    assert set(violations(valid, SCHEMA).values()) == {0}
    bad = pd.DataFrame(
        {
            "age": [20.5, None, 16, 30],
            "wage": ["1.005", "word", "-1", ""],
            "city": ["Rome", "Paris", "?", "unknown"],
            "when": ["2007-01-01 00:00:30", "2031-01-01", "soon", "2007-01-01"],
            "more": [1, 2, 3, 4],
        }
    )
    assert violations(bad, SCHEMA) == {
        "type": 2, "bounds": 3, "grid": 3, "category": 1, "null": 1, "constraint": 0,
        "missing_column": 0, "extra_column": 1,
    }  # fmt: skip
    assert violations(bad[["age"]], SCHEMA)["missing_column"] == 3


def test_rows_that_break_a_constraint_are_counted():
    column = {"kind": "integer", "bounds": {"min": 0, "max": 9}}
    schema = schema_from_dict(
        {"nominal_rows": 1, "columns": {"a": column, "b": column}, "constraints": ["a == 0 or b == 0"]}
    )
    assert violations(pd.DataFrame({"a": [0, 1, 1], "b": [3, 0, 2]}), schema)["constraint"] == 1


@pytest.mark.parametrize("name", ["t.parquet", "t.csv", "t.csv.gz", "deep/er/t.csv"])
def test_a_written_table_reads_back_equal(name, tmp_path):
    rows = {"age": [20, 30], "wage": [0.1, None], "city": ["Rome", None], "when": ["", "2007-01-01 05:06"]}
    frame = conform(pd.DataFrame(rows), SCHEMA)
    write_table(frame, tmp_path / name)
    pd.testing.assert_frame_equal(read_table(tmp_path / name, SCHEMA)[0], frame)
    assert [path.name for path in (tmp_path / name).parent.glob(".*")] == []


def test_a_failed_write_keeps_the_old_file_and_leaves_nothing_behind(tmp_path, monkeypatch):
    path = tmp_path / "t.csv"
    path.write_text("old")

    def full(*_args, **_kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pd.DataFrame, "to_csv", full)
    with pytest.raises(DataError, match="No space left on device"):
        write_table(pd.DataFrame({"a": [1]}), path)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["t.csv"]
    with pytest.raises(ConfigError, match="end the name in"):
        write_table(pd.DataFrame({"a": [1]}), tmp_path / "t.xlsx")


cell = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=6)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(cell, min_size=4, max_size=4), min_size=1, max_size=8))
def test_whatever_the_cells_hold_the_reader_agrees_with_conforming_them(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("any") / "t.csv"
    sure = ["50", "1", "Rome", "2007-01-01"]
    with path.open("w", newline="") as stream:
        csv.writer(stream, quoting=csv.QUOTE_ALL).writerows([list(COLUMNS), *rows, sure])
    expected = conform(pd.DataFrame([*rows, sure], columns=list(COLUMNS), dtype=object), SCHEMA)
    pd.testing.assert_frame_equal(read_table(path, SCHEMA)[0], expected)
