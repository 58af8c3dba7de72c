"""What no run may start with, whichever way it was begun: each raises ``ConfigError`` before data is read."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from dpforge.errors import ConfigError, DPForgeError


def check_delta(privacy: Any, schema: Any) -> None:
    """Raise ``ConfigError`` unless ``delta < 1 / nominal_rows``, DP is off, or a large delta is allowed."""
    if not privacy.enabled or privacy.allow_large_delta:
        return
    limit = 1 / max(schema.nominal_rows, 1)
    if privacy.delta < limit:
        return
    safe = 10.0 ** (math.floor(math.log10(limit)) - 1)
    raise ConfigError(
        f"privacy.delta={privacy.delta:g} is not below 1/nominal_rows={limit:.2g} (dataset '{schema.name}')."
        f"\n  A delta this large allows publishing a whole record. Use privacy.delta={safe:.0e}, "
        "or privacy.allow_large_delta=true to study the effect."
    )


def check_release(privacy: Any, schema: Any) -> None:
    """Raise ``ConfigError`` for what no run may start with: unconfirmed values, or a delta too large."""
    mistakes = [*unconfirmed(schema), *attempt(lambda: check_delta(privacy, schema))[1]]
    if mistakes:
        raise ConfigError(mistakes)


def check_pool(privacy: Any, dataset: Any) -> None:
    """Raise ``ConfigError`` if a private run would take a public pool for the private set."""
    if privacy.enabled and getattr(dataset, "public_pool", False):
        raise ConfigError(
            f"dataset={dataset.name} is a pool of public images (public_pool: true), never the private set."
            " Choose another dataset and name this one as public images (model.public, model.api.pool,"
            " dpforge-pretrain), or set privacy=none."
        )


def check_public(model: Any, dataset: Any) -> None:
    """Raise ``ConfigError`` if what a model reads as public images is the private data set."""
    mistakes = model.public_mistakes(dataset) if hasattr(model, "public_mistakes") else []
    if mistakes:
        raise ConfigError(mistakes)


def unconfirmed(schema: Any) -> list[str]:
    """Return a mistake for values that nobody confirmed, if there are any."""
    if not schema.unconfirmed:
        return []
    names = ", ".join(schema.unconfirmed)
    if schema.modality == "image":
        return [
            f"dataset '{schema.name}' leaves open what must be public before the images are read: {names}."
            " Give dataset.nominal_rows=<about how many> and dataset.class_names=[…] (or declared_public),"
            " and remove confirmed names from dataset.unconfirmed; 'dpforge-data schema FOLDER' drafts them."
        ]
    return [
        f"dataset '{schema.name}' has values that were read from the data and nobody confirmed: {names}. "
        "In its schema, set provenance: public for what is known from elsewhere, "
        "or provenance: private with an epsilon to pay for it."
    ]


def attempt(action: Callable[[], Any]) -> tuple[Any, list[str]]:
    """Return what an action gives, or None and the mistakes it raises."""
    try:
        return action(), []
    except ConfigError as error:
        return None, list(error.mistakes)
    except DPForgeError as error:
        return None, [str(error)]
