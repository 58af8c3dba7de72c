"""The evaluation of synthetic images: chosen metrics, each beside its floor and its ceiling."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

from dpforge.data.images import Images, ImageSchema
from dpforge.errors import ConfigError
from dpforge.evaluation.comparisons import Guarantee
from dpforge.evaluation.images import copying, measures, utility
from dpforge.evaluation.images.extractors import chosen_extractors
from dpforge.evaluation.images.learners import MODELS, NETWORKS, Training
from dpforge.evaluation.images.membership import STUDENT_METRICS, student_measures
from dpforge.evaluation.images.options import too_small, unknown
from dpforge.evaluation.images.outcomes import ImageMeasure, ImageOutcome, image_results
from dpforge.evaluation.images.protocol import device_of
from dpforge.evaluation.images.sets import REFERENCES, ImageSets, image_sets
from dpforge.evaluation.images.structure import class_prior
from dpforge.evaluation.results import Results
from dpforge.features import EXTRACTORS, Extractor

DEFAULT_METRICS = (
    "frechet",
    "kernel_distance",
    "precision_recall",
    "tstr",
    "class_structure",
    "nearest_neighbor",
    "validity",
)
OTHER_METRICS = ("tstr_soft", "class_frechet", "inception_score", "similarity", "attacks")
METRICS = (*DEFAULT_METRICS, *STUDENT_METRICS, *OTHER_METRICS)
NEEDS_HOLDOUT = ("tstr", "tstr_soft", "nearest_neighbor", "attacks", *STUDENT_METRICS)
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class ImageEvaluation:
    """Scores of synthetic images against real ones.

    Args:
        metrics: Names out of :data:`METRICS`; None for :data:`DEFAULT_METRICS` and the model's own student.
        extractors: Feature spaces by name, see ``dpforge.features``; None for ``pixels`` and, on grey images
            up to 32 pixels, ``lenet_public``, else ``mobilenet_v2`` where its weights can be had.
        weights: File of the weights of an extractor, by its name, where it needs one.
        reference: Real images that distances are measured to: ``holdout`` (``train`` without one) or
            ``train``. The other set is the ceiling.
        max_images: Largest number of images of each set; all are compared at equal numbers.
        distance_ceiling: With ``reference: train``: whether the holdout, from which the ceiling comes, bounds
            that number too; without it there may be no ceiling.
        neighbours: k of precision and recall.
        neighbour_images: Largest number of images a set in precision and recall and in nearest neighbours.
        kernel_subsets: Subsets of the kernel distance.
        bootstraps: Bootstraps behind the deviation of the Fréchet distance; 0 for none.
        splits: Parts of the inception score.
        classifiers: Classifiers of ``tstr``: ``lr``, ``mlp``, ``cnn``, ``resnet``.
        classifier_images: Largest number of images ``lr`` and ``mlp`` are trained on.
        network_images: The same for ``cnn`` and ``resnet``, which take minutes on a CPU.
        classifier_seeds: Classifiers of each kind and set; the mean and the deviation are reported.
        classifier_epochs: Epochs of networks; None for 30 (``mlp``), 20 (``cnn``) and 50 (``resnet``).
        flip: Whether mirrored images keep their class, for the augmentation of ``resnet``.
        temperature: Of ``tstr_soft``, > 0.
        full_size: Whether ``tstr`` also trains on all real images.
        similarity_images: Synthetic images that similarity looks at.
        attack_images: Largest number of members and of non-members of the membership attack.
        prior: Public share of each class in the order of the schema; None for equal shares.
        device: Where networks run: ``cpu``, ``cuda`` or ``auto``.
        draw_seed: Of the draws of images, fixed so that runs are compared on the same ones.
        seed: Default seed of :meth:`evaluate`: of classifiers, subsets and bootstraps.

    Raises:
        ConfigError: With every mistake among the values.
    """

    modalities: ClassVar[tuple[str, ...]] = ("image",)

    metrics: Sequence[str] | None = None
    extractors: Sequence[str] | None = None
    weights: Mapping[str, str] | None = None
    reference: str = "holdout"
    max_images: int = 10_000
    distance_ceiling: bool = True
    neighbours: int = 4
    neighbour_images: int = 10_000
    kernel_subsets: int = 100
    bootstraps: int = 10
    splits: int = 1
    classifiers: Sequence[str] = ("lr", "cnn")
    classifier_images: int = 10_000
    network_images: int = 10_000
    classifier_seeds: int = 3
    classifier_epochs: int | None = None
    flip: bool = False
    temperature: float = 100.0
    full_size: bool = False
    similarity_images: int = 500
    attack_images: int = 5_000
    prior: Sequence[float] | None = None
    device: str = "auto"
    draw_seed: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        mistakes = [
            *unknown("metrics", self.metrics or (), METRICS),
            *unknown("extractors", self.extractors or (), tuple(EXTRACTORS)),
            *unknown("classifiers", self.classifiers, MODELS),
            *unknown("reference", (self.reference,), REFERENCES),
            *unknown("device", (self.device,), ("auto", "cpu", "cuda")),
            *too_small(self),
        ]
        if self.extractors is not None and not self.extractors:
            mistakes.append("evaluation.extractors=[]: expected at least one, for example [pixels], or null.")
        if not self.temperature > 0:
            mistakes.append(f"evaluation.temperature={self.temperature}, expected a number > 0.")
        if "class_structure" in (self.metrics or DEFAULT_METRICS) and not self.classifiers:
            mistakes.append("evaluation.classifiers=[]: class_structure needs one, for example [lr].")
        if mistakes:
            raise ConfigError(mistakes)

    def evaluate(
        self,
        train: Images,
        holdout: Images | None,
        synthetic: Images,
        schema: ImageSchema,
        *,
        seed: int | None = None,
        progress: Progress | None = None,
        model: object | None = None,
        guarantee: Guarantee | None = None,
    ) -> Results:
        """Score ``synthetic`` against ``train`` and ``holdout``; every number is private.

        ``floor/…`` is the score of ``model.public_floor`` (public images the model started from) or, without
        it, of training images with every pixel position shuffled on its own; for ``tstr`` of the commonest
        class. ``ceiling/…`` is the score of as many real images, ``normalised/…`` the position between.

        Args:
            seed: Of classifiers, subsets and bootstraps; None for ``self.seed``.
            progress: Called with (metric, finished, total).
            model: What made ``synthetic``; see above.
            guarantee: What the maker claims, for the sentence of the membership attack.

        Raises:
            DataError: Fewer than 2 images of a set, a label that is no class, or missing weights.
            ConfigError: The prior does not fit the classes, or an extractor knows the private set.
        """
        device = device_of(self.device)
        extractors, notes = chosen_extractors(self.extractors, schema, device=device, weights=self.weights)
        sets = image_sets(
            {"train": train, "holdout": holdout, "score": synthetic, "public": public_floor(model)},
            schema,
            reference=self.reference,
            prior=class_prior(self.prior, schema.num_classes),
            limit=self.max_images,
            seed=self.seed if seed is None else seed,
            draw_seed=self.draw_seed,
            training=Training(self.classifier_epochs, device, self.flip),
            guarantee=guarantee,
            starts=getattr(model, "public_start", None),
            ceiling=self.distance_ceiling,
        )
        own = student_measures(model, self.attack_images)
        chosen, skipped = self._measures(sets, extractors, synthetic, own)
        report = progress or _silent
        outcomes: list[ImageOutcome] = []
        for i, (name, measure) in enumerate(chosen):
            report(name, i, len(chosen))
            outcomes.append(measure(sets))
        report("done", len(chosen), len(chosen))
        rows = {name: len(sets.images[name]) for name in ("train", "holdout", "score") if name in sets.images}
        return image_results(outcomes, rows, [*_set_notes(sets, train, synthetic), *notes, *skipped])

    def _measures(
        self, sets: ImageSets, extractors: list[Extractor], synthetic: Images, own: dict[str, ImageMeasure]
    ) -> tuple[list[tuple[str, ImageMeasure]], list[str]]:
        """The chosen measurements that these images allow, and why others are left out."""
        chosen: list[tuple[str, ImageMeasure]] = []
        notes: list[str] = []
        for name in self.metrics or (*DEFAULT_METRICS, *own):
            reason = _not_applicable(name, sets, own)
            if reason:
                notes.append(f"{name} left out: {reason}")
                continue
            found = [own[name]] if name in own else self._named(name, extractors, synthetic)
            chosen += [(name, measure) for measure in found]
        return chosen, notes

    def _named(self, name: str, extractors: list[Extractor], synthetic: Images) -> list[ImageMeasure]:
        if name == "tstr":
            return [
                partial(
                    utility.tstr,
                    model=model,
                    seeds=self.classifier_seeds,
                    rows=self._classifier_rows(model),
                    full_size=self.full_size,
                )
                for model in self.classifiers
            ]
        if name == "tstr_soft":
            soft = partial(utility.tstr_soft, rows=self.network_images, temperature=self.temperature)
            return [partial(soft, model=model) for model in self.classifiers if model in NETWORKS]
        every: dict[str, tuple[Any, dict[str, Any]]] = {
            "frechet": (measures.frechet, {"bootstraps": self.bootstraps}),
            "class_frechet": (measures.class_frechet, {}),
            "kernel_distance": (measures.kernel_distance, {"subsets": self.kernel_subsets}),
            "precision_recall": (
                measures.precision_recall,
                {"k": self.neighbours, "rows": self.neighbour_images},
            ),
            "inception_score": (measures.inception_score, {"splits": self.splits}),
        }
        if name in every:
            measure, options = every[name]
            return [partial(measure, extractor=extractor, **options) for extractor in extractors]
        last = extractors[-1]
        once: dict[str, ImageMeasure] = {
            "validity": partial(utility.validity, given=synthetic),
            "similarity": partial(copying.similarity, extractors=extractors, rows=self.similarity_images),
            "attacks": partial(copying.attack, extractor=last, rows=self.attack_images),
            "nearest_neighbor": partial(
                copying.nearest_neighbor, extractors=extractors, rows=self.neighbour_images
            ),
        }
        if name == "class_structure":
            model = self.classifiers[-1]
            rows = self._classifier_rows(model)
            return [partial(utility.class_structure, model=model, rows=rows, extractor=last)]
        return [once[name]]

    def _classifier_rows(self, model: str) -> int:
        return self.network_images if model in NETWORKS else self.classifier_images


def public_floor(model: object | None) -> Images | None:
    """The public images that a model started from, if it offers them as ``public_floor``."""
    return getattr(model, "public_floor", None)


def _not_applicable(name: str, sets: ImageSets, own: Mapping[str, ImageMeasure]) -> str:
    if name in STUDENT_METRICS and name not in own:
        return "the model brings no classifier"
    if name in NEEDS_HOLDOUT and "holdout" not in sets.images:
        return "there is no holdout to compare with"
    if name in ("tstr", "tstr_soft") and sets.schema.num_classes < 2:
        return "the images have no classes"
    return ""


def _set_notes(sets: ImageSets, train: Images, synthetic: Images) -> list[str]:
    notes = [f"image scores compare {sets.n} images of each set"] if sets.n < len(train) else []
    if synthetic.pixels.shape[1:3] != sets.images["score"].pixels.shape[1:3]:
        notes.append("synthetic images were brought to the real size before they were scored")
    if "holdout" not in sets.images:
        notes.append("no holdout: ceilings and normalised scores are left out")
    floor = {"public": "the public images the model started from", "permuted_pixels": "shuffled pixels"}
    notes.append(f"floor of image distances: {floor[sets.floor]}")
    return notes


def _silent(metric: str, done: int, total: int) -> None:
    """Report nothing."""
