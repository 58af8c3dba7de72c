"""How much privacy a run has: the ``privacy`` group of a configuration."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from dpforge.errors import ConfigError, did_you_mean

RELATIONS = ("add_remove", "zero_out", "replace")
RNG_KINDS = ("entropy", "seeded", "secure")
SELECTIONS = ("none", "public_proxy", "repeat_and_select")


@dataclass(frozen=True)
class PrivacySpec:
    """Budget, relation and randomness of a run.

    Args:
        target_epsilon: Epsilon of the whole pipeline, > 0; noise is calibrated to it.
        noise_multiplier: Instead of a target: sigma of the main mechanism, > 0.
        max_epsilon: With ``noise_multiplier``: the plan authorises only as many steps as keep the epsilon of
            the whole pipeline at or below it, >= 0.
        delta: In (0, 1); must lie below ``1 / nominal_rows`` of the data set.
        max_grad_norm: Clipping norm C of DP-SGD, > 0.
        relation: ``add_remove``, ``zero_out`` or ``replace``; see :func:`replace_factor`.
        rng: ``entropy`` (fresh key), ``seeded`` (reproducible: research noise) or ``secure``
            (cryptographic stream).
        seed: Seed of ``seeded`` noise; not the public experiment seed.
        split: Share of the budget by piece, as weights of squared mu; the generator's default if null.
        allow_large_delta: Study a delta at or above ``1 / nominal_rows`` on purpose.
        selection: What a search among runs may base its choice on; no part of a run's identity. See
            ``dpforge.sweep``.
        enabled: ``False`` trains the same code without DP (``privacy=none``).

    Raises:
        ConfigError: With every mistake among the values.
    """

    target_epsilon: float | None = 3.0
    noise_multiplier: float | None = None
    max_epsilon: float | None = None
    delta: float = 1e-5
    max_grad_norm: float = 1.0
    relation: str = "add_remove"
    rng: str = "entropy"
    seed: int | None = None
    split: Mapping[str, float] | None = field(default=None, hash=False)
    allow_large_delta: bool = False
    selection: str = "none"
    enabled: bool = True

    def __post_init__(self) -> None:
        mistakes = [*self._budget_mistakes(), *self._choice_mistakes(), *self._split_mistakes()]
        if mistakes:
            raise ConfigError(mistakes)

    def _budget_mistakes(self) -> list[str]:
        mistakes = []
        if self.enabled and (self.target_epsilon is None) == (self.noise_multiplier is None):
            mistakes.append(
                f"privacy.target_epsilon={self.target_epsilon} and"
                f" privacy.noise_multiplier={self.noise_multiplier}: expected exactly one of the two."
                " Set the other to null."
            )
        for name in ("target_epsilon", "noise_multiplier", "max_grad_norm"):
            value = getattr(self, name)
            if value is not None and not (_is_number(value) and value > 0):
                mistakes.append(f"privacy.{name}={value!r}: expected a finite number > 0.{_remedy(name)}")
        if self.max_epsilon is not None:
            mistakes += self._limit_mistakes(self.max_epsilon)
        if not (_is_number(self.delta) and 0 < self.delta < 1):
            mistakes.append(
                f"privacy.delta={self.delta!r}: expected a number in (0, 1), below 1/nominal_rows."
            )
        return mistakes

    def _limit_mistakes(self, limit: float) -> list[str]:
        if not (_is_number(limit) and limit >= 0):
            return [f"privacy.max_epsilon={limit!r}: expected a finite number >= 0, or null."]
        if self.enabled and self.noise_multiplier is None:
            return [
                f"privacy.max_epsilon={limit} has no meaning with target_epsilon, which the plan meets. Set"
                " privacy.noise_multiplier, or max_epsilon=null."
            ]
        return []

    def _choice_mistakes(self) -> list[str]:
        mistakes = []
        if self.enabled not in (True, False):  # a text would be true
            mistakes.append(f"privacy.enabled={self.enabled!r}: expected true or false.")
        for name, choices in (("relation", RELATIONS), ("rng", RNG_KINDS), ("selection", SELECTIONS)):
            value = getattr(self, name)
            if value not in choices:
                known = ", ".join(choices)
                mistakes.append(
                    f"privacy.{name}={value!r}: expected one of {known}.{did_you_mean(str(value), choices)}"
                )
        if self.rng == "seeded" and not isinstance(self.seed, int):
            mistakes.append(
                "privacy.rng=seeded needs privacy.seed, an integer that is not the experiment's seed."
            )
        if self.rng != "seeded" and self.seed is not None:
            mistakes.append(
                f"privacy.seed={self.seed} has no meaning with privacy.rng={self.rng}; set it to null."
            )
        return mistakes

    def _split_mistakes(self) -> list[str]:
        if self.split is None:
            return []
        bad = [name for name, share in self.split.items() if not (_is_number(share) and share > 0)]
        return [f"privacy.split.{name}={self.split[name]!r}: expected a share > 0." for name in bad]

    def shares(self, defaults: Mapping[str, float]) -> dict[str, float]:
        """Return the shares of the pieces named in ``defaults``, normalised to sum to 1.

        Raises:
            ConfigError: ``split`` names a piece that the generator does not have.
        """
        chosen = dict(defaults) if self.split is None else dict(self.split)
        unknown = sorted(set(chosen) - set(defaults))
        missing = sorted(set(defaults) - set(chosen))
        if unknown or missing:
            raise ConfigError(
                f"privacy.split has {sorted(chosen)}; expected the pieces {sorted(defaults)} of this model."
            )
        total = sum(chosen.values())
        return {name: share / total for name, share in chosen.items()}


def replace_factor(relation: str, *, histogram: bool) -> float:
    """Return what ``relation`` multiplies an add-or-remove L2 sensitivity by.

    Replacing a record moves a histogram by sqrt(2) (two cells by one) and a clipped sum by 2.
    """
    if relation != "replace":
        return 1.0
    return math.sqrt(2) if histogram else 2.0


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _remedy(name: str) -> str:
    return " Use privacy=none to train without differential privacy." if name != "max_grad_norm" else ""
