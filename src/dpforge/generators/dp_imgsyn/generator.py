"""DP-ImgSyn: teacher, one release of layer statistics, aligned public images, student.

The teacher is trained with DP-SGD; the statistics are one Gaussian release; both are one plan. Everything
after them reads released values and public images.

References:
    Soufleri, Ravikumar and Roy, *DP-ImgSyn: Dataset Alignment for Obfuscated, Differentially Private Image
    Synthesis* (TMLR 2024).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from dpforge.data import ImageDataset, ImageSchema
from dpforge.errors import ConfigError
from dpforge.generators.base import RunContext, nominal_units, rows_per_unit
from dpforge.generators.dp_imgsyn.checks import public_mistakes, schema_mistakes, setting_mistakes
from dpforge.generators.dp_imgsyn.fitted import FittedImgSyn, load_fitted
from dpforge.generators.dp_imgsyn.settings import (
    StatisticsSettings,
    StudentSettings,
    SynthesisSettings,
    TeacherSettings,
)
from dpforge.generators.dp_imgsyn.stages import Stages
from dpforge.generators.dp_imgsyn.statistics import STATISTICS, count_coordinate, unit_sensitivity
from dpforge.privacy.accounting import gaussian_noise_multiplier
from dpforge.privacy.events import Gaussian, NonPrivate, PoissonSampled
from dpforge.privacy.plan import Piece, Plan, Release, Training, make_plan
from dpforge.privacy.spec import PrivacySpec, replace_factor

DEFAULT_NOISE = 20.0  # of the statistics, beside a given noise multiplier of the teacher
_REASON = "L2: moments of all layers clipped to R with a count kappa, divided by sqrt(R^2 + kappa^2)"
_RECORDER = "running moments of the original, without clipping or noise: NOT DP"


@dataclass(frozen=True)
class DPImgSyn:
    """Settings of DP-ImgSyn.

    Args:
        teacher, statistics, synthesis, student: Of the four stages.
        public: Public images to start from: a data set, a folder, or a mapping; see
            :func:`~dpforge.data.public_images.load_public_images`. Naming them states that they are public.
        num_samples: Synthetic images K', >= 2.
        public_seed: Of the permutation of public images whose first K' are used.
        public_index_file: Positions to use instead: ``.npy``, ``.txt`` or ``.pt``.
        public_selection: ``random``, or ``balanced`` by the teacher's own predictions.
        normalization: ``auto`` (constants published with the data set, else as ``public``), ``public``
            (moments of public images), or ``{mean: [...], std: [...]}`` of values in [0, 1].

    Raises:
        ConfigError: With every mistake among the values.
    """

    modalities: ClassVar[tuple[str, ...]] = ("image",)
    name: ClassVar[str] = "dp_imgsyn"

    teacher: TeacherSettings = field(default_factory=TeacherSettings)
    statistics: StatisticsSettings = field(default_factory=StatisticsSettings)
    synthesis: SynthesisSettings = field(default_factory=SynthesisSettings)
    student: StudentSettings = field(default_factory=StudentSettings)
    public: Any = "font_digits"
    num_samples: int = 2000
    public_seed: int = 1
    public_index_file: str | None = None
    public_selection: str = "random"
    normalization: str | Mapping[str, Sequence[float]] = "auto"

    def __post_init__(self) -> None:
        mistakes = setting_mistakes(self)
        if mistakes:
            raise ConfigError(mistakes)

    @property
    def not_dp(self) -> bool:
        """Whether no setting of privacy makes this private."""
        return self.statistics.kind == "upstream"

    def public_mistakes(self, dataset: Any) -> list[str]:
        """Return whether the public images are the private ones, of which ``dataset`` is the source."""
        return public_mistakes(self, dataset)

    def rate(self, schema: ImageSchema) -> float:
        """Return the sampling rate q, from configuration and public constants."""
        return self.teacher.rate(nominal_units(schema))

    def steps(self, schema: ImageSchema) -> int:
        """Return the steps T of the teacher."""
        return self.teacher.count(self.rate(schema))

    def plan(self, schema: ImageSchema, privacy: PrivacySpec) -> Plan:
        """One Gaussian release of the statistics, then DP-SGD for the rest of the budget.

        Raises:
            ConfigError: Settings that do not fit the data set.
        """
        mistakes = schema_mistakes(self, schema)
        if mistakes:
            raise ConfigError(mistakes)
        sensitivity = privacy.max_grad_norm * replace_factor(privacy.relation, histogram=False)
        reason = f"flat clip to {privacy.max_grad_norm:g} over all parameters of a unit"
        training = Training(self.rate(schema), self.steps(schema), reason, sensitivity)
        release = self._release(schema, privacy)
        noise = self._statistics_noise(privacy)
        if self.statistics.kind == "once" and noise is None:
            shares = {STATISTICS: self.statistics.share, "train": 1 - self.statistics.share}
            return make_plan(
                privacy, releases=[release], training=training, shares=shares, unit=schema.unit.kind
            )
        bricks = []
        if self.statistics.kind in ("once", "poisson"):
            rate, times = self.statistics.samples
            noisy = Gaussian(self._sampled_noise(privacy) if noise is None else noise)
            event = PoissonSampled(rate, noisy) if rate < 1 else noisy
            bricks = [Piece(STATISTICS, "gaussian", event, times, release.sensitivity, release.reason)]
        plan = make_plan(privacy, training=training, bricks=bricks, unit=schema.unit.kind)
        if not self.not_dp:
            return plan
        recorder = Piece(STATISTICS, "none", NonPrivate(), 1, 1.0, _RECORDER)
        return Plan((recorder, *plan.pieces), plan.delta, plan.relation, plan.unit, plan.target_epsilon)

    def _release(self, schema: ImageSchema, privacy: PrivacySpec) -> Release:
        count = count_coordinate(privacy.relation, self.statistics.count_weight)
        sensitivity = rows_per_unit(schema) * unit_sensitivity(privacy.relation, count)
        return Release(STATISTICS, sensitivity, _REASON)

    def _sampled_noise(self, privacy: PrivacySpec) -> float:
        """Return σ_s at which Poisson-sampled releases have their share of squared mu (central limit)."""
        if privacy.target_epsilon is None:
            return 0.0  # nothing is private
        shares = privacy.shares({STATISTICS: self.statistics.share, "train": 1 - self.statistics.share})
        mu = 1 / gaussian_noise_multiplier(privacy.target_epsilon, privacy.delta)
        rate, times = self.statistics.samples
        return 1 / math.sqrt(math.log1p(shares[STATISTICS] * mu**2 / (rate**2 * times)))

    def _statistics_noise(self, privacy: PrivacySpec) -> float | None:
        """Return σ_s where it is given, else None: it then follows from its share."""
        given = self.statistics.noise_multiplier
        if not isinstance(given, str):
            return float(given)
        return DEFAULT_NOISE if privacy.noise_multiplier is not None else None

    def fit(self, data: ImageDataset, run: RunContext) -> FittedImgSyn:
        """Run the four stages, each from where an earlier attempt left it."""
        return Stages(self, data, run).finish()

    def load(self, folder: Path) -> FittedImgSyn:
        """Read back a finished run."""
        return load_fitted(self, folder)
