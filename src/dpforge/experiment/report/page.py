"""A report page: what it is made of, and how it becomes one HTML document that fetches nothing."""

from __future__ import annotations

import base64
import hashlib
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from dpforge.errors import RunError
from dpforge.generators.storage import write_atomic

Cell = str | float | int | None
MISSING = "–"
_PNG = b"\x89PNG\r\n\x1a\n"
_LEADING_NUMBER = re.compile(r"([+\-−]?\d[\d,]*(?:\.\d+)?(?:[eE][+\-]?\d+)?)(?=$|\s|±)")


@dataclass(frozen=True)
class Figure:
    """A picture.

    Args:
        title: Heading above it.
        png: Bytes of a PNG file.
        caption: Text below it.
        alt: What it shows, for readers who cannot see it; the title if empty.
        wide: Whether it takes the full width of the page.
    """

    title: str
    png: bytes
    caption: str = ""
    alt: str = ""
    wide: bool = False


@dataclass(frozen=True)
class Table:
    """A table that the reader can sort.

    Args:
        title: Heading above it.
        columns: Headings.
        rows: One cell a column; ``None`` and NaN are shown as missing. A text that begins with a number,
            such as ``0.91 ± 0.02``, sorts by it if all texts of its column do.
        caption: Text below the heading.
        sortable: Whether headings sort.
        digits: Decimals of floating-point numbers.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    caption: str = ""
    sortable: bool = True
    digits: int = 3


@dataclass(frozen=True)
class Text:
    """Paragraphs; ``tone`` is ``plain``, ``note`` or ``warning``."""

    paragraphs: Sequence[str]
    tone: str = "plain"


@dataclass(frozen=True)
class Tiles:
    """Headline numbers: (label, value, small print) each."""

    items: Sequence[tuple[str, str, str]]


Block = Figure | Table | Text | Tiles


@dataclass(frozen=True)
class Section:
    """A titled part of a page."""

    title: str
    blocks: Sequence[Block]


@dataclass(frozen=True)
class Page:
    """A whole report.

    Args:
        title: Heading of the page and of the browser's tab.
        subtitle: One line below it.
        sections: In order; the table of contents lists them.
        badge: Words that stand beside the title, and their tone: ``plain``, ``good``, ``warn``, ``bad``.
    """

    title: str
    subtitle: str
    sections: Sequence[Section]
    badge: tuple[str, str] = ("", "plain")


class _ShownCell(NamedTuple):
    text: str
    key: str
    number: bool


class _ShownColumn(NamedTuple):
    name: str
    number: bool


def render(page: Page) -> str:
    """Return one HTML document with its style, script and pictures inside; it fetches no URL.

    Raises:
        RunError: A picture is no PNG, or a row of a table does not have one cell a column.
    """
    environment = _environment()
    style, script = _inlined("style.css"), _inlined("script.js")
    sections = [
        {"title": section.title, "id": _anchor(number, section.title), "groups": list(_grouped(section))}
        for number, section in enumerate(page.sections, start=1)
    ]
    return environment.get_template("page.html.j2").render(
        page=page,
        sections=sections,
        style=Markup(style),
        script=Markup(script),
        policy=_policy(style, script),
    )


def write_page(page: Page, path: Path) -> None:
    """Render ``page`` and write it atomically; its folder is made. Raises ``RunError`` if that fails."""
    text = render(page)
    make_folder(path.parent)
    write_atomic(path, text.encode())


def make_folder(folder: Path) -> None:
    """Make a folder for a report; raises ``RunError`` if the place cannot be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(
            f"the report folder {folder} cannot be made ({error.strerror}). Choose another with --out."
        ) from error


