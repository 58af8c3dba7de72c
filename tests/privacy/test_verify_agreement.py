"""``dpforge-verify`` agrees with the certificate of random event trees and flags random tamperings.

A few of each run here; ``DPFORGE_PROOF=full`` runs 200 trees and 1,000 tamperings.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import shutil
from collections import Counter

import numpy as np
import pytest

from dpforge import verify
from dpforge.experiment import certificate
from dpforge.experiment.rundir import RunDir
from dpforge.privacy.events import EpsilonDelta, Gaussian, Laplace, NonPrivate, PoissonSampled, ZCDp
from dpforge.privacy.ledger import Ledger
from dpforge.privacy.plan import Piece, Plan

FULL = os.environ.get("DPFORGE_PROOF") == "full"
TREES, TAMPERINGS = (200, 1000) if FULL else (10, 150)
KEY_ID = "0123456789abcdef"


def random_piece(number, rng, *, zcdp):
    """One piece of any kind that the vocabulary has; PLD and zCDP are not mixed with sampling."""
    sigma, count = float(rng.uniform(0.8, 30)), int(rng.integers(1, 40))
    kinds = [
        ("gaussian", Gaussian(sigma), count),
        ("dp_sgd", PoissonSampled(float(rng.uniform(0.001, 0.3)), Gaussian(sigma)), count),
        ("laplace", Laplace(sigma * 3), min(count, 5)),
        (
            "threshold",
            EpsilonDelta(float(rng.uniform(0.01, 0.3)), float(rng.uniform(0, 1e-7))),
            min(count, 4),
        ),
    ]
    if zcdp:
        kinds = [kinds[0], kinds[3], ("adaptive", ZCDp(float(rng.uniform(1e-3, 0.3))), 1)]
    mechanism, event, uses = kinds[rng.integers(len(kinds))]
    sensitivity = float(rng.uniform(0.1, 10))
    return Piece(f"piece/{number}", mechanism, event, uses, sensitivity, "a random tree")


def random_plan(rng, *, cheap=False):
    zcdp = cheap or rng.random() < 0.3
    pieces = [random_piece(i, rng, zcdp=zcdp) for i in range(int(rng.integers(1, 5)))]
    if zcdp:
        pieces.append(Piece("adaptive", "adaptive", ZCDp(0.2), 1, 1.0, "a reservation"))
    if not cheap and rng.random() < 0.1:
        pieces.append(Piece("open", "none", NonPrivate(), 1, 1.0, "without noise"))
    relation = ("add_remove", "replace", "zero_out")[rng.integers(3)]
    return Plan(tuple(pieces), float(10 ** -rng.uniform(4, 8)), relation, "row", 3.0)


def write_run(folder, plan, rng):
    """A finished run: reservations in blocks of any size, uses, notes between them, and a certificate."""
    folder.mkdir()
    header = {
        "rng": ("entropy", "seeded", "secure")[rng.integers(3)],
        "unit": {"kind": "row"},
        "nominal_rows": 100,
    }
    ledger = Ledger.create(folder / "ledger.jsonl", plan, header)
    for piece in plan.pieces:
        while (left := piece.count - ledger.reserved(piece.name)) > 0:
            ledger.reserve(piece.name, int(rng.integers(1, left + 1)), key_id=KEY_ID)
        if piece.mechanism == "adaptive":
            for step in range(4):
                ledger.spend(piece.name, step, piece.event.rho / 5, key_id=KEY_ID)
        ledger.commit(piece.name, piece.count)
    if rng.random() < 0.5:
        ledger.taint("train/loss", "terminal")
    ledger.close()
    (folder / "synthetic.csv").write_text("a,b\n1,2\n")
    digest = hashlib.sha256((folder / "synthetic.csv").read_bytes()).hexdigest()
    content = certificate.make_certificate(ledger, {"synthetic.csv": digest})
    (folder / "certificate.json").write_text(json.dumps(content))
    return content


def test_random_event_trees_have_the_same_epsilon_by_both_programs(tmp_path):
    rng = np.random.default_rng(1)
    kinds = Counter()
    for number in range(TREES):
        content = write_run(tmp_path / str(number), random_plan(rng), rng)
        records, _ = verify.read_ledger(tmp_path / str(number) / "ledger.jsonl")
        found = verify.recompute(records)
        stated = math.inf if content["epsilon"] is None else content["epsilon"]
        assert found == stated or abs(found - stated) <= 1e-6
        said = verify.compare(tmp_path / str(number))
        assert "NOT DP" in said if math.isinf(found) else f"{found:.6f}" in said
        assert ("RESEARCH NOISE" in said) == (content["rng"] == "seeded" and math.isfinite(found))
        kinds[content["status"]] += 1
    assert len(kinds) >= 2


def rechained(records):
    """The lines of an attacker who writes the chain anew, and the hash of the last."""
    lines, last = [], "0" * 64
    for seq, record in enumerate(records):
        line = json.dumps({**record, "seq": seq, "previous": last}, separators=(",", ":"))
        lines.append(line)
        last = hashlib.sha256(line.encode()).hexdigest()
    return "".join(line + "\n" for line in lines), last


def flip_a_bit(folder, rng):
    data = bytearray((folder / "ledger.jsonl").read_bytes())
    data[rng.integers(len(data))] ^= 1 << rng.integers(8)
    (folder / "ledger.jsonl").write_bytes(bytes(data))


def cut_the_end(folder, rng):
    data = (folder / "ledger.jsonl").read_bytes()
    (folder / "ledger.jsonl").write_bytes(data[: rng.integers(len(data))])


def lines_of(folder):
    return (folder / "ledger.jsonl").read_text().splitlines(keepends=True)


def drop_a_line(folder, rng):
    lines = lines_of(folder)
    del lines[rng.integers(len(lines))]
    (folder / "ledger.jsonl").write_text("".join(lines))


def repeat_a_line(folder, rng):
    lines = lines_of(folder)
    at = rng.integers(len(lines))
    (folder / "ledger.jsonl").write_text("".join([*lines[: at + 1], *lines[at:]]))


def swap_two_lines(folder, rng):
    lines = lines_of(folder)
    a, b = rng.choice(len(lines), 2, replace=False)
    lines[a], lines[b] = lines[b], lines[a]
    (folder / "ledger.jsonl").write_text("".join(lines))


def rewrite(folder, change):
    """Change the records, write the chain anew, and let the certificate name its last line."""
    records = [json.loads(line) for line in lines_of(folder)]
    text, last = rechained(change(records))
    (folder / "ledger.jsonl").write_text(text)
    stated = json.loads((folder / "certificate.json").read_text())
    (folder / "certificate.json").write_text(json.dumps({**stated, "ledger_hash": last}))


def edit_a_reservation(folder, rng):
    field = ("count", "first", "sensitivity", "mechanism", "event", "piece", "key_id")[rng.integers(7)]

    def change(records):
        mine = [record for record in records if record["kind"] == "reserve"]
        record = mine[rng.integers(len(mine))]
        value = record[field]
        if isinstance(value, int | float):
            record[field] = value + 1
        elif isinstance(value, dict):
            record[field] = {"type": "gaussian", "noise_multiplier": 1e6}
        else:
            record[field] = value + "x"
        others = [r for r in mine if r is not record]
        if field == "key_id" and not others:
            record["count"] += 1
        return records

    rewrite(folder, change)


def leave_out_a_reservation(folder, rng):
    def change(records):
        places = [i for i, record in enumerate(records) if record["kind"] in ("reserve", "close")]
        del records[places[rng.integers(len(places))]]
        return records

    rewrite(folder, change)


def spend_more_than_reserved(folder, rng):
    def change(records):
        spends = [record for record in records if record["kind"] == "spend"]
        spends[rng.integers(len(spends))]["rho"] = (-1.0, 10.0, float("nan"))[rng.integers(3)]
        return records

    rewrite(folder, change)


def plan_with_more_noise(folder, rng):
    """Everything in the ledger agrees on another sigma or rho; the certificate still says the old one."""

    def louder(event):
        names = {"noise_multiplier": 2.0, "rho": 0.5, "epsilon": 0.5}
        return {key: value * names.get(key, 1) if key in names else value for key, value in event.items()}

    def change(records):
        piece = records[0]["plan"]["pieces"][rng.integers(len(records[0]["plan"]["pieces"]))]
        piece["event"] = louder(piece["event"])
        for record in records:
            if record.get("piece") == piece["name"] and record["kind"] == "reserve":
                record["event"] = piece["event"]
        return records

    rewrite(folder, change)


def edit_the_certificate(folder, rng):
    stated = json.loads((folder / "certificate.json").read_text())
    fields = ["epsilon", "delta", "ledger_hash", "rng", "relation", "unit", "status", "target_epsilon"]
    field = [*fields, "pieces", "tainted_sinks", "files"][rng.integers(len(fields) + 3)]
    value = stated[field]
    if isinstance(value, float):
        stated[field] = value * float(rng.choice([0.5, 0.999, 1.01]))
    elif isinstance(value, str):
        stated[field] = value[1:] + value[0] if len(set(value)) > 1 else value + "x"
    elif field == "pieces":
        stated[field][rng.integers(len(value))]["count"] += 1
    elif field == "files":
        stated[field] = dict.fromkeys(value, "0" * 64)
    else:
        stated[field] = {"W&B project": ["train/loss"]}
    (folder / "certificate.json").write_text(json.dumps(stated))


def swap_the_table(folder, rng):
    (folder / "synthetic.csv").write_text(f"a,b\n1,{rng.integers(3, 9)}\n")


def claim(folder, change):
    """Change a plan and all that repeats it, as :func:`rewrite` does, and let the certificate agree."""

    def both(records):
        change(records[0]["plan"])
        events = {piece["name"]: piece for piece in records[0]["plan"]["pieces"]}
        for record in records:
            if record["kind"] == "reserve":
                piece = events[record["piece"]]
                record |= {field: piece[field] for field in ("event", "sensitivity", "mechanism")}
        return records

    rewrite(folder, both)
    plan = json.loads(lines_of(folder)[0])["plan"]
    stated = json.loads((folder / "certificate.json").read_text())
    stated |= {"pieces": plan["pieces"], "delta": plan["delta"]}
    (folder / "certificate.json").write_text(json.dumps(stated))


def impossible(plan, number):
    """Give a plan a value that lowers its epsilon and that no plan has; return what it is."""
    piece = plan["pieces"][number % len(plan["pieces"])]
    event, low = piece["event"], (-2.0, float("nan"), True, "1")[number // 7 % 4]
    kinds = [
        lambda: event.update(event={"type": "gaussian", "noise_multiplier": 100.0}),
        lambda: event.update({next(key for key in event if key != "type"): low}),
        lambda: event.update(delta=-0.5),
        lambda: plan.update(delta=1.5),
        lambda: piece.update(count=float(piece["count"])),
        lambda: piece.update(sensitivity=(0.0, -1.0, float("inf"))[number // 7 % 3]),
        lambda: piece.update(mechanism="none"),
    ]
    kinds[number % len(kinds)]()


def claim_the_impossible(folder, rng, number=None):
    number = int(rng.integers(1000)) if number is None else number
    claim(folder, lambda plan: impossible(plan, number))
    # What epsilon it has to a verifier that looks for nothing of this: the forger writes that one.
    with contextlib.suppress(Exception):
        found = verify.recompute(verify.read_ledger(folder / "ledger.jsonl")[0])
        stated = json.loads((folder / "certificate.json").read_text())
        by = dict.fromkeys(("pld", "rdp")) | {stated["accountant_of_record"]: found}
        stated |= {"epsilon": found, "epsilon_by_accountant": by}
        (folder / "certificate.json").write_text(json.dumps(stated))


def certify_something_else(folder, rng):
    """Only the certificate: what it says beside epsilon, or which files it covers."""
    stated = json.loads((folder / "certificate.json").read_text())
    spent, record = stated["epsilon"] or 1.0, stated["accountant_of_record"]
    changes = [
        {"nominal_rows": 10**9},
        {"unit_details": {"kind": "user"}},
        {"accountant_of_record": "rdp" if record == "pld" else "pld"},
        {"epsilon_by_accountant": {**stated["epsilon_by_accountant"], "rdp": spent / 2}},
        {"epsilon_by_accountant": {**stated["epsilon_by_accountant"], "pld": spent / 2}},
    ]
    changed = stated | changes[rng.integers(len(changes))]
    (folder / "certificate.json").write_text(json.dumps(changed))


TAMPERS = [
    claim_the_impossible,
    certify_something_else,
    flip_a_bit,
    cut_the_end,
    drop_a_line,
    repeat_a_line,
    swap_two_lines,
    edit_a_reservation,
    leave_out_a_reservation,
    spend_more_than_reserved,
    plan_with_more_noise,
    edit_the_certificate,
    swap_the_table,
]


def test_random_tamperings_are_flagged(tmp_path):
    rng = np.random.default_rng(2)
    missed = []
    for number in range(TAMPERINGS):
        folder = tmp_path / str(number)
        write_run(folder, random_plan(rng, cheap=True), rng)
        if number < 20:
            verify.compare(folder)
        tamper = TAMPERS[number % len(TAMPERS)]
        tamper(folder, rng)
        with pytest.raises(SystemExit) as end:
            verify.main([str(folder)])
        if end.value.code != 1:
            missed.append((number, tamper.__name__))
    assert missed == []


@pytest.mark.parametrize("byte", [b"\x0b", b"\x0c", b"\x1c", b"\r", b"\r\n"])
@pytest.mark.parametrize("where", ["first", "last"])
def test_a_line_that_ends_in_another_separator_is_flagged(byte, where, tmp_path):
    rng = np.random.default_rng(3)
    write_run(tmp_path / "run", random_plan(rng, cheap=True), rng)
    path = tmp_path / "run/ledger.jsonl"
    data = path.read_bytes()
    at = data.index(b"\n") if where == "first" else len(data) - 1
    path.write_bytes(data[:at] + byte + data[at + 1 :])
    with pytest.raises((verify.Wrong, ValueError)):
        verify.compare(tmp_path / "run")


def test_seeded_noise_and_missing_noise_are_never_called_dp(tmp_path):
    for number, (kind, event, status) in enumerate(
        [
            ("seeded", Gaussian(5.0), "RESEARCH NOISE"),
            ("entropy", Gaussian(5.0), "DP"),
            ("seeded", NonPrivate(), "NOT DP"),
            ("entropy", Gaussian(0.0), "NOT DP"),
        ]
    ):
        plan = Plan((Piece("a", "gaussian", event, 1, 1.0, ""),), 1e-5)
        header = {"rng": kind, "unit": {"kind": "row"}, "nominal_rows": 100}
        ledger = Ledger.create(tmp_path / f"{number}.jsonl", plan, header)
        ledger.reserve("a", 1, key_id=KEY_ID)
        assert certificate.make_certificate(ledger, {})["status"] == status


@pytest.fixture
def run(tmp_path):
    """A run of one Gaussian and one reservation, with a model and samples."""
    folder, rng = tmp_path / "run", np.random.default_rng(4)
    pieces = (
        Piece("g", "gaussian", Gaussian(0.5), 1, 1.0, ""),
        Piece("t", "threshold", EpsilonDelta(0.1, 1e-7), 1, 1.0, ""),
    )
    write_run(folder, Plan(pieces, 1e-5), rng)
    for name in ("samples/0/samples.npz", "samples/synthetic.csv", "model/model.json", "schema.json"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    content = json.loads((folder / "certificate.json").read_text())
    content["files"] |= RunDir(folder).released()
    (folder / "certificate.json").write_text(json.dumps(content))
    return folder


def code_of(folder):
    with pytest.raises(SystemExit) as end:
        verify.main([str(folder)])
    return end.value.code


@pytest.mark.parametrize("number", range(84))
def test_no_value_outside_its_range_lowers_epsilon(number, run):
    assert code_of(run) == 0
    claim_the_impossible(run, None, number)
    assert code_of(run) == 1


def test_a_clip_above_the_sensitivity_does_not_verify(run):
    rewrite(run, lambda records: [r | {"clip": 1.0} if r.get("piece") == "g" else r for r in records])
    assert code_of(run) == 0
    rewrite(run, lambda records: [r | {"clip": 1.1} if r.get("piece") == "g" else r for r in records])
    assert code_of(run) == 1


RELEASED = ["samples/0/samples.npz", "samples/synthetic.csv", "model/model.json", "schema.json"]


@pytest.mark.parametrize("name", RELEASED)
def test_a_released_file_that_the_certificate_leaves_out_does_not_verify(name, run):
    stated = json.loads((run / "certificate.json").read_text())
    del stated["files"][name]
    (run / name).write_text("the real rows")
    (run / "certificate.json").write_text(json.dumps(stated))
    with pytest.raises(verify.Wrong, match=name):
        verify.compare(run)


@pytest.mark.parametrize("name", RELEASED[:3])
def test_a_certified_file_that_is_gone_from_its_folder_does_not_verify(name, run):
    (run / name).unlink()
    with pytest.raises((verify.Wrong, OSError), match=name):
        verify.compare(run)


def test_files_that_a_run_does_not_release_are_none_of_the_verifiers_business(run):
    for name in ("samples/half.parquet.tmp", "report/index.html", "checkpoints/state.pt", "more.csv"):
        (run / name).parent.mkdir(exist_ok=True)
        (run / name).write_text("x")
    verify.compare(run)
    shutil.rmtree(run / "samples")
    verify.compare(run)
