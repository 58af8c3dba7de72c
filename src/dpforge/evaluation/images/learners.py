"""Classifiers that are trained on one set of images and tested on another, with fixed recipes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from scipy.stats import binomtest
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier

from dpforge.data.images import Images, ImageSchema
from dpforge.errors import ConfigError, DataError, did_you_mean
from dpforge.evaluation.learners import fitted
from dpforge.evaluation.threads import threads_for

VERSION = "image-tstr-1"
SKLEARN = ("lr", "mlp")
NETWORKS = ("cnn", "resnet")
MODELS = (*SKLEARN, *NETWORKS)
LEAST_IMAGES = 2
# Channels of the ResNet's first stage; the full width is for a GPU.
RESNET_WIDTHS = {"cpu": 16, "cuda": 64}

Predict = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Training:
    """How the networks among the models are trained.

    Args:
        epochs: Epochs of ``mlp``, ``cnn`` and ``resnet``; None for 30, 20 and 50.
        device: ``cpu`` or ``cuda``.
        flip: Whether mirrored images keep their class; not so for digits and letters.
    """

    epochs: int | None = None
    device: str = "cpu"
    flip: bool = False

    def recipe(self, model: str) -> dict[str, Any]:
        """The recipe of one model as plain values, for the protocol.

        Raises:
            ConfigError: Unknown model.
        """
        check_model(model)
        if model == "lr":
            return {"C": 0.1, "max_iter": 300}
        if model == "mlp":
            return {"hidden": [256], "learning_rate": 1e-3, "batch_size": 256, "epochs": self.epochs or 30}
        if model == "cnn":
            return {
                "optimizer": "adam",
                "learning_rate": 1e-3,
                "batch_size": 256,
                "epochs": self.epochs or 20,
            }
        return {
            "optimizer": "sgd",
            "learning_rate": 0.1,
            "batch_size": 256,
            "epochs": self.epochs or 50,
            "weight_decay": 5e-4,
            "crop": True,
            "flip": self.flip,
            "width": RESNET_WIDTHS[self.device],
        }


class Soft(NamedTuple):
    """Logits ``(n, classes)`` of a teacher, and the temperature they are read at, > 0."""

    logits: np.ndarray
    temperature: float


def check_model(model: str) -> None:
    """Raise ``ConfigError`` unless ``model`` is one of :data:`MODELS`."""
    if model not in MODELS:
        hint = did_you_mean(model, MODELS)
        raise ConfigError(f"unknown classifier '{model}', expected one of {', '.join(MODELS)}.{hint}")


def trained(model: str, images: Images, schema: ImageSchema, training: Training, *, seed: int) -> Predict:
    """Train a classifier on ``images``; the result maps pixels ``(n, h, w, c)`` to labels ``(n,)``.

    Models: ``lr`` and ``mlp`` (scikit-learn, on flattened pixels over 255), ``cnn`` and ``resnet``
    (ResNet18 with batch normalisation). Fixed recipes (:meth:`Training.recipe`), the last epoch counts.
    Classes enter in alphabetical order of their names, so the order of the schema changes nothing.

    Raises:
        ConfigError: Unknown model.
        DataError: Fewer than 2 images, or images too small for the model.
    """
    check_model(model)
    if len(images) < LEAST_IMAGES:
        raise DataError(
            f"{len(images)} images: a classifier needs at least {LEAST_IMAGES}. Sample more images."
        )
    order = np.array(
        sorted(range(schema.num_classes), key=lambda c: schema.classes[c] if schema.classes else "")
    )
    position = np.argsort(order)
    named = replace(images, labels=position[images.labels])
    if len(np.unique(named.labels)) == 1:
        only = int(images.labels[0])
        return lambda pixels: np.full(len(pixels), only)
    make = _network if model in NETWORKS else _sklearn
    predict = make(model, named, schema.num_classes, training, seed)
    return lambda pixels: order[predict(pixels)]


def distilled(
    model: str, images: Images, schema: ImageSchema, training: Training, *, seed: int, temperature: float
) -> Predict:
    """Train a network on soft labels; like :func:`trained` otherwise.

    The loss is T² KL(softmax(teacher / T) ‖ softmax(network / T)) with the images' ``teacher_logits``.

    Raises:
        ConfigError: A model that takes no soft labels.
        DataError: Fewer than 2 images, or images too small for the model.

    References:
        Hinton, Vinyals and Dean, *Distilling the Knowledge in a Neural Network* (2015).
    """
    if model not in NETWORKS:
        raise ConfigError(
            f"classifier '{model}' takes no soft labels, expected one of {', '.join(NETWORKS)}."
        )
    order = np.array(sorted(range(schema.num_classes), key=lambda c: schema.classes[c]))
    logits = images.extra["teacher_logits"][:, order]
    predict = _network(model, images, schema.num_classes, training, seed, Soft(logits, temperature))
    return lambda pixels: order[predict(pixels)]


def agreement(truth: np.ndarray, predicted: np.ndarray, classes: int) -> dict[str, float]:
    """How well predicted classes ``(n,)`` agree with the truth, all in [0, 1], best 1.

    Returns:
        ``accuracy``; ``balanced_accuracy``, the mean recall; ``macro_f1``. Means are over the classes that
        the truth holds.

    Raises:
        DataError: No image.
    """
    recall = class_recall(truth, predicted, classes)
    hits = np.bincount(truth[truth == predicted], minlength=classes)
    sizes = np.bincount(truth, minlength=classes) + np.bincount(predicted, minlength=classes)
    present = np.isfinite(recall)
    return {
        "accuracy": float((truth == predicted).mean()),
        "balanced_accuracy": float(recall[present].mean()),
        "macro_f1": float((2 * hits[present] / sizes[present]).mean()),
    }


def class_recall(truth: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """Share of each class's images that are recognised, ``(classes,)``; NaN for a class without images."""
    if len(truth) == 0:
        raise DataError("0 test images: accuracy needs at least 1. Give a holdout.")
    sizes = np.bincount(truth, minlength=classes)
    hits = np.bincount(truth[truth == predicted], minlength=classes)
    return np.divide(hits, sizes, out=np.full(classes, np.nan), where=sizes > 0)


