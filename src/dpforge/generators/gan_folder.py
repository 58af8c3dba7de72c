"""The folder of a training in three lines: all that the same call needs to continue it exactly.

Steps that are done again take the same noise, so everything that a step depends on must be as it was:
settings, form and first weights of the networks, records, numerics. Otherwise one noise would hide two sums.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import nn

from dpforge.errors import PrivacyError, RunError
from dpforge.generators.atomic import write_atomic
from dpforge.generators.gan_module import seeded
from dpforge.generators.gan_records import Records
from dpforge.generators.gan_training import Networks
from dpforge.privacy.ledger import Ledger
from dpforge.privacy.mechanisms import PrivateAccess
from dpforge.privacy.plan import Plan
from dpforge.privacy.rng import KeyedRandom, fresh_random
from dpforge.privacy.spec import PrivacySpec

CHUNK = 2000
OTHER = "Repeat the call that began it, or give another folder."


def opened(
    folder: Path,
    plan: Plan,
    header: Mapping[str, Any],
    spec: PrivacySpec,
    networks: Networks,
    records: Records,
) -> PrivateAccess:
    """Return access for a training that begins in ``folder``, or continues there.

    Args:
        folder: Made if missing; holds ledger, ``private/`` (its owner's alone) and first weights.
        plan, header: Of the ledger; ``header["training"]`` is :func:`training_digest`.
        spec: Kind of noise and, for research noise, its seed.
        networks: Get the first weights back when a training continues.
        records: Private records, compared with those of the beginning.

    Raises:
        RunError: The folder holds something else, or files of it are gone.
        PrivacyError: The noise key is gone.
    """
    path = folder / "ledger.jsonl"
    ledger = Ledger.open(path) if path.is_file() else None
    if ledger is None and (folder / "state.pt").exists():
        raise RunError(f"{path} is gone, and a training had begun. Restore it, or give another folder.")
    if ledger is not None and "training" not in ledger.header:
        raise RunError(f"{path} is not of a training by DPWGAN.train. Give another folder.")
    if ledger is not None and ledger.begun:
        return _continued(folder, ledger, {**header, "plan": plan.to_json()}, networks, records)
    private, random = folder / "private", fresh_random(spec.rng, spec.seed)
    folder.mkdir(parents=True, exist_ok=True)
    private.mkdir(mode=0o700, exist_ok=True)
    path.unlink(missing_ok=True)  # nothing was reserved under it
    write_atomic(folder / "first.safetensors", save(_weights(networks)))
    write_atomic(private / "key", random.key, private=True)
    write_atomic(private / "data.commitment", _commitment(random, records), private=True)
    return PrivateAccess(Ledger.create(path, plan, header), random)


def training_digest(settings: object, seed: int, networks: Networks) -> str:
    """Return a SHA-256 of what decides a training beside its plan: settings, seed, forms, kind of noise."""
    with seeded(0):
        noise = networks.noise(4).detach().cpu().contiguous()
    text = f"{settings!r} {seed} {networks.generator!r} {networks.critic!r} {tuple(noise.shape)}"
    return hashlib.sha256(text.encode() + noise.numpy().tobytes()).hexdigest()


def _continued(
    folder: Path, ledger: Ledger, wanted: Mapping[str, Any], networks: Networks, records: Records
) -> PrivateAccess:
    asked = json.loads(json.dumps(wanted))
    other = [name for name in asked if name != "environment" and ledger.header.get(name) != asked[name]]
    if other:
        raise RunError(f"{folder} holds a training with another {', '.join(other)}. {OTHER}")
    key = folder / "private" / "key"
    if not key.is_file():
        raise PrivacyError(f"{key} is gone: the steps it hid cannot be repeated. Give another folder.")
    random = KeyedRandom(ledger.header["rng"], key.read_bytes())
    commitment = folder / "private" / "data.commitment"
    if not commitment.is_file() or commitment.read_bytes() != _commitment(random, records):
        raise RunError(f"{folder} holds a training on other records. {OTHER}")
    try:
        weights = load_file(folder / "first.safetensors")
        for name, net in _named(networks).items():
            start = f"{name}."
            net.load_state_dict({k.removeprefix(start): v for k, v in weights.items() if k.startswith(start)})
    except (OSError, SafetensorError, RuntimeError) as error:
        raise RunError(f"{folder}/first.safetensors is gone or of other networks. {OTHER}") from error
    return PrivateAccess(ledger, random)


def _named(networks: Networks) -> dict[str, nn.Module]:
    return {"generator": networks.generator, "critic": networks.critic}


def _weights(networks: Networks) -> dict[str, torch.Tensor]:
    return {
        f"{name}.{key}": tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, net in _named(networks).items()
        for key, tensor in net.state_dict().items()
    }


def _commitment(random: KeyedRandom, records: Records) -> bytes:
    digest = hashlib.sha256(str(len(records)).encode())
    for rows in torch.arange(len(records)).split(CHUNK):
        digest.update(records.real(rows).contiguous().numpy().tobytes())
    return random.commitment(digest.hexdigest()).encode()
