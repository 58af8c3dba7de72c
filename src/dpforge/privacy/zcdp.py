"""Plans whose pieces are calibrated together in zero-concentrated differential privacy (zCDP).

Bun and Steinke, *Concentrated Differential Privacy* (TCC 2016): costs rho add up, also when later ones are
chosen after seeing earlier outputs. The RDP accountant turns the sum into epsilon.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from dpforge.privacy.accounting import calibrate
from dpforge.privacy.events import Gaussian, NonPrivate
from dpforge.privacy.plan import Piece, Plan
from dpforge.privacy.spec import PrivacySpec


def rho_of(noise_multiplier: float) -> float:
    """Return the cost of one Gaussian mechanism: 1 / (2 z^2)."""
    return 1 / (2 * noise_multiplier**2)


def gaussian_of(rho: float) -> Gaussian:
    """Return the Gaussian mechanism that costs ``rho``."""
    return Gaussian((2 * rho) ** -0.5)


def make_zcdp_plan(
    spec: PrivacySpec,
    pieces_of: Callable[[float], Sequence[Piece]],
    *,
    bricks: Sequence[Piece] = (),
    unit: str = "row",
) -> Plan:
    """Return the plan with the largest rho that stays within the target.

    Args:
        spec: Target epsilon; or a noise multiplier, whose rho is 1 / (2 z^2).
        pieces_of: The pieces that share a given total rho.
        bricks: Pieces whose events are fixed already.
        unit: What one unit of privacy is, for the record.
    """
    if not spec.enabled:
        bare = [_without_noise(piece) for piece in (*bricks, *pieces_of(1.0))]
        return Plan(tuple(bare), spec.delta, spec.relation, unit)

    def plan(multiplier: float) -> Plan:
        pieces = (*bricks, *pieces_of(rho_of(multiplier)))
        return Plan(pieces, spec.delta, spec.relation, unit, spec.target_epsilon)

    if spec.target_epsilon is None:
        return plan(float(spec.noise_multiplier or 0))
    return plan(calibrate(lambda m: plan(m).event(), spec.target_epsilon, spec.delta))


def _without_noise(piece: Piece) -> Piece:
    return Piece(piece.name, "none", NonPrivate(), piece.count, piece.sensitivity, piece.reason)
