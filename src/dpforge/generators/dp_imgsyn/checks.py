"""Mistakes among the settings, all of them at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dpforge.data import ImageSchema
from dpforge.data.public_images import refuse_private_as_public
from dpforge.errors import ConfigError, did_you_mean
from dpforge.generators.dp_imgsyn.settings import pool_of
from dpforge.nets.resnet import ACTIVATIONS, BUILDERS

if TYPE_CHECKING:
    from dpforge.generators.dp_imgsyn.generator import DPImgSyn

KINDS = ("once", "poisson", "off", "upstream")
LEAST_SIDE = 8  # of resnet9, which halves images three times
_CHOICES: Mapping[str, Sequence[str]] = {
    "teacher.arch": tuple(BUILDERS),
    "student.arch": tuple(BUILDERS),
    "teacher.activation": tuple(ACTIVATIONS),
    "teacher.optimizer": ("sgd", "adam"),
    "statistics.kind": KINDS,
    "synthesis.keep": ("last", "best"),
    "public_selection": ("random", "balanced"),
}
# Smallest whole number of each; those in _OPTIONAL may be null.
_COUNTS = {
    "teacher.width": 1, "teacher.pool": 1, "teacher.groups": 1, "teacher.steps": 1, "teacher.views": 1,
    "teacher.shift": 0, "teacher.pretrain_epochs": 0, "synthesis.steps": 0, "synthesis.batch_size": 1,
    "student.width": 1, "student.pool": 1, "student.epochs": 1, "student.batch_size": 2, "student.shift": 0,
    "statistics.steps": 1, "num_samples": 2, "public_seed": 0,
}  # fmt: skip
_OPTIONAL = (
    "teacher.width", "teacher.pool", "teacher.groups", "teacher.steps", "teacher.epochs",
    "teacher.expected_batch_size", "teacher.lr", "synthesis.batch_size", "student.width", "student.pool",
)  # fmt: skip
_POSITIVE = (
    "teacher.lr", "teacher.epochs", "teacher.expected_batch_size", "statistics.count_weight",
    "synthesis.lr", "student.temperature", "student.lr",
)  # fmt: skip
_WEIGHTS = (
    "teacher.weight_decay", "student.weight_decay", "student.alpha", "student.beta",
    "synthesis.statistics_weight", "synthesis.ce_weight", "synthesis.tv_weight", "synthesis.l2_weight",
)  # fmt: skip
_SHARES = ("teacher.ema", "teacher.momentum", "student.momentum")


def setting_mistakes(model: DPImgSyn) -> list[str]:
    """Return what is wrong with the settings, one sentence each."""
    return [
        *_choice_mistakes(model),
        *_number_mistakes(model),
        *_teacher_mistakes(model),
        *_statistics_mistakes(model),
        *_public_mistakes(model),
    ]


def schema_mistakes(model: DPImgSyn, schema: ImageSchema) -> list[str]:
    """Return what does not fit a data set."""
    mistakes = []
    if schema.num_classes < 2:
        mistakes.append(f"dp_imgsyn needs images with at least 2 classes; '{schema.name}' has none.")
    mistakes += public_mistakes(model, schema)
    side = min(schema.height, schema.width)
    for who, net in (("teacher", model.teacher), ("student", model.student)):
        left = side / pool_of(net, schema.height, schema.width)
        if left < (LEAST_SIDE if net.arch == "resnet9" else 1):
            mistakes.append(f"model.{who}: {left:.3g} pixels a side are too few for {net.arch}. Lower pool.")
    return mistakes


def public_mistakes(model: DPImgSyn, dataset: Any) -> list[str]:
    """Return whether the public images are the private ones, of which ``dataset`` is source or schema."""
    try:
        refuse_private_as_public(model.public, dataset, "model.public")
    except ConfigError as error:
        return [str(error)]
    return []


def _get(model: DPImgSyn, path: str) -> Any:
    value: Any = model
    for name in path.split("."):
        value = getattr(value, name)
    return value


def _choice_mistakes(model: DPImgSyn) -> list[str]:
    return [
        f"model.{path}={value!r}: expected one of {', '.join(known)}." + did_you_mean(str(value), known)
        for path, known in _CHOICES.items()
        if (value := _get(model, path)) not in known
    ]


def _number_mistakes(model: DPImgSyn) -> list[str]:
    mistakes = []
    for path, least in _COUNTS.items():
        value = _get(model, path)
        if not (value is None and path in _OPTIONAL) and not _whole(value, least):
            mistakes.append(f"model.{path}={value!r}: expected a whole number >= {least}.")
    for path in _POSITIVE:
        value = _get(model, path)
        if not (value is None and path in _OPTIONAL) and not _positive(value):
            mistakes.append(f"model.{path}={value!r}: expected a number > 0.")
    for path in _WEIGHTS:
        if not (_number(value := _get(model, path)) and value >= 0):
            mistakes.append(f"model.{path}={value!r}: expected a number >= 0.")
    for path in _SHARES:
        if not (_number(value := _get(model, path)) and 0 <= value < 1):
            mistakes.append(f"model.{path}={value!r}: expected a number in [0, 1).")
    for path in ("teacher.milestones", "student.milestones"):
        if not all(_number(part) and 0 < part < 1 for part in _get(model, path)):
            mistakes.append(f"model.{path}={list(_get(model, path))!r}: expected shares in (0, 1).")
    return mistakes


def _teacher_mistakes(model: DPImgSyn) -> list[str]:
    teacher, mistakes = model.teacher, []
    for one, other in (("steps", "epochs"), ("sampling_rate", "expected_batch_size")):
        if getattr(teacher, one) is not None and getattr(teacher, other) is not None:
            mistakes.append(f"model.teacher: give one of {one} and {other} at most; set the other to null.")
    if teacher.sampling_rate is not None and not (
        _number(teacher.sampling_rate) and 0 < teacher.sampling_rate <= 1
    ):
        mistakes.append(f"model.teacher.sampling_rate={teacher.sampling_rate!r}: expected 0 < q <= 1.")
    return mistakes


def _statistics_mistakes(model: DPImgSyn) -> list[str]:
    settings, mistakes = model.statistics, []
    for name in ("noise_multiplier", "radius"):
        value = getattr(settings, name)
        if value != "auto" and not _positive(value):
            mistakes.append(f"model.statistics.{name}={value!r}: expected a number > 0, or auto.")
    if not (_number(settings.share) and 0 < settings.share < 1):
        mistakes.append(f"model.statistics.share={settings.share!r}: expected a number in (0, 1).")
    if not (_number(settings.sampling_rate) and 0 < settings.sampling_rate <= 1):
        mistakes.append(f"model.statistics.sampling_rate={settings.sampling_rate!r}: expected 0 < q <= 1.")
    layers = settings.layers
    if isinstance(layers, str):
        wrong = layers != "all"
    else:
        wrong = not layers or len(set(layers)) < len(layers) or not all(_whole(n, 0) for n in layers)
    if wrong:
        mistakes.append(
            f"model.statistics.layers={layers!r}: expected all, or different numbers of layers from 0."
        )
    return mistakes


def _public_mistakes(model: DPImgSyn) -> list[str]:
    given, mistakes = model.normalization, []
    if isinstance(given, str):
        if given not in ("auto", "public"):
            mistakes.append(f"model.normalization={given!r}: expected auto, public, or mean and std.")
    elif set(given) != {"mean", "std"} or not all(isinstance(v, list | tuple) for v in given.values()):
        mistakes.append("model.normalization: expected {mean: [...], std: [...]}, one number a channel.")
    elif not given["std"] or min(given["std"]) <= 0:
        mistakes.append("model.normalization.std: expected numbers > 0.")
    if model.public is None or model.public == "":
        mistakes.append("model.public is empty: name a data set or a folder of public images.")
    return mistakes


def _whole(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _positive(value: Any) -> bool:
    return _number(value) and value > 0
