"""All mutants: importing the modules that declare them fills the list."""

from __future__ import annotations

from . import bookkeeping, bought, gradients, noise, records, systems
from .library import MUTANTS

__all__ = ["MUTANTS", "bookkeeping", "bought", "gradients", "noise", "records", "systems"]
