"""Label Studio's exports: regions by hand, addresses of images, several annotations, invalid entries."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from trees import draw, write

from cledet.data.formats.label_studio import LabelStudioFiles, find_label_studio, sniff

RECTANGLE = {"x": 25, "y": 10, "width": 50, "height": 20, "rotation": 0}
SIZE = {"original_width": 40, "original_height": 30}
"""Of the images; so RECTANGLE is 10, 3, 20, 6."""


def result(kind: str = "rectanglelabels", names: Any = ("dog",), value: Any = RECTANGLE, **more: Any) -> dict[str, Any]:
    fields = {**SIZE, "image_rotation": 0, "from_name": "label", "to_name": "image", "id": "r1", "origin": "manual"}
    return {**fields, "type": kind, "value": {**value, kind: list(names)}, **more}


def annotation(*results: Any, created: str = "2024-01-01T00:00:00Z", **more: Any) -> dict[str, Any]:
    return {"id": 1, "completed_by": 1, "result": results, "was_cancelled": False, "created_at": created, **more}


def task(*annotations: Any, image: str = "/data/upload/1/0a1b2c3d-a.jpg", **more: Any) -> dict[str, Any]:
    return {"id": 7, "annotations": annotations, "predictions": [], "data": {"image": image}, "meta": {}, **more}


def record(*regions: Any, image: str = "/data/upload/1/0a1b2c3d-a.jpg", **more: Any) -> dict[str, Any]:
    return {"image": image, "id": 7, "label": regions, "annotator": 1, "annotation_id": 3, **more}


def make(folder: Path, files: dict[str, Any], images: tuple[str, ...] = ("images/a.jpg",)) -> LabelStudioFiles:
    for name, content in files.items():
        write(folder / name, content if isinstance(content, str) else json.dumps(content))
    draw(folder, *images)
    reader = find_label_studio(folder, [folder / name for name in sorted(files)])
    assert reader is not None
    return reader


@pytest.mark.parametrize(
    ("kind", "value", "box"),
    [
        ("rectanglelabels", RECTANGLE, [10, 3, 20, 6]),
        ("labels", RECTANGLE, [10, 3, 20, 6]),
        ("rectanglelabels", {**RECTANGLE, "rotation": 90}, [4, 3, 6, 20]),  # about the top left corner, in pixels
        ("rectanglelabels", {**RECTANGLE, "rotation": None}, [10, 3, 20, 6]),
        ("polygonlabels", {"points": [[25, 10], [75, 20], [50, 30]], "closed": True}, [10, 3, 20, 6]),
        ("ellipselabels", {"x": 50, "y": 20, "radiusX": 25, "radiusY": 10, "rotation": 0}, [10, 3, 20, 6]),
        ("ellipselabels", {"x": 50, "y": 50, "radiusX": 25, "radiusY": 10, "rotation": 90}, [17, 5, 6, 20]),
        ("rectanglelabels", {**RECTANGLE, "width": 0}, [10, 3, 0, 6]),
    ],
)
def test_regions(tmp_path: Path, kind: str, value: dict[str, Any], box: list[float]) -> None:
    reader = make(tmp_path, {"project-1.json": [task(annotation(result(kind, value=value)))]})
    index = reader.read("all")
    assert index.xywh[0] == pytest.approx(box)
    assert index.classes == ("dog",)
    assert index.sizes.tolist() == [[40, 30]]
    assert index.ignore.tolist() == [box[2] == 0]
    assert index.paths.tolist() == [str(tmp_path / "images" / "a.jpg")]
    assert not index.annotation_errors
    assert not index.notes
    minimal = make(tmp_path / "min", {"a.json": [record({**value, kind: ["dog"], **SIZE})]}).read("all")
    assert minimal.xywh.tolist() == index.xywh.tolist()
    assert not minimal.annotation_errors


@pytest.mark.parametrize(
    ("url", "file"),
    [
        ("/data/upload/1/0a1b2c3d-a.jpg", "images/0a1b2c3d-a.jpg"),
        ("/data/upload/1/0a1b2c3d-a.jpg", "a.jpg"),
        ("upload/1/0a1b2c3d-a.jpg", "images/a.png"),
        ("/data/local-files/?d=photos/sub%20x/a.jpg", "photos/sub x/a.jpg"),
        ("/data/local-files/?d=%2Fmnt%2Fphotos/a.jpg", "deep/er/a.jpg"),
        ("s3://bucket/photos/a.jpg", "photos/a.jpg"),
        ("https://example.com/p/a%20b.jpg?token=1#x", "a b.jpg"),
        ("a#1.jpg", "images/a#1.jpg"),
    ],
)
def test_images_are_found_by_their_addresses(tmp_path: Path, url: str, file: str) -> None:
    decoy = "other/0a1b2c3d-b.jpg"
    for name, content in {"full": [task(annotation(), image=url)], "min": [record(image=url)]}.items():
        index = make(tmp_path / name, {"a.json": content}, (file, decoy)).read("all")
        assert index.paths.tolist() == [str(tmp_path / name / file)]
        assert not index.annotation_errors


def test_the_image_may_be_under_any_key(tmp_path: Path) -> None:
    entry = task(annotation(result())) | {"data": {"text": "x", "n": 5, "picture": "/data/upload/1/a.jpg"}}
    assert len(make(tmp_path, {"a.json": [entry]}).read("all").paths) == 1
    entry = {"pic": "a.jpg", "boxes": [{**RECTANGLE, "rectanglelabels": ["dog"], **SIZE}], "kind": ["x", "y"]}
    index = make(tmp_path / "min", {"a.json": [entry]}).read("all")
    assert index.xywh.tolist() == [[10, 3, 20, 6]]


def test_several_labels_are_several_boxes(tmp_path: Path) -> None:
    index = make(tmp_path, {"a.json": [task(annotation(result(names=["dog", "cat"])))]}).read("all")
    assert index.classes == ("cat", "dog")
    assert index.labels.tolist() == [1, 0]


def test_classes_of_regions_may_be_in_a_result_of_their_own(tmp_path: Path) -> None:
    shapes = {"type": "rectangle", "id": "r1", "value": RECTANGLE, **SIZE}
    index = make(tmp_path, {"a.json": [task(annotation(shapes, result("labels")))]}).read("all")
    assert index.num_boxes == 1
    index = make(tmp_path / "without", {"a.json": [task(annotation(shapes))]}).read("all")
    (error,) = index.annotation_errors
    assert (error.kind, error.count) == ("class", 1)


def test_other_results_are_noted(tmp_path: Path) -> None:
    others = [
        result("choices", ["good"], {}),
        result("brushlabels", ["dog"], {"format": "rle", "rle": [1, 2]}),
        result("keypointlabels", ["dog"], {"x": 1, "y": 2, "width": 0.3}),
        {"from_id": "r1", "to_id": "r2", "type": "relation", "direction": "right"},
    ]
    index = make(tmp_path, {"a.json": [task(annotation(result(), *others))]}).read("all")
    assert index.num_boxes == 1
    counts = "1 brushlabels, 1 choices, 1 keypointlabels, 1 relation"
    assert index.notes == (f"all: shapes without a box are skipped: {counts}.",)
    point = {"x": 1, "y": 2, "width": 0.3, "keypointlabels": ["dog"], **SIZE}
    index = make(tmp_path / "min", {"a.json": [record(point)]}).read("all")
    assert index.notes == ("all: shapes without a box are skipped: 1 region.",)


def test_the_latest_annotation_counts_and_cancelled_ones_do_not(tmp_path: Path) -> None:
    first, second = (
        annotation(result(names=["old"]), created="2024-01-01T"),
        annotation(result(names=["new"]), created="2024-02-01T"),
    )
    cancelled = annotation(result(names=["bad"]), created="2024-03-01T", was_cancelled=True)
    index = make(tmp_path, {"a.json": [task(second, first, cancelled)]}).read("all")
    assert index.classes == ("new",)
    assert index.notes == (f"{tmp_path / 'a.json'}: 1 images have several annotations: the latest of each is used.",)
    truth = annotation(result(names=["true"]), created="2023-01-01T", ground_truth=True)
    index = make(tmp_path / "truth", {"a.json": [task(second, truth)]}).read("all")
    assert (index.classes, index.notes) == (("true",), ())
    regions = [{**RECTANGLE, "rectanglelabels": [name], **SIZE} for name in ("new", "old")]
    records = [record(regions[0], created_at="2024-02-01T"), record(regions[1], created_at="2024-01-01T")]
    index = make(tmp_path / "min", {"a.json": records}).read("all")
    assert (index.classes, len(index.notes), len(index)) == (("new",), 1, 1)


def test_an_empty_annotation_is_an_image_without_objects_and_a_task_without_one_is_skipped(tmp_path: Path) -> None:
    tasks = [task(annotation(), image="a.jpg"), task(image="b.jpg"), task(annotation(result(), was_cancelled=True))]
    index = make(tmp_path, {"a.json": tasks}).read("all")
    assert index.paths.tolist() == [str(tmp_path / "images" / "a.jpg")]
    assert index.num_boxes == 0
    assert index.notes == (f"{tmp_path / 'a.json'}: 2 tasks are not annotated: their images are skipped.",)
    index = make(tmp_path / "min", {"a.json": [record(), record(image="b.jpg", annotation_id=None)]}).read("all")
    assert (len(index), len(index.notes)) == (1, 1)


def test_the_first_versions_wrote_completions(tmp_path: Path) -> None:
    entry = {
        "data": {"image": "a.jpg"},
        "completions": [{"result": [result()], "created_at": 1600000000, "skipped": False}],
    }
    assert make(tmp_path, {"a.json": [entry]}).read("all").xywh.tolist() == [[10, 3, 20, 6]]


def test_sizes_that_the_file_lacks_are_the_images(tmp_path: Path) -> None:
    bare = result() | {"original_width": None, "original_height": None}
    index = make(tmp_path, {"a.json": [task(annotation(bare))]}).read("all")
    assert index.sizes.tolist() == [[40, 30]]
    assert index.xywh == pytest.approx(np.array([[10, 3, 20, 6]]))
    turned = bare | {"value": {**RECTANGLE, "rotation": 5, "rectanglelabels": ["dog"]}}
    (error,) = make(tmp_path / "b", {"a.json": [task(annotation(turned))]}).read("all").annotation_errors
    assert "original_width and original_height are missing" in error.examples[0]


def test_files_are_splits_by_name(tmp_path: Path) -> None:
    files = {f"{split}.json": [task(annotation(result(names=[split])))] for split in ("train", "val")}
    reader = make(tmp_path, files)
    assert list(reader.splits) == ["train", "val"]
    assert reader.read("val").classes == ("train", "val")


@pytest.mark.parametrize(
    ("content", "kind", "words"),
    [
        ("[{", "annotation", "truncated"),
        ("[" * 5000, "annotation", "a.json: "),
        ([5], "entry", "task 0: expected object"),
        ([{"data": 5}], "entry", "data"),
        ([task({"result": 5})], "entry", "result"),
        ([task(annotation(5))], "entry", "expected object"),
        ([task(annotation(result(value={**RECTANGLE, "x": [1]})))], "box", "x"),
        ([task(annotation(result(value={**RECTANGLE, "x": 1e300})))], "box", "e+"),
        ([task(annotation(result(value={"x": 1, "y": 2, "width": 5})))], "box", "neither width and height"),
        ([task(annotation(result("polygonlabels", value={"points": [[1, 2]]})))], "box", "two points"),
        ([task(annotation(result(names=[])))], "class", "no class name"),
        ([task(annotation(), image="")], "entry", "names no image"),
        ([task(annotation(), image="../secret.jpg")], "outside", "secret.jpg"),
        ([record({**RECTANGLE, "rectanglelabels": 5})], "box", "rectanglelabels"),
        ([task(annotation(result(value={**RECTANGLE, "x": 500}, original_width=None)))], "box", "not fractions"),
    ],
)
def test_invalid_entries(tmp_path: Path, content: Any, kind: str, words: str) -> None:
    (tmp_path / "secret.jpg").write_text("")
    (error,) = make(tmp_path / "set", {"a.json": content}).read("all").annotation_errors
    assert (error.kind, error.count) == (kind, 1)
    assert words in error.examples[0]


def test_files_are_recognised_by_their_keys(tmp_path: Path) -> None:
    contents = {
        "full.json": [task(annotation(result()))],
        "min.json": [record({**RECTANGLE, "rectanglelabels": ["dog"], **SIZE})],
        "results.json": [{"image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4], "score": 0.5}],
        "coco.json": {"images": [], "annotations": [], "categories": []},
        "empty.json": [],
    }
    for name, content in contents.items():
        (tmp_path / name).write_text(json.dumps(content))
    assert {name for name in contents if sniff(tmp_path / name)} == {"full.json", "min.json"}
