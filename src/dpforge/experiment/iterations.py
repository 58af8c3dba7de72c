"""Scores and pictures of every kept iteration of a finished run of Private Evolution.

The populations are released already. The scores hold them against real images without noise: they are
private, and choosing a number of iterations by them would be a release of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from dpforge.configuration.building import Experiment
from dpforge.data import ImageDataset, Images, ImageSchema
from dpforge.data.image_files import read_samples
from dpforge.errors import ConfigError, RunError
from dpforge.evaluation.images.extractors import chosen_extractors
from dpforge.evaluation.images.frechet_distance import frechet
from dpforge.evaluation.images.learners import Training, agreement, trained
from dpforge.evaluation.images.protocol import device_of
from dpforge.evaluation.images.sets import drawn, prepared
from dpforge.experiment import runner
from dpforge.experiment.attempt import locked
from dpforge.experiment.certificate import make_certificate
from dpforge.experiment.diagnostics import finished_experiment
from dpforge.experiment.image_grids import class_rows, tile
from dpforge.experiment.plots_style import picture
from dpforge.experiment.rundir import RunDir
from dpforge.generators.storage import write_atomic
from dpforge.privacy.ledger import Ledger

REAL = "real"
TABLE, PICTURE = "iterations.csv", "iterations.png"
NETWORKS = ("cnn", "resnet")
WIDTH = 3.0  # of a population in the picture, in inches
Report = Callable[[str], None]


@dataclass(frozen=True)
class IterationScores:
    """What was found.

    Args:
        table: A row for each iteration (index ``iteration``) and a last one for as many real training images;
            private. Columns ``frechet_<extractor>`` and ``accuracy_<classifier>``.
        images: Images behind each number.
        path: The table as CSV; private.
        picture: Populations side by side; they are released.
    """

    table: pd.DataFrame
    images: int
    path: Path
    picture: Path


def kept_iterations(run: Path) -> list[int]:
    """Return the iterations whose populations a run folder holds, in order."""
    files = (run / "samples").glob("*/samples.npz")
    return sorted(int(file.parent.name) for file in files if file.parent.name.isdigit())


def score_iterations(
    run: Path,
    iterations: Sequence[int] | None = None,
    *,
    limit: int | None = None,
    report: Report = lambda text: None,
) -> IterationScores:
    """Score populations with the extractors and classifiers of the run's own evaluation.

    All numbers are of equally many images. Classifiers are trained on a population and tested on the
    held-out images; distances are to the evaluation's reference. Writes ``iterations.csv`` and
    ``plots/iterations.png`` (first, middle and last iteration), and the certificate anew with what the
    table and the terminal saw.

    Args:
        run: Folder of a finished run.
        iterations: Which; ``None`` for all that are kept.
        limit: Largest number of images of each population.
        report: Called with a text before each population is scored.

    Raises:
        RunError: The run is not finished or keeps no iterations, or the data are not those of the run.
        ConfigError: An iteration that is not kept, or a run without image scores.
    """
    folder = RunDir(run)
    with locked(folder):
        experiment = finished_experiment(folder)
        chosen = _chosen(run, iterations)
        schema = experiment.model.released_schema(experiment.dataset.public_schema())
        ledger = Ledger.open(folder.ledger)
        data: Any = runner.bound_data(
            folder, experiment, runner.noise_key(folder, experiment, ledger), ledger
        )()
        populations = {number: _population(run, number, schema) for number in chosen}
        table, images = _scored(experiment, data, schema, populations, limit, report)
        path, shown = folder.root / TABLE, folder.plots / PICTURE
        write_atomic(path, table.to_csv(float_format="%.6g").encode())
        draw_populations({f"iteration {n}": populations[n] for n in landmarks(chosen)}, schema.classes, shown)
        for name in table.columns:
            for sink in (TABLE, "terminal"):
                ledger.taint(f"iterations/{name}", sink)
        folder.write_json(folder.certificate, make_certificate(ledger, folder.released()))
    return IterationScores(table, images, path, shown)


def landmarks(iterations: Sequence[int]) -> list[int]:
    """Return the first, the middle and the last of some iterations, each once."""
    places = {0, len(iterations) // 2, len(iterations) - 1}
    return [iterations[place] for place in sorted(places)]


def draw_populations(populations: dict[str, Images], names: Sequence[str], path: Path) -> None:
    """Draw populations side by side, a class a row, up to eight images a class at equal distances."""
    panels = {
        title: tile(list(class_rows(_spread(images), names).values()))
        for title, images in populations.items()
    }
    tall, wide = np.max([panel.shape[:2] for panel in panels.values()], axis=0)
    with picture(path, (WIDTH * len(panels), WIDTH * tall / wide + 0.5)) as figure:
        places = np.atleast_1d(figure.subplots(1, len(panels)))
        for axes, (title, panel) in zip(places, panels.items(), strict=True):
            axes.imshow(panel, interpolation="nearest")
            axes.set(title=title, xticks=[], yticks=[])


def _chosen(run: Path, iterations: Sequence[int] | None) -> list[int]:
    kept = kept_iterations(run)
    if not kept:
        raise RunError(
            f"{run} keeps no populations (samples/<iteration>/samples.npz). Name a run of"
            " model=private_evolution."
        )
    missing = sorted(set(iterations or ()) - set(kept))
    if missing:
        raise ConfigError(
            f"iteration {', '.join(map(str, missing))} is not kept: expected some of {kept[0]} to {kept[-1]}."
        )
    return sorted(set(iterations)) if iterations else kept


def _population(run: Path, number: int, schema: ImageSchema) -> Images:
    images, _ = read_samples(run / "samples" / str(number) / "samples.npz")
    return prepared(images, schema, "synthetic")


def _scored(
    experiment: Experiment,
    data: ImageDataset,
    schema: ImageSchema,
    populations: dict[int, Images],
    limit: int | None,
    report: Report,
) -> tuple[pd.DataFrame, int]:
    how = experiment.evaluation
    if not hasattr(how, "extractors"):
        raise ConfigError("the run has no evaluation of images. Run it with evaluation=images.")
    device = device_of(how.device)
    extractors, _ = chosen_extractors(how.extractors, schema, device=device, weights=how.weights)
    train = prepared(data.train, schema, "training")
    tests = prepared(data.holdout, schema, "held-out") if len(data.holdout) else train
    reference = train if how.reference == "train" else tests
    n = min(limit or how.max_images, len(reference), len(train), *map(len, populations.values()))
    sets = {**{str(k): v for k, v in populations.items()}, REAL: train}
    real = drawn(reference, n, how.draw_seed, 0)[0].pixels
    targets = {extract.name: extract(real) for extract in extractors}
    training = Training(how.classifier_epochs, device, how.flip)
    rows: dict[str, dict[str, float]] = {}
    for name, images in sets.items():
        report("real training images" if name == REAL else f"iteration {name}")
        part, _ = drawn(images, n, how.draw_seed, 1)
        found = {f"frechet_{e.name}": frechet(e(part.pixels), targets[e.name]) for e in extractors}
        for model in how.classifiers if len(schema.classes) > 1 and len(data.holdout) else ():
            most = how.network_images if model in NETWORKS else how.classifier_images
            predict = trained(model, part.head(most), schema, training, seed=experiment.seed)
            score = agreement(tests.labels, predict(tests.pixels), schema.num_classes)["accuracy"]
            found[f"accuracy_{model}"] = score
        rows[name] = found
    return pd.DataFrame(rows).T.rename_axis("iteration"), n


def _spread(images: Images) -> Images:
    """Images in an order in which the first of each class are far apart: neighbours may be of one parent."""
    return images.take(np.random.default_rng(0).permutation(len(images)))
