"""Red and blue squares on noise, as a COCO folder."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np


def make_squares(root: Path) -> Path:
    """Write 6 training and 4 validation images of 96x80 px, with ids 7 and 3 for red and blue."""
    for split, count in (("train", 6), ("val", 4)):
        (root / split).mkdir()
        rng = np.random.default_rng(count)
        images, annotations = [], []
        for i in range(count):
            picture = rng.integers(90, 130, (80, 96, 3), dtype=np.uint8)
            for category, color in ((7, (40, 40, 230)), (3, (230, 60, 40)))[: 2 if i else 0]:  # the first is empty
                side = int(rng.integers(20, 40))
                x, y = (int(v) for v in rng.integers(0, (96 - side, 80 - side)))
                cv2.rectangle(picture, (x, y), (x + side - 1, y + side - 1), color, cv2.FILLED)
                box = [x, y, side, side]
                annotations.append(
                    {"id": len(annotations) + 1, "image_id": 100 + i, "category_id": category, "bbox": box,
                     "area": side * side, "iscrowd": 0}
                )  # fmt: skip
            cv2.imwrite(str(root / split / f"{i}.png"), picture)
            images.append({"id": 100 + i, "file_name": f"{i}.png", "width": 96, "height": 80})
        categories = [{"id": 3, "name": "blue"}, {"id": 7, "name": "red"}]
        content = {"images": images, "annotations": annotations, "categories": categories}
        (root / "annotations").mkdir(exist_ok=True)
        (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
    return root
