"""First settings for a folder of own images. What was read from it stays unconfirmed until a person acts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import yaml
from PIL import Image

from dpforge.data.image_listing import class_names_in, image_files
from dpforge.data.image_reading import quiet_decoders
from dpforge.errors import DataError

LOOKED_AT = 200
DEFAULT_SIZE = 32
_HEADER = """\
# @package _global_
# Draft of the settings of a folder of images. KEEP THIS FILE PRIVATE until every value below is confirmed.
#
# class_names and nominal_rows were read from the folder, so they can reveal a person (a rare diagnosis that
# is the name of one file). No run starts while `unconfirmed` names them. For each of them
#   - state it from public knowledge: correct the classes, write a round number of images;
#   - then remove its name from `unconfirmed`.
# Choose image_size and channels too; they were not chosen for your images.
# Save this file in conf/local as <name>.yaml and run it with: dpforge local=<name> model=...
"""


def draft_folder(folder: Path, label_from: str = "file") -> str:
    """Draft the settings of a folder: a YAML text for ``conf/local``. It holds data: treat it as private.

    Args:
        folder: Holds image files, at any depth.
        label_from: ``file``, ``folder`` or ``none``; see :class:`~dpforge.data.image_folder.ImageFolder`.

    Raises:
        DataError: The folder does not exist or holds no image file.
    """
    files = image_files(folder)
    if not files:
        raise DataError(f"{folder} holds no image file; check the path")
    names = list(class_names_in(str(folder), label_from)) if label_from != "none" else None
    dataset = {
        "path": str(folder.resolve()),
        "class_names": names or None,
        "nominal_rows": len(files),
        "unconfirmed": ["nominal_rows"] if label_from == "none" else ["class_names", "nominal_rows"],
        "label_from": label_from,
        "image_size": DEFAULT_SIZE,
        "channels": 3,
    }
    content = {"defaults": [{"override /dataset": "image_folder"}], "dataset": dataset}
    text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=100, default_flow_style=None)
    return f"{_HEADER}{_remark(files)}{text}"


def _remark(files: list[Path]) -> str:
    """How large the files are, from the headers of a few spread over the folder."""
    sides = []
    with quiet_decoders():
        for file in files[:: max(1, len(files) // LOOKED_AT)]:
            try:
                with Image.open(file) as image:
                    sides.append(min(image.size))
            except Exception:  # what a decoder raises for broken files depends on the bytes
                continue
    if not sides:
        return ""
    return f"# Half of the images have a shorter side of at least {int(np.median(sides))} pixels.\n"
