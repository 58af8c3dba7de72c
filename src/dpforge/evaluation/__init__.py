"""Metrics of synthetic data, each beside its floor and its ceiling."""

from __future__ import annotations

from dpforge.evaluation.accuracy import mostly_accuracy
from dpforge.evaluation.classifier_test import classifier_two_sample
from dpforge.evaluation.correlation import association, correlation_error
from dpforge.evaluation.downstream import train_on_test_on
from dpforge.evaluation.marginals import total_variation
from dpforge.evaluation.results import Headline, Results, headline
from dpforge.evaluation.suite import TabularEvaluation

__all__ = [
    "Headline",
    "Results",
    "TabularEvaluation",
    "association",
    "classifier_two_sample",
    "correlation_error",
    "headline",
    "mostly_accuracy",
    "total_variation",
    "train_on_test_on",
]
