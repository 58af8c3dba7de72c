"""What can be wrong with the settings of Private Evolution, before data is read or a call is made."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dpforge.data import ImageSchema
from dpforge.data.origin import refuse_outside, run_folder
from dpforge.data.overlap import overlaps
from dpforge.data.public_images import refuse_private_as_public
from dpforge.errors import ConfigError, DPForgeError, did_you_mean
from dpforge.features import EXTRACTORS, trained_on
from dpforge.generators.private_evolution.nearest import DISTANCES
from dpforge.generators.private_evolution.population import SELECTIONS
from dpforge.generators.private_evolution.upstream import MODES

if TYPE_CHECKING:
    from dpforge.generators.private_evolution.settings import PrivateEvolution

EMBEDDINGS = tuple(EXTRACTORS)
PRIORS = ("uniform", "public", "dp_counts")
NOISES = ("auto", "rounded_gaussian", "discrete_gaussian", "gaussian")
WHOLE = ("rounded_gaussian", "discrete_gaussian")
_CHOICES = {
    "distance": DISTANCES,
    "selection": SELECTIONS,
    "class_prior": PRIORS,
    "embedding": EMBEDDINGS,
    "noise": NOISES,
    "mode": MODES,
}
_LEAST = {
    "num_iterations": 1,
    "lookahead_degree": 0,
    "num_nearest_neighbors": 1,
    "packing": 1,
    "initial_variation_fold": 0,
    "next_variation_fold": 1,
}


def mistakes(model: PrivateEvolution) -> list[str]:
    """Return what is wrong with the values alone."""
    if not hasattr(model.api, "variation"):
        return ["model.api is no image generator. Choose one with model/api=simulator, image_pool, …"]
    texts = [
        f"model.{name}={getattr(model, name)!r}: expected one of {', '.join(known)}."
        + did_you_mean(str(getattr(model, name)), known)
        for name, known in _CHOICES.items()
        if getattr(model, name) not in known
    ]
    texts += [
        f"model.{name}={getattr(model, name)!r}: expected a whole number >= {least}."
        for name, least in _LEAST.items()
        if not _is_whole(getattr(model, name)) or getattr(model, name) < least
    ]
    texts += _combination_mistakes(model)
    return texts + (_schedule_mistakes(model) if _is_whole(model.num_iterations) else [])


def _combination_mistakes(model: PrivateEvolution) -> list[str]:
    texts = []
    threshold = model.threshold
    if threshold != "auto" and (not _is_number(threshold) or math.isnan(float(threshold))):
        texts.append(f"model.threshold={threshold!r}: expected auto or a number of votes.")
    if not (_is_number(model.subsample) and 0 < model.subsample <= 1):
        texts.append(f"model.subsample={model.subsample!r}: expected a sampling rate in (0, 1].")
    if _is_whole(model.packing) and model.packing > 1 and model.lookahead_degree == 0:
        texts.append(
            f"model.packing={model.packing} with lookahead_degree=0 would place all points of a candidate on"
            " top of each other. Use packing=1, or a lookahead_degree >= 1."
        )
    if model.noise in WHOLE and model.num_nearest_neighbors != 1:
        texts.append(f"model.noise={model.noise} needs whole votes: num_nearest_neighbors=1. Use noise=auto.")
    if (model.class_prior == "public") != (model.class_fractions is not None):
        texts.append(
            f"model.class_prior={model.class_prior} and class_fractions="
            f"{'null' if model.class_fractions is None else 'given'}: class_prior=public takes fractions,"
            " other priors take none."
        )
    if model.selection == "rank" and model.class_prior == "dp_counts":
        texts.append(
            "model.selection=rank needs block sizes that are known beforehand; class_prior=dp_counts buys"
            " them. Use selection=systematic."
        )
    return texts


def _schedule_mistakes(model: PrivateEvolution) -> list[str]:
    iterations = model.num_iterations
    texts = _length_mistakes("num_samples_schedule", model.num_samples_schedule, iterations + 1)
    texts += _length_mistakes("variation_degree_schedule", model.variation_degree_schedule, iterations + 1)
    texts += _length_mistakes("noise_schedule", model.noise_schedule, iterations)
    if texts:
        return texts
    sizes = model.num_samples_schedule
    values: list[Any] = list(sizes) if isinstance(sizes, Sequence) and sizes != "auto" else [sizes]
    if sizes != "auto" and any(not _is_whole(n) or n < 1 for n in values):
        return [f"model.num_samples_schedule={sizes!r}: expected auto, or whole numbers >= 1."]
    if any(not (_is_number(w) and 0 < w < math.inf) for w in model.noise_schedule or ()):
        texts.append(f"model.noise_schedule={model.noise_schedule!r}: expected finite numbers > 0.")
    degrees = model.variation_degree_schedule
    if isinstance(degrees, str) and degrees != "auto":
        return [*texts, f"model.variation_degree_schedule={degrees!r}: expected auto, a number or a list."]
    return texts + list(model.api.degree_mistakes(model.degrees()))


def _length_mistakes(name: str, value: Any, expected: int) -> list[str]:
    if not isinstance(value, Sequence) or isinstance(value, str) or len(value) == expected:
        return []
    return [
        f"model.{name} has {len(value)} entries, num_iterations asks for {expected}"
        f" ({'one an iteration' if name == 'noise_schedule' else 'iterations 0 to T'})."
        " Change one of the two."
    ]


def schema_mistakes(model: PrivateEvolution, schema: ImageSchema) -> list[str]:
    """Return what does not fit the public schema."""
    if model.is_conditional(schema) and not schema.classes:
        return [
            f"model.conditional=true, and dataset '{schema.name}' has no classes. Use"
            " model.conditional=false."
        ]
    classes = model.released_schema(schema).classes
    texts = _fraction_mistakes(model, classes) + _start_mistakes(model.initial_samples)
    texts += public_mistakes(model, schema) + _training_mistakes(model, schema)
    fewest, count = min(model.sizes(schema.nominal_rows)), max(1, len(classes))
    if fewest < count:
        texts.append(
            f"model.num_samples_schedule has {fewest} images for {count} classes: expected at least one of"
            " each. Raise it, or use model.conditional=false."
        )
    naming = getattr(model.api, "class_mistakes", None)
    if naming is not None:
        texts += list(naming(classes))
    if schema.unit.kind == "user" and model.noise in WHOLE:
        texts.append(
            f"model.noise={model.noise} needs whole votes; those of a user are scaled. Use noise=auto."
        )
    return texts or _rank_mistakes(model, schema)


def _fraction_mistakes(model: PrivateEvolution, classes: Sequence[str]) -> list[str]:
    fractions = model.class_fractions
    if fractions is None:
        return []
    if isinstance(fractions, Mapping):
        wrong = sorted(set(fractions) ^ set(classes))
        if wrong:
            return [
                f"model.class_fractions and the classes of the data differ in {', '.join(map(str, wrong))}:"
                " expected a share for each class."
            ]
        values = list(fractions.values())
    else:
        values = list(fractions)
    if len(values) != len(classes) or any(not (_is_number(v) and 0 < v < math.inf) for v in values):
        return [f"model.class_fractions: expected {len(classes)} numbers > 0, one a class; got {values!r}."]
    return []


def _start_mistakes(path: str | None) -> list[str]:
    if path is None:
        return []
    place = Path(path)
    if not place.is_file():
        return [f"model.initial_samples={path}: there is no such file."]
    if run_folder(place) is not None:  # what that run spent becomes part of the plan
        return []
    try:
        refuse_outside(place, "model.initial_samples")
    except DPForgeError as error:
        return [str(error)]
    return []


def public_mistakes(model: PrivateEvolution, dataset: Any) -> list[str]:
    """Return which public images are the private ones.

    Args:
        model: Settings.
        dataset: Source of the private images, or their schema.
    """
    named = dict(getattr(model.api, "public_images", dict)())
    if model.initial_samples is not None:
        named["model.initial_samples"] = model.initial_samples
    mistakes = []
    for key, public in named.items():
        try:
            refuse_private_as_public(public, dataset, key)
        except ConfigError as error:
            mistakes.append(str(error))
    return mistakes


def _training_mistakes(model: PrivateEvolution, schema: ImageSchema) -> list[str]:
    """Return which public networks say that private images shaped their weights."""
    used = {"model.embedding": model.embedding}
    if isinstance(named := getattr(model.api, "embedding", None), str):
        used["model.api.embedding"] = named
    return [
        f"{key}={name} was trained on '{source}', which overlaps the private set '{schema.name}': its"
        " features would know the private images. Use another one, such as pixels."
        for key, name in used.items()
        for source in trained_on(name)
        if overlaps(source, schema.name)
    ]


def _rank_mistakes(model: PrivateEvolution, schema: ImageSchema) -> list[str]:
    if model.selection != "rank":
        return []
    shares = model.public_shares(schema)
    grown = 1 + model.initial_variation_fold
    for iteration in range(1, model.num_iterations + 1):
        candidates = grown * model.block_sizes(iteration - 1, shares, schema.nominal_rows)
        wanted = model.block_sizes(iteration, shares, schema.nominal_rows)
        if (wanted > candidates).any():
            return [
                f"model.selection=rank: iteration {iteration} asks for {int(wanted.max())} parents of a class"
                f" with {int(candidates.min())} candidates. Use selection=systematic, or a schedule that"
                " does not grow."
            ]
        grown = model.growth()
    return []


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
