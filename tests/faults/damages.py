"""What happens to the files of a run between two attempts."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from pathlib import Path


def _truncated(data: bytes, chance: random.Random) -> bytes:
    return data[: chance.randrange(len(data))] if data else b""


def _flipped(data: bytes, chance: random.Random) -> bytes:
    place = chance.randrange(len(data))
    return data[:place] + bytes([data[place] ^ (1 << chance.randrange(8))]) + data[place + 1 :]


def _zeroed(data: bytes, chance: random.Random) -> bytes:
    start = chance.randrange(len(data))
    return data[:start] + bytes(len(data) - start)


def _garbage(data: bytes, chance: random.Random) -> bytes:
    return chance.randbytes(max(1, chance.randrange(2 * len(data) + 1)))


DAMAGES: dict[str, Callable[[bytes, random.Random], bytes]] = {
    "truncated": _truncated,
    "bit flipped": _flipped,
    "zeros to the end": _zeroed,
    "garbage": _garbage,
    "emptied": lambda data, chance: b"",
}
# At which point of a run which of its files can be damaged; the last two are patterns of one file each.
FILES: dict[str, tuple[str, ...]] = {
    "in the fit": (
        "ledger.jsonl",
        "checkpoints/state.pt",
        "checkpoints/state.previous.pt",
        "config.yaml",
        "status.json",
        "environment.json",
        "schema.json",
        "private/key",
        "private/data.commitment",
        "metrics.csv",
        "log.txt",
    ),
    "fitted": ("ledger.jsonl", "model/model.safetensors", "model/model.json", "status.json", "private/key"),
    "sampled": ("ledger.jsonl", "samples/synthetic.parquet", "samples/samples.npz", "status.json"),
    "finished": (
        "ledger.jsonl",
        "certificate.json",
        "model/model.safetensors",
        "model/model.json",
        "samples/synthetic.parquet",
        "samples/samples.npz",
        "schema.json",
        "status.json",
    ),
}


def damage(path: Path, kind: str, chance: random.Random) -> bool:
    """Damage a file; returns whether it now differs. ``removed`` and ``a folder`` replace it by that."""
    before = path.read_bytes()
    if kind == "removed":
        path.unlink()
        return True
    if kind == "a folder":
        path.unlink()
        path.mkdir()
        return True
    after = DAMAGES[kind](before, chance) if before else before
    path.write_bytes(after)
    return after != before


def restored(path: Path, whole: Path) -> None:
    """Put a damaged file back from a whole copy."""
    if path.is_dir():
        shutil.rmtree(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy2(whole, path)
