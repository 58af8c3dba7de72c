"""Randomness as a keyed function of purpose and step.

Every draw of a run comes from ``(key, purpose, step)``. A resumed run therefore replays exactly what it
drew before and needs no generator state; sampling and noise never share a stream.

torch's CPU generator keeps only 32 bits of its seed, so it cannot carry a 256-bit key: the streams here
are numpy's SFC64, seeded with all 256 bits, or ChaCha20 for ``secure``.
"""

from __future__ import annotations

import hashlib
import hmac
import math
import secrets
from dataclasses import dataclass

import numpy as np
import torch
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms

from dpforge.errors import PrivacyError

KEY_BYTES = 32


@dataclass(frozen=True, repr=False)
class KeyedRandom:
    """Random streams derived from one secret key.

    Args:
        kind: ``entropy``, ``seeded`` or ``secure``.
        key: 32 bytes; never logged.
    """

    kind: str
    key: bytes

    def __post_init__(self) -> None:
        if len(self.key) != KEY_BYTES:
            raise PrivacyError(f"a noise key has {len(self.key)} bytes; expected {KEY_BYTES}.")

    @property
    def key_id(self) -> str:
        """A public commitment to the key: 16 hex digits that do not reveal it."""
        return hmac.new(self.key, b"dpforge key id", hashlib.sha256).hexdigest()[:16]

    def commitment(self, message: str) -> str:
        """Return a keyed hash of ``message``, for comparing private contents without storing them."""
        return hmac.new(self.key, b"commitment\0" + message.encode(), hashlib.sha256).hexdigest()

    def _subkey(self, purpose: str, step: int) -> bytes:
        return hmac.new(self.key, f"stream\0{purpose}\0{step}".encode(), hashlib.sha256).digest()

    def uniform(self, purpose: str, step: int, size: int) -> np.ndarray:
        """Return ``size`` float64 uniforms in (0, 1)."""
        if self.kind == "secure":
            return _secure_uniform(self._subkey(purpose, step), size)
        values = _generator(self._subkey(purpose, step)).random(size)
        return np.maximum(values, 2.0**-54)

    def normal(self, purpose: str, step: int, size: int) -> torch.Tensor:
        """Return ``size`` independent standard normals, float32, on the CPU."""
        if self.kind == "secure":
            return torch.from_numpy(_secure_normal(self._subkey(purpose, step), size).astype(np.float32))
        draws = _generator(self._subkey(purpose, step)).standard_normal(size, dtype=np.float32)
        return torch.from_numpy(draws)

    def normal_double(self, purpose: str, step: int, size: int) -> np.ndarray:
        """Return ``size`` independent standard normals, float64."""
        if self.kind == "secure":
            return _secure_normal(self._subkey(purpose, step), size)
        return _generator(self._subkey(purpose, step)).standard_normal(size)

    def generator(self, purpose: str, step: int = 0) -> np.random.Generator:
        """Return a numpy generator for draws that protect nothing: jitter, samples of a finished model."""
        return _generator(self._subkey(purpose, step))


def fresh_random(kind: str, seed: int | None = None) -> KeyedRandom:
    """Return streams with a new key: from the operating system, or from ``seed`` for ``seeded``."""
    if kind == "seeded":
        return KeyedRandom(kind, hashlib.sha256(f"dpforge research noise {seed}".encode()).digest())
    return KeyedRandom(kind, secrets.token_bytes(KEY_BYTES))


def public_random(seed: int) -> KeyedRandom:
    """Return the streams of the public experiment seed (initialisation, sampling, plots)."""
    return KeyedRandom("public", hashlib.sha256(f"dpforge public {seed}".encode()).digest())


def _generator(subkey: bytes) -> np.random.Generator:
    sequence = np.random.SeedSequence(np.frombuffer(subkey, dtype=np.uint32), pool_size=8)
    return np.random.Generator(np.random.SFC64(sequence))


def _secure_words(subkey: bytes, size: int) -> np.ndarray:
    encryptor = Cipher(algorithms.ChaCha20(subkey, bytes(16)), mode=None).encryptor()
    return np.frombuffer(encryptor.update(bytes(8 * size)), dtype=np.uint64)


def _secure_uniform(subkey: bytes, size: int) -> np.ndarray:
    return ((_secure_words(subkey, size) >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53


def _secure_normal(subkey: bytes, size: int) -> np.ndarray:
    """Sum of four Box-Muller normals over two, against floating-point attacks.

    References:
        Holohan and Braghin, *Secure Random Sampling in Differential Privacy* (ESORICS 2021).
    """
    half = 2 * ((size + 1) // 2)
    uniforms = _secure_uniform(subkey, 4 * half).reshape(2, 2, half)
    radius = np.sqrt(-2 * np.log(uniforms[0]))
    angle = 2 * math.pi * uniforms[1]
    total = (radius * np.cos(angle)).sum(axis=0) + (radius * np.sin(angle)).sum(axis=0)
    return total[:size] / 2
