"""Public feature spaces of images: what Fréchet distances, precision and recall, and votes are measured in.

Importing this package imports no deep-learning library; making an extractor does.
"""

from __future__ import annotations

from dpforge.features.cache import cached_features
from dpforge.features.registry import EXTRACTORS, Extractor, extractor, trained_on

__all__ = ["EXTRACTORS", "Extractor", "cached_features", "extractor", "trained_on"]
