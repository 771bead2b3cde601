"""Review files, read back: suspects.json, COCO by pycocotools, Label Studio's percent and URLs."""

from __future__ import annotations

import contextlib
import io
import json
from urllib.parse import parse_qs, urlparse
from xml.etree import ElementTree

import cv2
import numpy as np
import pytest
from pycocotools.coco import COCO

from cledet.data.open import open_source
from cledet.evaluation.report.review_files import relative_paths, write_suspects
from cledet.metrics.analysis import analyse
from cledet.metrics.results_file import read_results

A, B = (0, 0, 20, 20), (60, 40, 20, 20)
IMAGES = 30
NASTY = 'do"g <b>&\x07'


@pytest.fixture(scope="module")
def files(tmp_path_factory, make_index):
    """The analysis and the run folder of 30 images of two clean labels, one more with a wrong class and a crowd,
    one with a missing label, and one with nothing."""
    home = tmp_path_factory.mktemp("photos of ünits")
    paths = [home / ("train" if i % 2 else "va l") / f"{i}.png" for i in range(IMAGES + 3)]
    labels = [[(0, *A), (1, *B)]] * IMAGES + [[(1, *A), (0, 30, 30, 60, 40)], [(1, *B)], []]
    index = make_index(
        *labels,
        paths=paths,
        ignore=[2 * IMAGES + 1],
        classes=("cat", NASTY),
        image_ids=np.arange(IMAGES + 3) + 100,
        category_ids=np.array([7, 3]),
    )
    rows = [[i + 100, *box, 0.9, k] for i in range(IMAGES) for box, k in ((A, 7), (B, 3))]
    rows += [[IMAGES + 100, *A, 0.8, 7], [IMAGES + 100, 50, 50, 9, 9, 0.01, 3], [IMAGES + 101, *B, 0.9, 3]]
    rows += [[IMAGES + 101, *A, 0.7, 7]]
    analysis = analyse(index, np.array(rows, dtype=float), suspects=10)
    run = tmp_path_factory.mktemp("run")
    write_suspects(analysis, run)
    return analysis, run


def read(run, name):
    return json.loads((run / name).read_text())


def test_suspects_are_listed_by_rank(files):
    analysis, run = files
    listed = read(run, "suspects.json")
    assert [(one["rank"], one["kind"], one["image_id"]) for one in listed] == [
        (1, "wrong class", IMAGES + 100),
        (2, "missing label", IMAGES + 101),
    ]
    assert listed[0]["label"] == {"class": NASTY, "bbox": list(A)}
    assert listed[0]["detection"] == {"class": "cat", "bbox": list(A), "score": 0.8}
    assert listed[1]["label"] is None
    assert listed[1]["file"] == str(analysis.index.paths[IMAGES + 1])


def test_coco_files_hold_the_suspect_images(files):
    """All their labels and the detections shown, unrounded, with the data set's ids."""
    analysis, run = files
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(run / "review" / "annotations.json"))
        found = truth.loadRes(str(run / "review" / "detections.json"))
    assert list(truth.imgs) == [IMAGES + 100, IMAGES + 101]
    assert [truth.imgs[i]["file_name"] for i in truth.imgs] == [f"va l/{IMAGES}.png", f"train/{IMAGES + 1}.png"]
    assert {i: one["name"] for i, one in truth.cats.items()} == {7: "cat", 3: NASTY}
    labels = [(a["image_id"], a["category_id"], a["bbox"], a["iscrowd"]) for a in truth.anns.values()]
    wrong, crowd, clean = labels
    assert wrong == (IMAGES + 100, 3, list(A), 0)
    assert crowd == (IMAGES + 100, 7, [30, 30, 60, 40], 1)
    assert clean == (IMAGES + 101, 3, list(B), 0)
    marks = [(a.get("suspect"), a.get("rank")) for a in truth.anns.values()]
    assert marks == [("wrong class", 1), (None, None), (None, None)]
    detections = [(a["image_id"], a["score"], a.get("suspect")) for a in found.anns.values()]
    assert detections == [
        (IMAGES + 100, 0.8, "wrong class"),
        (IMAGES + 101, 0.9, None),
        (IMAGES + 101, 0.7, "missing label"),
    ]
    assert len(read_results(run / "review" / "detections.json", analysis.index)) == 3


