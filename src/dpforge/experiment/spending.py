"""What single runs reserved, read from their ledgers, and the line that stays of a run that is removed.

The line goes to ``<output_root>/spent/<data set>.jsonl`` before the folder goes.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dpforge.errors import PrivacyError, RunError
from dpforge.experiment.rundir import RunDir
from dpforge.experiment.study_status import json_or_empty
from dpforge.privacy.accounting import certifying_accountant, compose, epsilon
from dpforge.privacy.events import Event, NonPrivate, SelfComposed, event_from_json
from dpforge.privacy.ledger import Ledger

SPENT = "spent"
# Above this sum of single epsilons PLD needs very large arrays; Rényi DP is a bound too.
LARGE = 60.0
UNREADABLE = (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError, PrivacyError)


@dataclass(frozen=True)
class Spending:
    """What one run reserved, in all its attempts.

    Args:
        run: Name of its folder.
        study: Name of the folder above it.
        dataset: Name in its schema.
        schema: Digest of the schema.
        guarantee: Unit and relation, such as ``row, add_remove``.
        delta: Of the run.
        events: What was reserved, with counts; None if the ledger cannot be read.
        origin: Equal for a copy of the same run, and for no other.
        certified: Epsilon of the certificate, None without one.
        removed: Whether the folder is gone.
    """

    run: str
    study: str
    dataset: str
    schema: str
    guarantee: str
    delta: float
    events: tuple[tuple[Event, int], ...] | None
    origin: str
    certified: float | None = None
    removed: bool = False

    @property
    def without_noise(self) -> bool:
        """Whether private rows were read without noise."""
        return any(isinstance(event, NonPrivate) for event, _ in self.events or ())

    @property
    def uses(self) -> int:
        """How many events were reserved."""
        return sum(count for _, count in self.events or ())

    @property
    def single(self) -> float:
        """Epsilon of this run alone; infinite without noise, NaN if the ledger cannot be read."""
        if self.events is None:
            return math.nan
        if self.without_noise:
            return math.inf
        if self.certified is not None:
            return self.certified
        return epsilon_of(self.events, self.delta) if self.events else 0.0

    def to_json(self) -> dict[str, Any]:
        """Return the line that stays of a removed run."""
        events = None
        if self.events is not None:
            events = [{"event": event.to_json(), "count": count} for event, count in self.events]
        names = ("run", "study", "dataset", "schema", "guarantee", "delta", "origin", "certified")
        return {**{name: getattr(self, name) for name in names}, "events": events}


def read_spending(root: Path) -> list[Spending]:
    """Read what every run at or below ``root`` reserved, and what is left of those removed.

    A copy of a run counts once, with whichever copy reserved more.

    Raises:
        RunError: ``root`` is missing.
    """
    if not root.is_dir():
        raise RunError(f"'{root}' is not a folder. Name the folder of all studies, such as outputs.")
    found: dict[str, Spending] = {}
    for spending in (*_removed(root), *map(spending_of, _runs(root))):
        known = found.get(spending.origin)
        if known is None or known.uses <= spending.uses:
            found[spending.origin] = spending
    return list(found.values())


def spending_of(run: Path) -> Spending:
    """Read what one run reserved; its ledger is only read, since the run may be writing to it."""
    folder, study = RunDir(run), run.resolve().parent.name
    dataset = str(json_or_empty(folder.schema).get("name", "unknown"))
    try:
        lines = folder.ledger.read_text(encoding="utf-8").rpartition("\n")[0].splitlines()
        records = [json.loads(line) for line in lines]
        ledger = Ledger(folder.ledger, records, "")
        plan = ledger.plan
        reserved = ((piece.event, ledger.reserved(piece.name)) for piece in plan.pieces)
        return Spending(
            run=run.name,
            study=study,
            dataset=dataset,
            schema=str(ledger.header["schema_digest"]),
            guarantee=f"{plan.unit}, {plan.relation}",
            delta=plan.delta,
            events=tuple(pair for pair in reserved if pair[1]),
            origin=_digest(run.name.rpartition("-")[2], lines[0], *_keys(records)),
            certified=json_or_empty(folder.certificate).get("epsilon"),
        )
    except UNREADABLE:
        return Spending(run.name, study, dataset, "", "", 0.0, None, _digest(str(run.resolve())))


def _keys(records: Sequence[dict[str, Any]]) -> list[str]:
    """Commitments to the noise keys: another run of the same configuration has another."""
    return sorted({record["key_id"] for record in records if record["kind"] == "reserve"})


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def remember(run: Path, root: Path) -> Path:
    """Write down, on disk before this returns, what a run spent; call it before the run is removed.

    Args:
        run: The run folder.
        root: The folder of all studies.

    Raises:
        RunError: The line cannot be written; the run must stay.
    """
    spending = spending_of(run)
    path = root / SPENT / f"{re.sub(r'[^A-Za-z0-9._]+', '_', spending.dataset)}.jsonl"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as file:
            file.write(json.dumps(spending.to_json()).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise RunError(f"{path} cannot be written ({error.strerror}); the run was not removed.") from error
    return path


def composed(runs: Sequence[Spending], delta: float) -> float:
    """Return the epsilon of everything that private runs reserved, at ``delta``; 0 for none."""
    if not runs:
        return 0.0
    events = [pair for run in runs for pair in run.events or ()]
    large = math.fsum(run.single for run in runs) > LARGE
    return epsilon_of(events, delta, "rdp" if large else None)


def epsilon_of(events: Sequence[tuple[Event, int]], delta: float, accountant: str | None = None) -> float:
    """Return the epsilon of events with their counts; by the accountant of record unless one is named."""
    counts: dict[Event, int] = {}
    for event, count in events:
        counts[event] = counts.get(event, 0) + count
    # Equal events are composed at once, which is exact and far faster.
    tree = compose(*(SelfComposed(event, count) for event, count in counts.items()))
    return epsilon(tree, delta, accountant or certifying_accountant(tree))


def _runs(root: Path) -> Iterator[Path]:
    for place, below, files in os.walk(root):
        if "ledger.jsonl" in files:
            below.clear()
            yield Path(place)
        below.sort()


def _removed(root: Path) -> Iterator[Spending]:
    """Lines of removed runs: all below the folder of all studies, or those of one study beside it."""
    here = root / SPENT
    folder = here if here.is_dir() else root.resolve().parent / SPENT
    for path in sorted(folder.glob("*.jsonl")):
        for line in path.read_text(encoding="utf-8").splitlines():
            entry = json.loads(line) if line.strip() else {"study": None}
            if folder is here or entry["study"] == root.resolve().name:
                yield _from_json(entry)


def _from_json(entry: dict[str, Any]) -> Spending:
    events = entry.pop("events")
    if events is not None:
        events = tuple((event_from_json(item["event"]), int(item["count"])) for item in events)
    return Spending(**entry, events=events, removed=True)
