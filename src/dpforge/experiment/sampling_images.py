"""More images of a finished run, as one npz file or as a folder of pictures; costs no privacy."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from dpforge.data import Images
from dpforge.data.image_files import export_pictures, write_samples
from dpforge.data.origin import Origin, header_digest
from dpforge.errors import ConfigError
from dpforge.experiment.display import progress
from dpforge.experiment.rundir import RunDir
from dpforge.experiment.sampling import finished_model, number_mistakes
from dpforge.privacy.rng import public_random


def makes_images(folder: RunDir) -> bool:
    """Whether a run makes images; raises ``RunError`` if its schema is missing or damaged."""
    return folder.read_json(folder.schema).get("modality") == "image"


def sample_images(
    run: Path, count: int, out: Path, *, seed: int = 0, overwrite: bool = False, bar: bool = True
) -> None:
    """Write ``count`` images of a finished run.

    Args:
        run: Folder of a finished run; nothing in it is changed.
        count: At least 1.
        out: A ``.npz`` file, or a folder that gets ``<label>_<index>.png``.
        seed: Public seed, >= 0.
        overwrite: Whether an existing ``.npz`` is replaced, or pictures are added to a folder with files.
        bar: Whether to draw progress on a terminal.

    Raises:
        ConfigError: With every mistake among the arguments.
        RunError: The run is not finished, or its model is missing or not the certified one.
        DataError: ``out`` cannot be written.
    """
    mistakes = [*number_mistakes(count, seed), *_place_mistakes(out, run, overwrite)]
    if mistakes:
        raise ConfigError(mistakes)
    folder = RunDir(run)
    fitted: Any = finished_model(folder)
    origin = _origin(folder, fitted.schema.name)
    with progress(bar) as display, display.task("sample", count) as stage:
        made: Images = fitted.sample(count, public_random(seed).generator("more rows"))
        stage.advance(count)
    if out.suffix.lower() == ".npz":
        write_samples(out, made, fitted.schema.classes, made.extra, origin)
    else:
        out.mkdir(parents=True, exist_ok=True)
        export_pictures(out, made, fitted.schema.classes, origin)


def _origin(folder: RunDir, dataset: str) -> Origin:
    """What the images say of their run: as its certificate does, also where its ledger is gone."""
    stated = folder.read_json(folder.certificate)
    digest = ""
    if folder.ledger.is_file():
        with folder.ledger.open(encoding="utf-8") as lines:
            digest = header_digest(json.loads(lines.readline()))
    return Origin(dataset, stated["status"], stated["epsilon"], stated["delta"], digest)


def _place_mistakes(out: Path, run: Path, overwrite: bool) -> list[str]:
    if out.suffix and out.suffix.lower() != ".npz" and not out.is_dir():
        return [f"--out {out}: this run makes images. Name a .npz file, or a folder for PNG files."]
    if out.exists() and out.resolve().is_relative_to(run.resolve()):
        return [f"--out {out} is part of the run itself. Choose another place."]
    taken = any(out.iterdir()) if out.is_dir() else out.exists()
    return [f"--out {out} exists. Choose another name, or add --force."] if taken and not overwrite else []
