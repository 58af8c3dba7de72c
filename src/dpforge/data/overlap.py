"""Whether the names of two data sets say that they share records."""

from __future__ import annotations

# Sets that are made from one published collection; every name that begins so belongs to it.
_FAMILIES = (
    ("imagenet", "tiny_imagenet", "imagenette", "imagewoof", "ilsvrc"),
    ("mnist", "emnist", "qmnist"),
    ("celeba",),
)


def overlaps(first: str, second: str) -> bool:
    """Whether one is the other, a part of it as in ``x_small``, or both are parts of one collection."""
    a, b = _plain(first), _plain(second)
    return a == b or _begins(a, b) or _begins(b, a) or bool(_families(a) & _families(b))


def _plain(name: str) -> str:
    return name.strip().lower().replace("-", "_").replace(" ", "_")


def _begins(name: str, start: str) -> bool:
    return name.startswith(f"{start}_")


def _families(name: str) -> set[int]:
    first = name.rstrip("0123456789")
    return {
        number
        for number, starts in enumerate(_FAMILIES)
        if any(start in (name, first) or _begins(name, start) for start in starts)
    }
