"""What an evaluation returns: scores with versions and visibility, and the table of headlines."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import pandas as pd

NEGLIGIBLE_RANGE = 1e-6
HEADLINES = ("fidelity", "utility", "validity")


class Headline(NamedTuple):
    """One row of the final table; a missing floor, ceiling or normalised score is NaN."""

    name: str
    score: float
    floor: float
    ceiling: float
    normalised: float


@dataclass(frozen=True)
class Results:
    """Scores of one synthetic table.

    Args:
        metrics: Value of each key; ``floor/…``, ``ceiling/…`` and ``normalised/…`` precede the metric.
        versions: Version of the metric behind each key.
        private: Keys whose values were computed from real rows.
        rows: Rows of each table that entered.
        notes: Remarks a reader of the scores must see.
        tables: Frames for plots and reports, all private: ``columns``, ``pairs``, ``marginals``,
            ``correlation_real``, ``correlation_synthetic``, as far as their metric ran.
        spread: Standard deviation over repeats, per key; empty without repeats.
        intervals: Ends of the 95 % interval, per key; empty where a metric gives none.
        protocols: What must be equal for two values of a key to be comparable; empty where versions suffice.
    """

    metrics: dict[str, float]
    versions: dict[str, str]
    private: list[str]
    rows: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    tables: dict[str, pd.DataFrame] = field(default_factory=dict)
    spread: dict[str, float] = field(default_factory=dict)
    intervals: dict[str, tuple[float, float]] = field(default_factory=dict)
    protocols: dict[str, dict[str, Any]] = field(default_factory=dict)

    def visibility(self, key: str) -> str:
        """``private`` if the value was computed from real rows, else ``public``."""
        return "private" if key in self.private else "public"

    def to_json(self) -> dict[str, Any]:
        """Content of ``metrics.json``; values that are not finite become None.

        Each protocol stands once, under ``protocols``, and entries name it by ``protocol_id``.
        """
        protocols = {protocol_id(protocol): protocol for protocol in self.protocols.values()}
        noted = {"protocols": protocols, "protocols_visibility": "private"} if protocols else {}
        return {
            "metrics": {key: self._entry(key) for key in self.metrics},
            "rows": dict(self.rows),
            "rows_visibility": "private",
            "notes": list(self.notes),
            "notes_visibility": "private",
            **noted,
        }

    def _entry(self, key: str) -> dict[str, Any]:
        value = self.metrics[key]
        entry: dict[str, Any] = {
            "value": value if math.isfinite(value) else None,
            "version": self.versions[key],
            "visibility": self.visibility(key),
        }
        if key in self.spread:
            entry["std"] = self.spread[key] if math.isfinite(self.spread[key]) else None
        if key in self.intervals:
            entry["interval"] = [end if math.isfinite(end) else None for end in self.intervals[key]]
        if key in self.protocols:
            entry["protocol_id"] = protocol_id(self.protocols[key])
        return entry


def protocol_id(protocol: Mapping[str, Any]) -> str:
    """Sha256 (hex) of the canonical JSON text of a protocol: equal for values that may be compared."""
    text = json.dumps(protocol, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def attack_notes(results: Results) -> list[str]:
    """What the membership attacks found, a sentence each; empty if none ran."""
    return [note for note in results.notes if note.startswith("attack/")]


def normalised(score: float, floor: float, ceiling: float) -> float:
    """Position of ``score`` between ``floor`` (0) and ``ceiling`` (1), not clipped.

    NaN where floor and ceiling differ by less than 1e-6, or one of them is NaN.
    """
    span = ceiling - floor
    return (score - floor) / span if abs(span) >= NEGLIGIBLE_RANGE else float("nan")


def headline(results: Results, kinds: Collection[str] = HEADLINES) -> list[Headline]:
    """A row per key of ``kinds`` (the first part of its name) in the order they were computed."""
    names = [key for key in results.metrics if key.split("/")[0] in kinds]
    return [Headline(name, results.metrics[name], *_context(results.metrics, name)) for name in names]


def _context(metrics: Mapping[str, float], name: str) -> tuple[float, float, float]:
    floor, ceiling, share = (
        metrics.get(f"{kind}/{name}", float("nan")) for kind in ("floor", "ceiling", "normalised")
    )
    return floor, ceiling, share