def test_label_studio_tasks(files):
    """Percent of 100x80 px, an image URL below the document root /, and labels that the configuration has."""
    analysis, run = files
    first, second = read(run, "review/label_studio.json")
    url = urlparse(first["data"]["image"])
    assert url.path == "/data/local-files/"
    assert "/" + parse_qs(url.query)["d"][0] == str(analysis.index.paths[IMAGES])
    assert first["data"]["rank"] == 1
    assert first["data"]["suspects"] == 'wrong class: labelled do"g <b>&\\x07, detected cat 0.80'.join(["1. ", ""])
    (annotation,), (prediction,) = first["annotations"], first["predictions"]
    wrong, crowd = annotation["result"]
    assert crowd["value"] == {
        "x": 30.0, "y": 37.5, "width": 60.0, "height": 50.0, "rotation": 0, "rectanglelabels": ["cat"]
    }  # fmt: skip
    assert (crowd["original_width"], crowd["original_height"]) == (100, 80)
    assert wrong["meta"] == {"text": [first["data"]["suspects"]]}
    assert "meta" not in crowd
    assert [one["score"] for one in prediction["result"]] == [0.8]
    assert [one["score"] for one in second["predictions"][0]["result"]] == [0.9, 0.7]
    view = ElementTree.fromstring((run / "review" / "label_studio.xml").read_text())
    known = [label.get("value") for label in view.iter("Label")]
    regions = [one for task in (first, second) for part in ("annotations", "predictions") for one in task[part]]
    results = [one for region in regions for one in region["result"]]
    assert known == ["cat", 'do"g <b>&\\x07']
    assert {name for one in results for name in one["value"]["rectanglelabels"]} <= set(known)
    assert {(one["from_name"], one["to_name"]) for one in results} == {("label", "image")}
    assert view.find("RectangleLabels").attrib == {"name": "label", "toName": "image"}
    assert view.find("Image").attrib == {"name": "image", "value": "$image"}
    names = [one["id"] for task in (first, second) for part in ("annotations", "predictions")
             for one in task[part][0]["result"]]  # fmt: skip
    assert len(set(names)) == len(names)


def test_images_of_unknown_size(make_index, tmp_path, capsys):
    """The size is read from the file; without one, the image is named and left out."""
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((50, 200, 3), dtype=np.uint8))
    clean = [[(0, *A)]] * IMAGES
    paths = [*(tmp_path / f"clean{i}.png" for i in range(IMAGES)), tmp_path / "a.png", tmp_path / "gone.png"]
    index = make_index(*clean, [], [], paths=paths, sizes=[(0, 0)] * (IMAGES + 2))
    rows = [[i, *A, 0.9, 1] for i in range(IMAGES + 2)]
    write_suspects(analyse(index, np.array(rows), suspects=10), tmp_path)
    (task,) = read(tmp_path, "review/label_studio.json")
    assert task["predictions"][0]["result"][0]["value"]["width"] == 10
    sizes = [(one["width"], one["height"]) for one in read(tmp_path, "review/annotations.json")["images"]]
    assert sizes == [(200, 50), (0, 0)]
    assert f"1 image of unknown size: {tmp_path / 'gone.png'}" in " ".join(capsys.readouterr().err.split())


def test_label_studio_boxes_end_at_the_edge_of_the_image(make_index, tmp_path):
    index = make_index(*[[(0, *A)]] * IMAGES, [])
    rows = [[i, *A, 0.9, 1] for i in range(IMAGES)] + [[IMAGES, -10, 70, 200, 30, 0.8, 1]]
    write_suspects(analyse(index, np.array(rows), suspects=10), tmp_path)
    (task,) = read(tmp_path, "review/label_studio.json")
    value = task["predictions"][0]["result"][0]["value"]
    assert [value[key] for key in ("x", "y", "width", "height")] == [0, 87.5, 100, 12.5]
    assert read(tmp_path, "review/detections.json")[0]["bbox"] == [-10, 70, 200, 30]


def test_without_suspects_there_is_no_review(make_index, tmp_path):
    index = make_index([(0, *A)])
    write_suspects(analyse(index, np.array([[0, *A, 0.9, 1]]), suspects=10), tmp_path)
    assert read(tmp_path, "suspects.json") == []
    assert not (tmp_path / "review").exists()


def test_relative_paths(make_index):
    flat = make_index([], [], paths=["/data/photos/1.jpg", "/data/photos/2.jpg"])
    assert relative_paths(flat) == ["1.jpg", "2.jpg"]
    deep = make_index([], [], paths=["/data/a/1.jpg", "/data/b/c/1.jpg"])
    assert relative_paths(deep) == ["a/1.jpg", "b/c/1.jpg"]
    assert relative_paths(make_index([], paths=["/1.jpg"])) == ["1.jpg"]


def test_real_labels_and_detections(shared_data, tmp_path):
    """Every label of a suspect image is in the file, unchanged."""
    index = open_source(shared_data / "coco2017_sub").index("val", need_images=False)
    results = read_results(shared_data / "coco2017_sub" / "detections" / "yolox_nano_raw.json", index)
    analysis = analyse(index, results[results[:, 5] > 0.3], suspects=40)
    write_suspects(analysis, tmp_path)
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(tmp_path / "review" / "annotations.json"))
    images = {one.image for one in analysis.suspects}
    assert len(truth.imgs) == len(images)
    for image in images:
        own = truth.imgToAnns[int(index.image_ids[image])]
        assert [one["bbox"] for one in own] == index.xywh[index.rows(image)].tolist()
        assert [one["iscrowd"] for one in own] == index.ignore[index.rows(image)].astype(int).tolist()
