"""Small data that every test may use, drawn here; and where the real photos lie."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real photos beside the repository."""
    if not SHARED.is_dir():
        pytest.skip(f"the real photos are not there: {SHARED}")
    return SHARED


@pytest.fixture(scope="session")
def squares(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A COCO folder of 6 training and 4 validation images of 96x80 px with red and blue squares, ids 7 and 3."""
    root = tmp_path_factory.mktemp("squares")
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


@pytest.fixture(scope="session")
def tiny(squares: Path) -> dict[str, object]:
    """Settings of a run of seconds: four steps of a small network on the squares."""
    return {
        "data": str(squares), "backbone": "r18", "backbone_weights": "none", "fpn_channels": 16, "imgsz": 64,
        "batch": 2, "iters": 4, "workers": 0, "lr": 0.01, "warmup": 2, "device": "cpu", "amp": "off",
    }  # fmt: skip


@pytest.fixture(scope="session")
def tiny_run(tiny: dict[str, object], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of these settings, to be read only."""
    from cledet import Detector

    return Detector().train(**tiny, project=tmp_path_factory.mktemp("project"), name="tiny")
