"""Private bounds and categories become events; what comes back is public and fits the table."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from unittest.mock import MagicMock

import numpy as np
import pandas as pd
import pytest

from dpforge.data.schema import schema_from_dict
from dpforge.data.table import conform
from dpforge.errors import ConfigError
from dpforge.experiment import stages
from dpforge.privacy.events import EpsilonDelta
from dpforge.privacy.ledger import Ledger
from dpforge.privacy.mechanisms import PrivateAccess
from dpforge.privacy.plan import Plan
from dpforge.privacy.rng import KeyedRandom
from dpforge.privacy.values import log_edges, protect_values, value_pieces

RANDOM = KeyedRandom("entropy", bytes(range(32)))


def schema(method="log_histogram", unit=None):
    return schema_from_dict(
        {
            "schema_version": 1,
            "name": "own",
            "nominal_rows": 3000,
            **({"unit": unit} if unit else {}),
            "columns": {
                "income": {
                    "kind": "numeric",
                    "bounds": {
                        "provenance": "private",
                        "epsilon": 1.0,
                        "method": method,
                        "outer": [-1e6, 1e9],
                        "granularity": 1.0,
                        "levels": [0.01, 0.99],
                    },
                },
                "job": {
                    "kind": "categorical",
                    "categories": {"provenance": "private", "epsilon": 1.0, "delta": 1e-7, "max_values": 50},
                },
            },
        }
    )


def table(rows=3000):
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(
        {"income": rng.uniform(100, 3000, rows), "job": rng.choice(["nurse", "smith"], rows).astype(str)}
    )
    frame.loc[0, "job"] = "the only astronaut"
    return frame


def access_to(tmp_path, plan):
    return PrivateAccess(Ledger.create(tmp_path / "ledger.jsonl", plan, {"rng": "entropy"}), RANDOM)


def test_private_values_cost_what_the_schema_says():
    pieces = {piece.name: piece for piece in value_pieces(schema(), "add_remove")}
    assert pieces["bounds/income"].event == EpsilonDelta(1.0, 0.0)
    assert pieces["categories/job"].event == EpsilonDelta(1.0, 1e-7)


def test_quantile_bounds_are_two_events_of_half_the_epsilon():
    piece = value_pieces(schema("quantile"), "add_remove")[0]
    assert (piece.event, piece.count) == (EpsilonDelta(0.5, 0.0), 2)


@pytest.mark.parametrize("method", ["log_histogram", "quantile"])
def test_released_values_are_public_cover_the_rows_and_hide_the_single_holder(tmp_path, method):
    access = access_to(tmp_path, Plan(tuple(value_pieces(schema(method), "add_remove")), 1e-5))
    released, typed = protect_values(schema(method), conform(table(), schema(method)), access)
    bounds, categories = released.column("income").bounds, released.column("job").categories
    assert not released.private_columns
    assert -1e6 <= bounds.min < bounds.max <= 1e9
    assert bounds.max >= 2048 if method == "log_histogram" else bounds.max < 1e9
    assert categories.values == ("nurse", "smith")
    assert "the only astronaut" not in set(typed["job"].astype(str))
    access.ledger.check_complete()


def test_cell_edges_do_not_depend_on_rows():
    edges = log_edges(1.0, 1000.0)
    assert edges[0] == -1024.0
    assert edges[-1] == 1024.0
    assert 1.0 in edges
    assert np.all(np.diff(edges) > 0)


def test_an_empty_column_gives_the_public_outer_range(tmp_path):
    access = access_to(tmp_path, Plan(tuple(value_pieces(schema(), "add_remove")), 1e-5))
    empty = conform(table().assign(income=np.nan), schema())
    released, _ = protect_values(schema(), empty, access)
    assert (released.column("income").bounds.min, released.column("income").bounds.max) == (-1e6, 1e9)


def test_relations_without_a_calibration_are_refused():
    with pytest.raises(ConfigError, match="State the values publicly"):
        value_pieces(schema(), "replace")


def test_how_many_rows_a_run_draws_by_default_is_read_off_no_private_table(monkeypatch):
    drawn, described = [], schema()
    monkeypatch.setattr(stages, "write_synthetic", lambda *a: None)
    work = MagicMock()
    work.seconds.return_value = None
    work.experiment.rows, work.experiment.seed = None, 0
    work.load.side_effect = AssertionError("the private table was read")
    fitted = SimpleNamespace(schema=described, sample=lambda rows, rng: drawn.append(rows))
    stages.sample(work, fitted)
    fitted.schema = replace(described, rows=replace(described.rows, value=77))
    stages.sample(work, fitted)
    assert drawn == [3000, 77]
