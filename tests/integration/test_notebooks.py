"""The notebooks run from the first cell to the last, on small data, in a copy of their folder."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

nbformat = pytest.importorskip("nbformat", reason="needs the extra 'notebooks'")
nbclient = pytest.importorskip("nbclient", reason="needs the extra 'notebooks'")
pytest.importorskip("ipykernel", reason="needs the extra 'notebooks'")

FOLDER = Path(__file__).parents[2] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
KERNEL = "this-interpreter"
SECONDS_PER_CELL = 300
PRIVATE_FOLDERS = (
    "JUPYTER_CONFIG_DIR",
    "JUPYTER_DATA_DIR",
    "JUPYTER_RUNTIME_DIR",
    "IPYTHONDIR",
    "MPLCONFIGDIR",
)
NOT_INHERITED = ("DPFORGE_CONF", "DPFORGE_CONF_DIGEST", "DPFORGE_DATA")


@pytest.fixture
def quiet_copy(tmp_path, monkeypatch) -> Path:
    """A copy of the notebooks, with a kernel that is this interpreter and nothing of the user's Jupyter."""
    place = tmp_path / "notebooks"
    shutil.copytree(FOLDER, place, ignore=shutil.ignore_patterns("outputs", ".ipynb_checkpoints"))
    kernel = tmp_path / "jupyter" / "kernels" / KERNEL
    kernel.mkdir(parents=True)
    command = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    spec = {"argv": command, "display_name": KERNEL, "language": "python"}
    (kernel / "kernel.json").write_text(json.dumps(spec))
    for name in PRIVATE_FOLDERS:
        (tmp_path / name).mkdir()
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    return place


def executed(path: Path) -> Any:
    """The notebook with its outputs; raises if a cell does."""
    small = {"DPFORGE_NOTEBOOK_FAST": "1", "OMP_NUM_THREADS": "1", "WANDB_MODE": "offline"}
    # The optional transformers asks for widgets that no test needs.
    small["PYTHONWARNINGS"] = "ignore:IProgress not found"
    # What another test left in this process, or a user's own data, must not change what runs here.
    kept = {k: v for k, v in os.environ.items() if k not in NOT_INHERITED}
    book = nbformat.read(path, as_version=4)
    client = nbclient.NotebookClient(
        book, kernel_name=KERNEL, timeout=SECONDS_PER_CELL, resources={"metadata": {"path": str(path.parent)}}
    )
    client.execute(env={**kept, **small})
    return book


@pytest.mark.slow
@pytest.mark.integration
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_cell_runs_on_small_data_from_an_empty_folder(quiet_copy, path):
    book = executed(quiet_copy / path.name)
    code = [cell for cell in book.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    complaints = [
        output.text
        for cell in code
        for output in cell.outputs
        if output.output_type == "stream" and output.name == "stderr"
    ]
    assert not [text for text in complaints if "Warning" in text or "Traceback" in text]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_committed_notebook_is_valid_and_holds_no_outputs(path):
    book = nbformat.read(path, as_version=4)
    nbformat.validate(book)
    assert (book.nbformat, book.nbformat_minor) == (4, 5)
    for cell in book.cells:
        assert 1 <= len(cell.id) <= 16
        if cell.cell_type == "code":
            assert not cell.outputs
            assert cell.execution_count is None


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_works_in_every_checkout(path):
    text = path.read_text(encoding="utf-8")
    assert "/home/" not in text
    assert "/work/" not in text
    assert "%pip" not in text


def test_the_folder_says_what_each_notebook_is_for():
    index = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert NOTEBOOKS
    assert [path.name for path in NOTEBOOKS if path.name not in index] == []
