"""Cells, names of files, secrets of the environment and places of the machine: none is in what a run leaves.

Exempt is ``traceback.txt`` of a failed run, which only its owner may read.
"""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from omegaconf import OmegaConf
from PIL import Image, PngImagePlugin

from dpforge.experiment.rundir import RunDir
from dpforge.experiment.runner import _logged_config

pytestmark = [pytest.mark.integration, pytest.mark.slow]

CELL, NUMBER, NAME, NOTE = "c4n4ryc3ll", "31337.0625", "c4n4ryf1l3", "c4n4ryn0t3"
FOLDER, HOME = "c4n4ryf0ld3r", "c4n4ryh0m3"
SECRETS = {
    "WANDB_API_KEY": "f00dfeed" * 5,
    "OPENAI_API_KEY": "sk-c4n4ry-openai",
    "AWS_SECRET_ACCESS_KEY": "c4n4ry/aws+secret",
    "AWS_ACCESS_KEY_ID": "AKIAC4N4RY",
    "HF_TOKEN": "hf_c4n4rytoken",
    "DATABASE_URL": "postgres://c4n4ry:pw@host/db",
}
OWN = {"my.csv", "my.yaml", "images"}
COMMON = (
    "logger=wandb", "logger.release=public", "runtime.threads=1", "study=secrets", "privacy.delta=1e-4",
    "privacy.target_epsilon=null", "privacy.noise_multiplier=2",
)  # fmt: skip
SCHEMA = """\
name: people
nominal_rows: 200
columns:
  age: {kind: integer, bounds: {min: 0, max: 120}}
  wage: {kind: numeric, nullable: true, null_tokens: [""], bounds: {min: 0, max: 9000}}
  city: {kind: categorical, nullable: true, null_tokens: [""], categories: {values: [Rome, Oslo]}}
"""
TABLE = (
    "dataset=csv", "dataset.path=my.csv", "dataset.schema=my.yaml", "model=dp_maf", "model.steps=4",
    "model.expected_batch_size=32", "evaluation=quick", "evaluation.metrics=[tvd_1way,validity]",
)  # fmt: skip
IMAGES = (
    "dataset=image_folder", "dataset.path=images", "dataset.class_names=[a,b]", "dataset.nominal_rows=80",
    "dataset.image_size=8", "dataset.channels=1", "evaluation=images_quick",
    "evaluation.metrics=[frechet,validity]",
    "model=dpwgan", "model.steps=4", "model.width=4", "model.expected_batch_size=16", "rows=20",
)  # fmt: skip


@dataclass(frozen=True)
class Left:
    """What a run left: its exit code, what it printed, and its files."""

    code: int
    said: str
    place: Path

    @property
    def run(self) -> Path:
        (config,) = self.place.glob("outputs/*/*/config.yaml")
        return config.parent


def made(place: Path, *words: str) -> Left:
    """Run the command in a folder and a home whose names must not be told, with secrets around it."""
    home = place.parent / HOME
    home.mkdir(exist_ok=True)
    environment = {**os.environ, **SECRETS, "HOME": str(home), "OMP_NUM_THREADS": "1"}
    environment |= {"DPFORGE_CACHE": str(place.parent / "cache"), "WANDB_MODE": "offline"}
    command = [sys.executable, "-m", "dpforge.cli.main", *COMMON, *words]
    done = subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True, timeout=300)
    return Left(done.returncode, done.stdout + done.stderr, place)


def contents(left: Left) -> dict[str, bytes]:
    """Everything that was written or printed, unpacked where it is packed, by name."""
    found = {"the terminal": left.said.encode()}
    for path in left.place.rglob("*"):
        name = path.relative_to(left.place)
        if path.is_symlink():
            found[f"{name} (link)"] = os.readlink(path).encode()
        if not path.is_file() or name.parts[0] in OWN or path.name == "traceback.txt":
            continue
        data = path.read_bytes()
        found[str(name)] = str(name).encode() + data
        if path.suffix == ".parquet":
            found[f"{name} (cells)"] = pd.read_parquet(io.BytesIO(data)).to_csv().encode()
        elif path.suffix in (".npz", ".pt") and zipfile.is_zipfile(io.BytesIO(data)):
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                found[f"{name} (unpacked)"] = b"".join(archive.read(member) for member in archive.namelist())
    return found


def leaks(left: Left, *words: str) -> list[tuple[str, str]]:
    """Every (canary, place) pair; a canary also in UTF-16, and in UTF-32 as NumPy stores texts."""
    found = []
    for canary in (*words, *SECRETS.values()):
        forms = {canary.encode(), canary.encode("utf-16-le"), canary.encode("utf-32-le")}
        found += [(canary, name) for name, data in contents(left).items() if any(f in data for f in forms)]
    return found


