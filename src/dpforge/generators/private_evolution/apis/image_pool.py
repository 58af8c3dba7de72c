"""A set of public images as a generator: random ones, and public neighbours as variations."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from dpforge.errors import ConfigError, DataError, did_you_mean
from dpforge.features import EXTRACTORS, cached_features, extractor

# Sim-PE's sizes of the neighbour list, iteration 0 first.
NEIGHBOURS = (1000, 1000, 500, 200, 100, 50, 20)
SCORES = 1 << 24
AXES_IMAGES = 5000  # images that the principal axes are found from


@dataclass(frozen=True)
class ImagePool:
    """Draws from public images; a variation is one of the nearest public images of an image.

    The variation degree is the length of the list of neighbours (the image itself among them) from which one
    is drawn with equal chances. Side information is the position in the pool.

    With ``mixing`` the image goes part of the way to that neighbour instead, along the first principal
    components of the pool, and keeps what they do not describe: images that the pool does not hold. Side
    information is then the position of the one of the two that it is nearer to.

    Args:
        pool: Name of a public image data set, its configuration, or a folder of public images.
        image_size: Height and width to bring the images to; null keeps those of the pool.
        embedding: Feature extractor that neighbours are found with.
        embedding_weights: File or folder with its weights, where the user supplies them.
        max_images: Images of the pool that are used, from the first on; null for all.
        mixing: Largest part of the way, in [0, 1]; each variation draws its own. 0 gives images of the pool.
        components: Principal components that are mixed, >= 1.
        max_batch: Images looked up at once.

    Raises:
        ConfigError: With every mistake among the values.

    References:
        Lin et al., *Differentially Private Synthetic Data via APIs 3: Using Simulators Instead of Foundation
        Models* (2025), for evolution over a fixed set of images.
    """

    name: ClassVar[str] = "image_pool"
    channels: ClassVar[int] = 3
    class_aware: ClassVar[bool] = False

    pool: str | Mapping[str, Any]
    image_size: Sequence[int] = (32, 32)  # type: ignore[assignment]
    embedding: str = "pixels"
    embedding_weights: str | None = None
    max_images: int | None = None
    mixing: float = 0.0
    components: int = 64
    max_batch: int = 4096
    _loaded: dict[str, Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "image_size", tuple(self.image_size))
        mistakes = []
        if len(self.image_size) != 2 or any(not isinstance(n, int) or n < 1 for n in self.image_size):
            mistakes.append(
                f"model.api.image_size={list(self.image_size)}: expected [height, width] in pixels."
            )
        if self.embedding not in EXTRACTORS:
            known = ", ".join(EXTRACTORS)
            mistakes.append(
                f"model.api.embedding={self.embedding!r}: expected one of {known}."
                + did_you_mean(str(self.embedding), EXTRACTORS)
            )
        if self.max_images is not None and (not isinstance(self.max_images, int) or self.max_images < 1):
            mistakes.append(f"model.api.max_images={self.max_images!r}: expected a whole number >= 1.")
        if not 0 <= self.mixing <= 1:
            mistakes.append(f"model.api.mixing={self.mixing!r}: expected a number in [0, 1].")
        if not isinstance(self.components, int) or self.components < 1:
            mistakes.append(f"model.api.components={self.components!r}: expected a whole number >= 1.")
        if mistakes:
            raise ConfigError(mistakes)

    def degree_mistakes(self, degrees: Sequence[float]) -> list[str]:
        """Return one text for each degree that is no length of a list."""
        return [
            f"model.variation_degree_schedule: {degree:g} at iteration {iteration}; model.api=image_pool"
            " takes whole numbers >= 1."
            for iteration, degree in enumerate(degrees)
            if degree < 1 or int(degree) != degree
        ]

    def default_degrees(self, iterations: int) -> list[float]:
        """Return list lengths that fall from 1000 to 20 as Sim-PE's do."""
        where = np.linspace(0, len(NEIGHBOURS) - 1, iterations + 1)
        lengths = np.exp(np.interp(where, np.arange(len(NEIGHBOURS)), np.log(NEIGHBOURS)))
        return [float(length) for length in np.rint(lengths)]

    def public_images(self) -> dict[str, Any]:
        """Return what this reads as public images, by setting."""
        return {"model.api.pool": self.pool}

    def prepare(self, class_names: Sequence[str], device: str, folder: Path | None = None) -> None:
        """Read the pool and embed it; raises ``DataError`` if it is missing or empty."""
        if self._loaded.get("device") == device:
            return
        from dpforge.data.public_images import load_public_images

        height, width = self.image_size
        images, _ = load_public_images(self.pool, size=(height, width), channels=3)
        images = images if self.max_images is None else images.head(self.max_images)
        if not len(images):
            raise DataError("model.api.pool has no images; name a set or a folder that has some.")
        extract = extractor(
            self.embedding,
            height=height,
            width=width,
            channels=3,
            device=device,
            weights=self.embedding_weights,
        )
        keep = folder is not None and self.embedding != "pixels"
        features = (
            cached_features(extract, images.pixels, folder / "checkpoints" / "pool")
            if keep and folder is not None
            else extract(images.pixels)
        )
        digest = hashlib.sha256(np.ascontiguousarray(images.pixels).tobytes()).hexdigest()
        self._loaded.update(
            pixels=images.pixels, features=features, device=device, sha256=digest, space=extract.describe()
        )
        if self.mixing:
            self._loaded["axes"] = principal_axes(images.pixels, self.components)

    def info_mistake(self, info: np.ndarray) -> str:
        """Return what is wrong with side information that this did not make; empty for nothing."""
        size = len(self._loaded["pixels"])
        if info.dtype.kind not in "iu" or info.ndim != 1:
            return f"is of type {info.dtype} {info.shape}; expected whole numbers, one an image"
        if 0 <= info.min(initial=0) <= info.max(initial=0) < size:
            return ""
        return f"has values from {info.min()} to {info.max()}; expected positions from 0 to {size - 1}"

    def random(self, labels: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Draw images without replacement, over and over where more are asked for than there are."""
        size = len(self._loaded["pixels"])
        rounds = [rng.permutation(size) for _ in range(0, max(len(labels), 1), size)]
        info = np.concatenate(rounds)[: len(labels)].astype(np.int64)
        return self._loaded["pixels"][info], info

    def variation(
        self, images: np.ndarray, info: np.ndarray, degree: float, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """Replace each image by one of its nearest in the pool."""
        length = min(int(degree), len(self._loaded["pixels"]))
        ranks = rng.integers(length, size=len(info))
        found = np.empty(len(info), dtype=np.int64)
        step = max(1, min(self.max_batch, SCORES // len(self._loaded["pixels"])))
        for start in range(0, len(info), step):
            part = slice(start, start + step)
            found[part] = self._neighbours(info[part], ranks[part])
        if self.mixing:
            return self._mixed(images, info, found, rng)
        return self._loaded["pixels"][found], found

    def describe(self) -> dict[str, Any]:
        """Return the hash of the pool's pixels and the space of its neighbours."""
        return {
            "name": self.name,
            "pool_sha256": self._loaded["sha256"],
            "images": len(self._loaded["pixels"]),
            "embedding": self._loaded["space"],
            **({"mixing": self.mixing, "components": self.components} if self.mixing else {}),
        }

    def _mixed(
        self, images: np.ndarray, info: np.ndarray, found: np.ndarray, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """Move images along the latent axes towards the pool's images ``found``."""
        shares = self.mixing * rng.random(len(info), dtype=np.float32)
        start = images.reshape(len(images), -1).astype(np.float32)
        aims = self._loaded["pixels"][found].reshape(len(found), -1).astype(np.float32)
        axes = self._loaded["axes"]
        moved = start + ((aims - start) @ axes.T * shares[:, None]) @ axes
        pixels = np.rint(moved).clip(0, 255).astype(np.uint8).reshape(images.shape)
        return pixels, np.where(shares > 0.5, found, info)

    def _neighbours(self, positions: np.ndarray, ranks: np.ndarray) -> np.ndarray:
        """The neighbour of each position at its rank; rank 0 is the nearest, as a rule the image itself."""
        features = torch.from_numpy(self._loaded["features"]).to(self._loaded["device"])
        chosen, where = np.unique(positions, return_inverse=True)
        distances = features.square().sum(1) - 2 * features[torch.from_numpy(chosen)] @ features.T
        near = distances.topk(int(ranks.max(initial=0)) + 1, dim=1, largest=False, sorted=True).indices
        return near.cpu().numpy()[where.reshape(-1), ranks]


def principal_axes(pixels: np.ndarray, count: int) -> np.ndarray:
    """Return orthonormal axes of the most variance, float32 ``(min(count, n, d), d)``, of images ``(n, …)``.

    By randomised subspace iteration with a fixed start, so that a resumed run has the same axes.

    References:
        Halko, Martinsson and Tropp, *Finding Structure with Randomness* (SIAM Review 2011), algorithm 4.4.
    """
    rows = pixels[:AXES_IMAGES].reshape(min(len(pixels), AXES_IMAGES), -1).astype(np.float32)
    rows -= rows.mean(0)
    width = min(count, *rows.shape)
    guess = np.random.default_rng(0).standard_normal((rows.shape[1], width)).astype(np.float32)
    for _ in range(3):
        guess = np.linalg.qr(rows.T @ (rows @ guess))[0]
    return np.ascontiguousarray(guess.T)
