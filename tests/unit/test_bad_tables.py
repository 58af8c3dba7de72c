"""Files that are no table of the schema: one clear error with a remedy, and never a cell of data in it."""

from __future__ import annotations

import gzip
import os
import time
import traceback
import tracemalloc

import numpy as np
import pandas as pd
import pytest

from dpforge.data.schema import schema_from_dict
from dpforge.data.table import TableFormat, conform, read_table
from dpforge.errors import ConfigError, DataError, DPForgeError

SECRET = "s3cr3t"
SCHEMA = schema_from_dict(
    {
        "nominal_rows": 10,
        "columns": {
            "age": {"kind": "integer", "bounds": {"min": 0, "max": 120}},
            "wage": {"kind": "numeric", "bounds": {"min": 0, "max": 9}, "nullable": True},
            "city": {"kind": "categorical", "categories": {"values": ["Rome"]}, "nullable": True},
        },
    }
)
GOOD = f"age,wage,city\n30,1,{SECRET}\n"


def error_of(path, schema=SCHEMA, **form) -> str:
    with pytest.raises(DPForgeError) as caught:
        read_table(path, schema, TableFormat(**form))
    assert isinstance(caught.value, DataError)
    shown = "".join(traceback.format_exception(caught.value, limit=0))
    assert SECRET not in shown
    return str(caught.value)


CONTENTS = {
    "empty": ("", "is empty"),
    "only blank lines": ("\n\n\n", "is empty"),
    "header only": ("age,wage,city\n", "no records"),
    "header and blank lines": ("age,wage,city\n\n  \n", "no records"),
    "wrong separator": (GOOD.replace(",", ";"), "set format.separator=';'"),
    "tabs": (GOOD.replace(",", "\t"), "a tab"),
    "absent column": (GOOD.replace("wage", "salary"), "'wage'"),
    "other case": (GOOD.replace("wage", "Wage"), "similar name for 'wage'"),
    "two columns of one name": (GOOD.replace("age,wage", "age,age"), "names columns more than once: 'age'"),
    "foreign column twice": (
        f"age,wage,city,{SECRET},{SECRET}\n1,1,Rome,,\n",
        "1 names that the schema does not use",
    ),
    "text in a number column": (f"age,wage,city\n{SECRET},1,Rome\n{SECRET}x,2,Rome\n", "column 'age'"),
    "every record too long": (f"age,wage,city\n30,1,Rome,{SECRET}\n", "no record of"),
    "nothing fits": ("age,wage,city\n,1,Rome\n,2,Rome\n", "no record of"),
    "a quote that is never closed": (
        'age,wage,city\n30,1,"' + f"{SECRET}\n30,1,Rome\n" * 200,
        "never closed",
    ),
    "not utf-8": (b"age,wage,city\n30,1,\xff" + SECRET.encode(), "not utf-8"),
    "utf-16": (GOOD.encode("utf-16"), "format.encoding=utf-16"),
    "a zip archive": (b"PK\x03\x04 rest", "zip archive"),
}


@pytest.mark.parametrize("case", CONTENTS)
def test_a_file_that_is_no_table_is_explained_without_a_cell(case, tmp_path):
    content, text = CONTENTS[case]
    path = tmp_path / "t.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    assert text in error_of(path)


