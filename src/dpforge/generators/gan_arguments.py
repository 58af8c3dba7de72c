"""Arguments of the three-line use of the GAN as settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dpforge.errors import ConfigError, did_you_mean
from dpforge.generators.dpwgan import DPWGAN as Settings
from dpforge.generators.gan_checks import BOUNDS
from dpforge.privacy import spec

MORE = (
    "loss",
    "loss_scale",
    "optimizer",
    "betas",
    "constraint",
    "ema",
    "lr_decay",
    "adaptive_critics",
    "penalty",
    "penalty_weight",
    "generator_batch_size",
    "critic_learning_rate",
    "generator_learning_rate",
)


@dataclass(frozen=True)
class PrivacySpec(spec.PrivacySpec):
    """As in a configuration, with no target that nobody asked for.

    ``PrivacySpec(noise_multiplier=1.0, delta=1e-6)`` and ``PrivacySpec(target_epsilon=2.0, delta=1e-6)`` are
    whole; of neither or both of the two, the error says so. See :class:`dpforge.privacy.spec.PrivacySpec`.
    """

    target_epsilon: float | None = None


NO_DP = PrivacySpec(enabled=False)


def privacy_of(
    privacy: spec.PrivacySpec | None, sigma: float | None, max_grad_norm: float | None, delta: float
) -> spec.PrivacySpec:
    """Return what ``privacy`` or, in its place, ``sigma`` with ``max_grad_norm`` and ``delta`` ask for.

    Raises:
        ConfigError: Both, or a sigma without a clipping norm.
    """
    if privacy is not None and (sigma is not None or max_grad_norm is not None):
        raise ConfigError("give either privacy=PrivacySpec(…), or sigma with max_grad_norm; got both.")
    if sigma is None:
        return privacy or NO_DP
    if max_grad_norm is None:
        raise ConfigError(
            f"sigma={sigma} alone gives no privacy: noise protects what a record can change, which needs"
            " max_grad_norm, the clipping norm of a record's gradient. Add max_grad_norm=0.3, or leave sigma"
            " out."
        )
    return PrivacySpec(noise_multiplier=sigma, delta=delta, max_grad_norm=max_grad_norm)


def settings_of(
    epochs: float, n_critics: int, batch: int, rate: float, weight_clip: float | None, more: Mapping[str, Any]
) -> Settings:
    """Return the settings of a GAN on given networks; raises ``ConfigError`` for an unknown one."""
    given = {
        "epochs": epochs,
        "n_critics": n_critics,
        "expected_batch_size": batch,
        "critic_learning_rate": rate,
        "generator_learning_rate": rate,
        "loss": "wasserstein",
        "loss_scale": 1.0,
        "optimizer": "rmsprop",
        "constraint": "none" if more.get("penalty") == "gradient" else "clamp",
    }
    unknown = [name for name in more if name not in MORE]
    if unknown:
        raise ConfigError([f"unknown setting '{name}'.{did_you_mean(name, MORE)}" for name in unknown])
    given |= dict(more)
    bound = BOUNDS.get(given["constraint"]) if weight_clip is None else weight_clip
    return Settings(**given, weight_clip=bound)
