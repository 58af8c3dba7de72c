"""The parts of a table schema: bounds, categories, bins, columns, privacy unit and row count."""

from __future__ import annotations

from dataclasses import dataclass

KINDS = ("categorical", "integer", "numeric", "datetime")
PROVENANCES = ("public", "private", "unconfirmed")
OUTSIDE = ("clip", "null", "drop")
DECODE_UNKNOWN = ("token", "resample", "null")
RESOLUTION_SECONDS = {"second": 1, "minute": 60, "hour": 3600, "day": 86400}
UNKNOWN = "unknown"
# How a column becomes sub-columns; ``auto`` follows its kind and range.
CODECS = {
    "categorical": ("auto", "categorical"),
    "integer": ("auto", "discrete", "binned", "digit"),
    "numeric": ("auto", "binned", "digit"),
    "datetime": ("auto", "binned", "datetime_parts"),
}


@dataclass(frozen=True)
class Bounds:
    """Inclusive limits of a column, or how to buy them.

    Args:
        min: Smallest value; a number, or an ISO 8601 text for a datetime column; ``None`` while private.
        max: Largest value, of the same type as ``min``.
        provenance: ``public`` (known without the data), ``private`` (bought with ``epsilon``) or
            ``unconfirmed``.
        note: Why the bounds are public.
        epsilon: Price of private bounds, > 0.
        method: ``log_histogram`` or ``quantile``.
        outer: Public range that private bounds cannot leave.
        granularity: Smallest magnitude the log histogram tells from zero.
        levels: The two quantiles of ``method: quantile``, in (0, 1).
    """

    min: float | str | None = None
    max: float | str | None = None
    provenance: str = "public"
    note: str = ""
    epsilon: float | None = None
    method: str = "log_histogram"
    outer: tuple[float, float] | None = None
    granularity: float | None = None
    levels: tuple[float, float] = (0.005, 0.995)


@dataclass(frozen=True)
class Categories:
    """The values of a categorical column, or how to buy them by partition selection."""

    values: tuple[str, ...] = ()
    provenance: str = "public"
    note: str = ""
    epsilon: float | None = None
    delta: float | None = None
    max_values: int | None = None
    public_values: tuple[str, ...] = ()


@dataclass(frozen=True)
class Bins:
    """Discretisation of a number column, or how to buy it: exactly one of the first four.

    Args:
        edges: Ends of the bins, strictly increasing.
        equal_width: Number of bins of equal width.
        log_width: Number of bins of equal width on a signed logarithmic scale.
        dp_quantile: Number of bins that hold about as many rows each, >= 2; bought with ``epsilon``.
        provenance: ``private`` for ``dp_quantile``, else ``public`` or ``unconfirmed``.
        note: Why the bins are public.
        epsilon: Price of ``dp_quantile``, > 0.
    """

    edges: tuple[float, ...] | None = None
    equal_width: int | None = None
    log_width: int | None = None
    dp_quantile: int | None = None
    provenance: str = "public"
    note: str = ""
    epsilon: float | None = None


@dataclass(frozen=True)
class Column:
    """One column of a table, as the public knows it.

    Args:
        name: Column name.
        kind: ``categorical``, ``integer``, ``numeric`` or ``datetime``.
        bounds: Limits; for all kinds but ``categorical``.
        categories: Values; for ``categorical`` only.
        bins: Discretisation; ``None`` for the codec's default.
        nullable: Whether missing cells are possible; a public statement.
        null_tokens: Texts that mean *missing*.
        special_values: Values with a code of their own (structural zero, top code).
        granularity: Step of the value grid, anchored at zero; ``None``: 1 for integers, no grid for numeric.
        units: Unit of measurement, for reports.
        outside: Treatment of values outside the bounds: ``clip``, ``null`` or ``drop``.
        unseen: Treatment of unlisted categories: ``unknown``, ``map`` or ``drop``.
        unseen_map: The category that unlisted ones become when ``unseen`` is ``map``.
        resolution: Tick of a datetime column: ``second``, ``minute``, ``hour`` or ``day``.
        decode_unknown: How a generated ``unknown`` is written: ``token``, ``resample`` or ``null``.
        note: Free text.
        format: ``strptime`` format of the file's datetimes; empty for ISO 8601.
        codec: Sub-columns of generators that use them: one of ``CODECS`` of the kind.
    """

    name: str
    kind: str
    bounds: Bounds | None = None
    categories: Categories | None = None
    bins: Bins | None = None
    nullable: bool = False
    null_tokens: tuple[str, ...] = ()
    special_values: tuple[float, ...] = ()
    granularity: float | None = None
    units: str = ""
    outside: str = "clip"
    unseen: str = "unknown"
    unseen_map: str | None = None
    resolution: str = "second"
    decode_unknown: str = "token"
    note: str = ""
    format: str = ""
    codec: str = "auto"

    @property
    def has_unknown(self) -> bool:
        """Whether the column has a level for unlisted categories."""
        return self.kind == "categorical" and self.unseen == "unknown"

    @property
    def levels(self) -> tuple[str, ...]:
        """The categories in schema order, then ``unknown`` if the column has it."""
        values = self.categories.values if self.categories else ()
        return (*values, UNKNOWN) if self.has_unknown else values

    @property
    def open_categories(self) -> bool:
        """Whether the category set is still to be bought."""
        return self.categories is not None and not self.categories.values

    @property
    def open_bounds(self) -> bool:
        """Whether the bounds are still to be bought."""
        return self.bounds is not None and self.bounds.min is None

    @property
    def open_bins(self) -> bool:
        """Whether the bins are still to be bought."""
        return self.bins is not None and self.bins.dp_quantile is not None


@dataclass(frozen=True)
class Unit:
    """What differential privacy protects: one ``row``, or one ``user`` named by a column of the file."""

    kind: str = "row"
    column: str | None = None
    max_rows: int = 1


@dataclass(frozen=True)
class Rows:
    """Size of the synthetic table: ``fixed``, ``public`` or ``noisy`` (then bought with ``epsilon``)."""

    policy: str = "fixed"
    value: int | None = None
    epsilon: float | None = None
