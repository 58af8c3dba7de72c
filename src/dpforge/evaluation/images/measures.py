"""Distances between sets of images: each metric for the synthetic images, the floor and the ceiling."""

from __future__ import annotations

import numpy as np
import pandas as pd

from dpforge.evaluation.images import frechet_distance as fd
from dpforge.evaluation.images import inception, kernel, manifold
from dpforge.evaluation.images.outcomes import ImageOutcome, protocol_of
from dpforge.evaluation.images.sets import ImageSets
from dpforge.features import Extractor

LEAST_EXTRAPOLATED = 50
CLASS_IMAGES = 500
# A covariance of this many features takes seconds to decompose; its distance is computed once.
WIDE = 900


def frechet(sets: ImageSets, extractor: Extractor, bootstraps: int) -> ImageOutcome:
    """``fidelity/frechet_*`` with the deviation over bootstraps, and ``fidelity/frechet_inf_*``."""
    real = sets.features(extractor, sets.reference)
    others = {role: sets.features(extractor, name) for role, name in sets.compared.items()}
    target = fd.moments(real)
    found = {role: fd.frechet(target, points) for role, points in others.items()}
    key = f"fidelity/frechet_{extractor.name}"
    scores, notes = {key: found}, []
    if target.rank_deficient:
        notes.append(
            f"{key} is rank deficient: {target.n} images for {extractor.dim} features; it is biased upwards"
            " and compares only at equal n"
        )
    wide = extractor.dim > WIDE
    if sets.n >= LEAST_EXTRAPOLATED and not wide:
        extrapolated = {role: fd.frechet_inf(real, x, seed=sets.seed) for role, x in others.items()}
        scores[f"fidelity/frechet_inf_{extractor.name}"] = extrapolated
    spread = {}
    if bootstraps > 1 and not wide:
        spread[key] = fd.frechet_spread(real, others["score"], repeats=bootstraps, seed=sets.seed)
    estimator = {
        "covariance": "unbiased",
        "rank_deficient": target.rank_deficient,
        "bootstraps": bootstraps,
        "extrapolation_sizes": fd.SIZES,
    }
    protocol = protocol_of(sets, "frechet", fd.VERSION, extractor=extractor, estimator=estimator)
    return ImageOutcome(fd.VERSION, scores, notes=tuple(notes), spread=spread, protocol=protocol)


def class_frechet(sets: ImageSets, extractor: Extractor) -> ImageOutcome:
    """``fidelity/class_frechet_*``: the mean over classes with 500 images or more in every set.

    The distance of each class stands in the table ``class_frechet``.
    """
    sizes = {
        name: np.bincount(x.labels, minlength=sets.schema.num_classes) for name, x in sets.images.items()
    }
    used = [sets.reference, *sets.compared.values()]
    classes = np.flatnonzero(np.min([sizes[name] for name in used], axis=0) >= CLASS_IMAGES)
    if len(classes) == 0:
        return ImageOutcome(
            fd.VERSION, notes=(f"class_frechet left out: no class has {CLASS_IMAGES} images in every set",)
        )
    rows: list[dict[str, object]] = []
    for label in classes.tolist():
        found: dict[str, object] = {"class": sets.schema.classes[label] if sets.schema.classes else "all"}
        real = fd.moments(_of_class(sets, extractor, sets.reference, label))
        for role, name in sets.compared.items():
            found[role] = fd.frechet(real, fd.moments(_of_class(sets, extractor, name, label)))
        rows.append(found)
    frame = pd.DataFrame(rows)
    means = {role: float(frame[role].to_numpy(dtype=float).mean()) for role in sets.compared}
    estimator = {"covariance": "unbiased", "least_images": CLASS_IMAGES, "classes": len(classes)}
    protocol = protocol_of(sets, "class_frechet", fd.VERSION, extractor=extractor, estimator=estimator)
    return ImageOutcome(
        fd.VERSION,
        {f"fidelity/class_frechet_{extractor.name}": means},
        tables={"class_frechet": frame},
        protocol=protocol,
    )


def kernel_distance(sets: ImageSets, extractor: Extractor, subsets: int) -> ImageOutcome:
    """``fidelity/kernel_distance_*`` with the deviation over subsets."""
    real = sets.features(extractor, sets.reference)
    found = {
        role: kernel.kernel_distance(real, sets.features(extractor, name), subsets=subsets, seed=sets.seed)
        for role, name in sets.compared.items()
    }
    key = f"fidelity/kernel_distance_{extractor.name}"
    estimator = {"kernel": "cubic", "subsets": subsets, "subset_size": min(kernel.SUBSET_SIZE, sets.n)}
    return ImageOutcome(
        kernel.VERSION,
        {key: {role: value.mean for role, value in found.items()}},
        # Subsets that are the whole set do not vary, which says nothing about its sampling error.
        spread={key: found["score"].std} if sets.n > kernel.SUBSET_SIZE else {},
        protocol=protocol_of(
            sets, "kernel_distance", kernel.VERSION, extractor=extractor, estimator=estimator
        ),
    )


def precision_recall(sets: ImageSets, extractor: Extractor, k: int, rows: int) -> ImageOutcome:
    """``fidelity/{precision,recall,density,coverage}_*`` of the first ``rows`` images of each set."""
    n = min(rows, sets.n)
    if n <= k:
        return ImageOutcome(manifold.VERSION, notes=(f"precision_recall left out: {n} images for k={k}",))
    real = sets.features(extractor, sets.reference)[:n]
    found = {
        role: manifold.precision_recall(real, sets.features(extractor, name)[:n], k=k)
        for role, name in sets.compared.items()
    }
    scores = {
        f"fidelity/{key}_{extractor.name}": {role: found[role][key] for role in found}
        for key in found["score"]
    }
    estimator = {"k": k, "n": n, "distance": "euclidean"}
    protocol = protocol_of(
        sets, "precision_recall", manifold.VERSION, extractor=extractor, estimator=estimator
    )
    return ImageOutcome(manifold.VERSION, scores, rows={"precision_recall": n}, protocol=protocol)


def inception_score(sets: ImageSets, extractor: Extractor, splits: int) -> ImageOutcome:
    """``fidelity/inception_score_*`` of the classifier behind the extractor, on every set alone."""
    probabilities = getattr(extractor, "class_probabilities", None)
    if getattr(extractor, "head", None) is None or probabilities is None:
        return ImageOutcome(
            inception.VERSION, notes=(f"inception_score left out: {extractor.name} is no classifier",)
        )
    splits = min(splits, sets.n)
    found = {
        role: inception.inception_score(probabilities(sets.features(extractor, name)), splits=splits)
        for role, name in sets.compared.items()
    }
    return ImageOutcome(
        inception.VERSION,
        {f"fidelity/inception_score_{extractor.name}": found},
        protocol=protocol_of(
            sets, "inception_score", inception.VERSION, extractor=extractor, estimator={"splits": splits}
        ),
    )


def _of_class(sets: ImageSets, extractor: Extractor, name: str, label: int) -> np.ndarray:
    return sets.features(extractor, name)[sets.images[name].labels == label]
