"""Privacy: events, accounting, plan, ledger, keyed randomness, mechanisms, DP-SGD.

Names are loaded on first use, so that reading a configuration does not import torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dpforge.privacy.dpsgd import DPSGDCallback as DPSGDCallback
    from dpforge.privacy.dpsgd import PrivateModule as PrivateModule
    from dpforge.privacy.ledger import Ledger as Ledger
    from dpforge.privacy.mechanisms import PrivateAccess as PrivateAccess
    from dpforge.privacy.plan import Piece as Piece
    from dpforge.privacy.plan import Plan as Plan
    from dpforge.privacy.spec import PrivacySpec as PrivacySpec

_HOMES = {
    "DPSGDCallback": "dpsgd",
    "PrivateModule": "dpsgd",
    "Ledger": "ledger",
    "PrivateAccess": "mechanisms",
    "Piece": "plan",
    "Plan": "plan",
    "PrivacySpec": "spec",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'dpforge.privacy' has no attribute '{name}'")
    return getattr(import_module(f"dpforge.privacy.{_HOMES[name]}"), name)
