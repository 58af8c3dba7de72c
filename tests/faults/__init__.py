"""Faults injected into runs of every generator; ``python -m tests.faults`` prints injected and survived."""
