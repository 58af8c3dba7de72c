"""The ledger: what a run really reserved, on disk before any noise exists.

One JSON object a line; each line carries the SHA-256 of the line before, so a stranger can see that
nothing was taken out. The header holds the authorised plan and the public inputs.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from dpforge.errors import BudgetExceeded, PlanMismatch, PrivacyError, RunError
from dpforge.privacy.events import ZCDp
from dpforge.privacy.ledger_lines import GENESIS, RESTORE, digest, read_records
from dpforge.privacy.plan import Plan, plan_from_json


class Ledger:
    """Append-only record of one run.

    Use :meth:`create` for a new run and :meth:`open` for one that was interrupted.
    """

    def __init__(self, path: Path, records: list[dict[str, Any]], last_hash: str) -> None:
        self.path = path
        self._records = records
        self._last_hash = last_hash
        self.plan: Plan = plan_from_json(records[0]["plan"]) if records else Plan((), 0.0)
        self._reserved = {piece.name: 0 for piece in self.plan.pieces}
        for record in records:
            if record["kind"] == "reserve":
                self._reserved[record["piece"]] += record["count"]

    @classmethod
    def create(cls, path: Path, plan: Plan, header: Mapping[str, Any]) -> Ledger:
        """Start a ledger with its header; raises ``RunError`` if the file exists already."""
        if path.exists():
            raise RunError(f"{path} exists already; a ledger is never written twice. {RESTORE}")
        draft = path.with_name(path.name + ".tmp")
        try:
            draft.unlink(missing_ok=True)
            ledger = cls(draft, [], GENESIS)
            ledger._append({"kind": "header", "plan": plan.to_json(), **header})
            os.replace(draft, path)
        except OSError as error:
            raise _unwritable(path, error) from error
        return cls(path, ledger._records, ledger._last_hash)

    @classmethod
    def open(cls, path: Path) -> Ledger:
        """Read an interrupted ledger back; a torn last line (its noise was never drawn) is cut off.

        Raises:
            RunError: The file is missing, its chain is broken or a record cannot be counted; names the line.
        """
        records, last, whole = read_records(path)
        if whole < path.stat().st_size:
            os.truncate(path, whole)
        return cls(path, records, last)

    @property
    def header(self) -> dict[str, Any]:
        """The first record."""
        return self._records[0]

    @property
    def last_hash(self) -> str:
        """SHA-256 of the last line: what a certificate refers to."""
        return self._last_hash

    @property
    def closed(self) -> bool:
        """Whether the run ended with ledger == plan."""
        return any(record["kind"] == "close" for record in self._records)

    @property
    def begun(self) -> bool:
        """Whether anything was reserved."""
        return any(self._reserved.values())

    def reserved(self, name: str) -> int:
        """Return how often the piece ``name`` has been reserved, in all attempts."""
        return self._reserved[self.plan.piece(name).name]

    def reserve(self, name: str, count: int, *, key_id: str, **details: Any) -> None:
        """Write a reservation and wait until it is on disk. Only then may noise be drawn.

        Args:
            name: Piece of the plan.
            count: Number of uses.
            key_id: Commitment to the key that the noise will come from.
            details: Clip, normaliser, sampler, … for the record.

        Raises:
            BudgetExceeded: The plan authorises fewer uses; nothing was written.
            PrivacyError: The key is not the one earlier reservations were made with.
        """
        piece = self.plan.piece(name)
        done = self._reserved[name]
        if done + count > piece.count:
            raise BudgetExceeded(
                f"'{name}' would be used {done + count} times; the plan authorises {piece.count}."
                " No noise was drawn."
            )
        self.check_key(key_id)
        self._append(
            {
                "kind": "reserve",
                "piece": name,
                "mechanism": piece.mechanism,
                "event": piece.event.to_json(),
                "count": count,
                "first": done,
                "sensitivity": piece.sensitivity,
                "reason": piece.reason,
                "key_id": key_id,
                **details,
            }
        )
        self._reserved[name] = done + count

    def spend(self, name: str, step: int, rho: float, *, key_id: str, **details: Any) -> None:
        """Write one use of an adaptive piece, which was reserved as ``ZCDp``, before its noise exists.

        A use that an earlier attempt wrote is replayed: it must be the same use, and is not charged again.

        Raises:
            BudgetExceeded: All uses together would cost more than the reservation; nothing was written.
            PrivacyError: A replayed use differs from the one on record, or a use was left out.
        """
        piece = self.plan.piece(name)
        if not isinstance(piece.event, ZCDp) or not rho > 0 or not self._reserved[name]:
            raise PrivacyError(f"'{name}' is no reserved zCDP piece, or rho={rho} is not positive.")
        self.check_key(key_id)
        earlier = self._spends(name)
        record = {"kind": "spend", "piece": name, "step": step, "rho": rho, "key_id": key_id, **details}
        if step < len(earlier):
            known = {key: earlier[step].get(key) for key in record}
            if known != record:
                raise PrivacyError(
                    f"use {step} of '{name}' differs from the one an earlier attempt made with the same"
                    " noise. Delete the run folder to start a new run."
                )
            return
        if step > len(earlier):
            raise PrivacyError(f"use {step} of '{name}' comes before use {len(earlier)} is on record.")
        if math.fsum([*(spent["rho"] for spent in earlier), rho]) > piece.event.rho:
            raise BudgetExceeded(
                f"use {step} of '{name}' costs rho={rho:.6g}; {self.spent(name):.6g} of the"
                f" {piece.event.rho:.6g} that the plan reserves are spent. No noise was drawn."
            )
        self._append(record)

    def spent(self, name: str) -> float:
        """Return the rho that the uses of an adaptive piece have cost so far, in all attempts."""
        return math.fsum(record["rho"] for record in self._spends(name))

    def _spends(self, name: str) -> list[dict[str, Any]]:
        return [r for r in self._records if r["kind"] == "spend" and r["piece"] == name]

    def commit(self, name: str, steps: int) -> None:
        """Record that the first ``steps`` uses of a piece are part of a saved state."""
        self._append({"kind": "commit", "piece": name, "steps": steps})

    def taint(self, name: str, sink: str) -> None:
        """Record, once, that ``sink`` received the private value ``name``."""
        if name in self.taints().get(sink, ()):
            return
        self._append({"kind": "taint", "name": name, "sink": sink})

    def taints(self) -> dict[str, list[str]]:
        """Return the private names that each sink received."""
        found: dict[str, list[str]] = {}
        for record in self._records:
            if record["kind"] == "taint" and record["name"] not in found.setdefault(record["sink"], []):
                found[record["sink"]].append(record["name"])
        return found

    def check_complete(self) -> None:
        """Raise ``PlanMismatch`` unless every piece was reserved exactly as often as planned."""
        wrong = [
            f"'{piece.name}' {self._reserved[piece.name]} of {piece.count}"
            for piece in self.plan.pieces
            if self._reserved[piece.name] != piece.count
        ]
        if wrong:
            raise PlanMismatch(
                f"the ledger differs from the plan: reserved {', '.join(wrong)} times. Was ledger.jsonl lost"
                f" or cut? {RESTORE}"
            )

    def close(self) -> None:
        """End the private part of the run; raises ``PlanMismatch`` if ledger and plan differ."""
        if self.closed:
            return
        self.check_complete()
        self._append({"kind": "close"})

    def check_key(self, key_id: str) -> None:
        """Raise ``PrivacyError`` if earlier reservations were made with another key."""
        known = {record["key_id"] for record in self._records if record["kind"] == "reserve"}
        if known and key_id not in known:
            raise PrivacyError(
                "this run reserved noise with a key that is gone (private/key was replaced)."
                " Its spent steps cannot be replayed; delete the run folder to start a new run."
            )

    def _append(self, record: dict[str, Any]) -> None:
        record = {"seq": len(self._records), **record, "previous": self._last_hash}
        line = json.dumps(record, separators=(",", ":"), allow_nan=False)
        try:
            _append_line(self.path, line)
        except OSError as error:
            raise _unwritable(self.path, error) from error
        self._records.append(record)
        self._last_hash = digest(line)


def _append_line(path: Path, line: str) -> None:
    """Append a line and wait until it is on disk; a failure leaves the file as it was."""
    size = path.stat().st_size if path.exists() else 0
    try:
        with path.open("ab", buffering=0) as file:
            _write_all(file.fileno(), f"{line}\n".encode())
            os.fsync(file.fileno())
    except OSError:
        with suppress(OSError):
            os.truncate(path, size)
        raise


def _write_all(handle: int, data: bytes) -> None:
    while data:
        data = data[os.write(handle, data) :]


def _unwritable(path: Path, error: OSError) -> RunError:
    return RunError(
        f"the ledger {path.name} cannot be written ({error.strerror}); no noise was drawn."
        " Free the disk and start the same command again."
    )
