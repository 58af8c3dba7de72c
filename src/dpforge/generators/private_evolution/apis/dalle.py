"""An images endpoint in the format of OpenAI, such as DALL·E 2."""

from __future__ import annotations

import io
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from dpforge.errors import ConfigError, DataError
from dpforge.generators.private_evolution.apis.batching import image_seeds, import_optional
from dpforge.generators.private_evolution.apis.image_service import ImageService, Request
from dpforge.generators.private_evolution.apis.prompts import Prompts, parse_prompts

SIZES = (256, 512, 1024)
MOST_PER_REQUEST = 10
FOLDER = "api_answers"
_log = logging.getLogger("dpforge")


@dataclass(frozen=True)
class Dalle:
    """A paid text-to-image service; the degree of a variation is ignored.

    The service sees prompts and synthetic images only. Answers are kept in the run folder under the identity
    of their request, so a resumed run does not ask for them again. The key is read from the environment and
    is in no record, log or error.

    Args:
        prompts: A text, a list of texts or of ``{prompt, weight}``, or a map of class name to such a list.
        max_requests: Most requests that may ever be sent for a run, those of ``dpforge-sample`` included; the
            first one beyond it ends the run, and a run that needs more is refused before it begins.
        model: Name of the model at the service.
        image_size: Height and width, equal: 256, 512 or 1024.
        base_url: Address of the service; ``None`` is that of OpenAI.
        timeout_s: Seconds until a request without an answer is given up, > 0.
        response_format: Only ``b64_json``: links to images would be fetched from elsewhere.
        key_variable: Environment variable that holds the key.
        cost_per_image: Price for the line that is shown before the first request; ``None`` shows none.

    Raises:
        ConfigError: With every mistake among the values.

    References:
        Ramesh et al., *Hierarchical Text-Conditional Image Generation with CLIP Latents* (2022).
    """

    name: ClassVar[str] = "dalle"
    channels: ClassVar[int] = 3

    prompts: Any
    max_requests: int
    model: str = "dall-e-2"
    image_size: tuple[int, int] = (256, 256)
    base_url: str | None = None
    timeout_s: float = 120.0
    response_format: str = "b64_json"
    key_variable: str = "OPENAI_API_KEY"
    cost_per_image: float | None = None
    _prompts: Prompts = field(init=False, repr=False, compare=False)
    _loaded: dict[str, Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "image_size", tuple(self.image_size))
        mistakes = self._value_mistakes()
        try:
            object.__setattr__(self, "_prompts", parse_prompts(self.prompts))
        except ConfigError as error:
            mistakes += error.mistakes
        if mistakes:
            raise ConfigError(mistakes)

    @property
    def class_aware(self) -> bool:
        """Whether the classes have prompts of their own."""
        return self._prompts.class_aware

    @property
    def max_batch(self) -> int:
        return MOST_PER_REQUEST

    def class_mistakes(self, classes: Sequence[str]) -> list[str]:
        """Return what does not fit between the prompts and the classes of the data."""
        return self._prompts.mistakes(classes)

    def degree_mistakes(self, degrees: Sequence[float]) -> list[str]:
        return []

    def default_degrees(self, iterations: int) -> list[float]:
        return [0.0] * (iterations + 1)

    def estimate(self, random_images: int, variation_images: int) -> str:
        """Say what a run may cost at most: one request for each varied image, ten drawn images in one.

        Args:
            random_images: Images drawn from prompts, n_0.
            variation_images: Images varied in all iterations, lookahead included.
        """
        fewest = _fewest(random_images, variation_images)
        most = -(-random_images // MOST_PER_REQUEST) + len(self._prompts.texts()) + variation_images
        images = random_images + variation_images
        price = "" if self.cost_per_image is None else f", about {images * self.cost_per_image:,.2f}"
        return (
            f"{self.model}: {images:,} images in {fewest:,} to {most:,} requests{price};"
            f" model.api.max_requests={self.max_requests:,}"
        )

    def request_mistakes(self, random_images: int, variation_images: int) -> list[str]:
        """Return one text if so many images need more requests than are allowed; see :meth:`estimate`."""
        fewest = _fewest(random_images, variation_images)
        if fewest <= self.max_requests:
            return []
        return [
            f"model.api.max_requests={self.max_requests:,}, and the run needs at least {fewest:,} requests:"
            f" {self.estimate(random_images, variation_images)}. Raise it, or lower"
            " model.num_samples_schedule, num_iterations, lookahead_degree or packing."
        ]

    def prepare(self, class_names: Sequence[str], device: str, folder: Path | None = None) -> None:
        mistakes = self.class_mistakes(class_names)
        if mistakes:
            raise ConfigError(mistakes)
        self._loaded["classes"] = tuple(class_names)
        kept = None if folder is None else folder / FOLDER
        if "service" in self._loaded and self._loaded["folder"] == kept:
            return
        service = ImageService(
            self._client(),
            model=self.model,
            address=self.base_url or "",
            size=self.image_size[0],
            max_requests=self.max_requests,
            folder=kept,
        )
        self._loaded.update(service=service, folder=kept)
        left = self.max_requests - service.sent
        _log.info("%s: %d requests sent so far, %d more allowed", self.model, service.sent, left)

    def random(self, labels: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        info = self._prompts.assign(labels, self._ready()["classes"])
        nonces = image_seeds(rng, len(labels))
        made = np.empty((len(labels), *self.image_size, 3), dtype=np.uint8)
        for prompt in dict.fromkeys(info.tolist()):
            for rows in _chunks(np.flatnonzero(info == prompt)):
                request = Request("generations", len(rows), int(nonces[rows[0]]), prompt=prompt)
                made[rows] = self._ready()["service"].images(request)
        return made, info

    def variation(
        self, images: np.ndarray, info: np.ndarray, degree: float, rng: np.random.Generator
    ) -> np.ndarray:
        nonces = image_seeds(rng, len(images))
        made = np.empty_like(images)
        groups: dict[bytes, list[int]] = {}
        for row, image in enumerate(images):
            groups.setdefault(image.tobytes(), []).append(row)
        for same in groups.values():
            for rows in _chunks(np.asarray(same)):
                png = _png(images[rows[0]])
                request = Request("variations", len(rows), int(nonces[rows[0]]), image=png)
                made[rows] = self._ready()["service"].images(request)
        return made

    def describe(self) -> dict[str, Any]:
        return {
            "api": self.name,
            "model": self.model,
            "base_url": self.base_url or "default",
            "image_size": list(self.image_size),
            "prompts": self._prompts.texts(),
            "openai": import_optional("openai", "dalle").__version__,
        }

    def _ready(self) -> dict[str, Any]:
        if "service" not in self._loaded:
            raise DataError("the images service is not prepared. Call prepare() before asking for images.")
        return self._loaded

    def _client(self) -> Any:
        openai = import_optional("openai", "dalle")
        key = os.environ.get(self.key_variable)
        if not key:
            raise ConfigError(
                f"the environment variable {self.key_variable} is empty. Set it to the key of the images"
                " service; a key is never read from the configuration."
            )
        return openai.OpenAI(api_key=key, base_url=self.base_url, timeout=self.timeout_s, max_retries=0)

    def _value_mistakes(self) -> list[str]:
        mistakes = []
        sides = self.image_size
        if len(sides) != 2 or sides[0] != sides[1] or sides[0] not in SIZES:
            mistakes.append(
                f"model.api.image_size={list(sides)}: expected two equal sides of"
                f" {', '.join(map(str, SIZES))} pixels."
            )
        if isinstance(self.max_requests, bool) or not isinstance(self.max_requests, int):
            mistakes.append(f"model.api.max_requests={self.max_requests!r}: expected a whole number >= 1.")
        elif self.max_requests < 1:
            mistakes.append(f"model.api.max_requests={self.max_requests}: expected a whole number >= 1.")
        if not self.timeout_s > 0:
            mistakes.append(f"model.api.timeout_s={self.timeout_s!r}: expected seconds > 0.")
        if self.response_format != "b64_json":
            mistakes.append(f"model.api.response_format={self.response_format!r}: expected b64_json.")
        if self.cost_per_image is not None and not self.cost_per_image >= 0:
            mistakes.append(f"model.api.cost_per_image={self.cost_per_image!r}: expected null or >= 0.")
        if not self.model or not self.key_variable:
            mistakes.append("model.api.model and model.api.key_variable: expected texts that are not empty.")
        return mistakes


def _fewest(random_images: int, variation_images: int) -> int:
    """Requests for so many images if every varied image shares its request with nine others."""
    return -(-random_images // MOST_PER_REQUEST) + -(-variation_images // MOST_PER_REQUEST)


def _chunks(rows: np.ndarray) -> list[np.ndarray]:
    return [rows[at : at + MOST_PER_REQUEST] for at in range(0, len(rows), MOST_PER_REQUEST)]


def _png(image: np.ndarray) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()
