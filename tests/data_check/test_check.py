"""The doctor finds what was put there, says what there is, and changes nothing."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from cledet.config.base import CheckSettings
from cledet.data.open import DataSource, open_source
from cledet.data_check.check import Report, check
from cledet.errors import UserError


def examine(data: Path | DataSource, **settings: object) -> Report:
    source = data if isinstance(data, DataSource) else open_source(data)
    return check(source, CheckSettings(**settings))  # type: ignore[arg-type]


def summary(report: Report) -> dict[tuple[str, str], tuple[str, int]]:
    """Severity and count by kind and split."""
    return {(f.kind, f.split): (f.severity, f.count) for f in report.findings}


@pytest.fixture(scope="module")
def report(sick: Path) -> Report:
    return examine(sick)


def test_every_problem_is_found_and_no_other(report: Report) -> None:
    assert summary(report) == {
        ("missing", "train"): ("error", 1),
        ("unreadable", "train"): ("error", 1),
        ("truncated", "train"): ("error", 1),
        ("size", "train"): ("error", 1),
        ("unsized", "train"): ("warning", 1),
        ("copy", "train"): ("warning", 1),
        ("degenerate", "train"): ("warning", 1),
        ("outside", "train"): ("warning", 1),
        ("duplicate", "train"): ("warning", 1),
        ("near", "train"): ("warning", 1),
        ("leak", "train, val"): ("warning", 1),
        ("unused", "train, val"): ("warning", 1),
        ("rare", "train"): ("warning", 1),
        ("unseen", "val"): ("warning", 1),
        ("unmeasured", "val"): ("warning", 1),
        ("unlabelled", "train"): ("note", 1),
    }
    ranks = [("error", "warning", "note").index(finding.severity) for finding in report.findings]
    assert ranks == sorted(ranks)
    assert (report.count("error"), report.exit_code(strict=False)) == (4, 2)


@pytest.mark.parametrize(
    ("kind", "image", "text"),
    [("missing", "train/gone.png", ""), ("truncated", "train/short.png", "truncated"),
     ("unreadable", "train/text.png", "not an image"), ("size", "train/other.png", "40x30, annotated as 44x30"),
     ("outside", "train/good.png", "cat at left 35, top 25, width 20, height 20"),
     ("leak", "train/good.png", "leak.png"),
     ("near", "train/good.png", "dog at left 10, top 10, width 12, height 12.25, and another")],
)  # fmt: skip
def test_examples_name_the_location(report: Report, sick: Path, kind: str, image: str, text: str) -> None:
    (finding,) = (finding for finding in report.findings if finding.kind == kind)
    (example,) = finding.examples
    assert example.picture is not None
    assert example.picture.path == str(sick / image)
    assert text in example.text


def test_the_document(report: Report, sick: Path) -> None:
    document = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert list(document) == [
        "name", "ok", "errors", "warnings", "notes", "imgsz", "anchor_scale", "anchor_ratios", "splits", "anchors",
        "suggestion", "findings",
    ]  # fmt: skip
    assert (document["name"], document["ok"]) == ("sick", False)
    assert (document["errors"], document["warnings"], document["notes"]) == (4, 11, 1)
    train, val = document["splits"]
    assert (train["name"], train["images"], train["boxes"], train["empty"]) == ("train", 8, 12, 1)
    assert val["classes"] == {"cat": 1, "dog": 0, "bird": 1, "fish": 0}
    assert document["anchors"]["train"] == {
        "objects": 11, "reached": 1, "small": None, "medium": None, "large": 1, "nearly": 1,
    }  # fmt: skip
    (outside,) = (f for f in document["findings"] if f["kind"] == "outside")
    assert outside == {
        "severity": "warning", "kind": "outside", "split": "train", "count": 1,
        "text": "1 box reaches out of the image",
        "examples": [{
            "text": "cat at left 35, top 25, width 20, height 20", "image": str(sick / "train" / "good.png"),
            "boxes": [[35, 25, 20, 20]],
        }],
    }  # fmt: skip


def test_a_data_set_without_problems_and_its_progress(squares: Path) -> None:
    calls: list[tuple[int, int]] = []
    report = check(open_source(squares), CheckSettings(), progress=lambda *call: calls.append(call))
    assert {key: value for key, value in summary(report).items() if key[0] != "rare"} == {
        ("unlabelled", "train"): ("note", 1), ("unlabelled", "val"): ("note", 1),
    }  # fmt: skip
    assert calls == [(i, 10) for i in range(1, 11)]


def test_exit_codes(squares: Path, sick: Path, report: Report) -> None:
    sound = examine(squares, split="val")
    assert [f.severity for f in sound.findings if f.kind != "rare"] == ["note"]
    assert (sound.exit_code(strict=False), sound.exit_code(strict=True)) == (0, 1)  # 3 boxes of a class are few
    noted = Report(
        "set", 800, 4.0, (0.5, 1.0, 2.0), (), {}, None, tuple(f for f in sound.findings if f.severity == "note")
    )
    assert (noted.exit_code(strict=False), noted.exit_code(strict=True)) == (0, 0)
    assert (report.exit_code(strict=False), report.exit_code(strict=True)) == (2, 2)


def test_only_the_given_splits_are_checked(sick: Path) -> None:
    report = examine(sick, split="val")
    assert [split["name"] for split in report.splits] == ["val"]
    assert {split for _, split in summary(report)} == {"val"}
    assert [split["name"] for split in examine(sick, split="val, train,val").splits] == ["val", "train"]
    with pytest.raises(UserError, match="no split 'test'"):
        examine(sick, split="val,test")


def test_a_split_that_cannot_be_read_is_an_error_and_the_others_are_checked(squares: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(squares, tmp_path / "squares")
    annotations = folder / "annotations"
    (annotations / "instances_val.json").write_text("{")
    (annotations / "instances_test.json").write_text(
        '{"images": [], "annotations": [], "categories": [{"id": 3, "name": "blue"}]}'
    )
    report = examine(folder)
    assert [split["name"] for split in report.splits] == ["train"]
    errors = {f.split: f.text for f in report.findings if f.kind == "annotations"}
    assert "instances_val.json is not valid JSON" in errors["val"]
    assert errors["test"] == "squares/test has no images"
    assert report.exit_code(strict=False) == 2
    nothing = examine(folder, split="val")
    assert (nothing.splits, nothing.anchors, nothing.count("error")) == ((), {}, 1)


def test_a_split_that_lost_all_images_to_errors_names_them(tmp_path: Path) -> None:
    for name in "abc":
        cv2.imwrite(str(tmp_path / f"{name}.png"), np.zeros((30, 40, 3), dtype=np.uint8))
        (tmp_path / f"{name}.json").write_text('{"shapes": [}')
    report = examine(tmp_path)
    (finding,) = report.findings
    assert (finding.kind, finding.split, report.exit_code(strict=False)) == ("annotations", "all", 2)
    assert finding.text.startswith(
        f"{tmp_path.name}/all has no images without errors: 3 annotation files cannot be read, the first: "
        f"{tmp_path}/a.json: JSON is malformed"
    )
    assert [example.text.split(":")[0] for example in finding.examples] == [f"{tmp_path}/{name}.json" for name in "bc"]


def test_splits_without_boxes_and_of_one_image(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((30, 40, 3), dtype=np.uint8))
    content = {
        "images": [{"id": 1, "file_name": "a.png", "width": 40, "height": 30}],
        "annotations": [], "categories": [{"id": 1, "name": "cat"}],
    }  # fmt: skip
    (tmp_path / "train.json").write_text(json.dumps(content))
    report = examine(tmp_path)
    assert summary(report) == {("unlabelled", "train"): ("warning", 1), ("unused", "train"): ("warning", 1)}
    assert report.anchors["train"].objects == 0
    content["annotations"] = [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 20, 20]}]
    (tmp_path / "train.json").write_text(json.dumps(content))
    report = examine(tmp_path / "train.json")
    assert summary(report) == {("rare", "train"): ("warning", 1)}
    assert report.splits[0]["boxes_per_image"] == {"median": 1, "most": 1}


def test_annotation_errors_are_listed(squares: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dataclasses import replace

    from cledet.data.formats.annotation_errors import AnnotationError
    from cledet.data.formats.coco import CocoFiles

    read = CocoFiles.read
    logged = AnnotationError("box", 3, ("labels/1.txt:2", "labels/1.txt:5", "labels/2.txt:1"))
    monkeypatch.setattr(CocoFiles, "read", lambda self, split: replace(read(self, split), annotation_errors=(logged,)))
    report = examine(squares, split="train")
    (error,) = (f for f in report.findings if f.severity == "error")
    assert (error.kind, error.count, [e.text for e in error.examples]) == ("box", 3, list(logged.examples))


def test_a_setting_that_covers_too_small_objects_is_suggested(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((800, 800, 3), dtype=np.uint8))
    boxes = [[x, y, 18, 18] for x in range(10, 700, 70) for y in range(10, 700, 70)]
    content = {
        "images": [{"id": 1, "file_name": "a.png", "width": 800, "height": 800}],
        "annotations": [{"id": i, "image_id": 1, "category_id": 1, "bbox": box} for i, box in enumerate(boxes, 1)],
        "categories": [{"id": 1, "name": "cat"}],
    }
    (tmp_path / "train.json").write_text(json.dumps(content))
    report = examine(tmp_path)
    assert summary(report) == {("anchors", "train"): ("warning", 100)}
    assert report.suggestion is not None
    scale = report.suggestion.anchor_scale
    (advice,) = report.findings
    expected = "--imgsz 800 --anchor-scale 4 covers 0.0 %, --anchor-scale "
    assert expected in advice.text
    assert f"{scale:g} would cover {100 * report.suggestion.reached:.1f} %" in advice.text
    assert advice.examples[0].text.startswith("cat at left ")
    assert examine(tmp_path, anchor_scale=scale).anchors["train"].reached == report.suggestion.reached


def test_nothing_is_changed(sick: Path) -> None:
    def state() -> dict[Path, tuple[int, bytes | None]]:
        return {p: (p.stat().st_mtime_ns, p.read_bytes() if p.is_file() else None) for p in (sick, *sick.rglob("*"))}

    before = state()
    examine(sick)
    assert len(before) > 10
    assert state() == before


def test_bccd_has_two_degenerate_boxes(shared_data: Path) -> None:
    report = examine(shared_data / "bccd")
    assert {key: value for key, value in summary(report).items() if key[0] == "degenerate"} == {
        ("degenerate", "train"): ("warning", 1), ("degenerate", "val"): ("warning", 1),
    }  # fmt: skip
    names = [Path(f.examples[0].picture.path).name for f in report.findings if f.kind == "degenerate"]  # type: ignore[union-attr]
    assert names == ["BloodImage_00343.jpg", "BloodImage_00338.jpg"]
    assert {split["name"]: split["parts"] for split in report.splits} == {
        "test": (), "train": (), "trainval": ("train", "val"), "val": (),
    }  # fmt: skip
    assert report.count("error") == 0
