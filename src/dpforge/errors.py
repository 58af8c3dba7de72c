"""The errors of dpforge. Each also is the built-in error a caller would expect."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence


class DPForgeError(Exception):
    """Base of every error that dpforge raises on purpose; its text is meant for the user."""


class ConfigError(DPForgeError, ValueError):
    """One or more mistakes of a configuration or schema.

    Args:
        mistakes: One text, or all the texts that belong together; each says what was got, what is
            expected and what to do.
    """

    def __init__(self, mistakes: str | Sequence[str]) -> None:
        self.mistakes = (mistakes,) if isinstance(mistakes, str) else tuple(mistakes)
        super().__init__("\n".join(self.mistakes))


class DataError(DPForgeError, ValueError):
    """A data file or table that cannot be used. The text never contains a cell."""


class PrivacyError(DPForgeError, RuntimeError):
    """Something that would break the privacy guarantee was refused."""


class BudgetExceeded(PrivacyError):
    """A reservation would spend more than the plan authorises; no noise was drawn."""


class PlanMismatch(PrivacyError):
    """What the ledger recorded differs from what the plan authorised."""


class RunError(DPForgeError, RuntimeError):
    """A run folder that cannot be used, resumed or written."""


class RunLocked(RunError):
    """Another process works on the run; it is left alone."""


class Interrupted(RunError):
    """The run was asked to stop; its state is saved and the same command continues it."""


def did_you_mean(name: str, choices: Iterable[str]) -> str:
    """Return ``" Did you mean 'x'?"`` for the closest choice, or an empty text if none is close."""
    close = difflib.get_close_matches(name, list(choices), n=1)
    return f" Did you mean '{close[0]}'?" if close else ""
