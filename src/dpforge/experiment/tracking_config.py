"""The ``logger`` configuration group."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from dpforge.errors import ConfigError, did_you_mean

RELEASES = ("all", "public")
X_AXES = ("step", "epsilon")
_PROJECT = re.compile(r"[^/\\#?%:\s][^/\\#?%:]{0,127}")


class TrackerConfig(Protocol):
    """What every ``logger`` configuration says."""

    @property
    def release(self) -> str: ...


@dataclass(frozen=True)
class CsvConfig:
    """Log to the run folder only (``logger=csv``).

    Args:
        release: Accepted for symmetry with W&B; nothing leaves the run folder, which gets everything.

    Raises:
        ConfigError: If ``release`` is unknown.
    """

    release: str = "all"

    def __post_init__(self) -> None:
        _refuse(_release_mistakes(self.release))


@dataclass(frozen=True)
class WandbConfig:
    """Log to the run folder and to W&B (``logger=wandb``).

    Args:
        offline: Write W&B files into the run folder only; ``wandb sync`` can send them later.
        project: W&B project.
        entity: W&B user or team; ``None`` is the default of the account.
        release: ``all``, or ``public`` to send only public and dp values.
        tags: Free labels of the run.
        job_type: W&B job type, such as ``sweep``.
        x_axis: ``step``, or ``epsilon`` to draw every curve over the epsilon spent so far (by RDP).
        patience_s: Seconds that the end of a run waits for W&B at most, > 0.

    Raises:
        ConfigError: All mistakes at once.
    """

    offline: bool = True
    project: str = "dpforge"
    entity: str | None = None
    release: str = "all"
    tags: tuple[str, ...] = ()
    job_type: str = "run"
    x_axis: str = "step"
    patience_s: float = 60.0

    def __post_init__(self) -> None:
        _refuse([*_release_mistakes(self.release), *self._mistakes()])
        object.__setattr__(self, "tags", tuple(self.tags))

    def _mistakes(self) -> list[str]:
        found = []
        if not isinstance(self.offline, bool):
            found.append(f"logger.offline={self.offline!r} is not true or false.")
        if not isinstance(self.project, str) or not _PROJECT.fullmatch(self.project):
            found.append(f"logger.project={self.project!r} is not a W&B project: a text without /\\#?%:.")
        if self.entity is not None and (not isinstance(self.entity, str) or not self.entity.strip()):
            found.append(f"logger.entity={self.entity!r} is not a name; use null for the account's default.")
        if not _are_texts(self.tags):
            found.append(f"logger.tags={self.tags!r} is not a list of texts, such as [adult, first].")
        if not isinstance(self.job_type, str) or not self.job_type.strip():
            found.append(f"logger.job_type={self.job_type!r} is not a text, such as run or sweep.")
        if self.x_axis not in X_AXES:
            hint = did_you_mean(str(self.x_axis), X_AXES)
            found.append(f"logger.x_axis={self.x_axis!r} is unknown; use 'step' or 'epsilon'.{hint}")
        if not isinstance(self.patience_s, int | float) or not 0 < self.patience_s < float("inf"):
            found.append(f"logger.patience_s={self.patience_s!r} is not a number of seconds above 0.")
        return found

    @property
    def sink(self) -> str:
        """Name of this sink in the certificate."""
        return f"wandb project {self.entity + '/' if self.entity else ''}{self.project}"


def _are_texts(tags: object) -> bool:
    if isinstance(tags, str) or not isinstance(tags, Iterable):
        return False
    return all(isinstance(tag, str) and tag for tag in tags)


def _release_mistakes(release: object) -> list[str]:
    if release in RELEASES:
        return []
    hint = did_you_mean(str(release), RELEASES)
    return [f"logger.release={release!r} is unknown; use 'all' or 'public'.{hint}"]


def _refuse(mistakes: list[str]) -> None:
    if mistakes:
        raise ConfigError(mistakes)
