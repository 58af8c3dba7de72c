"""Prompts of a text-to-image API: one list for all classes, or a list for each class."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dpforge.errors import ConfigError


@dataclass(frozen=True)
class Prompts:
    """Prompts with weights.

    Args:
        shared: Prompt and weight of each prompt that every class uses; empty when ``by_class`` is given.
        by_class: The same for each class name.
    """

    shared: tuple[tuple[str, float], ...] = ()
    by_class: Mapping[str, tuple[tuple[str, float], ...]] | None = None

    @property
    def class_aware(self) -> bool:
        """Whether a class has its own prompts."""
        return self.by_class is not None

    def of(self, name: str) -> tuple[tuple[str, float], ...]:
        """Prompts and weights of a class; raises ``ConfigError`` when it has none."""
        if self.by_class is None:
            return self.shared
        if name not in self.by_class:
            raise ConfigError(f"model.api.prompts has no entry for the class '{name}'. Add one.")
        return self.by_class[name]

    def mistakes(self, classes: Sequence[str]) -> list[str]:
        """One text if the map and the classes differ."""
        if self.by_class is None:
            return []
        if not classes:
            return ["model.api.prompts is a map of classes, and this run has no classes. Give a list."]
        missing, strange = set(classes) - set(self.by_class), set(self.by_class) - set(classes)
        texts = [f"model.api.prompts has no entry for: {', '.join(sorted(missing))}."] if missing else []
        if strange:
            texts.append(f"model.api.prompts names unknown classes: {', '.join(sorted(strange))}.")
        return texts

    def assign(self, labels: np.ndarray, class_names: Sequence[str]) -> np.ndarray:
        """Give every image a prompt: each class block is shared out in proportion to the weights.

        With equal weights prompt ``i`` of ``p`` gets ⌊(n + i)/p⌋ of the ``n`` images of a class.

        Args:
            labels: int64 ``(n,)``, positions in ``class_names``.
            class_names: Names of the classes; empty when the labels mean nothing.

        Returns:
            Unicode array ``(n,)``.
        """
        longest = max(len(text) for text in self.texts())
        assigned = np.empty(len(labels), dtype=f"<U{longest}")
        for label in np.unique(labels):
            rows = np.flatnonzero(labels == label)
            entries = self.of(class_names[int(label)] if len(class_names) else "")
            counts = _shares([weight for _, weight in entries], len(rows))
            assigned[rows] = np.repeat([text for text, _ in entries], counts)
        return assigned

    def texts(self) -> list[str]:
        """Every prompt once, in order."""
        entries = [self.shared] if self.by_class is None else list(self.by_class.values())
        return list(dict.fromkeys(text for part in entries for text, _ in part))


def parse_prompts(given: Any) -> Prompts:
    """Read ``model.api.prompts``.

    Args:
        given: A text; a list of texts or of ``{prompt: …, weight: …}``; or a map of class name to one of
            these.

    Raises:
        ConfigError: Another form, an empty list or text, or a weight that is not a positive number.
    """
    if isinstance(given, Mapping) and "prompt" not in given:
        if not given:
            raise ConfigError("model.api.prompts is empty. Give a list of texts, or a map of class to list.")
        return Prompts(by_class={str(name): _entries(part) for name, part in given.items()})
    return Prompts(shared=_entries(given))


def _entries(given: Any) -> tuple[tuple[str, float], ...]:
    items = given if isinstance(given, Sequence) and not isinstance(given, str) else [given]
    if not items:
        raise ConfigError("model.api.prompts is empty. Give at least one text.")
    return tuple(_entry(item) for item in items)


def _entry(item: Any) -> tuple[str, float]:
    text, weight = item, 1.0
    if isinstance(item, Mapping):
        strange = set(item) - {"prompt", "weight"}
        if strange:
            raise ConfigError(
                f"model.api.prompts: unknown key {', '.join(map(str, sorted(strange)))}; expected prompt and"
                " weight."
            )
        text, weight = item.get("prompt"), item.get("weight", 1.0)
    if not isinstance(text, str) or not text.strip():
        raise ConfigError(f"model.api.prompts has {text!r}: expected a text that is not empty.")
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 < weight < math.inf:
        raise ConfigError(f"model.api.prompts has the weight {weight!r}: expected a finite number > 0.")
    return text, float(weight)


def _shares(weights: Sequence[float], n: int) -> np.ndarray:
    """Split ``n`` by largest remainder; of equal remainders the later prompt is served first."""
    exact = np.asarray(weights) / np.sum(weights) * n
    counts = np.floor(exact + 1e-9).astype(np.int64)
    left = n - int(counts.sum())
    remainders = np.round(exact - counts, 9)
    order = np.lexsort((-np.arange(len(weights)), -remainders))
    counts[order[:left]] += 1
    return counts
