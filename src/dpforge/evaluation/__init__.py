"""Metrics of synthetic data, each beside its floor and its ceiling."""

from __future__ import annotations

from dpforge.evaluation.accuracy import mostly_accuracy
from dpforge.evaluation.attacks import AttackResult, distance_attack, domias, shadow_attack
from dpforge.evaluation.classifier_test import classifier_two_sample
from dpforge.evaluation.comparisons import Guarantee
from dpforge.evaluation.correlation import association, correlation_error
from dpforge.evaluation.coverage import duplicate_share, value_coverage
from dpforge.evaluation.distances import distance_hints
from dpforge.evaluation.downstream import train_on_test_on
from dpforge.evaluation.images import ImageEvaluation
from dpforge.evaluation.likelihood import Likelihood
from dpforge.evaluation.marginals import total_variation
from dpforge.evaluation.propensity import legacy_propensity, propensity_ratio
from dpforge.evaluation.ranking import (
    legacy_ranking_agreement,
    ranking_agreement,
    synthetic_ranking_agreement,
)
from dpforge.evaluation.results import Headline, Results, attack_notes, headline
from dpforge.evaluation.suite import TabularEvaluation
from dpforge.evaluation.wasserstein import legacy_wasserstein, wasserstein_ratio

__all__ = [
    "AttackResult",
    "Guarantee",
    "Headline",
    "ImageEvaluation",
    "Likelihood",
    "Results",
    "TabularEvaluation",
    "association",
    "attack_notes",
    "classifier_two_sample",
    "correlation_error",
    "distance_attack",
    "distance_hints",
    "domias",
    "duplicate_share",
    "headline",
    "legacy_propensity",
    "legacy_ranking_agreement",
    "legacy_wasserstein",
    "mostly_accuracy",
    "propensity_ratio",
    "ranking_agreement",
    "shadow_attack",
    "synthetic_ranking_agreement",
    "total_variation",
    "train_on_test_on",
    "value_coverage",
    "wasserstein_ratio",
]
