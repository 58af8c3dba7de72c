"""Drafted schemas: values read from the rows stay unconfirmed; unusable files end in one clear error."""

from __future__ import annotations

import gzip

import pandas as pd
import pytest
import yaml

from dpforge.data import load_schema
from dpforge.data.draft import draft_schema, read_cells
from dpforge.data.table import conform, violations
from dpforge.errors import DataError


@pytest.fixture
def frame():
    rows = 400
    return pd.DataFrame(
        {
            "age": [str(20 + i % 50) if i % 10 else "?" for i in range(rows)],
            "pay": [f"{i}.25" for i in range(rows)],
            "colour": [["red", "No", "blue: dark"][i % 3] for i in range(rows)],
            "postcode": [f"0{1000 + i % 40}" for i in range(rows)],
            "flag": [str(i % 2) for i in range(rows)],
            "day": [f"2020-01-{1 + i % 28:02d}" for i in range(rows)],
            "comment": [f"text number {i}" for i in range(rows)],
            "nothing": ["" for _ in range(rows)],
        },
        dtype=str,
    )


@pytest.fixture
def draft(frame, tmp_path):
    path = tmp_path / "draft.yaml"
    path.write_text(draft_schema(frame, "mine"), encoding="utf-8")
    return path


def test_a_draft_is_a_schema_file_and_guesses_the_kinds(draft):
    schema = load_schema(draft)
    assert {column.name: column.kind for column in schema.columns} == {
        "age": "integer", "pay": "numeric", "colour": "categorical", "postcode": "categorical",
        "flag": "categorical", "day": "datetime", "comment": "categorical",
    }  # fmt: skip
    assert schema.column("day").resolution == "day"
    assert schema.column("colour").categories.values == ("No", "blue: dark", "red")
    assert schema.column("age").nullable
    assert schema.column("pay").nullable, "whether a cell is missing is not told"


def test_every_bound_and_category_read_from_the_rows_is_unconfirmed_or_private(draft):
    schema = load_schema(draft)
    assert set(schema.unconfirmed) == {
        "nominal_rows",
        "age.bounds", "pay.bounds", "colour.categories", "postcode.categories", "flag.categories",
        "day.bounds",
    }  # fmt: skip
    assert schema.private_columns == ("comment.categories",)
    raw = yaml.safe_load(draft.read_text())
    for column in raw["columns"].values():
        part = column.get("bounds") or column["categories"]
        assert part["provenance"] in ("unconfirmed", "private")


def test_a_text_column_with_many_values_is_drafted_without_any_of_them(draft):
    assert "text number" not in draft.read_text()
    assert load_schema(draft).column("comment").categories.epsilon == 0.05


def test_the_row_count_is_not_told_and_has_to_be_stated(draft, frame):
    assert load_schema(draft).unconfirmed[0] == "nominal_rows"
    assert str(len(frame)) not in draft.read_text().replace(f"{len(frame) - 1}.25", "")
    stated = draft.read_text().replace("nominal_rows: unconfirmed", "nominal_rows: 400")
    draft.write_text(stated)
    assert "nominal_rows" not in load_schema(draft).unconfirmed


def test_the_draft_says_what_to_do_and_which_column_it_left_out(draft):
    text = draft.read_text()
    assert "KEEP THIS FILE PRIVATE" in text
    assert "provenance: public" in text
    assert "every cell is missing: nothing" in text


def test_the_table_fits_the_schema_that_was_drafted_from_it(draft, frame):
    schema = load_schema(draft)
    assert not any(violations(conform(frame.drop(columns="nothing"), schema), schema).values())
    assert len(conform(frame, schema)) == len(frame)


def test_a_column_where_every_row_differs_is_pointed_out_as_an_identifier(frame):
    numbered = frame.assign(person=[str(i) for i in range(len(frame))])
    before = draft_schema(numbered, "mine").split("  person:")[0].splitlines()[-1]
    assert "identifier" in before
    assert "identifier" not in draft_schema(frame[["age", "colour"]], "mine")


def test_typed_columns_of_a_parquet_file_keep_their_kind(tmp_path):
    typed = pd.DataFrame(
        {
            "when": pd.to_datetime(["2021-05-01 10:00", "2021-05-02 11:00", None]),
            "count": pd.array([1, 2, None], dtype="Int64").astype("Int64") * 7,
            "share": [0.5, 0.25, None],
            "yes": [True, False, True],
            "constant": [3, 3, 3],
        }
    )
    typed.to_parquet(tmp_path / "t.parquet")
    path = tmp_path / "t.yaml"
    path.write_text(draft_schema(read_cells(tmp_path / "t.parquet"), "t"))
    schema = load_schema(path)
    kinds = {column.name: column.kind for column in schema.columns}
    assert kinds["when"] == "datetime"
    assert kinds["share"] == "numeric"
    assert kinds["yes"] == "categorical"
    assert schema.column("when").resolution == "hour"
    assert schema.column("yes").categories.values == ("False", "True")
    assert len(conform(read_cells(tmp_path / "t.parquet"), schema)) == 3


def test_a_gzipped_file_with_another_separator_and_encoding_is_read(tmp_path):
    text = "größe;ort\n1;Köln\n2;Bonn\n"
    (tmp_path / "t.csv.gz").write_bytes(gzip.compress(text.encode("latin-1"), mtime=0))
    cells = read_cells(tmp_path / "t.csv.gz", ";", "latin-1")
    assert cells["ort"].tolist() == ["Köln", "Bonn"]
    assert list(cells.columns) == ["größe", "ort"]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is empty"),
        (b"a,b\n", "no records"),
        (b"a;b\nsecret;1\n", "a semicolon: add --separator"),
        (b"a\tb\nsecret\t1\n", "add --separator tab"),
        (b"a,a\nsecret,1\n", "repeat others"),
        (b"a,\nsecret,1\n", "has no name"),
        ("a,b\nsecrét,1\n".encode("latin-1"), "not utf-8"),
        (gzip.compress(b"a,b\nsecret,1\n" * 500, mtime=0)[:-20], "damaged gzip"),
        (b"a,b\n,\n?,NA\n", "every cell of the table is missing"),
    ],
)
def test_a_file_without_a_usable_table_is_one_error_that_shows_no_cell(tmp_path, content, reason):
    (tmp_path / "bad.csv").write_bytes(content)
    with pytest.raises(DataError, match=reason) as error:
        draft_schema(read_cells(tmp_path / "bad.csv"), "bad")
    assert "secr" not in str(error.value)


def test_a_table_of_no_rows_cannot_be_drafted():
    with pytest.raises(DataError, match="no rows"):
        draft_schema(pd.DataFrame({"a": []}), "empty")
