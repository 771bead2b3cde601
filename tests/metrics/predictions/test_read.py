"""Real detections in every format give the same metrics."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from cledet.data.index import DetectionIndex
from cledet.data.open import open_source
from cledet.errors import UserError
from cledet.metrics.coco import evaluate
from cledet.metrics.predictions.read import read_predictions
from cledet.metrics.results_file import encode_results, read_results

BOX = ("x_min", "y_min", "x_max", "y_max")


class Row(NamedTuple):
    stem: str
    image_id: int
    label: int
    category_id: int
    name: str
    box: list[float]
    """x, y, w, h."""
    score: float
    size: list[int]


@pytest.fixture(scope="module")
def real(shared_data):
    """YOLOX-Nano's raw detections on every eighth photo, as rows; the split and the results."""
    folder = shared_data / "coco2017_sub"
    whole = open_source(folder).index("val", need_images=False)
    index = whole.subset(range(0, len(whole), 8))
    results = read_results(folder / "detections" / "yolox_nano_raw.json", whole)
    results = results[np.isin(results[:, 0], index.image_ids)]
    place = {number: i for i, number in enumerate(index.image_ids.tolist())}
    label = {number: k for k, number in enumerate(index.category_ids.tolist())}
    rows = [
        Row(
            Path(str(index.paths[place[image]])).stem,
            int(image),
            label[category],
            int(category),
            index.classes[label[category]],
            box,
            score,
            index.sizes[place[image]].tolist(),
        )
        for image, *box, score, category in results.tolist()
    ]
    return index, results, rows


def corners(row):
    x, y, w, h = row.box
    return [x, y, x + w, y + h]


def write_ultralytics(rows: list[Row], file: Path) -> None:
    entries = [
        {"image_id": int(row.stem), "file_name": f"{row.stem}.jpg", "category_id": row.label + 1, "bbox": row.box,
         "score": row.score}
        for row in rows
    ]  # fmt: skip
    file.write_text(json.dumps(entries))


def write_detectron2(rows: list[Row], file: Path) -> None:
    entries = [
        {"image_id": row.image_id, "category_id": row.category_id, "bbox": row.box, "score": row.score,
         "segmentation": {"size": row.size, "counts": "abc"}}
        for row in rows
    ]  # fmt: skip
    file.write_text(json.dumps(entries))


def write_sink(rows: list[Row], file: Path) -> None:
    keys = (*BOX, "class_id", "confidence", "tracker_id", "file_name")
    entries = [dict(zip(keys, (*corners(row), row.label, row.score, "", f"photos/{row.stem}.jpg"))) for row in rows]
    file.write_text(json.dumps(entries, indent=4))


def write_csv_sink(rows: list[Row], file: Path) -> None:
    with open(file, "w", newline="") as table:
        writer = csv.writer(table)
        writer.writerow([*BOX, "class_id", "confidence", "tracker_id", "class_name", "file_name"])
        writer.writerows([*corners(row), 99, row.score, "", row.name, f"{row.stem}.jpg"] for row in rows)


def write_cledet(rows: list[Row], file: Path) -> None:
    with open(file, "w") as lines:
        for stem in dict.fromkeys(row.stem for row in rows):
            found = [
                {"name": row.name, "category_id": row.category_id, "score": row.score, "box": corners(row)}
                for row in rows
                if row.stem == stem
            ]
            lines.write(json.dumps({"file": f"{stem}.jpg", "width": 1, "height": 1, "detections": found}) + "\n")


def write_yolo(rows: list[Row], folder: Path) -> None:
    folder.mkdir()
    for row in rows:
        (x, y, w, h), (width, height) = row.box, row.size
        numbers = ((x + w / 2) / width, (y + h / 2) / height, w / width, h / height, row.score)
        with open(folder / f"{row.stem}.txt", "a") as file:
            print(row.label, *map("{:g}".format, numbers), file=file)


