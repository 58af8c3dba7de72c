"""What one record holds never changes how another is read."""

from __future__ import annotations

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dpforge.data.schema import schema_from_dict
from dpforge.data.table import conform, read_table

BIG = ["9007199254740993", "9007199254740995"]  # neighbours of these are one float64 apart


def schema():
    return schema_from_dict(
        {
            "schema_version": 1,
            "name": "local",
            "nominal_rows": 10,
            "columns": {
                "code": {"kind": "categorical", "nullable": True, "categories": {"values": BIG}},
                "when": {
                    "kind": "datetime",
                    "nullable": True,
                    "resolution": "day",
                    "bounds": {"min": "1500-01-01", "max": "9999-12-31", "provenance": "public"},
                },
            },
        }
    )


def parquet(path, codes):
    pq.write_table(pa.table({"code": pa.array(codes, pa.int64()), "when": ["2020-01-01"] * len(codes)}), path)
    return read_table(path, schema())[0]


def test_a_missing_number_in_parquet_does_not_round_the_others(tmp_path):
    whole = parquet(tmp_path / "a.parquet", [int(BIG[0]), int(BIG[1])])
    with_null = parquet(tmp_path / "b.parquet", [int(BIG[0]), int(BIG[1]), None])
    assert with_null["code"].astype(str).tolist()[:2] == whole["code"].astype(str).tolist() == BIG


@pytest.mark.parametrize("poison", ["2020-01-01T00:00:00.123456789", "2020-01-01 00:00:00,5", "not a date"])
def test_a_finer_time_does_not_narrow_the_years_of_the_others(poison):
    frame = pd.DataFrame({"code": [BIG[0]] * 3, "when": ["9999-12-31", "1501-02-03", poison]})
    read = conform(frame, schema())["when"]
    alone = conform(frame.iloc[:2], schema())["when"]
    assert read.tolist()[:2] == alone.tolist()
    assert not alone.isna().any()
