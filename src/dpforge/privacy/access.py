"""What every door to private values does: reserve on disk first, draw each noise once, tell observers."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from dpforge.errors import PrivacyError
from dpforge.privacy.ledger import Ledger
from dpforge.privacy.plan import Piece
from dpforge.privacy.rng import KeyedRandom

BLOCK = 64
_NORMS = {"noise": 2, "laplace": 1, "choice": math.inf}
_LAPLACE = ("laplace", "discrete_laplace", "threshold")


@dataclass(frozen=True)
class Observation:
    """One release as a test or an audit sees it.

    Args:
        name: Piece of the plan.
        step: Index of the use, from 0.
        value: Value before noise, flat.
        noise: What was added, flat, same length.
        sensitivity: Declared sensitivity of ``value`` (after the scaling of the release).
        scale: Declared standard deviation of each noise entry; of ``laplace`` the scale of its law.
        kind: ``noise`` for a noisy vector, whose sensitivity is in L2; ``laplace`` for one with (discrete)
            Laplace noise, whose sensitivity is in L1; ``choice`` for the scores of an exponential mechanism,
            whose sensitivity is the largest change of one score.
        names: Of the entries, where records decide which there are; one that is missing is 0.
    """

    name: str
    step: int
    value: np.ndarray
    noise: np.ndarray
    sensitivity: float
    scale: float
    kind: str = "noise"
    names: tuple[str, ...] | None = None

    def distance(self, other: Observation) -> float:
        """Return how far the value is from another's, in the norm the sensitivity is stated in."""
        difference = self._minus(other)
        return float(np.linalg.norm(difference, _NORMS[self.kind])) if difference.size else 0.0

    def _minus(self, other: Observation) -> np.ndarray:
        if self.names is None or other.names is None:
            return (self.value - other.value).reshape(-1)
        mine, theirs = (dict(zip(o.names or (), o.value, strict=True)) for o in (self, other))
        return np.array([mine.get(name, 0) - theirs.get(name, 0) for name in sorted(mine | theirs)])


Observer = Callable[[Observation], None]


class Access:
    """Reserves the pieces of one plan and reports releases; the mechanisms are in its subclasses.

    Args:
        ledger: Open ledger of the run; its plan says what is authorised.
        random: Keyed streams of the run's secret key.
        observers: Called with every release; for tests and audits only, they see private values.
    """

    def __init__(self, ledger: Ledger, random: KeyedRandom, observers: Sequence[Observer] = ()) -> None:
        ledger.check_key(random.key_id)
        self.ledger = ledger
        self.random = random
        self._observers = tuple(observers)
        self._drawn: set[tuple[str, int]] = set()

    def piece(self, name: str) -> Piece:
        """Return a piece of the authorised plan."""
        return self.ledger.plan.piece(name)

    def reserve(self, name: str, upto: int, **details: object) -> None:
        """Make sure that the uses ``0 … upto-1`` of a piece are reserved, in whole blocks.

        Uses that an earlier attempt reserved are replayed with the same key, hence not charged again.
        """
        piece = self.piece(name)
        done = self.ledger.reserved(name)
        if upto <= done:
            return
        whole = min(math.ceil(upto / BLOCK) * BLOCK, piece.count) if piece.count > 1 else upto
        self.ledger.reserve(name, max(whole, upto) - done, key_id=self.random.key_id, **details)

    def open_access(self, name: str) -> None:
        """Record an access that the plan declares non-private (``privacy=none``)."""
        if self.piece(name).mechanism != "none":
            raise PrivacyError(f"'{name}' is a private piece of the plan; it cannot be read without noise.")
        self.reserve(name, 1)

    def _draw_once(self, name: str, step: int) -> None:
        """Refuse a second release under the noise of one step: their difference would have no noise."""
        if (name, step) in self._drawn:
            raise PrivacyError(f"the noise of step {step} of '{name}' was drawn already in this process.")
        self._drawn.add((name, step))

    def _observe(
        self,
        piece: Piece,
        step: int,
        value: np.ndarray,
        noise: np.ndarray,
        scale: float,
        names: tuple[str, ...] | None = None,
    ) -> None:
        kind = "laplace" if piece.mechanism in _LAPLACE else "noise"
        self._report(
            Observation(piece.name, step, value.copy(), noise.copy(), piece.sensitivity, scale, kind, names)
        )

    def _report(self, observation: Observation) -> None:
        for observer in self._observers:
            observer(observation)
