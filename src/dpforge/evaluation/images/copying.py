"""Hints of copying in one evaluation: nearest neighbours, similar pairs and a membership attack."""

from __future__ import annotations

import numpy as np

from dpforge.evaluation.attack_statistics import AttackResult, Scores
from dpforge.evaluation.images import memorisation, visual
from dpforge.evaluation.images.features import checked_features
from dpforge.evaluation.images.manifold import nearest
from dpforge.evaluation.images.outcomes import ImageOutcome, protocol_of
from dpforge.evaluation.images.sets import ImageSets
from dpforge.features import Extractor

ATTACK_VERSION = "dcr-attack-images-1"
LEAST_ATTACKED = 1_000
# Images released as they are must be found better than this, or the attack is too weak to say anything.
TOO_WEAK = 0.6
HINT_NOTE = "hint/…: what finds no copying is no evidence of privacy; the guarantee is in the certificate"


def nearest_neighbor(sets: ImageSets, extractors: list[Extractor], rows: int) -> ImageOutcome:
    """``hint/…`` of :func:`memorisation.nearest_neighbor` in raw pixels (L2) and features (L2 and cosine).

    Exact duplicates are looked for among all images. The table ``nearest_pairs`` holds the positions of the
    16 synthetic images closest to a training image, in the sets as they were given.
    """
    names = ("train", "holdout", "score")
    n = min(rows, *(len(sets.images[name]) for name in names))
    spaces = {"pixels": [_flat(sets.images[name].pixels[:n]) for name in names]}
    for extractor in extractors:
        if extractor.name != "pixels":
            spaces[extractor.name] = [sets.features(extractor, name)[:n] for name in names]
    alone: dict[str, float] = {}
    sentences: list[str] = []
    copies = _duplicates(sets)
    share = len(sets.images["all_train"]) / sum(len(sets.images[f"all_{x}"]) for x in ("train", "holdout"))
    train, holdout, synthetic = spaces["pixels"]
    pixel_neighbours = memorisation.neighbours(train, holdout, synthetic)
    for name, points in spaces.items():
        kinds = {name: pixel_neighbours} if name == "pixels" else _both(name, points)
        for space, found in kinds.items():
            measures = memorisation.nearest_neighbor(found)
            alone |= {f"hint/{key}_{space}": value for key, value in measures.items()}
            verdict = memorisation.copying_sentence(measures, copies["train"], copies["holdout"], share)
            sentences.append(f"hint/…_{space}, {n} images of each set: {verdict}")
    alone |= {f"hint/exact_duplicates_{name}": float(count) for name, count in copies.items()}
    pairs = memorisation.closest_pairs(pixel_neighbours)
    for column, name in (("synthetic", "score"), ("train", "train"), ("holdout", "holdout")):
        pairs[column] = sets.positions[name][pairs[column].to_numpy()]
    alone |= _public(sets, synthetic)
    return ImageOutcome(
        memorisation.VERSION,
        alone=alone,
        notes=(HINT_NOTE, *sentences),
        rows={"nearest_neighbor": n},
        tables={"nearest_pairs": pairs},
        protocol=protocol_of(
            sets,
            "nearest_neighbor",
            memorisation.VERSION,
            estimator={"n": n, "spaces": [e.describe() for e in extractors], "pixels": "raw"},
        ),
    )


def similarity(sets: ImageSets, extractors: list[Extractor], rows: int) -> ImageOutcome:
    """``hint/{ssim,psnr,cosine_*}_nearest``: synthetic images beside their nearest training images.

    ``…_random`` are the same figures of random pairs of training images, ``…_start`` those of synthetic
    images and the public image each started from, where the model says it. PSNR is the median, the others are
    means. Images below 6 pixels have no SSIM.
    """
    n = min(rows, sets.n)
    train, synthetic = sets.images["train"].pixels, sets.images["score"].pixels[:n]
    closest = nearest(_flat(train), _flat(synthetic))[1][:, 0]
    first, second = _random_pairs(len(train), n, sets.seed)
    pairs = {"nearest": (train[closest], synthetic), "random": (train[first], train[second])}
    starts = _starts(sets, n)
    if starts is not None:
        pairs["start"] = (starts, synthetic)
    alone: dict[str, float] = {}
    small = min(train.shape[1:3]) < visual.LEAST_SIDE
    for name, pair in pairs.items():
        if not small:
            alone[f"hint/ssim_{name}"] = float(visual.structural_similarity(*pair).mean())
        alone[f"hint/psnr_{name}"] = float(np.median(visual.peak_signal_to_noise(*pair)))
    for extractor in extractors:
        real = sets.features(extractor, "train")
        made = sets.features(extractor, "score")[:n]
        alone[f"hint/cosine_{extractor.name}_nearest"] = _cosine(real[closest], made)
        alone[f"hint/cosine_{extractor.name}_random"] = _cosine(real[first], real[second])
        if starts is not None:
            found = checked_features(extractor(starts), least=1)
            alone[f"hint/cosine_{extractor.name}_start"] = _cosine(found, made)
    return ImageOutcome(
        visual.VERSION,
        alone=alone,
        notes=(f"SSIM left out: images below {visual.LEAST_SIDE} pixels",) if small else (),
        rows={"similarity": n},
        protocol=protocol_of(
            sets, "similarity", visual.VERSION, estimator={"n": n, "nearest": "pixels, L2"}, reference="train"
        ),
    )


