"""What is fuzzed: for each reader a few good files, and what must hold for any other."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import random
import struct
import tempfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dpforge import verify
from dpforge.data.image_files import read_samples
from dpforge.data.schema import schema_from_dict
from dpforge.data.table import TableFormat, read_table, violations
from dpforge.errors import DPForgeError
from dpforge.experiment.certificate import make_certificate
from dpforge.privacy.events import Gaussian, ZCDp
from dpforge.privacy.ledger import Ledger
from dpforge.privacy.plan import Piece, Plan, plan_from_json

CANARY = "c4n4ryv4lue"
WORDS = [
    b"", b"0", b"-1", b"1e999", b"NaN", b"null", b"true", b"[]", b"{}", b'"', b",", b";", b"\n", b"\r\n",
    b"\0",    b"\xff", b"9" * 400, b'"count":-5', b'"kind":"reserve"', b"inf", b"2020-02-30", b"99999-01-01",
    b"\xef\xbb\xbf",
]  # fmt: skip
SCHEMA = schema_from_dict(
    {
        "nominal_rows": 10,
        "columns": {
            "age": {"kind": "integer", "bounds": {"min": 0, "max": 120}},
            "wage": {"kind": "numeric", "bounds": {"min": 0, "max": 9}, "nullable": True},
            "city": {"kind": "categorical", "categories": {"values": ["Rome", "Oslo"]}, "nullable": True},
            "day": {
                "kind": "datetime",
                "bounds": {"min": "2000-01-01", "max": "2030-12-31"},
                "resolution": "day",
                "nullable": True,
            },
        },
    }
)
PLAN = Plan(
    (
        Piece("marginals", "gaussian", Gaussian(5.0), 1, 2.0, "columns"),
        Piece("train", "dp_sgd", Gaussian(3.0), 130, 1.0, "clip"),
        Piece("rounds", "adaptive", ZCDp(0.1), 1, 1.0, "rounds"),
    ),
    1e-5,
)
HEADER = {"rng": "entropy", "unit": {"kind": "row"}, "nominal_rows": 100}


@dataclass(frozen=True)
class Target:
    """A reader: ``seeds`` are good files, ``mutate`` makes another, ``run`` raises if a promise is broken."""

    seeds: tuple[bytes, ...]
    run: Callable[[Path], None]
    name: str
    mutate: Callable[[bytes, random.Random], bytes]


def damaged(data: bytes, chance: random.Random) -> bytes:
    """One to four random edits of a file."""
    for _ in range(chance.randint(1, 4)):
        start = chance.randrange(len(data) + 1)
        stop = min(len(data), start + int(chance.expovariate(0.1)))
        new = chance.choice(
            [
                b"",
                chance.choice(WORDS),
                chance.randbytes(stop - start),
                data[start:stop] * 2,
                bytes(byte ^ (1 << chance.randrange(8)) for byte in data[start : start + 1]),
            ]
        )
        data = data[:start] + new + data[stop:]
    return data


def rechained(data: bytes, chance: random.Random) -> bytes:
    """Change fields of records and make the chain whole again, as a forger would."""
    records = [json.loads(line) for line in data.splitlines()]
    for _ in range(chance.randint(1, 3)):
        record = chance.choice(records)
        key = chance.choice(list(record))
        while isinstance(record[key], (dict, list)) and record[key] and chance.random() < 0.8:
            record = record[key]
            key = chance.choice(list(record) if isinstance(record, dict) else range(len(record)))
        values = [None, -1, 0, 1, 0.5, 1e308, True, "x", [], {}, float("nan"), 10**30, "reserve", "spend"]
        if chance.random() < 0.2:
            del record[key]
        elif chance.random() < 0.2:
            records.insert(chance.randrange(len(records) + 1), dict(chance.choice(records)))
        else:
            record[key] = chance.choice(values)
    last, lines = "0" * 64, []
    for number, record in enumerate(records):
        whole = record | {"seq": number, "previous": last}
        lines.append(json.dumps(whole, separators=(",", ":")))
        last = hashlib.sha256(lines[-1].encode()).hexdigest()
    return "".join(line + "\n" for line in lines).encode()


def _refused(action: Callable[[], Any]) -> Any:
    """The result, or ``None`` for an error meant for the user, whose text must not quote a cell."""
    try:
        return action()
    except DPForgeError as error:
        text = str(error)
    assert CANARY not in text, "a cell is quoted"
    return None


def check_ledger(path: Path) -> None:
    """Refused, or every count is sound and a reader gets the same on a second look."""
    before = path.read_bytes()
    ledger = _refused(lambda: Ledger.open(path))
    if ledger is None:
        assert path.read_bytes() == before, "a refused ledger was changed"
        return
    for piece in ledger.plan.pieces:
        counts = [r["count"] for r in ledger._records if r["kind"] == "reserve" and r["piece"] == piece.name]
        assert all(count >= 1 for count in counts)
        assert ledger.reserved(piece.name) == sum(counts) <= piece.count
    assert before.startswith(path.read_bytes()), "more than a torn line was changed"
    assert Ledger.open(path).last_hash == ledger.last_hash


def check_table(path: Path) -> None:
    """Refused, or a table within the schema."""
    frame = _refused(lambda: read_table(path, SCHEMA, TableFormat(kind="csv", max_bytes=2**22))[0])
    if frame is not None:
        assert len(frame) >= 1
        assert not any(violations(frame, SCHEMA).values())


def check_samples(path: Path) -> None:
    """Refused, or images whose labels have names."""
    found = _refused(lambda: read_samples(path))
    if found is not None:
        images, names = found
        assert images.pixels.dtype == np.uint8
        assert len(images.labels) == len(images.pixels)
        assert not names or images.labels.max(initial=0) < len(names)


def certified(data: bytes) -> tuple[dict[str, Any], float | None]:
    """What a forger would certify a ledger with, and the epsilon of its plan; None if it cannot be read."""
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "ledger.jsonl"
        path.write_bytes(_good_ledger())
        stated = make_certificate(Ledger.open(path), {})
        path.write_bytes(data)
        with contextlib.suppress(DPForgeError, KeyError):
            ledger = Ledger.open(path)
            return make_certificate(ledger, {}), ledger.plan.epsilon()
        with contextlib.suppress(Exception):  # not by this package: whatever the verifier may agree with
            records, last = verify.read_ledger(path)
            head = records[0]
            stated |= {name: head["plan"][name] for name in ("delta", "relation", "unit", "pieces")}
            stated |= {"rng": head["rng"], "nominal_rows": head["nominal_rows"], "unit_details": head["unit"]}
            stated["ledger_hash"] = last
            spent = verify.recompute(records)
            by = stated["epsilon_by_accountant"] | {stated["accountant_of_record"]: spent}
            stated |= {"epsilon": spent, "epsilon_by_accountant": by}
            # A note that costs nothing may be one that cannot be read.
            return stated, plan_from_json(head["plan"]).epsilon()
    return stated, None


def check_verify(path: Path) -> None:
    """One line, and exit code 1, or the epsilon of what the plan says, whatever is in the folder."""
    folder, data = path.parent / "run", path.read_bytes()
    folder.mkdir(exist_ok=True)
    (folder / "ledger.jsonl").write_bytes(data)
    stated, spent = certified(data)
    (folder / "certificate.json").write_text(json.dumps(stated))
    said, code = io.StringIO(), None
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
            verify.main([str(folder)])
    except SystemExit as stop:
        code = stop.code
    assert said.getvalue().count("\n") == 1, "not one line"
    assert code in (0, 1)
    if code == 0:
        assert spent is not None, "it verified a plan that the package refuses to read"
        assert f"epsilon {spent:.6f} " in said.getvalue(), "another epsilon than that of the plan"


def _good_ledger() -> bytes:
    with tempfile.TemporaryDirectory() as place:
        ledger = Ledger.create(Path(place) / "l", PLAN, HEADER)
        ledger.reserve("marginals", 1, key_id="k")
        ledger.reserve("train", 64, key_id="k", clip=1.0)
        ledger.taint("train/loss", "metrics.csv")
        ledger.commit("train", 64)
        ledger.reserve("train", 66, key_id="k", clip=1.0)
        ledger.reserve("rounds", 1, key_id="k")
        ledger.spend("rounds", 0, 0.04, key_id="k")
        ledger.spend("rounds", 1, 0.05, key_id="k")
        ledger.close()
        return ledger.path.read_bytes()


def _good_table() -> bytes:
    rows = (f"{n},{n % 9}.5,{('Rome', 'Oslo', CANARY)[n % 3]},2020-05-{n % 28 + 1:02}" for n in range(12))
    return ("age,wage,city,day\n" + "\n".join(rows) + "\n").encode()


def _good_samples() -> bytes:
    out = io.BytesIO()
    pixels = np.zeros((3, 2, 2, 3), np.uint8)
    np.savez(out, samples=pixels, labels=np.arange(3), class_names=np.array(["a", "b", "c"]))
    return out.getvalue()


def repaired(data: bytes, chance: random.Random) -> bytes:
    """Damage inside an uncompressed archive, its sums made right again so that the damage is reached."""
    edited = bytearray(data)
    for _ in range(chance.randint(1, 3)):
        edited[chance.randrange(len(edited))] ^= 1 << chance.randrange(8)
    for place in (i for i in range(len(edited) - 46) if edited[i : i + 4] == b"PK\x01\x02"):
        start, size = struct.unpack("<I", edited[place + 42 : place + 46])[0], 0
        if start + 30 < len(edited):
            name, extra = struct.unpack("<HH", edited[start + 26 : start + 30])
            size = struct.unpack("<I", edited[place + 24 : place + 28])[0]
            body = bytes(edited[start + 30 + name + extra : start + 30 + name + extra + size])
            edited[place + 16 : place + 20] = struct.pack("<I", zlib.crc32(body))
    return bytes(edited)


def targets() -> list[Target]:
    """Every reader with its seeds."""
    ledger, table = _good_ledger(), _good_table()
    tables = (table, table.replace(b"\n", b"\r\n"), table.replace(b"Rome", b'"Ro, me"'))
    return [
        Target((ledger,), check_ledger, "ledger, bytes", damaged),
        Target((ledger,), check_ledger, "ledger, forged", rechained),
        Target(tables, check_table, "table (CSV)", damaged),
        Target((_good_samples(),), check_samples, "images (npz), bytes", damaged),
        Target((_good_samples(),), check_samples, "images (npz), forged", repaired),
        Target((ledger,), check_verify, "dpforge-verify, forged", rechained),
    ]
