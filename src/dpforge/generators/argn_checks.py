"""Mistakes among the settings of a TabularARGN, all of them at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from dpforge.data.columns import CODECS
from dpforge.errors import did_you_mean
from dpforge.nets.autoregressive import REGRESSOR

if TYPE_CHECKING:
    from dpforge.generators.tabular_argn import TabularARGN

CHOICES: Mapping[str, Sequence[str | None]] = {
    "size": (None, *REGRESSOR),
    "recalibrate_marginals": ("rake", "none"),
    "allocation": ("cube_root", "uniform"),
    "cross_columns": ("refined", "all"),
}
COUNTS = ("steps", "default_bins", "discrete_max", "refine", "degree", "target_parents")
POSITIVE = ("learning_rate", "basis_scale", "spike_threshold", "spike_rise", "target_weight")


def setting_mistakes(model: TabularARGN) -> list[str]:
    """Return what is wrong with the settings, one sentence each."""
    return [*_choice_mistakes(model), *_number_mistakes(model), *_pairing_mistakes(model)]


def _choice_mistakes(model: TabularARGN) -> list[str]:
    mistakes = []
    for name, known in CHOICES.items():
        value = getattr(model, name)
        if value not in known:
            shown = [str(choice or "null") for choice in known]
            mistakes.append(
                f"model.{name}={value!r}: expected one of {', '.join(shown)}."
                + did_you_mean(str(value), shown)
            )
    order = model.column_order
    if isinstance(order, str) and order not in ("schema", "random"):
        mistakes.append(
            f"model.column_order={order!r}: expected schema, random or a list of all column names."
            + did_you_mean(order, ("schema", "random"))
        )
    refined = model.refine_columns
    if isinstance(refined, str) and refined not in ("special", "all"):
        mistakes.append(
            f"model.refine_columns={refined!r}: expected special, all or a list of column names."
            + did_you_mean(refined, ("special", "all"))
        )
    every = sorted({codec for kinds in CODECS.values() for codec in kinds})
    for column, codec in model.codecs.items():
        if codec not in every:
            mistakes.append(
                f"model.codecs.{column}={codec!r}: expected one of {', '.join(every)}."
                + did_you_mean(str(codec), every)
            )
    return mistakes


def _number_mistakes(model: TabularARGN) -> list[str]:
    mistakes = []
    counts = COUNTS if model.patience is None else (*COUNTS, "patience")
    for name in counts:
        value = getattr(model, name)
        if not isinstance(value, int) or value < 1:
            mistakes.append(f"model.{name}={value!r}: expected an integer >= 1.")
    if model.sampling_rate is not None and not 0 < model.sampling_rate <= 1:
        mistakes.append(f"model.sampling_rate={model.sampling_rate!r}: expected 0 < q <= 1.")
    if model.expected_batch_size is not None and not model.expected_batch_size > 0:
        mistakes.append(f"model.expected_batch_size={model.expected_batch_size!r}: expected a number > 0.")
    for name in POSITIVE:
        if not getattr(model, name) > 0:
            mistakes.append(f"model.{name}={getattr(model, name)!r}: expected a number > 0.")
    for name in ("basis_decay", "weight_decay"):
        if not getattr(model, name) >= 0:
            mistakes.append(f"model.{name}={getattr(model, name)!r}: expected a number >= 0.")
    for name in ("ema", "dropout"):
        if not 0 <= getattr(model, name) < 1:
            mistakes.append(f"model.{name}={getattr(model, name)!r}: expected a number in [0, 1).")
    for name in ("marginal_share", "structure_share"):
        if not 0 < getattr(model, name) < 1:
            mistakes.append(f"model.{name}={getattr(model, name)!r}: expected a number in (0, 1).")
    if model.parents is not None and not model.parents > 0:
        mistakes.append(f"model.parents={model.parents!r}: expected a number > 0, or null for all pairs.")
    return mistakes


def _pairing_mistakes(model: TabularARGN) -> list[str]:
    mistakes = []
    if (model.sampling_rate is None) == (model.expected_batch_size is None):
        mistakes.append(
            "model: give exactly one of sampling_rate and expected_batch_size; set the other to null."
        )
    if not model.direct and model.size is None:
        mistakes.append("model.direct=false needs model.size: without either the columns are independent.")
    if model.dropout and model.size is None:
        mistakes.append(f"model.dropout={model.dropout}: it acts on the embeddings of model.size; set one.")
    spent = model.marginal_share + model.structure_share
    if model.parents is not None and spent >= 1:
        mistakes.append(
            f"model.marginal_share + model.structure_share = {spent:g}: expected a sum below 1, for the rest"
            " of the budget trains."
        )
    if model.cross_columns == "all" and not model.cross_target:
        mistakes.append("model.cross_columns=all counts by target class: it needs model.cross_target=true.")
    if model.patience is not None and model.ema:
        mistakes.append("model.patience keeps the best weights and model.ema their average; set one of them.")
    return mistakes
