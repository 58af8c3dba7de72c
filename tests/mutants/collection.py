"""All mutants: importing the modules that declare them fills the list."""

from __future__ import annotations

from . import bookkeeping, gradients, noise, records, systems
from .library import MUTANTS

__all__ = ["MUTANTS", "bookkeeping", "gradients", "noise", "records", "systems"]
