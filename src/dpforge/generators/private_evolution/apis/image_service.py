"""Requests to an images endpoint: retried with patience, counted, and never paid for twice."""

from __future__ import annotations

import base64
import binascii
import hashlib
import io
import json
import logging
import random
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from dpforge.errors import ConfigError, DataError, RunError
from dpforge.generators.private_evolution.apis.batching import import_optional
from dpforge.generators.storage import write_atomic

SHORTEST_WAIT, LONGEST_WAIT, LONGEST_ASKED_WAIT = 1.0, 60.0, 3600.0
MOST_ATTEMPTS = 15
_REFUSED_KEY = (401, 403)
_PASSING = (408, 409, 429)
_log = logging.getLogger("dpforge")


@dataclass(frozen=True)
class Request:
    """One question to the service.

    Args:
        kind: ``generations`` or ``variations``.
        count: Images asked for.
        nonce: Tells apart requests that ask for the same; drawn from the run's public seed.
        prompt: Text, for ``generations``.
        image: PNG bytes of a synthetic image, for ``variations``.
    """

    kind: str
    count: int
    nonce: int
    prompt: str = ""
    image: bytes = field(default=b"", repr=False)


class _Unusable(Exception):
    """An answer that arrived and holds no usable image; its text says what is wrong with it."""


class ImageService:
    """Asks an endpoint in the format of OpenAI for square images.

    Args:
        client: An ``openai.OpenAI`` that does not retry by itself.
        model: Name of the model.
        address: Base address, part of the identity of a request.
        size: Side of the images in pixels.
        max_requests: Most requests ever sent for this folder, failed ones and those before a resume included.
        folder: Where answers and the count of requests are kept; ``None`` keeps them in memory.
        sleep: Waits so many seconds; ``None`` is the clock's.
    """

    def __init__(
        self,
        client: Any,
        *,
        model: str,
        address: str,
        size: int,
        max_requests: int,
        folder: Path | None = None,
        sleep: Callable[[float], None] | None = None,
    ) -> None:
        self.client, self.model, self.address, self.size = client, model, address, size
        self.max_requests, self.folder, self.sleep = max_requests, folder, sleep or time.sleep
        self._openai = import_optional("openai", "dalle")
        self._kept: dict[str, np.ndarray] = {}
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
        self.sent = self._sent_before()

    def images(self, request: Request) -> np.ndarray:
        """Return uint8 ``(count, size, size, 3)``; asks again for what an answer lacks.

        Raises:
            ConfigError: The service refuses the request or the key.
            RunError: It did not answer usably in 15 attempts, or ``max_requests`` is reached.
        """
        parts: list[np.ndarray] = []
        missing, part = request.count, 0
        while missing > 0:
            found = self._part(request, missing, part)[:missing]
            parts.append(found)
            missing -= len(found)
            part += 1
        return np.concatenate(parts)

    def _part(self, request: Request, count: int, part: int) -> np.ndarray:
        identity = self._identity(request, part)
        known = self._kept.get(identity) if self.folder is None else _read(self.folder / f"{identity}.npz")
        if known is not None:
            return known
        found = self._asked(request, count)
        if self.folder is None:
            self._kept[identity] = found
            return found
        buffer = io.BytesIO()
        np.savez_compressed(buffer, images=found)
        write_atomic(self.folder / f"{identity}.npz", buffer.getvalue())
        return found

    def _identity(self, request: Request, part: int) -> str:
        content = {
            "address": self.address, "model": self.model, "size": self.size, "kind": request.kind,
            "prompt": request.prompt, "image": hashlib.sha256(request.image).hexdigest(),
            "count": request.count, "nonce": request.nonce, "part": part,
        }  # fmt: skip
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:32]

    def _asked(self, request: Request, count: int) -> np.ndarray:
        reason = ""
        for attempt in range(MOST_ATTEMPTS):
            self._count_one()
            try:
                return self._decoded(self._send(request, count))
            except _Unusable as error:
                reason, wait = str(error), None
            except self._openai.APIStatusError as error:
                reason, wait = self._status_reason(error), _asked_wait(error.response.headers)
            except self._openai.APIConnectionError as error:
                reason, wait = f"no answer ({type(error).__name__})", None
            except (self._openai.APIError, json.JSONDecodeError, UnicodeDecodeError) as error:
                reason, wait = f"an answer that is not valid ({type(error).__name__})", None
            if attempt + 1 < MOST_ATTEMPTS:
                seconds = _back_off(attempt) if wait is None else wait
                _log.info("the images service gave %s; asking again in %.0f s", reason, seconds)
                self.sleep(seconds)
        raise RunError(
            f"the images service gave no usable answer in {MOST_ATTEMPTS} attempts; the last was: {reason}."
            " Start the same command later: answers so far are kept and not asked for again."
        )

    def _send(self, request: Request, count: int) -> Any:
        common = {"model": self.model, "n": count, "size": f"{self.size}x{self.size}"}
        common["response_format"] = "b64_json"
        if request.kind == "generations":
            return self.client.images.generate(prompt=request.prompt, **common)
        file = ("image.png", request.image, "image/png")
        with warnings.catch_warnings():
            # The client calls the method deprecated, as its own service has few models left that offer it.
            warnings.simplefilter("ignore", DeprecationWarning)
            return self.client.images.create_variation(image=file, **common)

    def _decoded(self, answer: Any) -> np.ndarray:
        entries = getattr(answer, "data", None) or []
        found, reason = [], "an answer without images"
        for entry in entries:
            try:
                found.append(_decode(getattr(entry, "b64_json", None), self.size))
            except _Unusable as error:
                reason = str(error)
        if not found:
            raise _Unusable(reason)
        return np.stack(found)

    def _status_reason(self, error: Any) -> str:
        """Say what a status means; raises when asking again cannot help. Never repeats the answer's text,
        which may contain a part of the key."""
        status = int(error.status_code)
        if status in _REFUSED_KEY:
            raise ConfigError(
                f"the images service refused the key (status {status}). Set the environment variable named"
                " by model.api.key_variable to a valid key."
            ) from None
        if status < 500 and status not in _PASSING:
            code = str(getattr(error, "code", None) or "no code")[:60]
            raise ConfigError(
                f"the images service refused the request (status {status}, {code}). Check model.api.model,"
                " image_size and prompts; the request is not repeated."
            ) from None
        return f"status {status}"

    def _sent_before(self) -> int:
        path = None if self.folder is None else self.folder / "requests.txt"
        return len(path.read_bytes().splitlines()) if path is not None and path.is_file() else 0

    def _count_one(self) -> None:
        """Count a request before it is sent, so that a kill cannot hide one."""
        if self.sent >= self.max_requests:
            raise RunError(
                f"model.api.max_requests={self.max_requests} requests are sent and more are needed. Raise"
                " model.api.max_requests (for dpforge-sample: in the config.yaml of the run) and start the"
                " same command again: answers so far are kept."
            )
        self.sent += 1
        if self.folder is not None:
            with (self.folder / "requests.txt").open("ab") as file:
                file.write(b"1\n")


