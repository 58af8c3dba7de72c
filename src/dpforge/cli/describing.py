"""Texts of ``dpforge-data`` about a data set: its schema, and where its files come from."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    from dpforge.data.columns import Column
    from dpforge.data.fetch import Located
    from dpforge.data.images import ImageSchema
    from dpforge.data.schema import Schema


def print_description(
    console: Console, source: Any, schema: Schema | ImageSchema, checked: dict[str, Located]
) -> None:
    """Print what the public knows about a data set, and which of its files were found and checked."""
    from dpforge.data.images import ImageSchema

    title = source.about.get("title", source.name)
    if isinstance(schema, ImageSchema):
        console.print(f"[bold]{escape(title)}[/bold]")
        _print_facts(console, _image_facts(source, schema), checked)
        return
    table = Table(title=escape(title), box=SIMPLE_HEAD)
    for header in ("column", "kind", "domain", "provenance", "note"):
        table.add_column(header, overflow="fold", no_wrap=header == "kind")
    for column in schema.columns:
        domain = _domain(column) + (" or missing" if column.nullable else "")
        table.add_row(escape(column.name), column.kind, domain, _provenance(column), _note(column))
    console.print(table)
    _print_facts(console, _facts(source, schema), checked)


def _print_facts(console: Console, facts: Iterator[tuple[str, str]], checked: dict[str, Located]) -> None:
    for label, text in facts:
        console.print(f"[bold]{label}[/bold]  {escape(text)}", highlight=False)
    for role, place in checked.items():
        own = place.origin == "own file"
        verdict = (
            "your own file, no published sha256 to compare with" if own else f"from {place.origin}, sha256 ok"
        )
        console.print(
            f"[bold]file checked[/bold]  {role}: {escape(f'{place.path.name}, {verdict}')}", highlight=False
        )


def _facts(source: Any, schema: Schema | ImageSchema) -> Iterator[tuple[str, str]]:
    record = "an image" if schema.modality == "image" else "a row"
    user = f"a user ({schema.unit.column}), at most {schema.unit.max_rows} row(s) each"
    yield "nominal rows", f"{schema.nominal_rows:,} for training (public constant)"
    yield "privacy unit", record if schema.unit.kind == "row" else user
    if schema.target:
        yield "target", schema.target
    yield from ((key, source.about[key]) for key in ("source", "licence", "notes") if source.about.get(key))
    if schema.unconfirmed:
        yield "unconfirmed", ", ".join(schema.unconfirmed) + ": no run starts until a person confirms them"


def _image_facts(source: Any, schema: ImageSchema) -> Iterator[tuple[str, str]]:
    colours = "colour" if schema.channels == 3 else "grey"
    yield "images", f"{schema.height} x {schema.width} pixels, {colours}"
    names = schema.classes
    shown = ", ".join(names[:20]) + (f", … and {len(names) - 20} more" if len(names) > 20 else "")
    yield "classes", f"{len(names)} ({shown}), {schema.classes_provenance}" if names else "not known"
    yield from _facts(source, schema)


def _domain(column: Column) -> str:
    if column.categories is not None:
        values = column.categories.values
        return f"{len(values)} categories" if values else "bought by partition selection"
    if column.bounds is None or column.bounds.min is None:
        return "bounds bought"
    low, high = (_number(value) for value in (column.bounds.min, column.bounds.max))
    atoms = ", ".join(_number(value) for value in column.special_values)
    return escape(f"{low} to {high} {column.units}".rstrip() + (f"; atoms {atoms}" if atoms else ""))


def _number(value: Any) -> str:
    return f"{value:,.10g}" if isinstance(value, int | float) else str(value)


def _provenance(column: Column) -> str:
    part = column.categories or column.bounds
    colour = {"public": "green", "private": "yellow"}.get(part.provenance, "red") if part else ""
    return f"[{colour}]{part.provenance}[/{colour}]" if part else ""


def _note(column: Column) -> str:
    part = column.categories or column.bounds
    return escape(part.note) if part else ""
