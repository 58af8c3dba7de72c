"""Differentially private synthetic data: one configuration, one ledger, one evaluation for every method."""

__version__ = "0.1.0"
