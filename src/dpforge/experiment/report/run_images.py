"""The pictures in the report of a run that makes images."""

from __future__ import annotations

from dpforge.experiment.report.finished import FinishedRun
from dpforge.experiment.report.page import Block, Figure, Section

_PICTURES = (
    (
        "images.png",
        "Real and synthetic images",
        "The first training images of each class beside synthetic ones.",
    ),
    (
        "nearest.png",
        "Synthetic images closest to training images",
        "Each above its nearest training image and its nearest held-out image. Where the two neighbours are"
        " equally near, no copying is found at this resolution; that is no evidence of privacy.",
    ),
    (
        "student.png",
        "The student on test images, epoch by epoch",
        "The last epoch is what is released. The highest is a choice made with the test images, reported for"
        " comparison with figures published that way.",
    ),
)
_ALIGNED = "Public images above the released images they became, and the change. No private image is shown."


def image_sections(run: FinishedRun) -> list[Section]:
    """Released images, then as far as private values are shown: real ones beside them, and neighbours."""
    released: list[Block] = []
    grid = run.file(run.folder.grid) if run.shows_private or run.shows_released else None
    if grid is not None:
        caption = "Released images, a class a row where there are classes."
        released.append(Figure("Synthetic images", grid, caption, wide=True))
    pairs = run.file(run.folder.plots / "aligned.png") if run.shows_private or run.shows_released else None
    if pairs is not None:
        released.append(Figure("Public images and their aligned versions", pairs, _ALIGNED, wide=True))
    released += _iterations(run)
    compared: list[Block] = []
    for name, title, caption in _PICTURES:
        png = run.file(run.folder.plots / name) if run.shows_private else None
        if png is not None:
            compared.append(Figure(title, png, caption, wide=True))
    sections = [Section("Images", released), Section("Beside real images", compared)]
    return [section for section in sections if section.blocks]


def _iterations(run: FinishedRun) -> list[Block]:
    """Grids that a generator released along the way: of the first, the middle and the last iteration."""
    if not (run.shows_private or run.shows_released):
        return []
    grids = sorted(
        (path for path in run.folder.images.parent.glob("*/grid.png") if path.parent.name.isdigit()),
        key=lambda path: int(path.parent.name),
    )
    chosen = sorted({0, len(grids) // 2, len(grids) - 1} & set(range(len(grids))))
    figures: list[Block] = []
    for index in chosen:
        png = run.file(grids[index])
        if png is not None:
            figures.append(Figure(f"Iteration {grids[index].parent.name}", png, wide=True))
    return figures
