"""The doctor finds what was put there, and changes nothing."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from cledet.data.doctor import Report, check
from cledet.data.source import open_source
from cledet.errors import UserError


def make_sick(folder: Path) -> Path:
    """Five images: sound, missing, truncated, of another size, unsized; and boxes of every kind of wrong."""
    (folder / "val").mkdir(parents=True)
    noise = np.random.default_rng(0).integers(0, 255, (30, 40, 3), dtype=np.uint8)
    for name in ("good.png", "short.png", "other.png", "unsized.png"):
        cv2.imwrite(str(folder / "val" / name), noise)
    whole = (folder / "val" / "short.png").read_bytes()
    (folder / "val" / "short.png").write_bytes(whole[: len(whole) // 2])
    names = ["good.png", "gone.png", "short.png", "other.png", "unsized.png"]
    images = [{"id": i, "file_name": name, "width": 40, "height": 30} for i, name in enumerate(names)]
    images[3]["width"] = 44
    del images[4]["width"]
    boxes = [[1, 1, 5, 5], [1, 1, 5, 5], [2, 2, 0, 3], [35, 25, 20, 20]]
    annotations = [{"id": i, "image_id": 0, "category_id": 1, "bbox": box} for i, box in enumerate(boxes, 1)]
    content = {
        "images": images, "annotations": annotations,
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
    }  # fmt: skip
    (folder / "annotations").mkdir()
    (folder / "annotations" / "instances_val.json").write_text(json.dumps(content))
    return folder


@pytest.fixture
def report(tmp_path: Path) -> Report:
    return check(open_source(make_sick(tmp_path / "sick")))


def test_every_problem_is_found(report: Report) -> None:
    found = {problem.kind: (problem.severity, problem.count) for problem in report.problems}
    assert found == {
        "missing": ("error", 1),
        "unreadable": ("error", 1),
        "size": ("error", 1),
        "unsized": ("warning", 1),
        "degenerate": ("warning", 1),
        "outside": ("warning", 1),
        "duplicate": ("warning", 1),
        "unused": ("warning", 1),
    }
    assert not report.ok
    severities = [problem.severity for problem in report.problems]
    assert severities == sorted(severities)


@pytest.mark.parametrize(
    ("kind", "words"),
    [("missing", "gone.png"), ("unreadable", "short.png"), ("size", "40x30, annotated as 44x30"), ("unused", "dog"),
     ("degenerate", "good.png: cat at [left 2, top 2, width 0, height 3]")],
)  # fmt: skip
def test_problems_say_where(report: Report, kind: str, words: str) -> None:
    (problem,) = (problem for problem in report.problems if problem.kind == kind)
    assert words in problem.text
    assert words in problem.examples[0]


def test_the_summary_counts(report: Report) -> None:
    (split,) = report.splits
    assert (split.name, split.images, split.boxes, split.ignored, split.empty) == ("sick/val", 5, 4, 0, 4)
    assert split.class_counts == {"cat": 4, "dog": 0}
    assert json.loads(json.dumps(report.to_dict()))["ok"] is False


def test_a_sound_set_and_progress(squares: Path) -> None:
    calls: list[tuple[int, int]] = []
    report = check(open_source(squares), progress=lambda done, total: calls.append((done, total)))
    assert report.ok
    assert report.problems == ()
    assert [split.empty for split in report.splits] == [1, 1]
    assert calls == [(i, 10) for i in range(1, 11)]
    with pytest.raises(UserError, match="no split 'test'"):
        check(open_source(squares), ["test"])


def test_nothing_is_changed(tmp_path: Path) -> None:
    folder = make_sick(tmp_path / "sick")
    before = {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    check(open_source(folder))
    assert {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()} == before


def test_bccd_has_two_degenerate_boxes(shared_data: Path) -> None:
    report = check(open_source(shared_data / "bccd"), ["train", "val", "test"])
    assert report.ok
    places = {p.split: p.examples for p in report.problems if p.kind == "degenerate"}
    assert list(places) == ["bccd/train", "bccd/val"]
    assert ["BloodImage_00343" in places["bccd/train"][0], "BloodImage_00338" in places["bccd/val"][0]] == [True] * 2
