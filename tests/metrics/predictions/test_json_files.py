"""JSON of COCO, Ultralytics, supervision and cledet, as these write it."""

from __future__ import annotations

import json

import numpy as np
import pytest

from cledet.errors import UserError
from cledet.metrics.predictions.read import read_predictions
from cledet.metrics.results_file import encode_results, read_results

ULTRALYTICS = {"image_id": "a", "file_name": "a.jpg", "category_id": 2, "bbox": [1.0, 2.0, 3.0, 4.0], "score": 0.5}
WANTED = [7.0, 1.0, 2.0, 3.0, 4.0, 0.5, 8.0]
"""The detection that every file of these tests holds: image 7, box, score, category 8."""


@pytest.fixture
def index(make_index):
    """Images 7, 3, 12 called a, 0012 and b.c; categories 5, 8, 6 called cat, hot dog, bird."""
    return make_index(
        [(0, 50, 50, 20, 20)], [], [],
        paths=["/set/val/a.jpg", "/set/val/0012.png", "/set/val/b.c.jpg"],
        image_ids=np.array([7, 3, 12]),
        classes=("cat", "hot dog", "bird"),
        category_ids=np.array([5, 8, 6]),
    )  # fmt: skip


@pytest.fixture
def read(index, tmp_path):
    """Write a document, or text, to a file and read it."""

    def read(document):
        file = tmp_path / "found.json"
        file.write_text(document if isinstance(document, str) else json.dumps(document))
        return read_predictions(file, index)

    return read


def test_coco_results_are_read_as_they_are_and_may_be_copied(read, index, tmp_path):
    rng = np.random.default_rng(0)
    rows = rng.uniform(0, 9, (50, 7))
    rows[:, 0], rows[:, 6] = rng.choice(index.image_ids, 50), rng.choice(index.category_ids, 50)
    found = read(encode_results(rows).decode())
    np.testing.assert_array_equal(found.rows, rows)
    np.testing.assert_array_equal(found.rows, read_results(tmp_path / "found.json", index))
    assert found.source == tmp_path / "found.json"
    assert found.summary == ("found.json: COCO results, 50 detections on 3 of 3 images; images by id; classes by id")


def test_other_fields_of_coco_results_do_not_matter(read):
    """Detectron2 writes masks and keypoints beside boxes, YOLOX an empty list."""
    entry = {"image_id": 7, "category_id": 8, "bbox": [1.0, 2.0, 3.0, 4.0], "score": 0.5}
    for more in ({"segmentation": []}, {"segmentation": {"size": [9, 9], "counts": "}, {"}}, {"keypoints": [1.5] * 51}):
        found = read([entry | more, entry])
        assert found.rows.tolist() == [WANTED] * 2
        assert found.source is not None
    assert read("[]").rows.shape == (0, 7)
    assert read("[]").summary == "found.json: COCO results, 0 detections on 0 of 3 images (3 without detections)"


@pytest.mark.parametrize(
    "image",
    [
        {"image_id": "a", "file_name": "a.jpg"},
        {"image_id": "a"},  # before 2025
        {"image_id": 7, "file_name": "/elsewhere/a.jpg"},  # cledet's coco.json
        {"image_id": 1, "file_name": "a.jpg"},  # its ids count the images that were given
    ],
)
def test_images_may_be_names(read, image):
    found = read([image | {"category_id": 8, "bbox": [1, 2, 3, 4], "score": 0.5}])
    assert found.rows.tolist() == [WANTED]
    assert found.source is None
    assert "on 1 of 3 images (2 without detections); images by file name; classes by id" in found.summary


def test_stems_that_are_numbers_are_numbers(read):
    """Ultralytics writes 12 for 0012.png. As an id that would be another image; only the file name tells."""
    entry = {"category_id": 8, "bbox": [1, 2, 3, 4], "score": 0.5}
    assert read([{"image_id": 12, "file_name": "0012.png", **entry}]).rows[0, 0] == 3
    assert read([{"image_id": 12, **entry}]).rows[0, 0] == 12
    assert read([{"image_id": "a", **entry}, {"image_id": 12, **entry}]).rows[:, 0].tolist() == [7, 3]
    assert read([{"image_id": 12, **entry}, {"image_id": "a", **entry}]).rows[:, 0].tolist() == [3, 7]


def test_ultralytics_numbers_classes_from_1(read):
    """cat, hot dog and bird are 1, 2 and 3, whatever the data set calls them."""
    found = read([ULTRALYTICS | {"category_id": k} for k in (1, 2, 3)])
    assert found.rows[:, 6].tolist() == [5, 8, 6]
    assert found.summary.startswith("found.json: Ultralytics' predictions.json, 3 detections")
    assert found.summary.endswith("classes numbered from 1")


def test_without_file_names_ultralytics_may_number_classes_from_0(read):
    older = {key: value for key, value in ULTRALYTICS.items() if key != "file_name"}
    assert read([older | {"category_id": k} for k in (0, 2)]).rows[:, 6].tolist() == [5, 6]
    assert read([older | {"category_id": k} for k in (1, 3)]).rows[:, 6].tolist() == [5, 6]
    with pytest.raises(UserError, match=r"ids 1 to 2 may be read in several ways \(numbered from 0, numbered from 1\)"):
        read([older | {"category_id": k} for k in (1, 2)])