def write_voc(rows: list[Row], folder: Path) -> None:
    folder.mkdir()
    for row in rows:
        x1, y1, x2, y2 = corners(row)
        with open(folder / f"comp4_det_test_{row.name}.txt", "a") as file:
            print(row.stem, row.score, x1 + 1, y1 + 1, x2, y2, file=file)


WRITERS: dict[str, tuple[Callable[[list[Row], Path], None], float]] = {
    "ultralytics.json": (write_ultralytics, 0),
    "detectron2.json": (write_detectron2, 0),
    "supervision.json": (write_sink, 1e-12),
    "supervision.csv": (write_csv_sink, 1e-12),
    "cledet.jsonl": (write_cledet, 1e-12),
    "yolo": (write_yolo, 5e-3),  # six digits of a fraction, of up to 640 pixels
    "voc": (write_voc, 1e-12),
}
"""Writers, and by how much the format changes a coordinate."""


@pytest.mark.parametrize("name", WRITERS)
def test_the_metrics_are_the_same_in_every_format(real, name, tmp_path):
    index, results, rows = real
    write, error = WRITERS[name]
    write(rows, tmp_path / name)
    found = read_predictions(tmp_path / name, index)

    def in_order(table):
        return table[np.lexsort((table[:, 1].round(1), table[:, 5].round(5), table[:, 6], table[:, 0]))]

    if name != "yolo":  # where equal keys are in another order
        np.testing.assert_allclose(in_order(found.rows), in_order(results), rtol=0, atol=error)
    np.testing.assert_allclose(np.sort(found.rows, axis=0), np.sort(results, axis=0), rtol=0, atol=error)
    assert evaluate(index, found.rows).metrics == evaluate(index, results).metrics
    assert f"{len(results):,} detections on {len(index)} of {len(index)} images; images by" in found.summary


def test_a_split_without_labels_takes_unambiguous_files(real, tmp_path):
    """Objects are looked at only if class numbers may be read in several ways."""
    index, results, rows = real
    bare = DetectionIndex(
        **{name: getattr(index, name) for name in ("name", "classes", "category_ids", "paths", "image_ids", "sizes")},
        starts=np.zeros(len(index) + 1, dtype=np.int64), xywh=np.zeros((0, 4)), labels=np.zeros(0, dtype=np.int64),
        ignore=np.zeros(0, dtype=np.bool_), area=np.zeros(0),
    )  # fmt: skip
    write_ultralytics(rows, tmp_path / "all.json")
    np.testing.assert_array_equal(read_predictions(tmp_path / "all.json", bare).rows, results)
    write_ultralytics([row for row in rows if row.name == "person"], tmp_path / "people.json")
    people = results[results[:, 6] == 1]
    np.testing.assert_array_equal(read_predictions(tmp_path / "people.json", bare).rows, people)
    write_ultralytics([row for row in rows if row.name == "knife"], tmp_path / "knives.json")  # 44 of 80, and a bottle
    with pytest.raises(UserError, match=r"ids 44 to 44 may be read in several ways \(by id, numbered from 1\)"):
        read_predictions(tmp_path / "knives.json", bare)


def test_other_files_are_refused(real, tmp_path):
    index, results, _ = real
    file = tmp_path / "found"
    for content, sentence in (
        (b"", "is empty"), (b" \n", "is empty"), (b"\x80\x04]", "in no format of detections"),
        (b"<annotation>", "in no format of detections"), (b"a,b\n1,2\n", "in no format of detections"),
    ):  # fmt: skip
        file.write_bytes(content)
        with pytest.raises(UserError, match=sentence):
            read_predictions(file, index)
    with pytest.raises(UserError, match=r"predictions file .*missing cannot be read: No such file"):
        read_predictions(tmp_path / "missing", index)
    file.write_bytes(b"\xef\xbb\xbf" + b"[]")
    assert read_predictions(file, index).rows.shape == (0, 7)
    file.write_bytes(encode_results(results))
    np.testing.assert_array_equal(read_predictions(file, index).rows, results)
