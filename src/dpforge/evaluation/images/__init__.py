"""Metrics of synthetic images, each beside its floor and its ceiling. Importing it imports no torch."""

from __future__ import annotations

from dpforge.evaluation.images.frechet_distance import frechet, frechet_inf
from dpforge.evaluation.images.inception import inception_score
from dpforge.evaluation.images.kernel import kernel_distance
from dpforge.evaluation.images.manifold import precision_recall
from dpforge.evaluation.images.memorisation import exact_duplicates, nearest_neighbor, neighbours
from dpforge.evaluation.images.suite import ImageEvaluation
from dpforge.evaluation.images.visual import peak_signal_to_noise, structural_similarity

__all__ = [
    "ImageEvaluation",
    "exact_duplicates",
    "frechet",
    "frechet_inf",
    "inception_score",
    "kernel_distance",
    "nearest_neighbor",
    "neighbours",
    "peak_signal_to_noise",
    "precision_recall",
    "structural_similarity",
]