def shown_number(value: float, digits: int = 3) -> str:
    """Return a number as tables print it: fixed decimals, and powers of ten for the very small and large."""
    if not math.isfinite(value):
        return MISSING if math.isnan(value) else ("∞" if value > 0 else "−∞")
    if isinstance(value, int):
        return f"{value:,}".replace("-", "−")
    if value and abs(value) < 0.5 * 10.0**-digits:
        return f"{value:.1e}".replace("-", "−")
    if abs(value) >= 1e6:
        return f"{value:.{max(digits, 1)}e}".replace("-", "−")
    return f"{value:,.{digits}f}".replace("-", "−")


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("dpforge.experiment.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"data_uri": _data_uri, "cells": _shown_rows, "headings": _shown_columns}
    environment.filters["size"] = _png_size
    return environment


def _inlined(name: str) -> str:
    """Source of a template file exactly as the page holds it, which its hash in the policy must match."""
    loader = _environment().loader
    assert loader is not None
    return loader.get_source(_environment(), name)[0]


def _policy(style: str, script: str) -> str:
    """Content-Security-Policy: nothing is fetched, and no code but ours runs, whatever a cell holds."""
    return (
        "default-src 'none'; base-uri 'none'; form-action 'none'; img-src data:;"
        f" style-src {_source_hash(style)}; script-src {_source_hash(script)}"
    )


def _source_hash(text: str) -> str:
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    return f"'sha256-{digest}'"


def _anchor(number: int, title: str) -> str:
    return f"s{number}-" + "-".join(re.findall(r"[a-z0-9]+", title.lower()))[:40]


def _grouped(section: Section) -> Iterator[tuple[str, list[Block]]]:
    """Neighbouring narrow figures share a grid; every other block stands alone."""
    for kind, blocks in groupby(section.blocks, _kind):
        if kind == "figure":
            yield "figures", list(blocks)
        else:
            yield from ((kind, [block]) for block in blocks)


def _kind(block: Block) -> str:
    if isinstance(block, Figure) and block.wide:
        return "wide"
    return type(block).__name__.lower()


def _data_uri(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode()


def _png_size(png: bytes) -> tuple[int, int]:
    if png[:8] != _PNG or png[12:16] != b"IHDR":
        raise RunError("a picture of the report is no PNG file. Delete it and evaluate the run again.")
    return int.from_bytes(png[16:20], "big"), int.from_bytes(png[20:24], "big")


def _shown_columns(table: Table) -> list[_ShownColumn]:
    return [_ShownColumn(name, _is_numeric(table, i)) for i, name in enumerate(table.columns)]


def _shown_rows(table: Table) -> list[list[_ShownCell]]:
    for row in table.rows:
        if len(row) != len(table.columns):
            raise RunError(
                f"a row of the table '{table.title}' has {len(row)} cells, expected {len(table.columns)}."
            )
    numeric = [_is_numeric(table, i) for i in range(len(table.columns))]
    return [
        [_shown_cell(cell, number, table.digits) for cell, number in zip(row, numeric, strict=True)]
        for row in table.rows
    ]


def _is_numeric(table: Table, column: int) -> bool:
    """Whether a column sorts by number; an empty one does, so that its dashes stand below its heading."""
    cells = [row[column] for row in table.rows if not _is_missing(row[column])]
    return all(not isinstance(cell, str) or _LEADING_NUMBER.match(cell) for cell in cells)


def _is_missing(cell: Cell) -> bool:
    return cell is None or (isinstance(cell, float) and math.isnan(cell)) or cell in ("", MISSING)


def _shown_cell(cell: Cell, numeric: bool, digits: int) -> _ShownCell:
    if cell is None or _is_missing(cell):
        return _ShownCell(MISSING, "", numeric)
    if isinstance(cell, str):
        return _ShownCell(cell, _leading_number(cell) if numeric else cell, numeric)
    return _ShownCell(shown_number(cell, digits), _sort_key(cell), numeric)


def _sort_key(value: float) -> str:
    """A number as JavaScript reads it back."""
    return repr(float(value)).replace("inf", "Infinity")


def _leading_number(text: str) -> str:
    found = _LEADING_NUMBER.match(text)
    return found[1].replace(",", "").replace("−", "-") if found else ""
