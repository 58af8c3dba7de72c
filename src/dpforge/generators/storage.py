"""Files of a generator: training state that survives a kill, and finished models. No pickles."""

from __future__ import annotations

import hashlib
import io
import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from dpforge.data import ImageSchema, Schema, image_schema_from_dict
from dpforge.data.schema import schema_from_dict
from dpforge.errors import RunError
from dpforge.generators.atomic import write_atomic

DIGEST = 32
STATE_KEYS = {"step", "key_id", "module", "optimizer"}
_NOT_THE_DOCUMENT = (TypeError, AttributeError, RecursionError)  # JSON of another form, or without end
_log = logging.getLogger("dpforge")


def save_state(folder: Path, state: Mapping[str, Any]) -> None:
    """Write training state with its digest; the state before it is kept as a fallback."""
    buffer = io.BytesIO()
    torch.save(dict(state), buffer)
    payload = buffer.getvalue()
    current = folder / "state.pt"
    if current.exists():
        os.replace(current, folder / "state.previous.pt")
    write_atomic(current, hashlib.sha256(payload).digest() + payload)


def load_state(folder: Path) -> dict[str, Any] | None:
    """Return the newest undamaged training state, or ``None`` to start at step 0.

    A damaged file costs time only: the steps after the state before it are replayed with the same keys.
    Nothing in a file is executed.
    """
    for name in ("state.pt", "state.previous.pt"):
        path = folder / name
        state = _decode_state(path.read_bytes()) if path.is_file() else None
        if state is not None:
            return state
        if path.is_file():
            _log.warning("the checkpoint %s is damaged and was ignored; its steps are replayed", name)
    return None


def _decode_state(data: bytes) -> dict[str, Any] | None:
    if hashlib.sha256(data[DIGEST:]).digest() != data[:DIGEST]:
        return None
    try:
        state = torch.load(io.BytesIO(data[DIGEST:]), weights_only=True)
    except Exception:  # what torch raises for bytes that are no checkpoint depends on the bytes
        return None
    return state if isinstance(state, dict) and state.keys() >= STATE_KEYS else None


def save_model(
    folder: Path,
    tensors: Mapping[str, torch.Tensor],
    arrays: Mapping[str, Any],
    schema: Schema | ImageSchema,
) -> None:
    """Write a finished model: ``model.safetensors``, and ``model.json`` with released schema and arrays."""
    content = save({name: tensor.contiguous() for name, tensor in tensors.items()})
    write_atomic(folder / "model.safetensors", content)
    text = json.dumps({"schema": schema.to_dict(), "arrays": arrays}, default=_plain)
    write_atomic(folder / "model.json", text.encode())


def load_model(folder: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any], Schema]:
    """Read back a model of a table; raises ``RunError`` if a file is missing or damaged."""
    tensors, arrays, schema = load_any_model(folder)
    if not isinstance(schema, Schema):
        raise RunError(f"the model in {folder.name} makes images, not tables.")
    return tensors, arrays, schema


def load_any_model(folder: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any], Schema | ImageSchema]:
    """Read back :func:`save_model`; raises ``RunError`` if a file is missing or damaged."""
    try:
        tensors = load_file(folder / "model.safetensors")
        document = json.loads((folder / "model.json").read_text(encoding="utf-8"))
        return tensors, document["arrays"], any_schema(document["schema"])
    except (OSError, SafetensorError, ValueError, LookupError, *_NOT_THE_DOCUMENT) as error:
        raise RunError(
            f"the model in {folder.name} is missing or damaged ({type(error).__name__})."
            " Delete the folder and start the same command again: it is rebuilt from the last checkpoint."
        ) from error


def any_schema(content: Mapping[str, Any]) -> Schema | ImageSchema:
    """Read back the schema of a table or of images; raises ``ConfigError`` with every mistake in it."""
    images = content.get("modality") == ImageSchema.modality
    return image_schema_from_dict(content) if images else schema_from_dict(content)


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} has no JSON form")