def _decode(text: str | None, size: int) -> np.ndarray:
    from PIL import Image, UnidentifiedImageError

    if not text:
        raise _Unusable("an answer without image data")
    try:
        with Image.open(io.BytesIO(base64.b64decode(text, validate=True))) as image:
            if image.size != (size, size):
                raise _Unusable(
                    f"an image of {image.size[0]}x{image.size[1]} instead of {size}x{size} pixels"
                )
            return np.asarray(image.convert("RGB"), dtype=np.uint8).copy()
    except (
        binascii.Error,
        UnidentifiedImageError,
        OSError,
        ValueError,
        Image.DecompressionBombError,
    ) as error:
        raise _Unusable("an image that cannot be decoded") from error


def _read(path: Path) -> np.ndarray | None:
    if not path.is_file():
        return None
    try:
        with np.load(path, allow_pickle=False) as content:
            return content["images"]
    except (OSError, ValueError, KeyError, EOFError) as error:
        raise DataError(
            f"the kept answer {path.name} is damaged. Delete it to ask, and pay, for it again."
        ) from error


def _back_off(attempt: int) -> float:
    return random.uniform(SHORTEST_WAIT, min(LONGEST_WAIT, 2.0 ** (attempt + 1)))


def _asked_wait(headers: Mapping[str, str]) -> float | None:
    """Seconds of a Retry-After header; None if there is none, or it is a date."""
    try:
        seconds = float(headers.get("retry-after", ""))
    except ValueError:
        return None
    return min(max(seconds, 0.0), LONGEST_ASKED_WAIT)
