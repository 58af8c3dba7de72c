"""What Private Evolution asks of a public image generator."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np


class ImageAPI(Protocol):
    """A public generator that draws images and perturbs given ones; it sees released values only.

    An implementation is a frozen dataclass of its settings, so that a configuration can name it.

    Attributes:
        name: Short name for records.
        image_size: Height and width of its images, in pixels.
        channels: 1 if its images are grey (the three channels are equal), else 3.
        class_aware: Whether an image depends on the name of its class.
        max_batch: Most images made at once.
    """

    @property
    def name(self) -> str: ...

    @property
    def image_size(self) -> tuple[int, int]: ...

    @property
    def channels(self) -> int: ...

    @property
    def class_aware(self) -> bool: ...

    @property
    def max_batch(self) -> int: ...

    def degree_mistakes(self, degrees: Sequence[float]) -> list[str]:
        """Return one text for every variation degree that the API cannot use; makes no call."""
        ...

    def default_degrees(self, iterations: int) -> list[float]:
        """Return the API's own schedule v_0 … v_T, length ``iterations + 1``; makes no call."""
        ...

    def prepare(self, class_names: Sequence[str], device: str, folder: Path | None = None) -> None:
        """Load what is needed, once per run, before any image is asked for.

        Args:
            class_names: Names of the classes in the order of the labels; empty for an unconditional run,
                whose labels are all 0 and mean nothing.
            device: ``cpu``, ``cuda`` or ``cuda:N``.
            folder: Folder of the run in which answers that cost money may be kept; None for none.

        Raises:
            ConfigError: Settings that cannot be used, or a missing library.
            DataError: Missing or damaged weights, fonts or images.
        """
        ...

    def random(self, labels: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Draw one image for each label.

        Args:
            labels: int64 ``(n,)``.
            rng: Every random choice comes from it.

        Returns:
            uint8 ``(n, H, W, 3)``, and side information ``(n,)`` of any type but object.
        """
        ...

    def variation(
        self, images: np.ndarray, info: np.ndarray, degree: float, rng: np.random.Generator
    ) -> np.ndarray | tuple[np.ndarray, np.ndarray]:
        """Perturb images.

        Args:
            images: uint8 ``(n, H, W, 3)``.
            info: Side information of each.
            degree: How much; its meaning is the API's.
            rng: Every random choice comes from it.

        Returns:
            uint8 ``(n, H, W, 3)``; with new side information where the API changes it.
        """
        ...

    def describe(self) -> dict[str, Any]:
        """Return the identity of the generator for the record: model, hashes, versions; no secrets."""
        ...