def test_a_path_that_is_no_readable_file_is_explained(tmp_path):
    assert "No such file" in error_of(tmp_path / "absent.csv")
    assert "is a folder" in error_of(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    assert "not a regular file" in error_of(tmp_path / "pipe")
    (tmp_path / "t.csv").write_text(GOOD)
    assert "is not a readable Parquet file" in error_of(tmp_path / "t.csv", kind="parquet")


def test_a_headerless_file_with_another_separator_is_explained(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text(f"30;1;{SECRET}\n31;1;Rome\n")
    assert "not divided into 3 cells" in error_of(path, header=False)


@pytest.mark.parametrize("damage", ["truncated", "flipped", "not gzip"])
def test_a_damaged_gzip_file_is_explained(damage, tmp_path):
    body = GOOD + "".join(f"{n % 100},{n % 9},{SECRET}{n}\n" for n in range(5000))
    packed = bytearray(gzip.compress(body.encode()))
    if damage == "truncated":
        packed = packed[: len(packed) // 2]
    elif damage == "flipped":
        packed[len(packed) // 2] ^= 0xFF
    else:
        packed = bytearray(GOOD.encode())
    path = tmp_path / "t.csv.gz"
    path.write_bytes(packed)
    assert "gzip file" in error_of(path)


def test_a_damaged_parquet_file_is_explained(tmp_path):
    path = tmp_path / "t.parquet"
    pd.DataFrame(
        {"age": [1] * 500, "wage": np.random.default_rng(0).random(500), "city": [SECRET] * 500}
    ).to_parquet(path)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    assert "not a readable Parquet file" in error_of(path)
    path.write_bytes(b"PAR1" + bytes(100))
    assert "not a readable Parquet file" in error_of(path)


def test_parquet_lists_and_absent_columns_are_explained(tmp_path):
    path = tmp_path / "t.parquet"
    pd.DataFrame({"age": [[1]], "wage": [1.0], "city": ["x"]}).to_parquet(path)
    assert "lists or structures" in error_of(path)
    pd.DataFrame({"age": [1], "wage": [1.0]}).to_parquet(path)
    assert "'city'" in error_of(path)
    pd.DataFrame({"age": [], "wage": [], "city": []}).to_parquet(path)
    assert "no records" in error_of(path)


@pytest.mark.parametrize("line", ["30,1,Rome\n", "x" * 1000])
def test_a_gzip_bomb_is_refused_before_it_fills_memory(line, tmp_path):
    path = tmp_path / "bomb.csv.gz"
    head = "age,wage,city\n" if line.endswith("\n") else ""
    with gzip.open(path, "wb") as stream:
        stream.write(head.encode())
        for _ in range(20):
            stream.write((line * (2**22 // len(line))).encode())
    assert path.stat().st_size < 2**20
    tracemalloc.start()
    assert "format.max_bytes" in error_of(path, max_bytes=2**21)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100 * 2**20


def test_a_parquet_bomb_of_one_repeated_value_is_refused(tmp_path):
    path = tmp_path / "t.parquet"
    pd.DataFrame(
        {"age": np.zeros(10**6, np.int8), "wage": 0.0, "city": pd.Categorical(["Rome"] * 10**6)}
    ).to_parquet(path)
    assert path.stat().st_size < 2**17
    assert "format.max_bytes" in error_of(path, max_bytes=2**20)


def test_a_file_over_the_limit_is_refused_unread(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text(GOOD * 10)
    assert "raise format.max_bytes" in error_of(path, max_bytes=20)


def test_a_million_unlisted_categories_are_one_unknown_and_quick():
    schema = schema_from_dict(
        {"nominal_rows": 1, "columns": {"c": {"kind": "categorical", "categories": {"values": ["a", "1"]}}}}
    )
    frame = pd.DataFrame({"c": pd.Series([f"v{n}" for n in range(10**6)], dtype=object)})
    start = time.process_time()
    typed = conform(frame, schema)
    assert time.process_time() - start < 20
    assert (typed["c"] == "unknown").all()
    assert typed["c"].cat.categories.tolist() == ["a", "1", "unknown"]


def test_an_all_missing_column_is_fine_where_it_may_be_missing(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("age,wage,city\n30,,\n31,,\n")
    frame, _ = read_table(path, SCHEMA)
    assert frame["wage"].isna().all()
    assert frame["city"].isna().all()


def test_one_stray_cell_in_an_otherwise_missing_column_stops_nothing(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text(f"age,wage,city\n30,,\n31,{SECRET},\n")
    assert read_table(path, SCHEMA)[0]["wage"].isna().all()


def test_one_row_is_a_table(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("age,wage,city\n30,1,Rome")
    assert len(read_table(path, SCHEMA)[0]) == 1
    assert len(conform(pd.DataFrame({"age": [], "wage": [], "city": []}), SCHEMA)) == 0


def test_a_cell_of_any_length_does_not_stop_the_reader(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("age,wage,city\n30,1,Rome\n31,1," + "x" * 10**6 + "\n" + "9" * 10**5 + ",1,Rome\n")
    assert read_table(path, SCHEMA)[0]["age"].tolist() == [30, 31, 120]


def test_a_conformed_frame_must_have_the_columns_once():
    with pytest.raises(DataError, match="absent among the 1 columns"):
        conform(pd.DataFrame({"age": [1]}), SCHEMA)
    twice = pd.DataFrame([[1, 2, 3, 4]], columns=["age", "wage", "city", "age"])
    with pytest.raises(DataError, match="'age' appears more than once"):
        conform(twice, SCHEMA)


def test_a_format_no_file_can_have_is_refused_with_all_its_mistakes():
    with pytest.raises(ConfigError) as caught:
        TableFormat(kind="parket", separator="::", encoding="utf-9", max_bytes=0)
    assert len(caught.value.mistakes) == 4
    assert "Did you mean 'parquet'" in str(caught.value)


def test_a_table_whose_users_are_all_unnamed_is_refused(tmp_path):
    schema = schema_from_dict({**SCHEMA.to_dict(), "unit": {"kind": "user", "column": "pid"}})
    path = tmp_path / "t.csv"
    path.write_text("age,wage,city,pid\n30,1,Rome,\n")
    assert "unit.column" in error_of(path, schema)
    path.write_text("age,wage,city\n30,1,Rome\n")
    assert "'pid'" in error_of(path, schema)
