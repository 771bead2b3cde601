"""Thirty photos of bccd in every format: the boxes of all readers are those of the VOC reader."""

from __future__ import annotations

import csv
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.sax.saxutils import quoteattr

import numpy as np
import pytest

from cledet.data.index import DetectionIndex
from cledet.data.open import open_source

Photo = tuple[str, int, int, list[tuple[str, float, float, float, float]]]
"""File name, width, height, and class and corners of each box."""


@pytest.fixture(scope="module")
def expected(shared_data: Path) -> DetectionIndex:
    index = open_source(shared_data / "bccd").index("train")
    return index.subset(range(30))


def photos(index: DetectionIndex) -> list[Photo]:
    corners = np.concatenate([index.xywh[:, :2], index.xywh[:, :2] + index.xywh[:, 2:]], axis=1).tolist()
    found = []
    for image, path in enumerate(index.paths.tolist()):
        rows = index.rows(image)
        names = [index.classes[label] for label in index.labels[rows].tolist()]
        boxes = [(name, *box) for name, box in zip(names, corners[rows])]
        found.append((Path(path).name, *index.sizes[image].tolist(), boxes))
    return found


def tensorflow(photos: list[Photo]) -> dict[str, Any]:
    header = [["filename", "width", "height", "class", "xmin", "ymin", "xmax", "ymax"]]
    return {"labels.csv": header + [[name, w, h, *box] for name, w, h, boxes in photos for box in boxes]}


def keras_retinanet(photos: list[Photo]) -> dict[str, Any]:
    rows = [[f"/data/{name}", *box, label] for name, _, _, boxes in photos for label, *box in boxes]
    return {"annotations.csv": rows, "classes.csv": [["Platelets", 0], ["RBC", 1], ["WBC", 2]]}


def open_images(photos: list[Photo]) -> dict[str, Any]:
    header = ["ImageID", "Source", "LabelName", "Confidence", "XMin", "XMax", "YMin", "YMax", "IsOccluded", "IsGroupOf"]
    rows = [
        [Path(name).stem, "xclick", f"/m/{label}", 1, x1 / w, x2 / w, y1 / h, y2 / h, 0, 0]
        for name, w, h, boxes in photos
        for label, x1, y1, x2, y2 in boxes
    ]
    names = [[f"/m/{label}", label] for label in ("Platelets", "RBC", "WBC")]
    return {"annotations-bbox.csv": [header, *rows], "class-descriptions-boxable.csv": names}


def labelme(photos: list[Photo]) -> dict[str, Any]:
    files = {}
    for name, w, h, boxes in photos:
        shapes = [
            {"label": label, "shape_type": "rectangle", "points": [[x1, y1], [x2, y2]]}
            for label, x1, y1, x2, y2 in boxes
        ]
        image = {"imagePath": f"..\\images\\{name}", "imageData": None, "imageWidth": w, "imageHeight": h}
        files[f"labels/{Path(name).stem}.json"] = {"version": "5.0", "shapes": shapes, **image}
    return files


def cvat(photos: list[Photo]) -> dict[str, Any]:
    images = [
        f'<image name={quoteattr(name)} width="{w}" height="{h}">'
        + "".join(f'<box label="{n}" xtl="{a}" ytl="{b}" xbr="{c}" ybr="{d}"/>' for n, a, b, c, d in boxes)
        + "</image>"
        for name, w, h, boxes in photos
    ]
    return {"annotations.xml": f"<annotations>{''.join(images)}</annotations>"}


def label_studio(photos: list[Photo]) -> dict[str, Any]:
    tasks = []
    for name, w, h, boxes in photos:
        results = [
            {"type": "rectanglelabels", "original_width": w, "original_height": h, "value": {
                "x": x1 / w * 100, "y": y1 / h * 100, "width": (x2 - x1) / w * 100, "height": (y2 - y1) / h * 100,
                "rotation": 0, "rectanglelabels": [label]}}
            for label, x1, y1, x2, y2 in boxes
        ]  # fmt: skip
        image = f"/data/upload/3/0a1b2c3d-{name}"
        tasks.append({"id": 1, "annotations": [{"result": results}], "data": {"image": image}})
    return {"project-3.json": tasks}


def label_studio_min(photos: list[Photo]) -> dict[str, Any]:
    records = []
    for task in label_studio(photos)["project-3.json"]:
        (annotation,) = task["annotations"]
        regions = [
            {**result["value"], **{key: result[key] for key in ("original_width", "original_height")}}
            for result in annotation["result"]
        ]
        records.append({"image": task["data"]["image"], "label": regions, "annotation_id": 1})
    return {"project-3-min.json": records}


EXACT = (tensorflow, keras_retinanet, labelme, cvat)
RELATIVE = (open_images, label_studio, label_studio_min)


def write(folder: Path, files: dict[str, Any]) -> None:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        with (folder / name).open("w", newline="") as file:
            if name.endswith(".csv"):
                csv.writer(file).writerows(content)
            else:
                file.write(content if isinstance(content, str) else json.dumps(content))


def require_the_same(index: DetectionIndex, expected: DetectionIndex, *, exact: bool) -> None:
    assert index.classes == expected.classes
    names = [Path(path).name for path in index.paths.tolist()]
    index = index.subset([names.index(Path(path).name) for path in expected.paths.tolist()])
    assert len(index) == len(expected) == 30
    assert index.num_boxes == expected.num_boxes > 300
    assert index.labels.tolist() == expected.labels.tolist()
    assert index.starts.tolist() == expected.starts.tolist()
    assert index.sizes.tolist() in (expected.sizes.tolist(), [[0, 0]] * 30)
    assert index.ignore.tolist() == expected.ignore.tolist()
    if exact:
        assert index.xywh.tolist() == expected.xywh.tolist()
    assert index.xywh == pytest.approx(expected.xywh, abs=1e-10)
    for image in range(30):
        assert index.boxes(image).tolist() == expected.boxes(image).tolist()


@pytest.mark.parametrize("express", [*EXACT, *RELATIVE], ids=lambda function: function.__name__)
def test_a_folder_and_a_single_file(
    tmp_path: Path, expected: DetectionIndex, shared_data: Path, express: Callable[[list[Photo]], dict[str, Any]]
) -> None:
    files = express(photos(expected))
    write(tmp_path, files)
    (tmp_path / "images").symlink_to(shared_data / "bccd" / "JPEGImages")
    require_the_same(open_source(tmp_path).index("all"), expected, exact=express in EXACT)
    if express is not labelme:
        require_the_same(open_source(tmp_path / next(iter(files))).index("val"), expected, exact=express in EXACT)


@pytest.mark.parametrize("express", [tensorflow, cvat, label_studio], ids=lambda function: function.__name__)
def test_a_zip(
    tmp_path: Path,
    expected: DetectionIndex,
    express: Callable[[list[Photo]], dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CLEDET_CACHE", str(tmp_path / "cache"))
    write(tmp_path / "cells", express(photos(expected)))
    with zipfile.ZipFile(tmp_path / "cells.zip", "w") as archive:
        for file in (tmp_path / "cells").iterdir():
            archive.write(file, f"cells/{file.name}")
        for path in expected.paths.tolist():
            archive.write(path, f"cells/images/{Path(path).name}")
    source = open_source(tmp_path / "cells.zip")
    assert source.name == "cells"
    require_the_same(source.index("all"), expected, exact=express in EXACT)
