"""Hostile tables: name, content, how it is said to be written, and what must happen."""

from __future__ import annotations

import gzip
import io
import pickle
import sqlite3
import zipfile
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa

from .examining import CANARY, evil_pickle

SCHEMA = {
    "nominal_rows": 10,
    "columns": {
        "age": {"kind": "integer", "bounds": {"min": 0, "max": 120}},
        "wage": {"kind": "numeric", "bounds": {"min": 0, "max": 9}, "nullable": True, "null_tokens": [""]},
        "city": {"kind": "categorical", "categories": {"values": ["Rome", "Oslo"]}, "nullable": True},
        "day": {
            "kind": "datetime",
            "bounds": {"min": "2000-01-01", "max": "2030-12-31"},
            "resolution": "day",
            "nullable": True,
        },
    },
}
HEAD = "age,wage,city,day\n"
ROW = "30,1.5,Rome,2020-05-01\n"
SAID = f"30,1.5,{CANARY},2020-05-01\n"
GOOD = HEAD + ROW * 3


class Case(NamedTuple):
    """``refused``: a part of the error; ``None``: read into a valid table of ``rows`` records."""

    content: str | bytes
    refused: str | None = None
    rows: int | None = None
    name: str = "t.csv"
    form: Mapping[str, Any] = MappingProxyType({})


def _packed(content: str) -> bytes:
    return gzip.compress(content.encode(), mtime=0)


def _flipped(data: bytes, place: int) -> bytes:
    return data[:place] + bytes([data[place] ^ 0x41]) + data[place + 1 :]


def _zip() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("../../t.csv", GOOD)
    return out.getvalue()


def _sqlite() -> bytes:
    with sqlite3.connect(":memory:") as base:
        base.execute(f"create table t (age, city default '{CANARY}')")
        return base.serialize()


def _parquet(**columns: Any) -> bytes:
    out = io.BytesIO()
    whole = {"age": [30, 31], "wage": [1.0, 2.0], "city": ["Rome", CANARY], "day": ["2020-05-01"] * 2}
    pd.DataFrame({key: value for key, value in (whole | columns).items() if value is not None}).to_parquet(
        out
    )
    return out.getvalue()


def _arrow() -> bytes:
    out = io.BytesIO()
    table = pa.table({"age": [1], "city": [CANARY]})
    with pa.ipc.new_file(out, table.schema) as writer:
        writer.write_table(table)
    return out.getvalue()


def _cell(cell: str, column: str = "city") -> str:
    cells = {"age": "30", "wage": "1.5", "city": "Rome", "day": "2020-05-01"} | {column: cell}
    return GOOD + ",".join(cells.values()) + "\n"


