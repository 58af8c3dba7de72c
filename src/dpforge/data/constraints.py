"""Public constraints between the columns of a row: checked and repaired without looking at private data.

Two forms exist. A predicate such as ``capital_gain == 0 or capital_loss == 0`` may use column names, numbers,
texts, ``== != < <= > >=``, ``and or not`` and ``+ - *``. A dependency ``education_num = position(education)``
says that an integer column is the 1-based position of a category in schema order. A row with a missing value
in a column that a constraint mentions satisfies it.
"""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from dpforge.data.columns import Column
from dpforge.data.frames import float_values, series_of
from dpforge.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    from dpforge.data.schema import Schema

LONGEST = 500
_POSITION = re.compile(r"\s*(\w+)\s*=\s*position\(\s*(\w+)\s*\)\s*")
_COMPARE: dict[type[ast.AST], Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq, ast.NotEq: operator.ne, ast.Lt: operator.lt,
    ast.LtE: operator.le, ast.Gt: operator.gt, ast.GtE: operator.ge,
}  # fmt: skip
_ARITHMETIC: dict[type[ast.AST], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul,
}  # fmt: skip
NUMBER, TEXT, TIME, TRUTH = "number", "text", "datetime", "condition"
_FORMS = "allowed: column names, numbers, quoted texts, == != < <= > >=, and, or, not, + - *"


def constraint_mistakes(text: str, columns: Sequence[Column]) -> list[str]:
    """What is wrong with one constraint; an empty list if nothing is."""
    try:
        _check(text, {column.name: column for column in columns})
    except ConfigError as error:
        return [f"constraint '{text[:LONGEST]}': {mistake}" for mistake in error.mistakes]
    return []


def satisfied(frame: pd.DataFrame, schema: Schema) -> np.ndarray:
    """Which rows of a typed table satisfy every constraint: bool array of shape ``(n,)``."""
    rows = np.ones(len(frame), dtype=bool)
    for text in schema.constraints:
        rows &= _satisfied_one(frame, schema, text)
    return rows


def repair(frame: pd.DataFrame, schema: Schema) -> pd.DataFrame:
    """A copy of a typed table in which repairable constraints hold.

    The dependent column of a dependency is recomputed; for ``a == x or b == y`` column ``b`` becomes ``y``
    where neither holds. Rows that break any other predicate stay as they are.
    """
    repaired = frame.copy()
    for text in schema.constraints:
        broken = ~_satisfied_one(repaired, schema, text)
        match = _POSITION.fullmatch(text)
        if match:
            dependent, position = match[1], _positions(repaired, schema.column(match[2]))
            repaired.loc[broken, dependent] = position[broken].astype(np.int64)
            continue
        fix = _second_equality(_parse(text))
        if fix is not None:
            repaired.loc[broken, fix[0]] = fix[1]
    return repaired


def derived_columns(schema: Schema) -> dict[str, str]:
    """Which columns follow from others by a dependency: dependent column -> the column it is computed from.

    A model need not learn them. A column whose determinant or itself may be missing is left out.
    """
    found: dict[str, str] = {}
    for text in schema.constraints:
        match = _POSITION.fullmatch(text)
        if match is None or match[1] == schema.target or match[1] in found or match[2] in found:
            continue
        dependent, determinant = schema.column(match[1]), schema.column(match[2])
        if not (dependent.nullable or determinant.nullable or determinant.has_unknown):
            found[match[1]] = match[2]
    return found


def add_derived(frame: pd.DataFrame, schema: Schema) -> pd.DataFrame:
    """Return a typed table of all columns from one without the derived columns."""
    complete = frame.copy()
    for dependent, determinant in derived_columns(schema).items():
        position = _positions(frame, schema.column(determinant))
        complete[dependent] = pd.array(position.astype(np.int64), dtype="Int64")
    return pd.DataFrame(complete[list(schema.names)])


def _satisfied_one(frame: pd.DataFrame, schema: Schema, text: str) -> np.ndarray:
    match = _POSITION.fullmatch(text)
    if match:
        expected = _positions(frame, schema.column(match[2]))
        actual = float_values(series_of(frame, match[1]))
        return np.isnan(expected) | np.isnan(actual) | (expected == actual)
    tree = _parse(text)
    used = sorted({node.id for node in ast.walk(tree) if isinstance(node, ast.Name)})
    values = {name: _values(series_of(frame, name), schema.column(name)) for name in used}
    missing = np.asarray(frame[used].isna(), dtype=bool).any(axis=1)
    return missing | np.broadcast_to(_evaluate(tree, values), len(frame)).astype(bool)


def _positions(frame: pd.DataFrame, column: Column) -> np.ndarray:
    """1-based position of each category in schema order; NaN for missing and unlisted."""
    values = column.categories.values if column.categories else ()
    codes = pd.Index(values, dtype=object).get_indexer(pd.Index(series_of(frame, column.name), dtype=object))
    return np.where(codes < 0, np.nan, codes + 1.0)


def _values(series: pd.Series, column: Column) -> np.ndarray:
    if column.kind == "categorical":
        return np.asarray(series.astype(object))
    if column.kind == "datetime":
        return np.asarray(series).astype("datetime64[s]")
    return float_values(series)


def _parse(text: str) -> ast.expr:
    if len(text) > LONGEST:
        raise ConfigError(f"it is longer than {LONGEST} characters; split it into several constraints")
    try:
        return ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
        raise ConfigError(f"it is not an expression; {_FORMS}; or a = position(b)") from error


