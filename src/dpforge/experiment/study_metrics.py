"""What the scores of a study are called, which end is good, and which of them lead a report."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

# Prefix of a metric's name, its best value. The first that fits counts.
_BEST = (
    ("fidelity/frechet", 0.0),
    ("fidelity/class_frechet", 0.0),
    ("fidelity/kernel_distance", 0.0),
    ("fidelity/precision_", 1.0),
    ("fidelity/recall_", 1.0),
    ("fidelity/coverage_", 1.0),
    ("fidelity/inception_score", math.inf),
    ("fidelity/class_distance", 0.0),
    ("fidelity/near_duplicates", 0.0),
    ("fidelity/tvd_", 0.0),
    ("fidelity/accuracy_", 1.0),
    ("fidelity/sra_", 1.0),
    ("fidelity/wasserstein_ratio_", 1.0),
    ("fidelity/pmse_ratio_", 1.0),
    ("fidelity/pmse_z_", 0.0),
    ("fidelity/correlation_mae", 0.0),
    ("fidelity/c2st_auc", 0.5),
    ("fidelity/range_coverage", 1.0),
    ("fidelity/category_", 1.0),
    ("fidelity/log_likelihood", math.inf),
    ("utility/tstr_rmse", 0.0),
    ("utility/", 1.0),
    ("hint/dcr_share", 0.5),
    ("hint/nndr_ratio", 1.0),
    ("validity/", 0.0),
    ("privacy/epsilon", 0.0),
)
_NAMES = {
    "fidelity/tvd_1way": "TVD, 1-way",
    "fidelity/tvd_2way": "TVD, 2-way",
    "fidelity/tvd_3way": "TVD, 3-way",
    "fidelity/accuracy_overall": "accuracy, overall",
    "fidelity/accuracy_univariate": "accuracy, univariate",
    "fidelity/accuracy_bivariate": "accuracy, bivariate",
    "fidelity/accuracy_trivariate": "accuracy, trivariate",
    "fidelity/correlation_mae": "correlation error",
    "fidelity/c2st_auc": "C2ST AUC",
    "fidelity/sra_tsts": "SRA",
    "fidelity/wasserstein_ratio_1d": "Wasserstein ratio, 1-D",
    "fidelity/wasserstein_ratio_sliced": "Wasserstein ratio, sliced",
    "fidelity/pmse_ratio_main": "pMSE ratio, main",
    "fidelity/pmse_ratio_pairwise": "pMSE ratio, pairwise",
    "legacy/sra": "legacy SRA",
    "legacy/wasserstein_ratio": "legacy Wasserstein",
    "legacy/pmse_ratio": "legacy pMSE ratio",
    "privacy/epsilon": "ε",
    "utility/accuracy_lr": "accuracy, LR",
    "utility/accuracy_mlp": "accuracy, MLP",
    "utility/accuracy_cnn": "accuracy, CNN",
    "utility/accuracy_resnet": "accuracy, ResNet",
    "utility/student_accuracy": "accuracy, student",
    "utility/student_accuracy_best": "accuracy, best epoch of the student on test data",
    "utility/teacher_accuracy": "accuracy, teacher",
    "fidelity/frechet_inception_v3": "FID",
    "fidelity/frechet_mobilenet_v2": "Fréchet distance, MobileNetV2",
    "fidelity/frechet_lenet_public": "Fréchet distance, LeNet",
    "fidelity/frechet_pixels": "Fréchet distance, pixels",
    "fidelity/mode_coverage": "classes covered",
    "fidelity/precision_inception_v3": "precision, Inception",
    "fidelity/recall_inception_v3": "recall, Inception",
    "fidelity/inception_score_inception_v3": "Inception score",
}
_PROTOCOL = " (protocol "
_MEASURES = {"auroc": "AUROC", "r2": "R²", "rmse": "RMSE"}
_LEARNERS = {"lr": "LR", "hgb": "HGB", "rf": "RF", "mlp": "MLP"}
_FRECHET = tuple(
    f"fidelity/frechet_{extractor}"
    for extractor in ("inception_v3", "mobilenet_v2", "lenet_public", "pixels")
)
FIDELITY = (
    "fidelity/tvd_2way",
    "fidelity/accuracy_overall",
    "fidelity/correlation_mae",
    "fidelity/wasserstein_ratio_1d",
    "fidelity/tvd_1way",
    *_FRECHET,
)
UTILITY = (
    *(f"utility/tstr_{measure}_{name}" for measure in ("auroc", "r2") for name in ("hgb", "lr", "rf", "mlp")),
    *(f"utility/accuracy_{name}" for name in ("cnn", "resnet", "mlp", "lr")),
)
LEADING = (
    "fidelity/tvd_1way",
    "fidelity/tvd_2way",
    "fidelity/tvd_3way",
    "fidelity/accuracy_overall",
    "fidelity/correlation_mae",
    "fidelity/c2st_auc",
    "fidelity/sra_tsts",
    "fidelity/wasserstein_ratio_1d",
    "fidelity/wasserstein_ratio_sliced",
    "fidelity/pmse_ratio_main",
    "fidelity/pmse_ratio_pairwise",
    *_FRECHET,
    "fidelity/mode_coverage",
    *UTILITY,
    "utility/student_accuracy",
    "utility/student_accuracy_best",
    "utility/teacher_accuracy",
    "legacy/sra",
    "legacy/wasserstein_ratio",
    "legacy/pmse_ratio",
)


def best(metric: str) -> float:
    """The best value a metric can take; NaN for one that ranks nothing, such as ``legacy/…``."""
    return next((value for prefix, value in _BEST if metric.startswith(prefix)), math.nan)


def shortfall(metric: str, value: float) -> float:
    """How far a value is from the best one, at least 0 where that is finite; smaller is better.

    NaN for metrics that rank nothing.
    """
    goal = best(metric)
    return -value if math.isinf(goal) else abs(value - goal)


def direction(metric: str) -> str:
    """Which values are good, for people."""
    goal = best(metric)
    if math.isnan(goal):
        return "ranks nothing"
    return "higher is better" if math.isinf(goal) else f"{goal:g} is best"


def column_names(measured: Iterable[tuple[str, str, str]]) -> dict[tuple[str, str, str], str]:
    """The column that a value stands in, by (data set, metric, protocol).

    It is the metric, unless values of one data set were measured by several protocols. Those do not compare:
    each protocol has a column of its own, named after it, and none keeps the plain name.
    """
    places = set(measured)
    protocols: dict[tuple[str, str], set[str]] = {}
    for dataset, metric, protocol in places:
        protocols.setdefault((dataset, metric), set()).add(protocol)
    apart = {metric for (_, metric), found in protocols.items() if len(found) > 1}
    return {
        place: f"{place[1]}{_PROTOCOL}{place[2][:8]})" if place[1] in apart else place[1] for place in places
    }


def of_one_protocol(metric: str) -> bool:
    """Whether a column holds one protocol of several; see :func:`column_names`."""
    return _PROTOCOL in metric


def shown_name(metric: str) -> str:
    """The metric's name in tables and pictures; its key where it has no shorter one."""
    metric, apart, protocol = metric.partition(_PROTOCOL)
    return _shown(metric) + apart + protocol


def _shown(metric: str) -> str:
    if metric in _NAMES:
        return _NAMES[metric]
    parts = metric.removeprefix("utility/").split("_")
    if metric.startswith(("utility/tstr_", "utility/trtr_")) and len(parts) == 3:
        measure, learner = _MEASURES.get(parts[1], parts[1]), _LEARNERS.get(parts[2], parts[2])
        return f"{measure} {learner} ({parts[0].upper()})"
    return metric


def chosen(wanted: Sequence[str], available: Iterable[str]) -> str | None:
    """The first of ``wanted`` that is available."""
    there = set(available)
    return next((metric for metric in wanted if metric in there), None)
