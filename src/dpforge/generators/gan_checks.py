"""Defaults of a DPWGAN by modality, and mistakes among its settings, all of them at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch import nn

from dpforge.data import ImageSchema, Schema
from dpforge.errors import ConfigError, did_you_mean
from dpforge.generators.gan_networks import image_size
from dpforge.generators.gan_settings import FAKE_MEDIAN
from dpforge.nets.gan import BUILDERS

if TYPE_CHECKING:
    from dpforge.generators.dpwgan import DPWGAN

# What a null setting becomes, by modality and, for some, by loss: the published loss with the published
# optimiser and clamped weights, the others with Adam and free weights.
DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "table": {
        "loss": "logistic",
        "expected_batch_size": 256.0,
        "steps": 3000,
        "noise_dim": 64,
    },
    "image": {
        "loss": "hinge",
        "expected_batch_size": 128.0,
        "steps": 1500,
        "noise_dim": 100,
    },
}
# Of images: the critic's pace by the noise in a step, which is the noise multiplier over the expected batch.
# Behind a critic that noise keeps back, a quick generator draws one image a class over and over.
NOISY = 0.01
SLOW: Mapping[str, Any] = {"n_critics": 5, "critic_learning_rate": 1e-3}
QUICK: Mapping[str, Any] = {"n_critics": 2, "critic_learning_rate": 5e-4}
WASSERSTEIN: Mapping[str, Mapping[str, Any]] = {
    "table": {"optimizer": "rmsprop", "constraint": "clamp", "loss_scale": 1 / 0.3, "learning_rate": 1e-3},
    "image": {"optimizer": "rmsprop", "constraint": "clamp", "loss_scale": 1.0, "learning_rate": 1e-4},
}
SATURATING: Mapping[str, Any] = {
    "optimizer": "adam",
    "constraint": "none",
    "loss_scale": 1.0,
    "learning_rate": 1e-3,
}
CHOICES: Mapping[str, Sequence[str]] = {
    "mode": ("dp", "upstream"),
    "network": ("auto", "categorical_mlp", *BUILDERS),
    "class_prior": ("uniform", "public", "dp_counts"),
    "loss": ("wasserstein", "hinge", "logistic"),
    "constraint": ("clamp", "spectral", "none"),
    "optimizer": ("rmsprop", "adam"),
    "penalty": ("none", "gradient"),
}
# A layer of norm 1 keeps slopes; ten times less in each of several layers leaves none.
BOUNDS: Mapping[str, float] = {"clamp": 0.1, "spectral": 1.0, "none": 0.1}
CRITICS = ("auto", "resnet18_gn")
COUNTS = ("noise_dim", "n_critics", "steps", "generator_batch_size", "default_bins", "discrete_max")
POSITIVE = (
    "temperature",
    "penalty_weight",
    "weight_clip",
    "epochs",
    "expected_batch_size",
    "critic_learning_rate",
    "generator_learning_rate",
)


def missing_values(model: DPWGAN, schema: Schema | ImageSchema) -> dict[str, Any]:
    """Return what the null settings of a model become for a schema."""
    known = dict(DEFAULTS[schema.modality])
    wasserstein = (model.loss or known["loss"]) == "wasserstein"
    known |= WASSERSTEIN[schema.modality] if wasserstein else SATURATING
    rate = known.pop("learning_rate")
    known["generator_learning_rate"] = rate
    if schema.modality == "table" or wasserstein or model.mode == "upstream":
        known = {"critic_learning_rate": rate, "n_critics": 5, **known}
    if model.penalty == "gradient":
        known["constraint"] = "none"
    known["weight_clip"] = BOUNDS[model.constraint or known["constraint"]]
    known["conditional"] = isinstance(schema, ImageSchema) and schema.num_classes > 1
    if model.sampling_rate is not None:
        del known["expected_batch_size"]
    if model.epochs is not None:
        del known["steps"]
    return {name: value for name, value in known.items() if getattr(model, name) is None}


def pace(model: DPWGAN, noise: float) -> dict[str, Any]:
    """Return what the settings that are still null become when the noise in a step is known.

    Args:
        noise: Noise multiplier over the expected batch, which the plan says; 0 without privacy.
    """
    known = SLOW if noise > NOISY else QUICK
    return {name: value for name, value in known.items() if getattr(model, name) is None}


def setting_mistakes(model: DPWGAN) -> list[str]:
    """Return what is wrong with the settings, one sentence each."""
    return [*_choice_mistakes(model), *_number_mistakes(model), *_pairing_mistakes(model)]


def _choice_mistakes(model: DPWGAN) -> list[str]:
    given = {name: getattr(model, name) for name in CHOICES}
    mistakes = [
        f"model.{name}={value!r}: expected one of {', '.join(CHOICES[name])}."
        + did_you_mean(str(value), CHOICES[name])
        for name, value in given.items()
        if value is not None and value not in CHOICES[name]
    ]
    if not isinstance(model.critic, nn.Module) and model.critic not in CRITICS:
        mistakes.append(
            f"model.critic={model.critic!r}: expected auto, resnet18_gn, or a module with its _target_."
            + did_you_mean(str(model.critic), CRITICS)
        )
    if isinstance(model.critic, nn.Module) != isinstance(model.generator, nn.Module):
        mistakes.append("model: give both generator and critic as modules, or neither.")
    return mistakes


def _number_mistakes(model: DPWGAN) -> list[str]:
    mistakes = []
    for name in COUNTS:
        value = getattr(model, name)
        if value is not None and (not isinstance(value, int) or value < 1):
            mistakes.append(f"model.{name}={value!r}: expected an integer >= 1.")
    for name in POSITIVE:
        value = getattr(model, name)
        if value is not None and not value > 0:
            mistakes.append(f"model.{name}={value!r}: expected a number > 0.")
    scale = model.loss_scale
    if scale not in (None, FAKE_MEDIAN) and not (isinstance(scale, int | float) and scale > 0):
        hint = did_you_mean(str(scale), [FAKE_MEDIAN])
        mistakes.append(f"model.loss_scale={scale!r}: expected a number > 0, {FAKE_MEDIAN}, or null.{hint}")
    if not model.hidden or any(not isinstance(width, int) or width < 1 for width in model.hidden):
        mistakes.append(f"model.hidden={list(model.hidden)!r}: expected one or more widths >= 1.")
    if not isinstance(model.width, int) or model.width < 0:
        mistakes.append(f"model.width={model.width!r}: expected an integer >= 0.")
    for name in ("ema", "prior_share"):
        if not 0 <= getattr(model, name) < 1:
            mistakes.append(f"model.{name}={getattr(model, name)!r}: expected a number in [0, 1).")
    if len(model.betas) != 2 or any(not 0 <= beta < 1 for beta in model.betas):
        mistakes.append(f"model.betas={list(model.betas)!r}: expected two numbers in [0, 1).")
    if model.sigma is not None and model.sigma < 0:
        mistakes.append(f"model.sigma={model.sigma!r}: expected a number >= 0, or null.")
    return mistakes


def _pairing_mistakes(model: DPWGAN) -> list[str]:
    mistakes = []
    if model.mode == "upstream" and (model.penalty != "none" or model.loss_scale == FAKE_MEDIAN):
        mistakes.append(
            f"model.mode=upstream has no penalty and no {FAKE_MEDIAN}; leave both out, or use mode=dp."
        )
    if model.sampling_rate is not None and not 0 < model.sampling_rate <= 1:
        mistakes.append(f"model.sampling_rate={model.sampling_rate!r}: expected 0 < q <= 1.")
    for pair in (("sampling_rate", "expected_batch_size"), ("steps", "epochs")):
        if all(getattr(model, name) is not None for name in pair):
            mistakes.append(f"model: give at most one of {pair[0]} and {pair[1]}; set the other to null.")
    if (model.class_frequencies is not None) != (model.class_prior == "public"):
        mistakes.append("model.class_frequencies go with model.class_prior=public, and with that alone.")
    elif model.class_frequencies is not None and (
        min(model.class_frequencies) < 0 or not sum(model.class_frequencies) > 0
    ):
        mistakes.append("model.class_frequencies: expected weights >= 0 with a sum > 0.")
    return mistakes


def modality_mistakes(model: DPWGAN, schema: Schema | ImageSchema) -> list[str]:
    """Return which settings, nulls filled in, do not fit a schema."""
    if isinstance(schema, ImageSchema):
        return [*_image_mistakes(model, schema), *_adaptive_mistakes(model)]
    mistakes = _adaptive_mistakes(model)
    if model.network not in ("auto", "categorical_mlp") or model.critic == "resnet18_gn":
        mistakes.append(
            f"model.network={model.network}, model.critic={model.critic}: '{schema.name}' is a table. Set"
            " network and critic to auto."
        )
    if model.conditional or model.class_prior != "uniform":
        mistakes.append("model.conditional and model.class_prior are for images; leave them out.")
    return mistakes


def _image_mistakes(model: DPWGAN, schema: ImageSchema) -> list[str]:
    mistakes = []
    if model.network == "categorical_mlp":
        mistakes.append(f"model.network=categorical_mlp: '{schema.name}' holds images. Set it to auto.")
    elif model.generator is None:
        try:
            image_size(schema, model.network)
        except ConfigError as error:
            mistakes += error.mistakes
    if model.conditional and schema.num_classes < 2:
        mistakes.append(f"model.conditional=true: '{schema.name}' has no classes. Set it to null.")
    if not model.conditional and model.class_prior != "uniform":
        mistakes.append(f"model.class_prior={model.class_prior} needs model.conditional=true.")
    given = model.class_frequencies
    if given is not None and len(given) != schema.num_classes:
        mistakes.append(f"model.class_frequencies has {len(given)} weights; expected {schema.num_classes}.")
    if model.mode == "upstream" and model.conditional:
        mistakes.append("model.mode=upstream knows no classes; set model.conditional=false.")
    return mistakes


def _adaptive_mistakes(model: DPWGAN) -> list[str]:
    if model.adaptive_critics and model.loss == "wasserstein":
        return [
            "model.adaptive_critics needs a critic that tells real from fake at 0: loss=hinge or logistic."
        ]
    return []