PARQUET = {"name": "t.parquet"}
REFUSED: dict[str, Case] = {
    "nothing": Case("", "is empty"),
    "one line end": Case("\n", "is empty"),
    "a byte order mark alone": Case(b"\xef\xbb\xbf", "is empty"),
    "a header alone": Case(HEAD, "no records"),
    "a header without its line end": Case(HEAD.strip(), "no records"),
    "zero bytes": Case(bytes(2000), "column"),
    "semicolons": Case((HEAD + SAID).replace(",", ";"), "set format.separator=';'"),
    "tabs": Case((HEAD + SAID).replace(",", "\t"), "a tab"),
    "bars": Case((HEAD + SAID).replace(",", "|"), "a bar"),
    "colons": Case((HEAD + SAID).replace(",", ":"), "a colon"),
    "blanks": Case((HEAD + SAID).replace(",", " "), "a blank"),
    "a column is absent": Case("age,wage,day\n30,1,2020-05-01\n", "'city'"),
    "other capitals": Case(GOOD.replace("city", "City"), "similar name for 'city'"),
    "a name twice": Case(GOOD.replace("wage", "age"), "more than once"),
    "a foreign name twice": Case(f"{HEAD.strip()},{CANARY},{CANARY}\n30,1,Rome,,1,2\n", "1 names"),
    "only foreign names": Case(f"{CANARY},b,c,d\n1,2,3,4\n", "'age'"),
    "no header": Case(SAID * 3, "'age'"),
    "cells as a header": Case(f"{CANARY}\n" * 3, "format.separator"),
    "a quote never closed": Case(HEAD + f'30,1,"{CANARY}\n' + ROW * 200, "never closed"),
    "every record too long": Case(HEAD + f"30,1,Rome,2020-05-01,{CANARY}\n" * 9, "no record"),
    "no record fits": Case(HEAD + f",1,{CANARY},2020-05-01\n" * 9, "no record"),
    "text for every number": Case(HEAD + f"{CANARY},1,Rome,2020-05-01\n" * 9, "column 'age'"),
    "text for every date": Case(HEAD + f"30,1,Rome,{CANARY}\n" * 9, "column 'day'"),
    "headerless and badly divided": Case(SAID.replace(",", ";"), "not divided", form={"header": False}),
    "everything skipped": Case(GOOD, "is empty", form={"skip_rows": 99}),
    "a line of 17 MiB": Case(CANARY * (17 << 20 >> 3), "16 MiB"),
    "a quoted cell of 17 MiB": Case(
        HEAD + '30,1,"' + ("x" * 999 + "\n") * (18 << 10) + '",2020-05-01\n', "16 MiB"
    ),
    "larger than allowed": Case(GOOD * 50, "format.max_bytes", form={"max_bytes": 100}),
    "not UTF-8": Case(HEAD.encode() + b"30,1,\xff\xfe,2020-05-01\n" + SAID.encode(), "not utf-8"),
    "not UTF-8 in its last byte": Case((HEAD + ROW * 9000).encode() + b"\xc3", "not utf-8"),
    "UTF-16": Case((HEAD + SAID).encode("utf-16"), "format.encoding=utf-16"),
    "UTF-16 unmarked": Case((HEAD + SAID).encode("utf-16-le"), "absent"),
    "UTF-32": Case((HEAD + SAID).encode("utf-32"), "utf-16"),
    "UTF-8 called UTF-16": Case((HEAD + SAID * 3).encode(), "utf-16", form={"encoding": "utf-16"}),
    "UTF-8 called ASCII": Case(GOOD + "30,1,Ålesund,2020-05-01\n", "not ascii", form={"encoding": "ascii"}),
    "a zip archive": Case(_zip(), "zip archive"),
    "a zip archive called gzip": Case(_zip(), "zip archive", name="t.csv.gz"),
    "a gzip that is none": Case(HEAD + SAID, "not a gzip file", name="t.csv.gz"),
    "a gzip cut off": Case(_packed(GOOD * 999)[:-30], "damaged gzip", name="t.csv.gz"),
    "a gzip with a flipped byte": Case(
        _flipped(_packed("".join(f"{n},1,Rome,x\n" for n in range(9999))), 5000), "", name="t.csv.gz"
    ),
    "a gzip with a wrong sum": Case(_flipped(_packed(HEAD + SAID), -6), "damaged gzip", name="t.csv.gz"),
    "a gzip in a gzip": Case(gzip.compress(_packed(HEAD + SAID)), "not utf-8", name="t.csv.gz"),
    "a gzip bomb": Case(_packed(HEAD + SAID * 99999), "max_bytes", name="t.csv.gz", form={"max_bytes": 9999}),
    "a pickle": Case(evil_pickle(), "t.csv"),
    "a pickle called Parquet": Case(evil_pickle(), "Parquet", **PARQUET),
    "a pickled frame": Case(pickle.dumps(pd.DataFrame({"age": [1], "city": [CANARY]})), "t.csv"),
    "a PDF": Case(f"%PDF-1.7\n%{CANARY}\n".encode() + bytes(range(256)), "t.csv"),
    "a PNG": Case(b"\x89PNG\r\n\x1a\n" + CANARY.encode() * 9, "not utf-8"),
    "a program": Case(b"\x7fELF\x02\x01\x01" + bytes(200) + b"\xff" * 99, "t.csv"),
    "a data base": Case(_sqlite(), "t.csv"),
    "JSON": Case('[{"age": 1, "city": "' + CANARY + '"}]', "absent"),
    "a web page": Case(f"<html><body onload=alert(1)>{CANARY}</body></html>", "format.separator"),
    "an Arrow file": Case(_arrow(), "t.csv"),
    "an Arrow file called Parquet": Case(_arrow(), "Parquet", **PARQUET),
    "Parquet garbage": Case(b"PAR1" + CANARY.encode() * 30 + b"PAR1", "Parquet", **PARQUET),
    "Parquet cut off": Case(_parquet()[:-50], "Parquet", **PARQUET),
    "Parquet with a damaged footer": Case(_flipped(_parquet(), -6), "Parquet", **PARQUET),
    "Parquet lists": Case(_parquet(city=[[CANARY], [CANARY]]), "lists or structures", **PARQUET),
    "Parquet structures": Case(_parquet(city=[{"a": CANARY}] * 2), "lists or structures", **PARQUET),
    "Parquet without a column": Case(_parquet(city=None), "'city'", **PARQUET),
    "Parquet without records": Case(_parquet(age=[], wage=[], city=[], day=[]), "no records", **PARQUET),
    "a Parquet bomb": Case(
        _parquet(age=np.zeros(99999, int), wage=0.0, city="Rome", day="2020-05-01"),
        "max_bytes",
        form={"max_bytes": 99999},
        **PARQUET,
    ),
    "CSV called Parquet": Case(GOOD, "Parquet", form={"kind": "parquet"}),
    "Parquet called CSV": Case(_parquet(), "t.csv", form={"kind": "csv"}),
}
HANDLED: dict[str, Case] = {
    "ragged records": Case(GOOD + f"31\n31,2\n31,2,Rome,2020-05-01,{CANARY}\n\n", rows=5),
    "blank lines between": Case(GOOD.replace("\n", "\n\n\n"), rows=3),
    "Windows line ends": Case(GOOD.replace("\n", "\r\n"), rows=3),
    "old Macintosh line ends": Case(GOOD.replace("\n", "\r"), rows=3),
    "mixed line ends": Case(HEAD + "30,1,Rome,2020-05-01\r\n" + ROW + "31,1,Oslo,\r", rows=3),
    "a byte order mark": Case("\ufeff" + GOOD, rows=3),
    "no last line end": Case(GOOD.strip(), rows=3),
    "a line end in quotes": Case(_cell(f'"{CANARY}\nRome"'), rows=4),
    "a comma in quotes": Case(_cell(f'"{CANARY},Rome"'), rows=4),
    "only quotes": Case(_cell('""""""""'), rows=4),
    "a stray quote": Case(_cell('Ro"me'), rows=4),
    "trailing commas": Case(GOOD.replace("\n", ",,,\n"), rows=3),
    "a zero byte in a cell": Case(_cell(f"{CANARY}\0x"), rows=4),
    "control characters": Case(_cell("\x07\x1a\x1b[31m"), rows=4),
    "text from right to left": Case(_cell("\u202eemoR\u200b"), rows=4),
    "many combining marks": Case(_cell("Z" + "\u0301" * 5000), rows=4),
    "a lone surrogate's bytes, escaped": Case(_cell("\\ud800"), rows=4),
    "a spreadsheet formula": Case(_cell("=cmd|'/c touch executed'!A1"), rows=4),
    "a query": Case(_cell("'; drop table t; --"), rows=4),
    "a path": Case(_cell("../../../../etc/passwd"), rows=4),
    "a template": Case(_cell("{{ 7*7 }}${7*7}%s{0.__class__}"), rows=4),
    "an interpolation": Case(_cell("${oc.env:HOME}"), rows=4),
    "a script": Case(_cell("<script>alert(1)</script>"), rows=4),
    "a YAML tag": Case(_cell("!!python/object/apply:os.system [touch executed]"), rows=4),
    "a cell of a million letters": Case(_cell("x" * 10**6), rows=4),
    "a number of 100,000 digits": Case(_cell("9" * 10**5, "age"), rows=4),
    "infinity": Case(_cell("inf", "wage"), rows=4),
    "not a number": Case(_cell("nan", "wage"), rows=4),
    "beyond floating point": Case(_cell("1e999", "wage"), rows=4),
    "below floating point": Case(_cell("-1e-999", "wage"), rows=4),
    "negative zero": Case(_cell("-0.0", "wage"), rows=4),
    "hexadecimal": Case(_cell("0x1F", "wage"), rows=4),
    "an underscore in a number": Case(_cell("1_0", "wage"), rows=4),
    "Arabic digits": Case(_cell("١٢", "wage"), rows=4),
    "a decimal comma": Case(_cell('"1,5"', "wage"), rows=4),
    "a boolean": Case(_cell("TRUE", "wage"), rows=4),
    "two to the 64th": Case(_cell(str(2**64), "age"), rows=4),
    "a fraction of a year of age": Case(_cell("30.5", "age"), rows=4),
    "the year 0": Case(_cell("0000-00-00", "day"), rows=4),
    "the year 9999": Case(_cell("9999-12-31", "day"), rows=4),
    "the year 99999": Case(_cell("99999-12-31", "day"), rows=4),
    "no such day": Case(_cell("2021-02-29", "day"), rows=4),
    "a zone": Case(_cell("2021-02-28T23:00:00+14:00", "day"), rows=4),
    "a time of 25 hours": Case(_cell("2021-02-28T25:00:00", "day"), rows=4),
    "3,000 further columns": Case(
        HEAD.strip() + "".join(f",c{n}" for n in range(3000)) + "\n" + (ROW.strip() + "," * 3000 + "\n") * 3,
        rows=3,
    ),
    "columns named like methods": Case(
        "__class__,age,wage,city,day,to_csv\n" + "1,30,1,Rome,,2\n" * 3, rows=3
    ),
    "a name with a line end": Case('age,wage,city,day,"a\nb"\n' + "30,1,Rome,2020-05-01,1\n" * 3, rows=3),
    "a foreign category everywhere": Case(HEAD + SAID * 9, rows=9),
    "the word for unlisted ones": Case(_cell("unknown"), rows=4),
    "comment lines": Case("# a comment\n" + GOOD, rows=3, form={"skip_rows": 1}),
    "a gzip without its ending": Case(_packed(GOOD), rows=3),
    "two gzip members": Case(_packed(GOOD) + _packed(ROW), rows=4, name="t.csv.gz"),
    "Parquet numbers as text": Case(_parquet(age=["30", CANARY]), rows=1, **PARQUET),
    "Parquet with an unlisted category": Case(_parquet(), rows=2, **PARQUET),
    "Parquet with categories": Case(_parquet(city=pd.Categorical(["Rome", CANARY])), rows=2, **PARQUET),
    "Parquet with a zone": Case(
        _parquet(day=pd.to_datetime(["2020-05-01", None], utc=True)), rows=2, **PARQUET
    ),
    "Parquet with huge integers": Case(_parquet(age=np.array([2**64 - 1, 3], np.uint64)), rows=2, **PARQUET),
    "Parquet with bytes": Case(_parquet(city=[b"Rome", b"\xff"]), rows=2, **PARQUET),
    "Parquet with a list beside": Case(_parquet(other=[[CANARY], []]), rows=2, **PARQUET),
}
