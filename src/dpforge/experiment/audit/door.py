"""An auditor's own access: ledger and noise key of its own, and what was released kept beside."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from dpforge.data import ImageSchema, Schema
from dpforge.generators.base import RunContext, Runtime
from dpforge.privacy.ledger import Ledger
from dpforge.privacy.mechanisms import PrivateAccess
from dpforge.privacy.plan import Plan
from dpforge.privacy.rng import KeyedRandom, fresh_random
from dpforge.privacy.spec import PrivacySpec

_log = logging.getLogger("dpforge")


class Enough(Exception):
    """What is audited is over; what a generator does afterwards reads released values only."""


@dataclass(frozen=True, eq=False)
class Seen:
    """One release as anyone may see it.

    Args:
        name: Piece of the plan.
        values: Noisy vectors.
        scales: Declared scale of the noise on each of them.
        rho: Cost of a use of an adaptive piece.
    """

    name: str
    values: list[np.ndarray]
    scales: list[float]
    rho: float | None = None


class SeenAccess(PrivateAccess):
    """Keeps what it released, and may end a fit there.

    Args:
        ledger: Of the audit.
        random: Fresh streams.
    """

    def __init__(self, ledger: Ledger, random: KeyedRandom) -> None:
        super().__init__(ledger, random)
        self.released: list[Seen] = []
        self.last: str | None = None

    def end_after(self, name: str) -> None:
        """End the fit, by :class:`Enough`, with the first release of this piece."""
        self.last = name

    def _keep(self, seen: Seen) -> None:
        self.released.append(seen)
        if seen.name == self.last:
            raise Enough

    def gaussian(self, name: str, value: np.ndarray, *, step: int = 0, **details: object) -> np.ndarray:
        """See :class:`PrivateAccess`."""
        noisy = super().gaussian(name, value, step=step, **details)
        self._keep(Seen(name, [noisy], [self.declared(name)]))
        return noisy

    def histograms(
        self, name: str, counts: Sequence[np.ndarray], weights: Sequence[float], **details: object
    ) -> list[np.ndarray]:
        """See :class:`PrivateAccess`."""
        noisy = super().histograms(name, counts, weights, **details)
        self._keep(Seen(name, noisy, [self.declared(name) / weight for weight in weights]))
        return noisy

    def measure(
        self, name: str, counts: Sequence[np.ndarray], weights: Sequence[float] = (1.0,), **details: Any
    ) -> tuple[list[np.ndarray], list[float]]:
        """See :class:`PrivateAccess`."""
        noisy, scales = super().measure(name, counts, weights, **details)
        self._keep(Seen(name, noisy, scales, details.get("rho")))
        return noisy, scales

    def declared(self, name: str) -> float:
        """Return the scale of the noise that the plan declares."""
        piece = self.piece(name)
        return piece.sensitivity * piece.noise_multiplier


@contextmanager
def audit_context(
    schema: Schema | ImageSchema, plan: Plan, spec: PrivacySpec, runtime: Runtime
) -> Iterator[tuple[SeenAccess, RunContext]]:
    """Lend an access with noise from the operating system, and a run context in a temporary folder."""
    with TemporaryDirectory(prefix="dpforge-audit-") as place:
        folder = Path(place)
        (folder / "checkpoints").mkdir()
        header = {"rng": "entropy", "unit": {"kind": schema.unit.kind}, "nominal_rows": schema.nominal_rows}
        ledger = Ledger.create(folder / "ledger.jsonl", plan, header)
        access = SeenAccess(ledger, fresh_random("entropy"))
        level = _log.level
        _log.setLevel(logging.ERROR)  # advice about a configuration is for its runs
        try:
            yield access, RunContext(access, spec, runtime, 0, folder / "checkpoints")
        finally:
            _log.setLevel(level)