def test_class_numbers_in_coco_results_are_recognised(read):
    entry = {"image_id": 7, "bbox": [1, 2, 3, 4], "score": 0.5}
    found = read([entry | {"category_id": k} for k in (0, 1, 2)])
    assert found.rows[:, 6].tolist() == [5, 8, 6]
    assert found.summary.endswith("images by id; classes numbered from 0")
    assert found.source is None
    assert read([entry | {"category_id": k} for k in (5, 6)]).rows[:, 6].tolist() == [5, 6]


CLEDET = {"file": "photos/a.jpg", "width": 100, "height": 80,
          "detections": [{"name": "hot dog", "category_id": 9, "score": 0.5, "box": [1.0, 2.0, 4.0, 6.0]}]}  # fmt: skip


def test_predictions_of_cledet_are_read(read):
    """A list, indented too, and JSON lines; images without detections have to exist."""
    none = {"file": "photos/b.c.jpg", "width": 1, "height": 1, "detections": []}
    lines = f"{json.dumps(CLEDET)}\n{json.dumps(none)}\n"
    for text in (lines, json.dumps([CLEDET, none]), json.dumps([CLEDET, none], indent=2)):
        found = read(text)
        assert found.rows.tolist() == [WANTED]
        assert "cledet's predictions, 1 detections on 1 of 3 images (2 without" in found.summary
    with pytest.raises(UserError, match=r"names 1 of 2 images that set/train does not have: x\.jpg"):
        read([CLEDET, none | {"file": "x.jpg"}])
    with pytest.raises(
        UserError, match=r"not as `cledet predict` writes it .*missing required field `score` - at `\$\[0\].det"
    ):
        read([CLEDET | {"detections": [{"name": "cat", "box": [1, 2, 3, 4]}]}])


SUPERVISION = {"x_min": 1.0, "y_min": 2.0, "x_max": 4.0, "y_max": 6.0, "class_id": 1, "confidence": 0.5,
               "tracker_id": "", "file_name": "a.jpg"}  # fmt: skip


def test_json_of_supervision_is_read(read):
    rows = [SUPERVISION, SUPERVISION | {"class_id": 0, "confidence": 0.25}]
    found = read(json.dumps(rows, indent=4))
    assert found.rows.tolist() == [WANTED, [7, 1, 2, 3, 4, 0.25, 5]]
    assert found.summary.endswith("classes numbered from 0")
    assert read([SUPERVISION | {"class_name": "Hot-Dog", "class_id": 77}]).rows.tolist() == [WANTED]
    with pytest.raises(UserError, match="not as supervision's JSONSink writes it"):
        read([SUPERVISION, 3])
    with pytest.raises(UserError, match="y_min of detection 2 is 'None', not a number"):
        read([SUPERVISION, {"x_min": 1}])
    with pytest.raises(UserError, match="has no boxes: columns called x_min, y_min, x_max, y_max"):
        read([{"x_min": 1, "x_max": 2}])


@pytest.mark.parametrize(
    ("document", "sentence"),
    [
        ([{"image_id": "a", "category_id": 8, "score": 1}], "not in COCO's results format .*missing required .*`bbox`"),
        ([ULTRALYTICS, {"image_id": 1}], r"missing required field .* at `\$\[1\]`"),
        ([ULTRALYTICS | {"bbox": [1, 2, 3]}], "length 4, got 3"),
        ([ULTRALYTICS | {"image_id": True}], "not in COCO's results format"),
        ([ULTRALYTICS | {"score": float("nan")}], "1 detections hold numbers that are not finite, entry 0 first"),
        ([ULTRALYTICS | {"category_id": 4}], r"names 1 of 1 category ids that .* does not have: 4 \(its category ids"),
        ([ULTRALYTICS | {"image_id": "z", "file_name": "z.jpg"}], r"1 of 1 images .*: z\.jpg \(the first .*a\.jpg"),
        ([{"image_id": i, **{k: ULTRALYTICS[k] for k in ("category_id", "bbox", "score")}} for i in (6, 2, 11, 6)],
         r"3 of 3 images .*: 2, 6, 11 \(each id is 1 lower than one of the split"),
        ({"images": [], "annotations": [], "categories": []}, "annotation file, not a file of detections"),
        ([{"name": "cat", "class": 0, "confidence": 0.5, "box": {"x1": 1}}], "of one image and not its name"),
        ({"labels": [0], "scores": [1], "bboxes": [[1, 2, 3, 4]]}, "of one image and not its name"),
        ({"a": 1}, "not in COCO's results format"),
        ("[" * 100_000, "not in COCO's results format"),
        ("{", "not in COCO's results format"),
    ],
)  # fmt: skip
def test_other_documents_are_refused(read, document, sentence):
    with pytest.raises(UserError, match=sentence) as refused:
        read(document)
    assert len(str(refused.value)) < 600
