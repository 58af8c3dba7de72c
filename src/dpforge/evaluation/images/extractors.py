"""Which feature extractors an evaluation uses, and which are refused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from dpforge.data.images import ImageSchema
from dpforge.data.overlap import overlaps
from dpforge.errors import ConfigError, DataError
from dpforge.features import Extractor, extractor

SMALL_GREY = 32


def chosen_extractors(
    names: Sequence[str] | None,
    schema: ImageSchema,
    *,
    device: str = "cpu",
    weights: Mapping[str, str] | None = None,
) -> tuple[list[Extractor], list[str]]:
    """Return the extractors of an evaluation, and remarks on those left out.

    Args:
        names: What the user asked for; None for ``pixels`` with, on small grey images, ``lenet_public``, and
            on others ``mobilenet_v2`` where its weights are at hand and it may be used.
        weights: File or folder of the weights of extractors that need one.

    Raises:
        ConfigError: An unknown extractor, or one trained on data that overlaps the private set.
        DataError: The weights of a named extractor are missing.
    """
    files = weights or {}
    if names is not None:
        return [_usable(name, schema, device, files.get(name)) for name in names], []
    small = schema.channels == 1 and max(schema.height, schema.width) <= SMALL_GREY
    optional = "lenet_public" if small else "mobilenet_v2"
    found = [_usable("pixels", schema, device, None)]
    try:
        return [*found, _usable(optional, schema, device, files.get(optional))], []
    except (ConfigError, DataError) as error:
        return found, [f"features of {optional} left out: {error}"]


def refuse_overlap(found: Extractor, schema: ImageSchema) -> None:
    """Raise ``ConfigError`` if an extractor was trained on data that overlaps the private set."""
    for source in found.describe()["trained_on"]:
        if overlaps(str(source), schema.name):
            raise ConfigError(
                f"extractor '{found.name}' was trained on '{source}', which overlaps the private set"
                f" '{schema.name}': its features would know the training images. Use another one, such as"
                " evaluation.extractors=[pixels]."
            )


def _usable(name: str, schema: ImageSchema, device: str, weights: str | None) -> Extractor:
    found = extractor(
        name,
        height=schema.height,
        width=schema.width,
        channels=schema.channels,
        device=device,
        weights=weights,
    )
    refuse_overlap(found, schema)
    return found
