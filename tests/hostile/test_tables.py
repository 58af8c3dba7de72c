"""Tables that are broken, absurd or meant to harm."""

from __future__ import annotations

import os
import socket

import pytest

from dpforge.data.schema import schema_from_dict
from dpforge.data.table import TableFormat, read_table, violations

from .examining import CANARY, examined
from .table_cases import GOOD, HANDLED, REFUSED, SCHEMA

TABLE = schema_from_dict(SCHEMA)
CASES = {**REFUSED, **HANDLED}


def read(path, **form):
    return read_table(path, TABLE, TableFormat(**form))[0]


@pytest.mark.parametrize("name", CASES)
def test_a_hostile_table_is_refused_with_a_reason_or_read_within_the_schema(name, tmp_path, monkeypatch):
    case = CASES[name]
    monkeypatch.chdir(tmp_path)
    path = tmp_path / case.name
    path.write_bytes(case.content if isinstance(case.content, bytes) else case.content.encode())
    found = examined(lambda: read(path, **case.form), tmp_path)
    if case.refused is not None:
        assert found.refused is not None, "it was read"
        assert case.refused in found.refused
        return
    assert found.refused is None, found.refused
    assert len(found.result) == case.rows
    assert not any(violations(found.result, TABLE).values())
    assert CANARY not in found.result.to_csv()


def _pipe(path):
    os.mkfifo(path)


def _loop(path):
    path.symlink_to(path)


def _socket(path):
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))


def _unreadable(path):
    path.write_text(GOOD)
    path.chmod(0)


PLACES = {
    "nothing": lambda path: None,
    "a folder": lambda path: path.mkdir(),
    "a pipe": _pipe,
    "a link to itself": _loop,
    "a link to nowhere": lambda path: path.symlink_to("nowhere"),
    "a socket": _socket,
    "an endless device": lambda path: path.symlink_to("/dev/zero"),
    "an empty device": lambda path: path.symlink_to("/dev/null"),
    "a file without rights": _unreadable,
}


@pytest.mark.parametrize("name", PLACES)
def test_a_path_that_is_no_file_is_refused_and_never_waited_for(name, tmp_path, monkeypatch):
    if name == "a file without rights" and os.geteuid() == 0:
        pytest.skip("the administrator may read every file")
    monkeypatch.chdir(tmp_path)
    PLACES[name](tmp_path / "t.csv")
    found = examined(lambda: read("t.csv"), tmp_path)
    assert found.refused is not None
    assert "t.csv" in found.refused


def test_there_are_at_least_eighty_hostile_tables():
    assert len(CASES) + len(PLACES) >= 80
