"""Bad input through the real commands: one clear error with a remedy, no cell of data in it, nothing lost."""

from __future__ import annotations

import errno
import gzip
import os
import resource
from contextlib import contextmanager
from pathlib import Path

import pytest
from whole_runs import certificate, ended, only_run, results, snapshot, start, terminal

from dpforge.cli import data
from dpforge.data.table import TableFormat
from dpforge.errors import ConfigError
from dpforge.experiment import pictures
from dpforge.privacy import ledger as ledgers

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("no_pictures")]

CANARY = "c4n4ry"
NUMBER = "31337.0625"
SCHEMA = """\
name: people
nominal_rows: 200
columns:
  age: {kind: integer, bounds: {min: 0, max: 120}}
  wage: {kind: numeric, nullable: true, null_tokens: [""], bounds: {min: 0, max: 9000}}
  city: {kind: categorical, nullable: true, null_tokens: [""], categories: {values: [Rome, Oslo]}}
"""
HEAD = "age,wage,city\n"
GOOD = HEAD + "".join(f"{20 + n % 50},{10 * n},{'Rome' if n % 3 else 'Oslo'}\n" for n in range(200))
OWN = ("dataset=csv", "dataset.path=my.csv", "dataset.schema=my.yaml", "privacy.delta=1e-4", "logger=csv")
QUICK = (*OWN, "model=independent", "evaluation=quick", "evaluation.metrics=[tvd_1way,validity]")


@pytest.fixture
def table(place) -> Path:
    """A table and its schema in the working directory."""
    (place / "my.yaml").write_text(SCHEMA)
    path = place / "my.csv"
    path.write_text(GOOD)
    return path


def write(path: Path, content: str | bytes) -> None:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())


def assert_no_cell_leaked(place: Path, said: str) -> None:
    """Neither the terminal nor a file of a run folder, but the owner's traceback, has a planted cell."""
    sources = {"my.csv", "my.csv.gz", "my.yaml"}
    texts = {"the terminal": said.encode()}
    for path in place.rglob("*"):
        if path.is_file() and path.name not in sources:
            if path.name == "traceback.txt":
                assert path.stat().st_mode & 0o777 == 0o600
            else:
                texts[str(path)] = path.read_bytes()
    for canary in (CANARY, NUMBER):
        assert not [name for name, text in texts.items() if canary.encode() in text]