def _starts(sets: ImageSets, n: int) -> np.ndarray | None:
    """Pixels of the public images behind the first ``n`` synthetic ones, if every one of those has one."""
    if sets.starts is None or len(sets.starts) != len(sets.images["all_score"]):
        return None
    return sets.starts.pixels[sets.positions["score"][:n]]


def attack(sets: ImageSets, extractor: Extractor, rows: int) -> ImageOutcome:
    """``attack/dcr_…``: is an image a member if a synthetic image lies close to it?

    Images that train and holdout share are left out. ``attack/dcr_calibration_auc`` is the attack against
    its own members, released as they are. Below 1,000 members or non-members nothing is reported.
    """
    groups = unshared(sets, rows)
    n = min(len(group) for group in groups)
    if n < LEAST_ATTACKED:
        return ImageOutcome(
            ATTACK_VERSION, notes=(f"attack/dcr left out: {n} images a side, expected {LEAST_ATTACKED}",)
        )
    points = [sets.features(extractor, x)[g[:n]] for x, g in zip(("train", "holdout"), groups, strict=True)]
    found = _attacked(points, sets.features(extractor, "score"), sets.seed)
    calibration = _attacked(points, points[0], sets.seed).auc.value
    delta = sets.guarantee.delta if sets.guarantee else 0.0
    text = f"attack/dcr: {found.sentence(*(sets.guarantee or (None, 0.0)))}; AUC {found.auc.value:.3f}"
    text += f" [{found.auc.low:.3f}, {found.auc.high:.3f}], against its own members {calibration:.3f}"
    if calibration <= TOO_WEAK:
        text += ": too weak on these images to say anything"
    return ImageOutcome(
        ATTACK_VERSION,
        alone={**found.metrics(delta), "attack/dcr_calibration_auc": calibration},
        notes=(text,),
        rows={"attacks": n},
        protocol=protocol_of(
            sets, "attack", ATTACK_VERSION, extractor=extractor, estimator={"n": n}, reference="train"
        ),
    )


def _both(name: str, points: list[np.ndarray]) -> dict[str, memorisation.Neighbours]:
    train, holdout, synthetic = points
    return {
        name: memorisation.neighbours(train, holdout, synthetic),
        f"{name}_cosine": memorisation.neighbours(train, holdout, synthetic, cosine=True),
    }


def _duplicates(sets: ImageSets) -> dict[str, int]:
    synthetic = sets.images["all_score"].pixels
    return {
        name: memorisation.exact_duplicates(sets.images[f"all_{name}"].pixels, synthetic)
        for name in ("train", "holdout")
    }


def _public(sets: ImageSets, synthetic: np.ndarray) -> dict[str, float]:
    """How near the images are to the public ones the model started from; empty without these."""
    if "public" not in sets.images:
        return {}
    public, drawn = (sets.images[name].pixels for name in ("all_public", "public"))
    distances = nearest(_flat(drawn[: len(synthetic)]), synthetic)[0][:, 0]
    return {
        "hint/exact_duplicates_public": float(
            memorisation.exact_duplicates(public, sets.images["all_score"].pixels)
        ),
        "hint/public_p5_pixels": float(np.percentile(distances, memorisation.LOW_PERCENTILE)),
    }


def unshared(sets: ImageSets, rows: int) -> list[np.ndarray]:
    """Positions of images that occur once in train and holdout together."""
    hashes = [memorisation.image_hashes(sets.images[name].pixels) for name in ("train", "holdout")]
    _, where, counts = np.unique(np.array([*hashes[0], *hashes[1]]), return_inverse=True, return_counts=True)
    single = counts[where] == 1
    parts = np.split(single, [len(hashes[0])])
    return [np.flatnonzero(part)[:rows] for part in parts]


def _attacked(points: list[np.ndarray], released: np.ndarray, seed: int) -> AttackResult:
    scores = Scores(*(-nearest(released, queries)[0][:, 0] for queries in points))
    return AttackResult("dcr", ATTACK_VERSION, scores, *scores.halves(seed))


def _random_pairs(size: int, n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Positions of ``n`` pairs of different images."""
    rng = np.random.default_rng([seed, 63])
    first = rng.integers(size, size=n)
    return first, (first + rng.integers(1, max(size, 2), size=n)) % size


def _cosine(a: np.ndarray, b: np.ndarray) -> float:
    length = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return float(((a * b).sum(axis=1) / np.where(length > 0, length, 1.0)).mean())


def _flat(pixels: np.ndarray) -> np.ndarray:
    return pixels.reshape(len(pixels), -1) / 255.0
