"""Files of a run or of the world that somebody crafted: refused by name or ignored, and never executed."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import struct
import tarfile
import zipfile

import numpy as np
import pytest
import torch
from safetensors.torch import save

from dpforge import verify
from dpforge.data.image_arrays import read_idx, read_npz
from dpforge.data.image_files import read_samples
from dpforge.data.images import ImageSchema
from dpforge.data.transport import SourceFailed, unpack
from dpforge.errors import DPForgeError
from dpforge.experiment import runner
from dpforge.experiment.certificate import make_certificate
from dpforge.experiment.rundir import RunDir
from dpforge.features.network import read_weights
from dpforge.generators.storage import load_any_model, load_state
from dpforge.pretrain.conversion import read_checkpoint
from dpforge.privacy.events import Gaussian
from dpforge.privacy.ledger import GENESIS, Ledger
from dpforge.privacy.plan import Piece, Plan

from .examining import CANARY, MARK, Evil, evil_pickle, examined

PLAN = Plan((Piece("train", "gaussian", Gaussian(5.0), 3, 2.0, "columns"),), 1e-5)
SCHEMA = ImageSchema("tiny", 9, 2, 2, 1, ("a", "b")).to_dict()


def torched(value):
    out = io.BytesIO()
    torch.save(value, out)
    return out.getvalue()


def signed(payload):
    return hashlib.sha256(payload).digest() + payload


def zipped(entries, **options):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", **options) as archive:
        for name, content in entries:
            archive.writestr(name, content)
    return out.getvalue()


def npy(array):
    out = io.BytesIO()
    np.save(out, array, allow_pickle=True)
    return out.getvalue()


def npy_of(header):
    text = repr(header).encode()
    text += b" " * (118 - len(text) % 64 + 64 - 65) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text


STATE = {"step": 1, "key_id": "k", "module": {}, "optimizer": {}}
STATES = {
    "a pickle": signed(evil_pickle()),
    "a pickle without its digest": evil_pickle(),
    "a torch file that calls": signed(torched({**STATE, "x": Evil()})),
    "a torch file of a whole module": signed(torched(torch.nn.Linear(2, 2))),
    "an archive with a path": signed(zipped([("../../executed", "x"), ("archive/data.pkl", evil_pickle())])),
    "a list": signed(torched([1, 2])),
    "a state without a step": signed(torched({"key_id": "k"})),
    "the digest alone": hashlib.sha256(b"").digest(),
}


@pytest.mark.parametrize("name", STATES)
def test_a_crafted_checkpoint_is_ignored_and_never_executed(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "state.pt").write_bytes(STATES[name])
    assert examined(lambda: load_state(tmp_path), tmp_path).result is None


def header(text, behind=b"", size=None):
    data = text.encode() if isinstance(text, str) else text
    return struct.pack("<Q", len(data) if size is None else size) + data + behind


TENSOR = '{"a":{"dtype":"F32","shape":%s,"data_offsets":%s}}'
GOOD_TENSORS = save({"a": torch.zeros(2)})
DOCUMENT = json.dumps({"schema": SCHEMA, "arrays": {}})
MODELS = {
    "a header of all memory": (header("{}", size=2**63), DOCUMENT),
    "a header longer than the file": (header("{}", size=10**9), DOCUMENT),
    "a header that is no JSON": (header("{" * 50), DOCUMENT),
    "a header of 100,000 brackets": (header('{"a":' + "[" * 10**5), DOCUMENT),
    "a tensor of all memory": (header(TENSOR % ("[1099511627776]", "[0,4398046511104]")), DOCUMENT),
    "a tensor before the file": (header(TENSOR % ("[2]", "[-8,0]"), bytes(8)), DOCUMENT),
    "a tensor of negative size": (header(TENSOR % ("[-2]", "[0,8]"), bytes(8)), DOCUMENT),
    "tensors over each other": (
        header(
            '{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},'
            '"b":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}',
            bytes(8),
        ),
        DOCUMENT,
    ),
    "a pickle for tensors": (evil_pickle(), DOCUMENT),
    "a torch file for tensors": (torched({"a": Evil()}), DOCUMENT),
    "a description that is a list": (GOOD_TENSORS, "[1]"),
    "a description that is a number": (GOOD_TENSORS, "7"),
    "a description without a schema": (GOOD_TENSORS, "{}"),
    "a schema that is a text": (GOOD_TENSORS, '{"arrays": {}, "schema": "x"}'),
    "a schema that is null": (GOOD_TENSORS, '{"arrays": {}, "schema": null}'),
    "a schema of nothing": (GOOD_TENSORS, '{"arrays": {}, "schema": {}}'),
    "a schema of images of text": (
        GOOD_TENSORS,
        json.dumps({"arrays": {}, "schema": {**SCHEMA, "height": "tall"}}),
    ),
    "100,000 brackets": (GOOD_TENSORS, "[" * 10**5),
    "bytes that are no text": (GOOD_TENSORS, b"\xff\xfe"),
    "an integer of 100,000 digits": (GOOD_TENSORS, '{"schema": ' + "9" * 10**5 + "}"),
}


@pytest.mark.parametrize("name", MODELS)
def test_a_crafted_model_is_refused_and_never_executed(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tensors, document = MODELS[name]
    (tmp_path / "model.safetensors").write_bytes(tensors)
    (tmp_path / "model.json").write_bytes(document if isinstance(document, bytes) else document.encode())
    assert examined(lambda: load_any_model(tmp_path), tmp_path).refused


def chained(*records):
    lines, last = [], GENESIS
    for number, record in enumerate(records):
        whole = {"seq": number, **record, "previous": last} if isinstance(record, dict) else record
        lines.append(json.dumps(whole))
        last = hashlib.sha256(lines[-1].encode()).hexdigest()
    return "".join(line + "\n" for line in lines)


PUBLIC = {"rng": "entropy", "unit": {"kind": "row"}, "nominal_rows": 100}
HEAD = {"kind": "header", "plan": PLAN.to_json(), **PUBLIC}
RESERVE = {
    "kind": "reserve", "piece": "train", "mechanism": "gaussian", "event": Gaussian(5.0).to_json(),
    "count": 1, "first": 0, "sensitivity": 2.0, "reason": "columns", "key_id": "k",
}  # fmt: skip


def plan_with(**changes):
    return {**HEAD, "plan": {**PLAN.to_json(), **changes}}


def piece_with(**changes):
    return plan_with(pieces=[{**PLAN.to_json()["pieces"][0], **changes}])


LEDGERS = {
    "no plan": chained({"kind": "header"}),
    "a plan that is a text": chained({**HEAD, "plan": "x"}),
    "a plan without pieces": chained({**HEAD, "plan": {}}),
    "pieces that are numbers": chained(plan_with(pieces=[1, 2])),
    "an unknown event": chained(piece_with(event={"type": "os.system", "command": "touch executed"})),
    "an event that is a text": chained(piece_with(event="gaussian")),
    "a noise that is a text": chained(piece_with(event={"type": "gaussian", "noise_multiplier": "x"})),
    "a noise that is negative": chained(piece_with(event={"type": "gaussian", "noise_multiplier": -1})),
    "a count that is a text": chained(piece_with(count="many")),
    "a count that is negative": chained(piece_with(count=-3)),
    "a delta that is no number": chained(plan_with(delta="small")),
    "a reservation of an unknown piece": chained(HEAD, {**RESERVE, "piece": "other"}),
    "a reservation without a count": chained(HEAD, {"kind": "reserve", "piece": "train"}),
    "a reservation of a text": chained(HEAD, {**RESERVE, "count": "1"}),
    "a reservation that gives back": chained(HEAD, {**RESERVE, "count": -5}),
    "a reservation of half a use": chained(HEAD, {**RESERVE, "count": 0.5}),
    "a reservation beyond the plan": chained(HEAD, {**RESERVE, "count": 99}),
    "a reservation at another place": chained(HEAD, {**RESERVE, "first": 7}),
    "a reservation without a key": chained(HEAD, {**RESERVE, "key_id": None}),
    "a use without its price": chained(HEAD, RESERVE, {"kind": "spend", "piece": "train"}),
    "a use of a text": chained(HEAD, RESERVE, {"kind": "spend", "piece": "train", "rho": "x"}),
    "a use that gives back": chained(HEAD, RESERVE, {"kind": "spend", "piece": "train", "rho": -1.0}),
    "a taint of nothing": chained(HEAD, {"kind": "taint"}),
    "a kind that is a list": chained(HEAD, {"kind": ["reserve"]}),
    "an unknown kind": chained(HEAD, {"kind": "refund", "piece": "train"}),
    "a second header": chained(HEAD, HEAD),
    "a list for a record": chained(HEAD, [1]),
    "a chain that ends elsewhere": chained(HEAD, RESERVE).replace('"seq": 1', '"seq": 2'),
    "100,000 brackets": "[" * 10**5 + "\n",
    "an integer of 100,000 digits": '{"kind": ' + "9" * 10**5 + "}\n",
    "no number": chained(HEAD, {**RESERVE, "count": float("nan")}),
}


@pytest.mark.parametrize("name", LEDGERS)
def test_a_crafted_ledger_is_refused_and_stays_as_it_is(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "ledger.jsonl"
    path.write_text(LEDGERS[name])
    assert examined(lambda: Ledger.open(path), tmp_path).refused
    assert path.read_text() == LEDGERS[name]


def certified(folder, ledger):
    """Put a ledger into a run folder, with the certificate that agrees with as much of it as possible."""
    folder.mkdir(exist_ok=True)
    path = folder / "ledger.jsonl"
    path.write_text(WHOLE)
    stated = make_certificate(Ledger.open(path), {})
    path.write_text(ledger)
    with contextlib.suppress(Exception):
        lines = [json.loads(line) for line in ledger.splitlines()]
        stated["ledger_hash"] = hashlib.sha256(ledger.splitlines()[-1].encode()).hexdigest()
        stated |= lines[0]["plan"]
        spent = verify.recompute(lines)
        stated |= {"epsilon": spent, "epsilon_by_accountant": {"pld": spent, "rdp": None}}
    (folder / "certificate.json").write_text(json.dumps(stated))
    with pytest.raises(SystemExit) as stop:
        verify.main([str(folder)])
    return stop.value.code


REST = {**RESERVE, "count": 2, "first": 1}
WHOLE = chained(HEAD, RESERVE, REST, {"kind": "close"})


@pytest.mark.parametrize("name", LEDGERS)
def test_a_crafted_ledger_does_not_verify(name, tmp_path, capsys):
    assert certified(tmp_path / "run", LEDGERS[name]) == 1
    assert "Traceback" not in capsys.readouterr().err


def completed(name):
    """A crafted plan or reservation as part of a run that ended: all uses reserved, and closed."""
    lines = [json.loads(line) for line in LEDGERS[name].splitlines()]
    done = sum(line["count"] for line in lines if line.get("kind") == "reserve")
    piece = lines[0]["plan"]["pieces"][0]
    left = {**RESERVE, "event": piece["event"], "count": piece["count"] - done, "first": done}
    return chained(*lines, left, {"kind": "close"})


COMPLETED = [
    "an event that is a text",
    "a noise that is a text",
    "a noise that is negative",
    "a delta that is no number",
    "a reservation that gives back",
    "a reservation of half a use",
    "a reservation at another place",
    "a reservation without a key",
    "a use without its price",
    "a use of a text",
    "a use that gives back",
]


@pytest.mark.parametrize("name", COMPLETED)
def test_a_crafted_ledger_of_a_run_that_ended_does_not_verify(name, tmp_path):
    assert certified(tmp_path / "run", completed(name)) == 1


def test_a_ledger_that_nobody_crafted_verifies(tmp_path, capsys):
    assert certified(tmp_path / "run", WHOLE) == 0
    epsilon = Ledger.open(tmp_path / "run" / "ledger.jsonl").plan.epsilon()
    assert f"epsilon {epsilon:.6f} " in capsys.readouterr().out


OBJECTS = npy(np.array([Evil()], dtype=object))
ARRAYS = {
    "Python objects": zipped([("samples.npy", OBJECTS)]),
    "a pickle for an array": zipped([("samples.npy", evil_pickle())]),
    "more bytes than memory": zipped(
        [("samples.npy", npy_of({"descr": "|u1", "fortran_order": False, "shape": (2**50, 2, 2, 3)}))]
    ),
    "a negative shape": zipped(
        [("samples.npy", npy_of({"descr": "|u1", "fortran_order": False, "shape": (-1, 2, 2, 3)}))]
    ),
    "a type that calls": zipped(
        [("samples.npy", npy_of({"descr": "O", "fortran_order": False, "shape": (1, 2, 2, 3)}))]
    ),
    "a header that calls": zipped(
        [("samples.npy", b"\x93NUMPY\x01\x00\x20\x00__import__('os').system('id')   ")]
    ),
    "a header cut off": zipped(
        [("samples.npy", b"\x93NUMPY\x01\x00\x20\x00{'descr': '|u1', 'shape': (1,      \n")]
    ),
    "letters beyond all alphabets": zipped(
        [
            ("samples.npy", npy(np.zeros((1, 2, 2, 3), np.uint8))),
            ("class_names.npy", npy(np.array(["a"])).replace(b"a\0\0\0", b"a\0\0\xff")),
        ]
    ),
    "a path for a name": zipped([("../../samples.npy", npy(np.zeros((1, 2, 2, 3), np.uint8)))]),
    "no archive": b"PK\x03\x04" + CANARY.encode(),
    "nothing": b"",
    "one row": zipped([("samples.npy", npy(np.zeros(5, np.uint8)))]),
    "real numbers": zipped([("samples.npy", npy(np.zeros((1, 2, 2, 3))))]),
    "labels outside": zipped(
        [
            ("samples.npy", npy(np.zeros((1, 2, 2, 3), np.uint8))),
            ("labels.npy", npy(np.array([9]))),
            ("class_names.npy", npy(np.array(["a"]))),
        ]
    ),
    "fewer labels": zipped(
        [("samples.npy", npy(np.zeros((4, 2, 2, 3), np.uint8))), ("labels.npy", npy(np.array([0])))]
    ),
    "names that are numbers": zipped(
        [
            ("samples.npy", npy(np.zeros((1, 2, 2, 3), np.uint8))),
            ("labels.npy", npy(np.array([-1]))),
            ("class_names.npy", npy(np.array([1.5]))),
        ]
    ),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_a_crafted_sample_file_is_refused_and_never_executed(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "samples.npz").write_bytes(ARRAYS[name])
    assert examined(lambda: read_samples(tmp_path / "samples.npz"), tmp_path).refused


def test_a_bomb_in_an_archive_of_arrays_is_refused_before_it_is_unpacked(tmp_path):
    shape = {"descr": "|u1", "fortran_order": False, "shape": (2**28,)}
    bomb = zipped([("a.npy", npy_of(shape) + bytes(2**24))], compression=zipfile.ZIP_DEFLATED)
    (tmp_path / "a.npz").write_bytes(bomb)
    found = examined(lambda: read_npz(tmp_path / "a.npz", {"a": "a"}, max_bytes=2**20), tmp_path)
    assert "more than the limit" in str(found.refused)


@pytest.mark.parametrize("shape", [(2**31 - 1,) * 3, (60000, 28), ()])
def test_an_idx_file_that_announces_more_than_it_has_is_refused(shape, tmp_path):
    content = b"\0\0\x08" + bytes([len(shape)]) + b"".join(struct.pack(">I", n) for n in shape)
    (tmp_path / "a").write_bytes(content)
    assert examined(lambda: read_idx(tmp_path / "a", max_bytes=2**20), tmp_path).refused


WEIGHTS = {
    "a pickle": evil_pickle(),
    "a torch file that calls": torched({"weight": Evil()}),
    "a torch file of a module": torched(torch.nn.Linear(2, 2)),
    "tensors of another network": torched({"weight": torch.zeros(9, 9)}),
    "a number": torched(7),
    "garbage": b"\x80\x04" + CANARY.encode(),
    "nothing": b"",
}


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("name", WEIGHTS)
def test_crafted_weights_are_refused_and_never_executed(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "w.pt").write_bytes(WEIGHTS[name])
    assert examined(lambda: read_weights(tmp_path / "w.pt", torch.nn.Linear(2, 2)), tmp_path).refused
    if name != "tensors of another network":
        assert examined(lambda: read_checkpoint(tmp_path / "w.pt"), tmp_path).refused


def tarred(*members):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        for name, kind, content in members:
            info = tarfile.TarInfo(name)
            info.type, info.size = kind, len(content) if kind == tarfile.REGTYPE else 0
            info.linkname = content.decode() if kind != tarfile.REGTYPE else ""
            archive.addfile(info, io.BytesIO(content))
    return out.getvalue()


FILE, LINK = tarfile.REGTYPE, tarfile.SYMTYPE
ARCHIVES = {
    "paths out of the folder": (tarred(("../../executed", FILE, b"x"), ("data", FILE, b"good")), b"good"),
    "an absolute path": (tarred(("/executed", FILE, b"x"), ("data", FILE, b"good")), b"good"),
    "a link for the file": (tarred(("data", LINK, b"/etc/passwd")), None),
    "a hard link for the file": (tarred(("data", tarfile.LNKTYPE, b"/etc/passwd")), None),
    "a device for the file": (tarred(("data", tarfile.CHRTYPE, b"")), None),
    "a tar cut off": (tarred(("data", FILE, b"good" * 99999))[:200], None),
    "a zip with paths": (zipped([("../../executed", "x"), ("data", "good")]), b"good"),
    "a zip without the file": (zipped([("other", "x")]), None),
    "a bomb": (zipped([("data", bytes(2**24))], compression=zipfile.ZIP_DEFLATED), None),
    "a Debian package of nonsense": (b"!<arch>\n" + b"x" * 100, None),
    "nothing": (b"", None),
}


@pytest.mark.parametrize("name", ARCHIVES)
def test_of_a_crafted_archive_only_the_named_file_is_taken(name, tmp_path, monkeypatch):
    inside = tmp_path / "deep" / "deeper"
    inside.mkdir(parents=True)
    monkeypatch.chdir(inside)
    archive, content = ARCHIVES[name]
    (inside / "packed").write_bytes(archive)
    (inside / "out").touch()
    found = examined(lambda: unpack(inside / "packed", "data", inside / "out", 2**20), tmp_path, SourceFailed)
    assert (found.refused is None) == (content is not None)
    if content is not None:
        assert (inside / "out").read_bytes() == content


CONFIGS = {
    "a tag that calls": f"model: !!python/object/apply:os.system ['touch {MARK}']",
    "a tag of a module": "model: !!python/module:os",
    "a target": f"model: {{_target_: os.system, command: 'touch {MARK}'}}",
    "a hidden target": f"model: {{_target_: dpforge.data.opening.os.system, command: 'touch {MARK}'}}",
    "a target in a list": f"model: {{a: [{{_target_: os.system, command: 'touch {MARK}'}}]}}",
    "a resolver of the environment": "study: ${oc.env:HOME}\nmodel: 1",
    "a list": "[1]",
    "nothing": "",
    "not YAML": "a: [",
    "bytes": "\x00",
}


@pytest.mark.parametrize("name", CONFIGS)
def test_a_crafted_configuration_in_a_run_folder_is_refused_and_never_obeyed(name, tmp_path, monkeypatch):
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    folder = RunDir(tmp_path / "run")
    folder.create()
    folder.config.write_text(CONFIGS[name])
    folder.set_status("done")
    assert examined(lambda: runner.evaluate(folder.root), here).refused


LINKED = (
    "ledger.jsonl",
    "log.txt",
    "traceback.txt",
    "metrics.csv",
    "status.json",
    "private/key",
    "config.yaml",
)


@pytest.mark.parametrize("name", LINKED)
def test_a_link_out_of_a_run_folder_is_not_written_through(name, tmp_path):
    outside = tmp_path / "outside"
    outside.write_text("mine\n")
    folder = RunDir(tmp_path / "run")
    folder.create()
    (folder.root / name).symlink_to(outside)
    with pytest.raises(DPForgeError, match="link"):
        folder.create()
    assert outside.read_text() == "mine\n"


def test_there_are_at_least_twenty_hostile_artefacts():
    cases = (STATES, MODELS, LEDGERS, ARRAYS, WEIGHTS, ARCHIVES, CONFIGS, LINKED)
    assert sum(map(len, cases)) >= 20
    assert not os.path.exists("/executed")
