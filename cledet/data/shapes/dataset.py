"""The embedded data set of irregular shapes, drawn into the cache on first use."""

from __future__ import annotations

import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from cledet.data.formats.paths import cache_folder, draft_of
from cledet.data.shapes.drawing import SHAPES, Shape, draw_scene
from cledet.errors import UserError

VERSION = 3
"""To be raised when the images or splits change."""
COUNTS = {"train": 960, "val": 200, "test": 1000}


def shapes_folder(home: Path | None = None) -> Path:
    """Return the data set's folder, in COCO layout, in `home` or the cache; draw it if it does not exist.

    The folder is created atomically, also by several processes at once. Raises UserError if the cache cannot be
    written.
    """
    folder = (home or cache_folder()) / f"shapes-{VERSION}"
    if folder.is_dir():
        return folder
    try:
        with draft_of(folder) as draft:
            draw_shapes(draft)
    except OSError as error:
        if not folder.is_dir():  # else another process was first, with the same pictures
            hint = "set CLEDET_CACHE to a folder that can be written"
            raise UserError(f"cannot write to the cache {folder.parent}: {error.strerror}", hint) from error
    return folder


def draw_shapes(folder: Path, counts: dict[str, int] = COUNTS, seed: int = 0) -> None:
    """Draw splits of `counts` images to a folder: SPLIT/*.jpg, annotations/instances_SPLIT.json.

    Each image is a function of (seed, split, image number).
    """
    (folder / "annotations").mkdir(parents=True)
    for number, (split, count) in enumerate(counts.items()):
        (folder / split).mkdir()
        files = [folder / split / f"{i:04d}.jpg" for i in range(count)]
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            scenes = list(pool.map(_draw_image, files, [(seed, number, i) for i in range(count)]))
        annotations = folder / "annotations" / f"instances_{split}.json"
        annotations.write_text(json.dumps(_coco(scenes)), encoding="utf-8")


def _draw_image(file: Path, seed: tuple[int, int, int]) -> tuple[dict[str, Any], list[Shape]]:
    """Draw one image; return its COCO record and its objects."""
    rng = np.random.default_rng(seed)
    width, height = (256, 320) if rng.random() < 0.25 else (320, 256)
    picture, shapes = draw_scene(width, height, rng)
    jpeg = cv2.imencode(".jpg", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 92])[1]
    file.write_bytes(jpeg.tobytes())
    return {"id": seed[-1] + 1, "file_name": file.name, "width": width, "height": height}, shapes


def _coco(scenes: list[tuple[dict[str, Any], list[Shape]]]) -> dict[str, Any]:
    ids = {name: number for number, name in enumerate(SHAPES, 1)}
    boxes = [
        {"image_id": image["id"], "category_id": ids[shape.name], "bbox": shape.box, "area": shape.area, "iscrowd": 0}
        for image, shapes in scenes
        for shape in shapes
    ]
    return {
        "images": [image for image, _ in scenes],
        "categories": [{"id": number, "name": name} for name, number in ids.items()],
        "annotations": [{"id": number, **box} for number, box in enumerate(boxes, 1)],
    }