def _check(text: str, columns: dict[str, Column]) -> None:
    match = _POSITION.fullmatch(text)
    if match:
        _check_position(*(_named(name, columns) for name in match.groups()))
        return
    if _kind(_parse(text), columns) != TRUTH:
        raise ConfigError("it is a value, not a condition; compare it with something, for example == 0")


def _check_position(dependent: Column, determinant: Column) -> None:
    if dependent.kind != "integer" or determinant.kind != "categorical" or determinant.open_categories:
        raise ConfigError(
            "position() needs an integer column on the left and a public categorical column inside"
        )
    count, bounds = len(determinant.levels) - determinant.has_unknown, dependent.bounds
    if bounds is None or bounds.min is None or bounds.max is None:
        return
    if float(bounds.min) > 1 or float(bounds.max) < count:
        raise ConfigError(f"the bounds of '{dependent.name}' must contain 1 to {count}")


def _named(name: str, columns: dict[str, Column]) -> Column:
    if name not in columns:
        raise ConfigError(f"'{name}' is not a column.{did_you_mean(name, columns)}")
    return columns[name]


def _kind(node: ast.AST, columns: dict[str, Column]) -> str:
    """The kind of value an expression has, after checking that every part of it is allowed."""
    match node:
        case ast.Name(id=name):
            return {"categorical": TEXT, "datetime": TIME}.get(_named(name, columns).kind, NUMBER)
        case ast.Constant(value=bool() | None):
            raise ConfigError(f"{node.value!r} is not allowed; {_FORMS}")
        case ast.Constant(value=str()):
            return TEXT
        case ast.Constant(value=int() | float() as value) if abs(value) <= 2**53:
            return NUMBER
        case ast.UnaryOp(op=ast.Not()) | ast.BoolOp():
            parts = [node.operand] if isinstance(node, ast.UnaryOp) else node.values
            return _all_of(TRUTH, parts, columns, TRUTH)
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return _all_of(NUMBER, [operand], columns, NUMBER)
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _ARITHMETIC:
            return _all_of(NUMBER, [left, right], columns, NUMBER)
        case ast.Compare(left=left, ops=ops, comparators=rest) if all(type(op) in _COMPARE for op in ops):
            return _comparison(node, [left, *rest], columns)
    raise ConfigError(f"{type(node).__name__} is not allowed; {_FORMS}")


def _all_of(kind: str, parts: Sequence[ast.AST], columns: dict[str, Column], result: str) -> str:
    found = {_kind(part, columns) for part in parts}
    if found != {kind}:
        raise ConfigError(f"a {kind} was expected and a {(found - {kind}).pop()} was found")
    return result


def _comparison(node: ast.Compare, parts: Sequence[ast.AST], columns: dict[str, Column]) -> str:
    kinds = [_kind(part, columns) for part in parts]
    if TIME in kinds:
        for part in parts:
            _check_moment(part)
        kinds = [TIME if _is_text(part) else kind for part, kind in zip(parts, kinds, strict=True)]
    if len(set(kinds)) != 1 or TRUTH in kinds:
        raise ConfigError(f"a {kinds[0]} is compared with a {kinds[-1]}")
    if TEXT in kinds and not all(isinstance(op, ast.Eq | ast.NotEq) for op in node.ops):
        raise ConfigError("categories can be compared with == and != only")
    return TRUTH


def _is_text(part: ast.AST) -> bool:
    return isinstance(part, ast.Constant) and isinstance(part.value, str)


def _check_moment(part: ast.AST) -> None:
    if not isinstance(part, ast.Constant) or not isinstance(part.value, str):
        return
    try:
        np.datetime64(part.value, "s")
    except ValueError as error:
        raise ConfigError(f"'{part.value}' is not an ISO 8601 date or time") from error


def _evaluate(node: ast.AST, values: dict[str, np.ndarray]) -> Any:
    match node:
        case ast.Name(id=name):
            return values[name]
        case ast.Constant(value=value):
            return float(value) if isinstance(value, int) else value
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            return np.logical_not(_evaluate(operand, values))
        case ast.UnaryOp(operand=operand):
            return -_evaluate(operand, values)
        case ast.BinOp(left=left, op=op, right=right):
            return _ARITHMETIC[type(op)](_evaluate(left, values), _evaluate(right, values))
        case ast.BoolOp(op=op, values=parts):
            join = np.logical_and if isinstance(op, ast.And) else np.logical_or
            return join.reduce(np.broadcast_arrays(*(_evaluate(part, values) for part in parts)))
        case ast.Compare(left=left, ops=ops, comparators=rest):
            sides = [_evaluate(side, values) for side in (left, *rest)]
            links = [_compare(op, a, b) for op, a, b in zip(ops, sides, sides[1:], strict=False)]
            return np.logical_and.reduce(np.broadcast_arrays(*links))
    raise ConfigError(f"{type(node).__name__} is not allowed; {_FORMS}")


def _compare(op: ast.cmpop, left: Any, right: Any) -> Any:
    kinds = [getattr(side, "dtype", np.dtype(object)).kind for side in (left, right)]
    if "M" in kinds:
        left, right = (np.datetime64(side, "s") if isinstance(side, str) else side for side in (left, right))
    return _COMPARE[type(op)](left, right)


def _second_equality(tree: ast.expr) -> tuple[str, float | str] | None:
    """For ``a == x or b == y``: the column ``b`` and the constant ``y``."""
    match tree:
        case ast.BoolOp(
            op=ast.Or(),
            values=[
                ast.Compare(left=ast.Name(), ops=[ast.Eq()], comparators=[ast.Constant()]),
                ast.Compare(left=ast.Name(id=name), ops=[ast.Eq()], comparators=[ast.Constant(value=value)]),
            ],
        ):
            return name, value  # type: ignore[return-value]
    return None
