"""A run folder notices that a file a finished stage made is no longer the one it made."""

from __future__ import annotations

import pandas as pd
import pytest
import torch

from dpforge.data.schema import schema_from_dict
from dpforge.errors import RunError
from dpforge.experiment.rundir import RunDir
from dpforge.experiment.synthetic import read_synthetic, write_synthetic
from dpforge.generators.storage import save_model
from dpforge.privacy.events import Gaussian
from dpforge.privacy.ledger import Ledger
from dpforge.privacy.plan import Piece, Plan

SCHEMA = schema_from_dict(
    {"nominal_rows": 9, "columns": {"a": {"kind": "integer", "bounds": {"min": 0, "max": 9}}}}
)


@pytest.fixture
def folder(tmp_path) -> RunDir:
    """A run that was fitted and sampled."""
    made = RunDir(tmp_path / "run")
    made.create()
    save_model(made.model, {"w": torch.arange(64.0)}, {"x": 1.5}, SCHEMA)
    made.finish_stage("fit", 1.0)
    piece = Piece("release", "gaussian", Gaussian(2.0), 1, 1.0, "one row, once")
    ledger = Ledger.create(made.ledger, Plan((piece,), 1e-5), {"rng": "entropy", "unit": {"kind": "row"}})
    write_synthetic(made, pd.DataFrame({"a": range(500)}), SCHEMA, ledger)
    made.finish_stage("sample", 1.0)
    return made


def flip(path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


def test_files_as_they_were_written_are_taken(folder):
    assert folder.fitted()
    assert folder.intact("sample")
    assert len(read_synthetic(folder, SCHEMA)) == 500


@pytest.mark.parametrize("name", ["model.safetensors", "model.json"])
def test_a_model_of_which_one_bit_changed_counts_as_not_fitted(name, folder):
    flip(folder.model / name)
    assert not folder.fitted()


@pytest.mark.parametrize("name", ["model.safetensors", "model.json"])
def test_a_model_that_is_gone_counts_as_not_fitted(name, folder):
    (folder.model / name).unlink()
    assert not folder.fitted()


def test_samples_of_which_one_bit_changed_are_refused_with_a_remedy(folder):
    flip(folder.synthetic)
    with pytest.raises(RunError, match="Delete the folder 'samples'"):
        read_synthetic(folder, SCHEMA)


def test_a_run_of_before_the_digests_is_taken_as_it_is(folder):
    stages = folder.status()["stages"]
    folder.set_status("running", stages={name: {"seconds": s["seconds"]} for name, s in stages.items()})
    flip(folder.model / "model.safetensors")
    assert folder.fitted()
