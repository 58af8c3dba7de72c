"""Scores of single columns and pairs, kept in ``tables.json`` so that reports need no real rows."""

from __future__ import annotations

import json
import math
from typing import Any

import pandas as pd

from dpforge.errors import RunError
from dpforge.evaluation import Results
from dpforge.experiment.rundir import RunDir

KEPT = (
    "columns",
    "pairs",
    "accuracy_columns",
    "coverage_columns",
    "correlation_real",
    "correlation_synthetic",
    "nearest_pairs",
    "class_frechet",
    "class_recall_lr",
    "class_recall_mlp",
    "class_recall_cnn",
    "class_recall_resnet",
)


def write_tables(folder: RunDir, results: Results) -> list[str]:
    """Write the tables that reports draw; return their names, which are private values of ``tables.json``.

    Raises:
        RunError: The disk is full or read-only.
    """
    kept = {name: _to_json(results.tables[name]) for name in KEPT if name in results.tables}
    content = {"visibility": "private", "tables": kept}
    folder.write_text(folder.tables, json.dumps(content, allow_nan=False) + "\n")
    return [f"tables/{name}" for name in kept]


def read_tables(folder: RunDir) -> dict[str, pd.DataFrame]:
    """Read back :func:`write_tables`; empty if the run wrote none.

    Raises:
        RunError: The file is damaged.
    """
    if not folder.tables.is_file():
        return {}
    try:
        tables = folder.read_json(folder.tables)["tables"]
        return {name: pd.DataFrame(t["rows"], columns=t["columns"]) for name, t in tables.items()}
    except (KeyError, TypeError, ValueError) as error:
        raise RunError(
            f"{folder.tables} is damaged ({type(error).__name__}). Delete it and evaluate the run again"
            " with dpforge-evaluate."
        ) from error


def _to_json(frame: pd.DataFrame) -> dict[str, Any]:
    rows = [[_plain(cell) for cell in row] for row in frame.itertuples(index=False)]
    return {"columns": [str(name) for name in frame.columns], "rows": rows}


def _plain(cell: Any) -> Any:
    value = cell.item() if hasattr(cell, "item") else cell
    return None if isinstance(value, float) and not math.isfinite(value) else value
