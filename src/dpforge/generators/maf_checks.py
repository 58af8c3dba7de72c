"""Mistakes among the settings of a DP-MAF, all of them at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from dpforge.errors import did_you_mean
from dpforge.nets.made import ACTIVATIONS

if TYPE_CHECKING:
    from dpforge.generators.dp_maf import DPMAF

CHOICES: Mapping[str, Sequence[str]] = {
    "conditional": ("piecewise", "affine"),
    "activation": tuple(ACTIVATIONS),
    "permutation": ("reverse", "random_public"),
    "normalization": ("none", "layer_norm"),
    "transform": ("dp_marginal_cdf", "dp_standardize", "affine"),
    "recalibrate_marginals": ("rake", "rank", "none"),
    "allocation": ("cube_root", "uniform"),
}


def setting_mistakes(model: DPMAF) -> list[str]:
    """Return what is wrong with the settings, one sentence each."""
    return [
        *_choice_mistakes(model),
        *_size_mistakes(model),
        *_number_mistakes(model),
        *_pairing_mistakes(model),
    ]


def _choice_mistakes(model: DPMAF) -> list[str]:
    return [
        f"model.{name}={getattr(model, name)!r}: expected one of {', '.join(known)}."
        + did_you_mean(str(getattr(model, name)), known)
        for name, known in CHOICES.items()
        if getattr(model, name) not in known
    ]


def _size_mistakes(model: DPMAF) -> list[str]:
    mistakes = []
    for name in ("blocks", "steps", "resolution", "degree", "default_bins", "discrete_max"):
        value = getattr(model, name)
        if not isinstance(value, int) or value < 1:
            mistakes.append(f"model.{name}={value!r}: expected an integer >= 1.")
    bare = not model.hidden and model.conditional == "affine"
    if bare or any(not isinstance(width, int) or width < 1 for width in model.hidden):
        mistakes.append(f"model.hidden={list(model.hidden)!r}: expected one or more widths >= 1.")
    return mistakes


def _number_mistakes(model: DPMAF) -> list[str]:
    mistakes = []
    if (model.sampling_rate is None) == (model.expected_batch_size is None):
        mistakes.append(
            "model: give exactly one of sampling_rate and expected_batch_size; set the other to null."
        )
    if model.sampling_rate is not None and not 0 < model.sampling_rate <= 1:
        mistakes.append(f"model.sampling_rate={model.sampling_rate!r}: expected 0 < q <= 1.")
    for name in ("learning_rate", "log_scale_limit", "expected_batch_size"):
        value = getattr(model, name)
        if value is not None and not value > 0:
            mistakes.append(f"model.{name}={value!r}: expected a number > 0.")
    for name in ("ema", "marginal_share"):
        if not 0 <= getattr(model, name) < 1:
            mistakes.append(f"model.{name}={getattr(model, name)!r}: expected a number in [0, 1).")
    return mistakes


def _pairing_mistakes(model: DPMAF) -> list[str]:
    recalibrate, released = model.recalibrate_marginals, model.transform == "dp_marginal_cdf"
    mistakes = []
    if recalibrate != "none" and not released:
        mistakes.append(
            f"model.recalibrate_marginals={recalibrate} needs model.transform=dp_marginal_cdf;"
            " set it to none."
        )
    if model.conditional == "piecewise" and not released:
        mistakes.append(
            "model.conditional=piecewise needs model.transform=dp_marginal_cdf; set it to affine."
        )
    if recalibrate == "rake" and model.conditional == "affine" and released:
        mistakes.append("model.recalibrate_marginals=rake needs model.conditional=piecewise; set it to rank.")
    if model.normalization == "layer_norm" and model.conditional == "piecewise" and model.blocks == 1:
        mistakes.append("model.normalization=layer_norm acts in affine blocks only; set it to none.")
    return mistakes