CELL = f"{NUMBER},1,{CANARY}\n"
REFUSED = {
    "empty": ("", "is empty"),
    "header only": (HEAD, "no records"),
    "one row": (HEAD + CELL, "Give more rows"),
    "wrong delimiter": ((HEAD + CELL).replace(",", ";"), "separator=';'"),
    "records that are not divided": (HEAD + f"{CANARY};{NUMBER}\n" * 20, "separator"),
    "not UTF-8": (HEAD.encode() + b"30,1,\xff" + CELL.encode(), "encoding"),
    "UTF-16": ((HEAD + CELL).encode("utf-16"), "encoding=utf-16"),
    "duplicate columns": ("age,wage,city,age\n" + CELL, "more than once: 'age'"),
    "only text in a numeric column": (HEAD + f"{CANARY},1,Rome\n" * 20, "column 'age'"),
    "a column of the schema is missing": ("age,city\n" + f"30,{CANARY}\n" * 20, "'wage'"),
    "a foreign header": (f"{CANARY},{NUMBER}\n" + CELL, "'age'"),
    "all records too long": (HEAD + f"30,1,Rome,{CANARY}\n" * 20, "no record of my.csv fits"),
    "a quote that is never closed": (HEAD + f'30,1,"{CANARY}\n' + CELL * 300, "never closed"),
    "a zip archive": (b"PK\x03\x04" + CANARY.encode(), "zip"),
    "binary": (bytes(range(256)) * 20 + CANARY.encode(), "my.csv"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_file_that_is_no_table_is_refused_with_a_remedy(case, table, place, command):
    content, text = REFUSED[case]
    write(table, content)
    done = command(*QUICK)
    assert done.code == 2, done.said
    assert "DataError:" in done.err
    assert text in done.err
    assert_no_cell_leaked(place, done.said)
    assert '"state": "failed"' in (only_run(place) / "status.json").read_text()
    assert not list(place.rglob("certificate.json"))


HANDLED = {
    "ragged rows": GOOD + f"30\n31,5\n32,5,Rome,{CANARY}\n\n",
    "some text in a numeric column": GOOD + f"30,{CANARY},Rome\n{CANARY},5,Rome\n",
    "an all-missing column": HEAD + "".join(f"{n % 90},,Oslo\n" for n in range(200)),
    "infinite values": GOOD + "inf,inf,Rome\n-Infinity,-inf,Oslo\nnan,nan,Rome\n1e999,1e999,Rome\n",
    "values far outside": GOOD + f"{NUMBER},{NUMBER},Rome\n" * 5 + "9" * 400 + ",1,Rome\n",
    "categories nobody listed": GOOD + f"30,5,{CANARY}\n" * 20,
    "one value everywhere": HEAD + "30,5,Rome\n" * 200,
}


@pytest.mark.parametrize(
    ("case", "model"),
    [
        *((case, "independent") for case in HANDLED),
        *((case, "dp_maf") for case in ("an all-missing column", "infinite values", "one value everywhere")),
    ],
)
def test_odd_cells_are_handled_within_the_schema(case, model, table, place, command):
    write(table, HANDLED[case])
    flow = ("model.hidden=[4]", "model.steps=3", "model.expected_batch_size=20") if model == "dp_maf" else ()
    done = command(*QUICK, f"model={model}", *flow)
    assert done.code == 0, done.said
    assert_no_cell_leaked(place, done.said)
    synthetic = results(only_run(place))["synthetic"].splitlines()
    assert len(synthetic) == 161
    for row in synthetic[1:]:
        _, age, wage, city = row.split(",")
        assert 0 <= int(age) <= 120
        assert wage == "" or 0 <= float(wage) <= 9000
        assert city in ("", "Rome", "Oslo", "unknown")


def test_a_picture_that_cannot_be_drawn_does_not_cost_a_run_its_certificate(
    table, place, command, monkeypatch
):
    def fail(work, *_):
        (work.folder.plots / "half.png").write_bytes(b"")
        raise ValueError(CANARY)

    monkeypatch.setattr(pictures, "draw", fail)
    done = command(*QUICK)
    assert done.code == 0
    assert "some pictures could not be drawn (ValueError)" in done.err
    assert certificate(only_run(place))["tainted_sinks"]["plots/half.png"] == ["plots/half"]
    assert_no_cell_leaked(place, done.said)


def test_a_category_with_a_million_values_is_one_unknown(table, place, command):
    with table.open("w") as file:
        file.write(HEAD)
        file.writelines(f"30,5,{CANARY}{n}\n" for n in range(10**6))
    done = command(*QUICK)
    assert done.code == 0, done.said
    assert_no_cell_leaked(place, done.said)
    assert set(results(only_run(place))["synthetic"].split()[-1].split(",")[3:]) <= {
        "Rome",
        "Oslo",
        "unknown",
        "",
    }


@pytest.mark.parametrize("where", ["gone.csv", "folder"])
def test_a_path_that_is_no_file_is_refused(where, table, place, command):
    (place / "folder").mkdir()
    done = command(*QUICK, f"dataset.path={where}")
    assert done.code == 2
    assert "give the path of a CSV or Parquet file" in done.err


def test_a_gzip_bomb_is_refused_before_it_fills_the_machine(table, place, command, monkeypatch):
    monkeypatch.setattr(TableFormat, "max_bytes", 2**21)
    with gzip.open(place / "my.csv.gz", "wb") as bomb:
        bomb.write((HEAD + CELL * 2**19).encode())
    done = command(*QUICK, "dataset.path=my.csv.gz")
    assert done.code == 2
    assert "larger than the limit" in done.err
    assert_no_cell_leaked(place, done.said)


@pytest.mark.parametrize(
    "content", ["", HEAD, b"\xff\xfe\x00", (HEAD + CELL).encode() + b"\xff", "age,age\n1,2\n"]
)
def test_a_schema_is_not_drafted_from_a_file_that_is_no_table(content, table, place, command):
    write(table, content)
    done = command("schema", table, "--out", "draft.yaml", main=data.main)
    assert done.code == 2, done.said
    assert not (place / "draft.yaml").exists()
    assert_no_cell_leaked(place, done.said)


SCHEMAS = {
    "no schema": ("", "my.yaml"),
    "not YAML": ("columns: [", "my.yaml"),
    "a misspelt key": (SCHEMA.replace("bounds", "bonds", 1), "Did you mean 'bounds'"),
    "a bound that is no number": (SCHEMA.replace("max: 120", "max: old"), "max"),
    "bounds the wrong way round": (SCHEMA.replace("max: 120", "max: -1"), "age"),
    "values that nobody confirmed": (
        SCHEMA.replace("max: 120", "max: 120, provenance: unconfirmed"),
        "provenance: public",
    ),
}


@pytest.mark.parametrize("case", SCHEMAS)
def test_a_schema_with_a_mistake_is_refused_before_data_are_read(case, table, place, command):
    content, text = SCHEMAS[case]
    (place / "my.yaml").write_text(content)
    table.unlink()
    done = command(*QUICK)
    assert done.code == 2, done.said
    assert text in done.err
    assert "ConfigError" in done.err
    assert not (place / "outputs").exists()


CONFIGURATIONS = {
    "epsilon of zero": (["privacy.target_epsilon=0"], "privacy=none"),
    "negative epsilon": (["privacy.target_epsilon=-1"], "expected a finite number > 0"),
    "epsilon that is no number": (["privacy.target_epsilon=.nan"], "expected a finite number > 0"),
    "infinite epsilon": (["privacy.target_epsilon=.inf"], "privacy=none"),
    "sigma of zero": (["privacy.target_epsilon=null", "privacy.noise_multiplier=0"], "privacy=none"),
    "delta of one over N": (["privacy.delta=0.00625"], "allow_large_delta"),
    "delta of zero": (["privacy.delta=0"], "below 1/nominal_rows"),
    "q above one": (
        ["model=dp_maf", "model.expected_batch_size=null", "model.sampling_rate=1.5"],
        "0 < q <= 1",
    ),
    "no steps": (["model=dp_maf", "model.steps=0"], "expected an integer >= 1"),
    "no clipping": (["privacy.max_grad_norm=0"], "expected a finite number > 0"),
    "a misspelt key": (["privacy.target_epsilonn=1"], "Did you mean 'privacy.target_epsilon'?"),
    "a misspelt new key": (["+privacy.target_epsilonn=1"], "Did you mean"),
    "a misspelt group": (["modle=dp_maf"], "Did you mean"),
    "a misspelt choice": (["model=dp_mav"], "Did you mean 'dp_maf'?"),
    "a code path of the user": (["model._target_=os.system"], "_target_"),
    "half an override": (["privacy.delta"], "key=value"),
}


@pytest.mark.parametrize("case", CONFIGURATIONS)
def test_a_configuration_with_a_mistake_is_refused_before_data_are_read(case, table, place, command):
    words, text = CONFIGURATIONS[case]
    table.unlink()
    done = command(*QUICK, *words)
    assert done.code == 2, done.said
    assert text in done.err
    assert "ConfigError" in done.err
    assert not (place / "outputs").exists()


def test_all_mistakes_are_told_together(table, place, command):
    words = [word for case in ("epsilon of zero", "a misspelt key") for word in CONFIGURATIONS[case][0]]
    done = command(*QUICK, *words, "seed=-1", "runtime.engine=gost")
    assert done.code == 2
    for text in ("target_epsilon=0", "target_epsilonn", "seed=-1", "Did you mean 'ghost'?"):
        assert text in done.err


def test_a_later_bad_file_leaves_a_finished_run_untouched(table, place, command):
    assert command(*QUICK).code == 0
    run = only_run(place)
    before = snapshot(run)
    for content, _ in (REFUSED["empty"], REFUSED["not UTF-8"], (GOOD + CELL, "")):
        write(table, content)
        done = command(*QUICK)
        assert done.code == 2
        assert_no_cell_leaked(place, done.said)
        assert snapshot(run) == before
    write(table, GOOD)
    assert "finished already" in command(*QUICK).out


@pytest.mark.parametrize("taken", ["outputs", "outputs/default", "a folder of the run"])
def test_an_output_place_that_is_a_file_is_refused(taken, table, place, command):
    if taken == "a folder of the run":
        assert command(*QUICK).code == 0
        run = only_run(place)
        for path in sorted(run.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
        (run / "samples").write_text("mine")
        path = run / "samples"
    else:
        path = place / taken
        path.parent.mkdir(exist_ok=True)
        path.write_text("mine")
    done = command(*QUICK)
    assert done.code == 2, done.said
    assert "output_root" in done.err
    assert path.read_text() == "mine"


@contextmanager
def largest_file(size: int):
    """Let no file of this process grow beyond ``size`` bytes: as if the disk were full from there on."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


FLOW = (
    "experiment=smoke",
    "model.hidden=[8]",
    "model.steps=70",
    "privacy.target_epsilon=null",
    "privacy.noise_multiplier=2",
    "privacy.rng=seeded",
    "privacy.seed=7",
    "evaluation.metrics=[tvd_1way,validity]",
    "runtime.threads=1",
    "runtime.checkpoint_every=20",
)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """What the flow gives on a disk with space."""
    place = tmp_path_factory.mktemp("undisturbed")
    assert ended(start(place, FLOW)) == 0, terminal(place)
    return results(only_run(place))


def assert_disk_error(done) -> None:
    assert done.code == 2, done.said
    assert "Error: " in done.err
    assert "free" in done.err.lower()
    assert "Logging error" not in done.err


def test_a_disk_that_fills_up_again_and_again_loses_nothing(place, command, undisturbed):
    told = []
    for size, checkpoints in ((0, 20), (1400, 20), (2700, 100), (20000, 20)):
        with largest_file(size):
            done = command(*FLOW, f"runtime.checkpoint_every={checkpoints}")
        assert_disk_error(done)
        told.append(done.err)
    for name in ("config.yaml", "ledger.jsonl", "state.pt"):
        assert any(f"{name} cannot be written" in text for text in told)
    assert command(*FLOW).code == 0
    assert results(only_run(place)) == undisturbed


def test_whatever_file_cannot_be_written_the_run_goes_on_from_there(place, command, undisturbed, monkeypatch):
    real = os.replace
    for name in (
        "ledger.jsonl",
        "key",
        "metrics.csv",
        "model.safetensors",
        "model.json",
        "synthetic.parquet",
        "preview.csv",
        "metrics.json",
        "certificate.json",
    ):

        def full(source: str, target: str, name: str = name) -> None:
            if Path(target).name == name:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target))
            real(source, target)

        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", full)
            done = command(*FLOW)
        assert_disk_error(done)
        assert name in done.err
    assert command(*FLOW).code == 0
    assert results(only_run(place)) == undisturbed
    assert not [path for path in only_run(place).rglob("*") if path.suffix == ".tmp"]


@pytest.mark.parametrize("call", ["write", "fsync"])
def test_a_reservation_that_does_not_reach_the_disk_draws_no_noise(
    call, place, command, undisturbed, monkeypatch
):
    real, calls = getattr(os, call), []

    def full(handle: int, *rest: bytes) -> int | None:
        here = os.readlink(f"/proc/self/fd/{handle}").endswith("ledger.jsonl")
        calls.append(here)
        if here and calls.count(True) == 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(handle, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(ledgers.os, call, full)
        done = command(*FLOW)
    assert done.code == 2
    assert "No space left on device" in done.err
    assert "no noise was drawn" in done.err
    assert (only_run(place) / "ledger.jsonl").read_bytes().endswith(b"}\n")
    assert command(*FLOW).code == 0
    assert results(only_run(place)) == undisturbed


def test_a_run_folder_with_a_foreign_target_is_refused_and_nothing_is_executed(place):
    """An edited config.yaml must not make ``dpforge-evaluate`` call what it names."""
    from dpforge.experiment import runner
    from dpforge.experiment.rundir import RunDir

    folder = RunDir(place / "run")
    folder.create()
    folder.write_text(folder.config, "model: {_target_: os.system, command: 'touch executed'}\n")
    folder.set_status("done")
    with pytest.raises(ConfigError, match=r"os\.system"):
        runner.evaluate(folder.root)
    assert not (place / "executed").exists()
