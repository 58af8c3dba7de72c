"""The sets of images of one evaluation: equally many of each, at one size, with a feature cache."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from dpforge.data.images import Images, ImageSchema, with_channels
from dpforge.errors import DataError
from dpforge.evaluation.comparisons import Guarantee
from dpforge.evaluation.images.features import checked_features, remembered
from dpforge.evaluation.images.learners import Predict, Training, trained
from dpforge.features import Extractor

REFERENCES = ("holdout", "train")
LEAST_IMAGES = 2
# Separate draws that share a seed.
STREAMS = {"train": 70, "holdout": 71, "score": 72, "public": 73}
REAL = ("train", "holdout")


@dataclass(frozen=True, eq=False)
class ImageSets:
    """Sets that are compared.

    Args:
        images: All of the schema's size. Draws of ``n`` images: ``train`` (the generator was fitted on
            these), ``holdout`` if there is one, ``score`` (the synthetic images) and ``floor``. Larger sets:
            ``test`` (held-out images for classifiers), ``all_train``, ``all_holdout``, ``all_score``.
            ``public`` and ``all_public`` where the model offers the public images it started from.
        positions: Where each image of a draw stood in the whole set.
        reference: ``holdout`` or ``train``: what distances are measured to.
        prior: Public share of each class.
        floor: What the floor is: ``permuted_pixels`` or ``public``.
        seed: Of classifiers, subsets and bootstraps.
        draw_seed: Of the draws of images.
        starts: The public image that each image of ``all_score`` started from, where the model says it.
    """

    schema: ImageSchema
    images: Mapping[str, Images]
    positions: Mapping[str, np.ndarray]
    reference: str
    prior: np.ndarray
    floor: str
    seed: int
    draw_seed: int
    training: Training
    guarantee: Guarantee | None = None
    starts: Images | None = None
    _features: dict[tuple[str, str], np.ndarray] = field(default_factory=dict, repr=False)
    _predictors: dict[tuple[str, str, int, int], Predict] = field(default_factory=dict, repr=False)

    @property
    def n(self) -> int:
        """Number of images of each set."""
        return len(self.images["score"])

    @property
    def test(self) -> Images:
        """Real images that were not used for training; only where there is a holdout."""
        return self.images["test"]

    @property
    def compared(self) -> dict[str, str]:
        """Roles of a score and the set behind each; the ceiling is the real set that is no reference.

        There is none where that set holds fewer images than the others.
        """
        other = "train" if self.reference == "holdout" else "holdout"
        found = {"score": "score", "floor": "floor"}
        there = other in self.images and len(self.images[other]) == self.n
        return {**found, "ceiling": other} if there else found

    def features(self, extractor: Extractor, name: str) -> np.ndarray:
        """Features ``(n, d)`` of the set ``name``, float64, computed once; of real sets once a process.

        Raises:
            DataError: A feature is not finite.
        """
        key = (extractor.name, name)
        if key not in self._features:
            pixels = self.images[name].pixels
            found = remembered(extractor, pixels) if name in REAL else extractor(pixels)
            self._features[key] = checked_features(found, least=1)
        return self._features[key]

    def predictor(self, model: str, name: str, rows: int, seed: int) -> Predict:
        """Return a classifier trained on ``rows`` images of the set ``name`` (see :meth:`lessons`), once."""
        key = (model, name, rows, seed)
        if key not in self._predictors:
            images = self.lessons(name, rows)
            self._predictors[key] = trained(model, images, self.schema, self.training, seed=seed)
        return self._predictors[key]

    def lesson_rows(self, rows: int) -> int:
        """The largest number of images, at most ``rows``, that a classifier can have of every set."""
        sets = ("train", "score", *(["public"] if self.floor == "public" else []))
        return min(rows, *(len(self.images[f"all_{name}"]) for name in sets))

    def lessons(self, name: str, rows: int) -> Images:
        """Images of the set ``name`` to learn from: its draw, continued beyond its end if it is shorter."""
        images = self.images[name]
        if rows <= len(images) or name not in (*STREAMS, "floor"):
            return images.head(rows)
        source = "public" if name == "floor" else name
        return drawn(self.images[f"all_{source}"], rows, self.draw_seed, STREAMS[source])[0]


def image_sets(
    given: Mapping[str, Images | None],
    schema: ImageSchema,
    *,
    reference: str,
    prior: np.ndarray,
    limit: int,
    seed: int,
    draw_seed: int,
    training: Training,
    guarantee: Guarantee | None,
    starts: Images | None = None,
    ceiling: bool = True,
) -> ImageSets:
    """Bring sets to one size and draw equally many images of each.

    Args:
        given: ``train``, ``score``, and, where there are any, ``holdout`` and ``public``.
        limit: Largest number of images of each draw.
        starts: Public images that those of ``score`` started from, in their order.
        ceiling: Whether the real set that is no reference bounds the number of images.

    Raises:
        DataError: Fewer than 2 images of a set, or a label that is no class.
    """
    optional = ("holdout", "public")
    kept = {name: x for name, x in given.items() if x is not None and (len(x) or name not in optional)}
    whole = {name: prepared(images, schema, name) for name, images in kept.items()}
    reference = reference if "holdout" in whole else "train"
    spare = "holdout" if reference == "train" and not ceiling else ""
    n = min(limit, *(len(images) for name, images in whole.items() if name != spare))
    if n < LEAST_IMAGES:
        smallest = min(whole, key=lambda name: len(whole[name]))
        raise DataError(f"the {smallest} set has {n} image; metrics need at least {LEAST_IMAGES}.")
    cuts = {k: drawn(x, n, draw_seed, STREAMS[k]) for k, x in whole.items()}
    if "holdout" in whole:
        cuts["test"] = drawn(whole["holdout"], limit, draw_seed, STREAMS["holdout"])
    images = {name: found for name, (found, _) in cuts.items()}
    images["floor"] = images["public"] if "public" in whole else permuted_pixels(images["train"], draw_seed)
    return ImageSets(
        schema=schema,
        images={**images, **{f"all_{name}": found for name, found in whole.items()}},
        positions={name: found for name, (_, found) in cuts.items()},
        reference=reference,
        prior=prior,
        floor="public" if "public" in whole else "permuted_pixels",
        seed=seed,
        draw_seed=draw_seed,
        training=training,
        guarantee=guarantee,
        starts=None if starts is None else prepared(starts, schema, "public start"),
    )


def drawn(images: Images, n: int, seed: int, stream: int) -> tuple[Images, np.ndarray]:
    """Draw ``n`` images without replacement in random order, and their positions."""
    positions = np.random.default_rng([seed, stream]).permutation(len(images))[:n]
    return images.take(positions), positions


def prepared(images: Images, schema: ImageSchema, role: str) -> Images:
    """Bring images to the colours and size of the schema: luma or repeated grey, bilinear, antialiased.

    Raises:
        DataError: No image, or a label that is no class of the schema.
    """
    if len(images) == 0:
        raise DataError(f"the {role} set has 0 images; metrics need at least 2. Sample or load more images.")
    if not schema.classes:
        # Images made without regard to class are compared with real ones whose labels play no part.
        images = Images(images.pixels, np.zeros_like(images.labels), images.extra)
    wrong = int(((images.labels < 0) | (images.labels >= schema.num_classes)).sum())
    if wrong:
        raise DataError(
            f"{wrong} labels of the {role} set are no class of '{schema.name}', which has"
            f" {schema.num_classes}. Read the images with the schema they were made with."
        )
    pixels = with_channels(images.pixels, schema.channels)
    return Images(_at_size(pixels, schema.height, schema.width), images.labels, images.extra)


def permuted_pixels(images: Images, seed: int) -> Images:
    """The floor: every pixel position shuffled over the images on its own, so only marginals stay."""
    rng = np.random.default_rng([seed, 61])
    flat = images.pixels.reshape(len(images), -1)
    return Images(rng.permuted(flat, axis=0).reshape(images.pixels.shape), images.labels)


def _at_size(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    if pixels.shape[1:3] == (height, width):
        return pixels
    from dpforge.nets.images import resize, to_pixels, to_unit

    parts = np.array_split(pixels, -(-len(pixels) // 1_000))
    return np.concatenate([to_pixels(resize(to_unit(part), (height, width))) for part in parts])
