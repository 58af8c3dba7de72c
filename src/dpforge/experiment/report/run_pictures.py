"""The pictures of a run's report: those the run drew, as far as they may be shown, and released ones."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd

from dpforge.data.encode.cells import CellCodec
from dpforge.data.schema import Schema, schema_from_dict
from dpforge.errors import ConfigError
from dpforge.experiment import plots, plots_columns
from dpforge.experiment.plots_columns import ColumnShares
from dpforge.experiment.plots_style import REAL, SYNTHETIC
from dpforge.experiment.report.composition import drawn
from dpforge.experiment.report.finished import FinishedRun
from dpforge.experiment.report.heatmap import column_table, correlation_figure, pair_blocks
from dpforge.experiment.report.page import Block, Figure, Section, Text
from dpforge.experiment.report.run_images import image_sections
from dpforge.experiment.sampling_images import makes_images
from dpforge.experiment.score_tables import read_tables

PUBLIC_PICTURES = ("epsilon.png",)
PANELS = 24
_LATENT = (
    "Held-out rows sent through the flow should be standard normal and pairwise independent. A near-normal"
    " latent does not imply right columns: errors of the encoding are invisible here."
)


def stored(run: FinishedRun, name: str) -> bytes | None:
    """A picture below ``plots/``; ``None`` if it is not there or may not be shown.

    In public only pictures known to need no real row are shown, and only if no private value reached them.
    """
    hidden = name not in PUBLIC_PICTURES or f"plots/{name}" in run.certificate["tainted_sinks"]
    if run.public and hidden:
        return None
    return run.file(run.folder.plots / name)


def epsilon_figures(run: FinishedRun) -> list[Figure]:
    """Epsilon after each training step."""
    png = stored(run, "epsilon.png")
    caption = "Privacy spent after each step, by both accountants."
    return [] if png is None else [Figure("ε over training", png, caption)]


def score_figures(run: FinishedRun) -> list[Figure]:
    """Where each score lies between floor and ceiling."""
    png = stored(run, "scores.png")
    return [] if png is None else [Figure("Scores between floor and ceiling", png, wide=True)]


def picture_sections(run: FinishedRun) -> list[Section]:
    """Columns and pairs or images, latents and learning curve, as far as there is something to show."""
    if makes_images(run.folder):
        training = Section("Training", _training_blocks(run))
        return [*image_sections(run), *([training] if training.blocks else [])]
    sections = [Section("Columns", _column_blocks(run))]
    if run.shows_private:
        sections.append(Section("Pairs of columns", _pair_section(run)))
    sections += [
        Section("Latent diagnostics", _latent_blocks(run)),
        Section("Training", _training_blocks(run)),
    ]
    return [section for section in sections if section.blocks]


def _column_blocks(run: FinishedRun) -> list[Block]:
    if not run.shows_private:
        return released_columns(run) if run.shows_released else []
    folder = run.folder.plots / "histograms"
    names = column_names(run)
    blocks: list[Block] = []
    for path in sorted(folder.glob("overview*.png")):
        caption = "Both tables on the public cells of the schema; TVD is the share of rows in wrong cells."
        blocks.append(Figure("All columns", path.read_bytes(), caption, wide=True))
    blocks += column_table(read_tables(run.folder))
    for path in sorted(folder.glob("[0-9]*-*.png")):
        number = int(path.stem.split("-")[0]) - 1
        name = names[number] if number < len(names) else path.stem
        blocks.append(Figure(name, path.read_bytes(), alt=f"Real and synthetic rows by {name}"))
    return blocks or [Text(["This run drew no histograms."], "note")]


def column_names(run: FinishedRun) -> list[str]:
    """Columns of the public schema, in order."""
    return [str(column["name"]) for column in run.folder.read_json(run.folder.schema)["columns"]]


def _pair_section(run: FinishedRun) -> list[Block]:
    tables, names = read_tables(run.folder), column_names(run)
    heatmap, *rest = pair_blocks(tables, names)
    png = stored(run, "correlation.png") or correlation_figure(tables, names)
    caption = "Pearson, Cramér's V or correlation ratio, by the kinds of the two columns."
    association = [] if png is None else [Figure("Association of columns", png, caption, wide=True)]
    return [heatmap, *association, *rest]


def _latent_blocks(run: FinishedRun) -> list[Block]:
    blocks: list[Block] = []
    for name, title in (("latent_marginals", "Each dimension"), ("latent_pairs", "Pairs of dimensions")):
        png = stored(run, f"{name}.png")
        if png is not None:
            blocks.append(Figure(title, png, wide=True))
    return [Text([_LATENT]), *blocks] if blocks else []


def _training_blocks(run: FinishedRun) -> list[Block]:
    if not run.shows_private:
        return []
    png = stored(run, "loss.png") or _learning_curve(run)
    caption = "Loss of each batch, logged without noise: a private value."
    return [] if png is None else [Figure("Learning curve", png, caption, wide=True)]


def _learning_curve(run: FinishedRun) -> bytes | None:
    if not run.folder.metrics_csv.is_file():
        return None
    frame, column = pd.read_csv(run.folder.metrics_csv), "private/train/loss"
    if column not in frame or len(frame[[column]].dropna()) < 2:
        return None
    return drawn(lambda path: plots.learning_curve(frame, path, column=column))


def released_columns(run: FinishedRun) -> list[Block]:
    """Histograms of what the run released: its synthetic table, over its noisy counts if it has them."""
    path = run.folder.model / "model.json"
    if not path.is_file() or not run.folder.synthetic.is_file():
        return []
    document = json.loads(path.read_text(encoding="utf-8"))
    synthetic = pd.read_parquet(run.folder.synthetic)
    views = _released_views(run, document, synthetic)
    with TemporaryDirectory() as place:
        if views is None:
            plots_columns.histograms(None, synthetic, schema_from_dict(document["schema"]), Path(place))
        else:
            _draw_views(views, Path(place))
        pictures = [path.read_bytes() for path in sorted(Path(place).glob("overview*.png"))]
    caption = "Synthetic rows" + (", over the noisy counts the run released." if views else ".")
    return [Figure("Released columns", png, caption + " Charged to ε.", wide=True) for png in pictures]


def _draw_views(views: tuple[ColumnShares, ...], place: Path) -> None:
    for page, start in enumerate(range(0, len(views), PANELS), start=1):
        plots_columns.overview(views[start : start + PANELS], place / f"overview-{page:03d}.png", "")


def _released_views(
    run: FinishedRun, document: dict[str, Any], synthetic: pd.DataFrame
) -> tuple[ColumnShares, ...] | None:
    """Noisy and synthetic shares of every column, ``None`` if the model keeps no marginals of these cells."""
    masses = document.get("arrays", {}).get("masses")
    schema: Schema = schema_from_dict(document["schema"])
    options = {k: v for k, v in run.config["model"].items() if k in ("default_bins", "discrete_max")}
    try:
        codec = CellCodec(schema, **options)
    except ConfigError:
        return None
    if masses is None or [len(mass) for mass in masses] != list(codec.sizes):
        return None
    codes = codec.encode(synthetic).codes
    return tuple(
        ColumnShares(
            schema.column(cells.name),
            cells,
            (
                ("released with noise", REAL, np.asarray(mass, dtype=float)),
                ("synthetic", SYNTHETIC, np.bincount(codes[:, i], minlength=cells.size) / max(1, len(codes))),
            ),
        )
        for i, (cells, mass) in enumerate(zip(codec.columns, masses, strict=True))
    )
