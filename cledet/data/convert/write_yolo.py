"""Writer of YOLO label files."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cledet.data.convert.fractions import to_fractions
from cledet.data.formats.yolo import label_file
from cledet.data.index import DetectionIndex, Floats


def yolo_rows(index: DetectionIndex) -> Floats:
    """Return centre, width and height [B, 4] in fractions of the images, whose sizes must be known."""
    sides = index.sizes[index.image_of_boxes()].astype(np.float64)
    axes = [to_fractions(index.xywh[:, axis], index.xywh[:, 2 + axis], sides[:, axis]) for axis in (0, 1)]
    return np.stack([axes[0][0], axes[1][0], axes[0][1], axes[1][1]], axis=1)


def write_yolo(folder: Path, split: str, index: DetectionIndex, names: Sequence[str]) -> str:
    """Write one label file per image, empty without boxes; return the split's entry for data.yaml."""
    images = f"images/{split}"
    lines = [
        f"{label} {x!r} {y!r} {w!r} {h!r}\n"
        for label, (x, y, w, h) in zip(index.labels.tolist(), yolo_rows(index).tolist())
    ]
    for image, name in enumerate(names):
        file = Path(label_file(os.path.join(folder, images, name)))
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("".join(lines[index.rows(image)]), encoding="utf-8")
    return images
