"""From the YAML mapping of a schema file to the parts of a schema, with every mistake in one list."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from dpforge.data.columns import (
    CODECS,
    DECODE_UNKNOWN,
    KINDS,
    OUTSIDE,
    PROVENANCES,
    RESOLUTION_SECONDS,
    UNKNOWN,
    Bins,
    Bounds,
    Categories,
    Column,
    Rows,
    Unit,
)
from dpforge.data.sections import Section

TOP_KEYS = (
    "schema_version",
    "name",
    "nominal_rows",
    "unit",
    "rows",
    "target",
    "columns",
    "constraints",
    "outside",
    "unseen",
    "decode_unknown",
    "note",
)
COLUMN_KEYS = (
    "name",
    "kind",
    "bounds",
    "categories",
    "bins",
    "nullable",
    "null_tokens",
    "special_values",
    "granularity",
    "units",
    "outside",
    "unseen",
    "resolution",
    "decode_unknown",
    "order",
    "note",
    "format",
    "codec",
)
BOUNDS_KEYS = ("min", "max", "provenance", "note", "epsilon", "method", "outer", "granularity", "levels")
CATEGORY_KEYS = ("values", "provenance", "note", "epsilon", "delta", "max_values", "public_values")
BIN_RULES = ("edges", "equal_width", "log_width", "dp_quantile")
BIN_KEYS = (*BIN_RULES, "provenance", "note", "epsilon")
# A drafted schema does not state the number of rows; a person has to.
UNCONFIRMED_ROWS = 0
DEFAULT_KEYS = ("outside", "unseen", "decode_unknown")


def parse_schema(raw: Any, mistakes: list[str]) -> dict[str, Any]:
    """The fields of a schema from a mapping; what is wrong is appended to ``mistakes``."""
    top = Section(raw, "", TOP_KEYS, mistakes)
    version = top.raw.get("schema_version", 1)
    if version != 1:
        top.reject("schema_version", "1")
    if not top.has("nominal_rows"):
        mistakes.append("nominal_rows is missing: give the public (round) number of rows, >= 1")
    unknown = top.raw.get("nominal_rows") == "unconfirmed"
    defaults = {key: top.raw[key] for key in DEFAULT_KEYS if key in top.raw}
    return {
        "name": top.text("name", "table"),
        "nominal_rows": UNCONFIRMED_ROWS if unknown else top.whole("nominal_rows") or 1,
        "columns": _columns(top.raw.get("columns"), defaults, mistakes),
        "unit": _unit(top.raw.get("unit", {}), mistakes),
        "rows": _rows(top.raw.get("rows", {}), mistakes),
        "target": top.text("target") or None,
        "constraints": top.words("constraints"),
    }


def _columns(raw: Any, defaults: dict[str, Any], mistakes: list[str]) -> tuple[Column, ...]:
    if isinstance(raw, Mapping):
        named = [(str(name), spec) for name, spec in raw.items()]
    elif isinstance(raw, list) and all(isinstance(spec, Mapping) and "name" in spec for spec in raw):
        named = [(str(spec["name"]), spec) for spec in raw]
    else:
        named = []
    if not named:
        mistakes.append("columns is missing or empty: give a mapping from column name to its description")
    return tuple(_column(name, spec, defaults, mistakes) for name, spec in named)


def _column(name: str, raw: Any, defaults: dict[str, Any], mistakes: list[str]) -> Column:
    merged = {**defaults, **raw} if isinstance(raw, Mapping) else raw
    section = Section(merged, f"columns.{name}", COLUMN_KEYS, mistakes)
    if not section.has("kind"):
        mistakes.append(f"columns.{name}.kind is missing: give one of {', '.join(KINDS)}")
    kind = section.choice("kind", KINDS, "categorical") if section.has("kind") else "categorical"
    categories = _categories(section)
    resolution = section.choice("resolution", tuple(RESOLUTION_SECONDS), "second")
    unseen, unseen_map = _unseen(section, categories)
    return Column(
        name=name,
        kind=kind,
        bounds=_bounds(section, kind, resolution),
        categories=categories,
        bins=_bins(section),
        nullable=section.flag("nullable"),
        null_tokens=section.words("null_tokens"),
        special_values=tuple(sorted(set(section.numbers("special_values")))),
        granularity=section.number("granularity", above=0),
        units=section.text("units"),
        outside=section.choice("outside", OUTSIDE, "clip"),
        unseen=unseen,
        unseen_map=unseen_map,
        resolution=resolution,
        decode_unknown=section.choice("decode_unknown", DECODE_UNKNOWN, "token"),
        note=section.text("note"),
        format=section.text("format"),
        codec=section.choice("codec", CODECS[kind], "auto"),
    )


def _bounds(column: Section, kind: str, resolution: str) -> Bounds | None:
    if not column.has("bounds"):
        return None
    part = Section(column.raw["bounds"], column.at("bounds"), BOUNDS_KEYS, column.mistakes)
    outer = part.numbers("outer", length=2)
    levels = part.numbers("levels", length=2)
    return Bounds(
        min=part.moment("min") if kind == "datetime" else part.number("min"),
        max=_last_tick(part.moment("max"), resolution) if kind == "datetime" else part.number("max"),
        provenance=part.choice("provenance", PROVENANCES, "public"),
        note=part.text("note"),
        epsilon=part.number("epsilon", above=0),
        method=part.choice("method", ("log_histogram", "quantile"), "log_histogram"),
        outer=(outer[0], outer[1]) if outer else None,
        granularity=part.number("granularity", above=0),
        levels=(levels[0], levels[1]) if levels else Bounds.levels,
    )


def _last_tick(moment: str | None, resolution: str) -> str | None:
    """An inclusive bare date ends with the last tick of that day."""
    if moment is None or "T" in moment:
        return moment
    # The difference first: the day after 9999-12-31 does not exist.
    rest = dt.timedelta(days=1) - dt.timedelta(seconds=RESOLUTION_SECONDS[resolution])
    return (dt.datetime.fromisoformat(moment) + rest).isoformat()


def _categories(column: Section) -> Categories | None:
    if not column.has("categories"):
        return None
    part = Section(column.raw["categories"], column.at("categories"), CATEGORY_KEYS, column.mistakes)
    values = part.words("values")
    order = column.raw.get("order", "schema")
    if order != "schema":
        listed = column.words("order")
        if sorted(listed) != sorted(values):
            column.reject("order", "'schema' or a list of all the categories in the wanted order")
        values = listed
    return Categories(
        values=values,
        provenance=part.choice("provenance", PROVENANCES, "public"),
        note=part.text("note"),
        epsilon=part.number("epsilon", above=0),
        delta=part.number("delta", above=0),
        max_values=part.whole("max_values"),
        public_values=part.words("public_values"),
    )


def _bins(column: Section) -> Bins | None:
    if not column.has("bins"):
        return None
    part = Section(column.raw["bins"], column.at("bins"), BIN_KEYS, column.mistakes)
    given = [key for key in BIN_RULES if part.has(key)]
    if len(given) != 1:
        column.mistakes.append(f"{part.place}: give exactly one of {', '.join(BIN_RULES)}")
    return Bins(
        edges=part.numbers("edges") or None,
        equal_width=part.whole("equal_width"),
        log_width=part.whole("log_width"),
        dp_quantile=part.whole("dp_quantile", least=2),
        provenance=part.choice("provenance", PROVENANCES, "private" if "dp_quantile" in given else "public"),
        note=part.text("note"),
        epsilon=part.number("epsilon", above=0),
    )


def _unseen(column: Section, categories: Categories | None) -> tuple[str, str | None]:
    raw = column.raw.get("unseen", "unknown")
    if isinstance(raw, Mapping) and set(raw) == {"map"}:
        return "map", str(raw["map"])
    unseen = raw if isinstance(raw, str) and raw in ("unknown", "drop") else None
    if unseen is None:
        column.reject("unseen", "unknown, drop, or {map: <one of the categories>}")
    # A listed category of that name already is the place for unlisted ones.
    if unseen != "drop" and categories is not None and UNKNOWN in categories.values:
        return "map", UNKNOWN
    return unseen or "unknown", None


def _unit(raw: Any, mistakes: list[str]) -> Unit:
    part = Section(raw, "unit", ("kind", "column", "max_rows"), mistakes)
    unit = Unit(kind=part.choice("kind", ("row", "user"), "row"), column=part.text("column") or None)
    if unit.kind == "user" and unit.column is None:
        mistakes.append("unit.kind=user needs unit.column: the column of the file that names the user")
    return replace(unit, max_rows=part.whole("max_rows") or 1)


def _rows(raw: Any, mistakes: list[str]) -> Rows:
    part = Section(raw, "rows", ("policy", "value", "epsilon"), mistakes)
    policy = part.choice("policy", ("fixed", "public", "noisy"), "fixed")
    rows = Rows(policy=policy, value=part.whole("value"), epsilon=part.number("epsilon", above=0))
    if policy == "noisy" and rows.epsilon is None:
        mistakes.append("rows.policy=noisy needs rows.epsilon > 0: the price of the noisy number of rows")
    return rows