@pytest.fixture(scope="module")
def table(tmp_path_factory) -> Left:
    """A finished run on a table with planted cells."""
    place = tmp_path_factory.mktemp("table") / FOLDER
    place.mkdir()
    (place / "my.yaml").write_text(SCHEMA)
    good = "".join(f"{20 + n % 50},{10 * n},{'Rome' if n % 3 else 'Oslo'}\n" for n in range(190))
    planted = f"30,{NUMBER},{CELL}\n" * 4 + f"31,{CELL},Rome\n" * 3 + f"32,1,Rome,{CELL}\n" * 3
    (place / "my.csv").write_text("age,wage,city\n" + good + planted)
    return made(place, *TABLE)


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Left:
    """A finished run on images with planted names and notes; some files are broken, one is of no class."""
    place = tmp_path_factory.mktemp("images") / FOLDER
    (place / "images").mkdir(parents=True)
    note = PngImagePlugin.PngInfo()
    note.add_text("Comment", NOTE)
    for number in range(80):
        pixels = np.random.default_rng(number).integers(0, 256, (8, 8), dtype=np.uint8)
        label = "ab"[number % 2]
        Image.fromarray(pixels).save(place / "images" / f"{label}_{NAME}{number}.png", pnginfo=note)
    (place / "images" / f"a_{NAME}broken.png").write_bytes(NOTE.encode())
    (place / "images" / f"{NAME}_1.png").write_bytes(NOTE.encode())
    return made(place, *IMAGES)


def test_a_finished_run_on_a_table_tells_no_cell_no_secret_and_no_place(table):
    assert table.code == 0, table.said
    assert leaks(table, CELL, NUMBER, FOLDER) == []


@pytest.mark.parametrize("kind", ["table", "images"])
def test_the_home_of_the_user_is_told_nowhere(kind, request):
    assert leaks(request.getfixturevalue(kind), HOME) == []


def test_a_finished_run_on_images_tells_no_name_no_note_no_secret_and_no_place(images):
    assert images.code == 0, images.said
    assert leaks(images, NAME, NOTE, FOLDER) == []


@pytest.mark.parametrize("kind", ["table", "images"])
def test_nothing_private_is_in_the_records_for_others(kind, request):
    left = request.getfixturevalue(kind)
    records = {name: data for name, data in contents(left).items() if "wandb" in name}
    assert any(name.endswith(".wandb") for name in records), "there are no W&B records to look into"
    assert not [name for name, data in records.items() if b"private/" in data]
    assert any(b"privacy/epsilon" in data for data in records.values())


@pytest.mark.parametrize("kind", ["table", "images"])
def test_the_key_of_the_noise_is_in_its_own_file_alone_and_only_its_owner_may_read_it(kind, request):
    left = request.getfixturevalue(kind)
    path = left.run / "private" / "key"
    key = path.read_bytes()
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    holders = [name for name, data in contents(left).items() if key in data or key.hex().encode() in data]
    assert holders == [str(path.relative_to(left.place))]


def test_a_run_that_fails_tells_nothing_but_in_the_traceback_of_its_owner(table, tmp_path):
    place = tmp_path / FOLDER
    place.mkdir()
    (place / "my.yaml").write_text(SCHEMA)
    (place / "my.csv").write_text("age,wage,city\n" + f"{CELL},{NUMBER},{CELL}\n" * 50)
    failed = made(place, *TABLE)
    assert failed.code == 2
    assert "DataError" in failed.said
    assert leaks(failed, CELL, NUMBER, FOLDER) == []
    assert (failed.run / "traceback.txt").stat().st_mode & 0o777 == 0o600


def test_the_search_finds_what_is_planted(table):
    """The test of this test: a canary in a file, in a name and in a compressed array is found."""
    folder = table.place / "planted"
    folder.mkdir()
    (folder / f"{NAME}.txt").write_text(SECRETS["HF_TOKEN"])
    np.savez_compressed(folder / "a.npz", text=np.array([NOTE]))
    try:
        found = {re.sub(r" \(.*", "", canary) for canary, _ in leaks(table, NAME, NOTE)}
        assert found == {NAME, NOTE, SECRETS["HF_TOKEN"]}
    finally:
        for path in folder.iterdir():
            path.unlink()
        folder.rmdir()


def test_a_public_record_has_no_place_of_this_machine(tmp_path):
    """Absolute places stay in the run's own config.yaml, which its owner needs to go on."""
    folder = RunDir(tmp_path / "run")
    folder.create()
    places = {
        "path": f"{FOLDER}/my.csv",
        "schema": f"/{FOLDER}/s.yaml",
        "more": [f"/{FOLDER}/h.csv", "a/b", 3],
    }
    folder.write_text(folder.config, OmegaConf.to_yaml(OmegaConf.create({"dataset": places, "seed": 0})))
    shown = _logged_config(folder, SimpleNamespace(logger=SimpleNamespace(release="public")))
    assert shown == {
        "dataset": {"path": "my.csv", "schema": "s.yaml", "more": ["h.csv", "a/b", 3]},
        "seed": 0,
    }
    assert FOLDER in str(_logged_config(folder, SimpleNamespace(logger=SimpleNamespace(release="all"))))
