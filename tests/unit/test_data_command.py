"""The command ``dpforge-data``."""

from __future__ import annotations

import os
import stat
import subprocess
import sys

import pytest
import yaml
from PIL import Image

from dpforge.cli.data import main
from dpforge.data import load_schema
from dpforge.data.image_folder import ImageFolder


@pytest.fixture(autouse=True)
def own_places(tmp_path, monkeypatch):
    monkeypatch.setenv("DPFORGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "mine.csv"
    path.write_text("age,group\n" + "".join(f"{20 + i % 30},{'ab'[i % 2]}\n" for i in range(100)))
    return path


def test_a_data_set_is_described_by_its_public_schema(capsys):
    main(["toy"])
    text = capsys.readouterr().out
    for part in (
        "income",
        "0 to 500,000 dollars; atoms 0",
        "or missing",
        "public",
        "1,600 for training",
        "response",
    ):
        assert part in text


def test_the_list_names_every_data_set(capsys):
    main(["list"])
    text = capsys.readouterr().out
    assert all(name in text for name in ("adult", "compas", "csv", "pums_users", "toy"))


def test_an_own_table_is_drafted_into_a_private_file_and_then_described(table, tmp_path, capsys):
    main(["schema", str(table), "--out", "mine.yaml"])
    out = tmp_path / "mine.yaml"
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    assert load_schema(out).unconfirmed == ("nominal_rows", "age.bounds", "group.categories")
    main(["csv", f"path={table}", f"schema={out}"])
    text = capsys.readouterr().out
    assert "nominal_rows, age.bounds, group.categories: no run starts until a person confirms them" in text
    assert "your own file" in text


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["adlut"], "Did you mean 'adult'?"),
        (["csv"], "path is not given"),
        (["image_folder"], "path is not given"),
        (["image_folder", "path=x", "label_from=fil"], "Did you mean 'file'?"),
        (["schema", "."], "holds no image file"),
        (["csv", "pth=x.csv"], "Did you mean 'path'?"),
        (["csv", "path=absent.csv", "schema=toy"], "does not exist"),
        (["toy", "rows=1"], "at least 10"),
        (["csv", "path=mine.csv", "schema=toy", "separator=||"], "expected one character"),
        (["schema", "absent.csv"], "check the path"),
        (["schema", "mine.csv", "--separator", ";"], "one column"),
    ],
)
def test_a_mistake_ends_in_a_message_and_exit_code_two_without_a_traceback(arguments, reason, table, capsys):
    with pytest.raises(SystemExit) as exit_:
        main(arguments)
    captured = capsys.readouterr()
    assert exit_.value.code == 2
    assert reason in captured.err
    assert "Traceback" not in captured.err


def test_a_set_of_images_is_described_by_size_classes_and_origin(capsys, monkeypatch):
    monkeypatch.delenv("DPFORGE_DATA", raising=False)
    main(["digits", "image_size=[16,16]"])
    text = capsys.readouterr().out
    for part in (
        "16 x 16 pixels, grey",
        "10 (0, 1, 2",
        "1,438 for training",
        "an image",
        "installed package",
    ):
        assert part in text


def test_an_own_folder_of_images_is_drafted_into_a_private_file_that_no_run_takes_unconfirmed(
    tmp_path, capsys
):
    (tmp_path / "mine" / "ward").mkdir(parents=True)
    for i, name in enumerate(("rare", "common", "common")):
        Image.new("L", (50 + i, 40)).save(tmp_path / "mine" / "ward" / f"{name}_{i}.png")
    main(["schema", "mine", "--out", "mine.yaml"])
    out = tmp_path / "mine.yaml"
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    drafted = yaml.safe_load(out.read_text())["dataset"]
    assert drafted["class_names"] == ["common", "rare"]
    assert drafted["nominal_rows"] == 3
    assert ImageFolder(**drafted).public_schema().unconfirmed == ("nominal_rows", "classes")
    assert "at least 40 pixels" in out.read_text()
    assert out.read_text().startswith("# @package _global_")
    capsys.readouterr()
    main(["image_folder", "path=mine", "class_names=[common,rare]"])
    assert "nominal_rows: no run starts until a person confirms them" in capsys.readouterr().out


def test_an_existing_schema_is_never_overwritten(table, tmp_path, capsys):
    (tmp_path / "mine.yaml").write_text("edited by hand")
    with pytest.raises(SystemExit):
        main(["schema", str(table), "--out", "mine.yaml"])
    assert "exists already" in capsys.readouterr().err
    assert (tmp_path / "mine.yaml").read_text() == "edited by hand"


def test_the_help_text_needs_neither_torch_nor_pandas():
    code = (
        "import sys\nfrom dpforge.cli.data import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        "print('heavy:', sorted({'torch', 'pandas', 'hydra'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ
    )
    assert "DPFORGE_DATA" in done.stdout
    assert "heavy: []" in done.stdout