def majority(prior: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """:func:`agreement` expected of always predicting the commonest class of the public ``prior``.

    For the accuracy the prior itself is taken as the distribution of the truth. Of equally common classes
    the mean is returned, so their order does not matter.
    """
    classes = len(prior)
    commonest = np.flatnonzero(prior >= prior.max() - 1e-12)
    found = [agreement(truth, np.full(len(truth), best), classes) for best in commonest]
    means = {measure: float(np.mean([values[measure] for values in found])) for measure in found[0]}
    return {**means, "accuracy": float(prior.max())}


def wilson(share: float, trials: int) -> tuple[float, float]:
    """Ends of the Wilson 95 % interval of a share among ``trials`` images.

    References:
        Wilson, *Probable Inference, the Law of Succession, and Statistical Inference* (JASA 1927).
    """
    found = binomtest(round(share * trials), trials).proportion_ci(0.95, method="wilson")
    return float(found.low), float(found.high)


def _sklearn(model: str, images: Images, classes: int, training: Training, seed: int) -> Predict:
    recipe = training.recipe(model)
    learner: Any = LogisticRegression(C=recipe["C"], max_iter=recipe["max_iter"]) if model == "lr" else None
    if learner is None:
        learner = MLPClassifier(
            tuple(recipe["hidden"]),
            learning_rate_init=recipe["learning_rate"],
            batch_size=min(recipe["batch_size"], len(images)),
            max_iter=recipe["epochs"],
            n_iter_no_change=recipe["epochs"],
            random_state=seed,
        )
    with threads_for(len(images)):
        fitted(learner, _flat(images.pixels), images.labels)
    return lambda pixels: learner.predict(_flat(pixels))


def _flat(pixels: np.ndarray) -> np.ndarray:
    return pixels.reshape(len(pixels), -1).astype(np.float32) / np.float32(255)


def _network(
    model: str, images: Images, classes: int, training: Training, seed: int, soft: Soft | None = None
) -> Predict:
    import torch

    from dpforge.evaluation.images.distillation import train_softly
    from dpforge.nets import classifiers

    shape = images.pixels.shape[1:]
    if model == "cnn" and min(shape[:2]) < classifiers.LEAST_SIDE:
        raise DataError(
            f"images of {shape[0]}×{shape[1]} pixels: the cnn needs {classifiers.LEAST_SIDE}×"
            f"{classifiers.LEAST_SIDE} or more. Use evaluation.classifiers=[lr]."
        )
    settings = training.recipe(model)
    width = settings.pop("width", 0)
    net = classifiers.new_classifier(model, shape, classes, seed=seed, width=width)
    pixels, labels = (torch.from_numpy(np.array(x)) for x in (images.pixels, images.labels))
    recipe = classifiers.Recipe(**settings)
    if soft is None:
        classifiers.train_classifier(net, pixels, labels, recipe, seed=seed, device=training.device)
    else:
        train_softly(net, pixels, soft.logits, soft.temperature, recipe, seed=seed, device=training.device)

    def predict(pixels: np.ndarray) -> np.ndarray:
        found = classifiers.class_probabilities(
            net, torch.from_numpy(np.array(pixels)), device=training.device
        )
        return found.argmax(dim=1).numpy()

    return predict
