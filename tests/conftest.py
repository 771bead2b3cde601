"""Small data that every test may use, drawn here; and where the real photos lie."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml
from hypothesis import settings
from squares import make_squares

from cledet.data.download.archives import SETS
from cledet.data.index import DetectionIndex

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported: tests run side by side
pytest_plugins = (
    "checkpoint_fixtures",
    "hub_server",
    "loopback_server",
)  # in tests/support, which pyproject.toml adds to the path
SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


def pytest_configure(config: pytest.Config) -> None:
    """Let hypothesis draw fewer examples for the quick tests; all tests together draw as many as ever."""
    if config.getoption("markexpr") == "not slow":
        settings.register_profile("quick", max_examples=30, deadline=None)
        settings.load_profile("quick")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real photos beside the repository."""
    if not SHARED.is_dir():
        pytest.skip(f"the real photos are not there: {SHARED}")
    return SHARED


@pytest.fixture(scope="session")
def squares(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A COCO folder of 6 training and 4 validation images of 96x80 px with red and blue squares, ids 7 and 3."""
    return make_squares(tmp_path_factory.mktemp("squares"))


@pytest.fixture(scope="session")
def voc_years(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The YAML of Pascal VOC that ships, of two images of 80x60 px a split: trainval of two years, and 2007's test."""
    root = tmp_path_factory.mktemp("voc") / "VOCdevkit"
    rng = np.random.default_rng(0)
    for year, split, stems in (("VOC2007", "trainval", "ab"), ("VOC2012", "trainval", "cd"), ("VOC2007", "test", "ef")):
        for name in ("Annotations", "JPEGImages", "ImageSets/Main"):
            (root / year / name).mkdir(parents=True, exist_ok=True)
        for stem in stems:
            cv2.imwrite(str(root / year / "JPEGImages" / f"{stem}.jpg"), rng.integers(0, 255, (60, 80, 3), np.uint8))
            (root / year / "Annotations" / f"{stem}.xml").write_text(
                "<annotation><size><width>80</width><height>60</height><depth>3</depth></size><object><name>cat</name>"
                "<bndbox><xmin>9</xmin><ymin>9</ymin><xmax>50</xmax><ymax>40</ymax></bndbox></object></annotation>"
            )
        (root / year / "ImageSets" / "Main" / f"{split}.txt").write_text("\n".join(stems))
    shipped = yaml.safe_load((SETS / "voc.yaml").read_text())
    file = root.parent / "voc.yaml"
    file.write_text(yaml.safe_dump({key: shipped[key] for key in ("train", "val", "names")} | {"path": str(root)}))
    return file


@pytest.fixture(scope="session")
def make_index() -> Callable[..., DetectionIndex]:
    """Makes the index of a split: per image its rows (label, left, top, width, height), 100x80 px if not said."""

    def make(
        *images: Sequence[tuple[float, ...]],
        sizes: Sequence[tuple[int, int]] | None = None,
        paths: Sequence[Path | str] | None = None,
        ignore: Sequence[int] = (),
        classes: tuple[str, ...] = ("cat", "dog"),
        **more: object,
    ) -> DetectionIndex:
        rows = np.array([row for rows in images for row in rows], dtype=np.float64).reshape(-1, 5)
        marked = np.zeros(len(rows), dtype=np.bool_)
        marked[list(ignore)] = True
        columns = {
            "name": "set/train",
            "classes": classes,
            "category_ids": np.arange(1, len(classes) + 1),
            "paths": np.array([str(p) for p in paths or [f"/{i}.png" for i in range(len(images))]], dtype=np.str_),
            "image_ids": np.arange(len(images)),
            "sizes": np.array(sizes or [(100, 80)] * len(images), dtype=np.int32).reshape(-1, 2),
            "starts": np.cumsum([0, *map(len, images)]),
            "xywh": rows[:, 1:],
            "labels": rows[:, 0].astype(np.int64),
            "ignore": marked,
            "area": rows[:, 3] * rows[:, 4],
        }
        return DetectionIndex(**{**columns, **more})  # type: ignore[arg-type]

    return make


@pytest.fixture(scope="session")
def scattered(make_index: Callable[..., DetectionIndex]) -> Callable[..., tuple[DetectionIndex, np.ndarray]]:
    """Makes a split of two classes, crowds among the objects, and detections [D, 7] so many pixels off."""

    def make(images: int, seed: int, off: float = 2.0) -> tuple[DetectionIndex, np.ndarray]:
        rng = np.random.default_rng(seed)
        counts = rng.integers(5, size=images)
        truths = [
            [
                (label, *rng.uniform(0, 60, 2), *rng.uniform(12, 40, 2))
                for label in rng.permutation([0, 0, 1, 1])[:count]
            ]
            for count in counts
        ]
        crowds = np.flatnonzero(rng.random(sum(map(len, truths))) < 0.1)
        index = make_index(*truths, ignore=crowds.tolist(), image_ids=rng.permutation(images) * 7 + 2)
        found = []
        for image_id, boxes in zip(index.image_ids.tolist(), truths):
            near = [(label, *np.add(box, rng.normal(0, off, 4))) for label, *box in boxes for _ in range(2)]
            stray = [(label, *rng.uniform(0, 60, 2), *rng.uniform(12, 40, 2)) for label in (0, 1)]
            found += [(image_id, *box, rng.random(), index.category_ids[label]) for label, *box in near + stray]
        return index, np.array(found)

    return make


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


@pytest.fixture(scope="session")
def sick(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A COCO folder with one of every kind of trouble, two or more of some; 40x30 px, not to be changed."""
    root = tmp_path_factory.mktemp("home") / "sick"
    for split in ("train", "val"):
        (root / split).mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name in ("train/good", "train/short", "train/other", "train/unsized", "train/bare", "val/own"):
        cv2.imwrite(str(root / f"{name}.png"), rng.integers(90, 130, (30, 40, 3), dtype=np.uint8))
    whole = (root / "train" / "short.png").read_bytes()
    (root / "train" / "short.png").write_bytes(whole[: len(whole) // 2])
    (root / "train" / "text.png").write_text("no image")
    for copy in ("train/again.png", "val/leak.png"):
        (root / copy).write_bytes((root / "train" / "good.png").read_bytes())
    names = {"train": ["good", "gone", "short", "text", "other", "unsized", "bare", "again"], "val": ["own", "leak"]}
    boxes = {
        "train": [(0, 1, [1, 1, 5, 5]), (0, 1, [1, 1, 5, 5]), (0, 1, [2, 2, 0, 3]), (0, 1, [35, 25, 20, 20]),
                  (0, 2, [10, 10, 12, 12]), (0, 2, [10, 10, 12, 12.25]),
                  *((i, 1, [0, 0, 9, 9]) for i in (1, 2, 3, 4, 5, 7))],
        "val": [(0, 3, [3, 3, 20, 20]), (1, 1, [1, 1, 5, 5])],
    }  # fmt: skip
    for split in names:
        images = [{"id": i, "file_name": f"{n}.png", "width": 40, "height": 30} for i, n in enumerate(names[split])]
        for image in images:
            image["width"] += 4 * (image["file_name"] == "other.png")
            if image["file_name"] == "unsized.png":
                del image["width"]
        content = {
            "images": images,
            "annotations": [
                {"id": i, "image_id": image, "category_id": category, "bbox": box}
                for i, (image, category, box) in enumerate(boxes[split], 1)
            ],
            "categories": [{"id": i, "name": name} for i, name in enumerate(("cat", "dog", "bird", "fish"), 1)],
        }
        (root / "annotations").mkdir(exist_ok=True)
        (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
    return root
