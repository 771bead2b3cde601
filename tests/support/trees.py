"""Tiny data sets in any layout: images of 40x30 px, each with one nut whose left side is the image's number."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np

from cledet.data.open import DataSource

WIDTH, HEIGHT = 40, 30
JPEG = cv2.imencode(".jpg", np.zeros((HEIGHT, WIDTH, 3), np.uint8))[1].tobytes()


def box(name: str) -> list[float]:
    """The box of an image, xywh in pixels from 0, by the digits in its name."""
    return [float("".join(filter(str.isdigit, name)) or 0), 2, 10, 5]


def write(file: Path, content: str | bytes) -> Path:
    """Write a file and the folders above it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return file


def draw(root: Path, *names: str) -> None:
    """Write images; a PNG is a JPEG by another name, as nobody minds."""
    for name in names:
        write(root / name, JPEG)


def write_xml(file: Path, filename: str = "", image: str = "") -> Path:
    """Write VOC's XML of an image, by default that of the file's own stem."""
    left, top, width, height = box(Path(image).stem or file.stem)
    corners = zip(("xmin", "ymin", "xmax", "ymax"), (left + 1, top + 1, left + width, top + height))
    tags = "".join(f"<{key}>{value:g}</{key}>" for key, value in corners)
    size = f"<size><width>{WIDTH}</width><height>{HEIGHT}</height></size>"
    named = f"<filename>{filename}</filename>" if filename else ""
    item = f"<object><name>nut</name><bndbox>{tags}</bndbox></object>"
    return write(file, f'<?xml version="1.0"?>\n<annotation>{named}{size}{item}</annotation>')


def write_labels(file: Path) -> Path:
    """Write YOLO's labels of the image of the file's stem."""
    left, top, width, height = box(file.stem)
    row = ((left + width / 2) / WIDTH, (top + height / 2) / HEIGHT, width / WIDTH, height / HEIGHT)
    return write(file, f"0 {' '.join(map(str, row))}\n")


def write_coco(file: Path, names: Iterable[str]) -> Path:
    """Write COCO's annotations of images, with these file names."""
    images = [{"id": i, "file_name": name, "width": WIDTH, "height": HEIGHT} for i, name in enumerate(names, 1)]
    annotations = [
        {"id": image["id"], "image_id": image["id"], "category_id": 1, "bbox": box(Path(str(image["file_name"])).stem)}
        for image in images
    ]
    categories = [{"id": 1, "name": "nut"}]
    return write(file, json.dumps({"images": images, "annotations": annotations, "categories": categories}))


def contents(source: DataSource, root: Path) -> dict[str, list[str]]:
    """The image paths of each split, relative to `root`; every image must have its box and no other."""
    splits = {}
    for split in source.splits:
        index = source.index(split)
        paths = index.paths.tolist()
        assert index.sizes.tolist() == [[WIDTH, HEIGHT]] * len(index)
        assert np.allclose(index.xywh, [box(Path(path).stem) for path in paths], atol=1e-9)
        assert [index.classes[label] for label in index.labels] in (["nut"] * len(index), ["0"] * len(index))
        splits[split] = [Path(path).relative_to(root).as_posix() for path in paths]
    return splits
