"""Boxes that are degenerate, outside or repeated: by hand, and against a loop over all pairs."""

from __future__ import annotations

import json
from itertools import combinations

import numpy as np
import pytest

from cledet.data.formats.annotation_errors import AnnotationError
from cledet.data_check.boxes import check_boxes, duplicates, near_duplicates, outside
from cledet.data_check.findings import EXAMPLES, Finding


def by_kind(findings: list[Finding]) -> dict[str, Finding]:
    assert len({finding.kind for finding in findings}) == len(findings)
    return {finding.kind: finding for finding in findings}


def test_a_split_without_problems_has_no_findings(make_index) -> None:
    assert check_boxes("train", make_index([(0, 1, 1, 5, 5), (1, 1, 1, 5, 5)], [(0, 0, 0, 100, 80)])) == []


def test_outside_is_more_than_a_pixel_over_an_edge(make_index) -> None:
    rows = [
        (0, -1, 0, 5, 5),
        (0, -1.01, 0, 5, 5),
        (0, 0, -2, 5, 5),
        (0, 96, 0, 5, 5),
        (0, 96.1, 0, 5, 5),
        (0, 0, 77, 5, 5),
    ]
    index = make_index(rows, [(0, 500, 0, 5, 5)], sizes=[(100, 80), (0, 0)])
    assert outside(index).tolist() == [False, True, True, False, True, True, False]


def test_degenerate_boxes_are_not_outside_as_well(make_index) -> None:
    index = make_index([(0, 120, 2, 0, 3), (0, 1, 1, 5, -1), (1, float("nan"), 0, 5, 5)], [(0, 1, 1, 5, 5)])
    found = by_kind(check_boxes("train", index))
    assert {kind: f.count for kind, f in found.items()} == {"degenerate": 3}
    degenerate = found["degenerate"]
    assert (degenerate.severity, degenerate.text) == ("warning", "3 boxes have no width or height: not trained on")
    assert degenerate.examples[0].text == "cat at left 120, top 2, width 0, height 3"
    document = json.dumps(degenerate.to_dict(), allow_nan=False)
    assert json.loads(document)["examples"][2]["boxes"] == [[None, 0, 5, 5]]


def test_an_example_has_its_image_and_the_other_boxes(make_index) -> None:
    index = make_index([], [(0, 1, 1, 5, 5)], [(0, 2, 2, 6, 6), (1, 3, 3, 0, 7), (1, 4, 4, 8, 8)])
    picture = by_kind(check_boxes("train", index))["degenerate"].examples[0].picture
    assert picture is not None
    assert (picture.path, picture.size) == ("/2.png", (100, 80))
    assert picture.boxes == ((3, 3, 0, 7),)
    assert picture.others == ((2, 2, 6, 6), (4, 4, 8, 8))


def test_duplicates_have_image_class_and_place_in_common(make_index) -> None:
    same = (0, 1, 1, 5, 5)
    index = make_index([same, (1, 1, 1, 5, 5), same, same, (0, 1, 1, 5, 5.01)], [same], [same, same], ignore=[7])
    assert duplicates(index).tolist() == [False, False, True, True, False, False, False, False]


def test_nearly_equal_boxes_by_hand(make_index) -> None:
    rows = [(0, 0, 0, 20, 20), (0, 0, 1, 20, 19), (0, 0, 0.5, 20, 19.5), (1, 0, 0.5, 20, 19.5), (0, 0, 0, 20, 20)]
    one, other = near_duplicates(make_index(rows, [(0, 0, 0.5, 20, 19.5)]))
    assert list(zip(one.tolist(), other.tolist())) == [(0, 2), (1, 2)]  # 0 and 1 share 0.95 sharp; 4 repeats 0
    near = by_kind(check_boxes("train", make_index(rows)))["near"]
    assert (near.count, len(near.examples)) == (1, 1)
    assert near.examples[0].picture is not None
    assert near.examples[0].picture.boxes == ((0, 0, 20, 20), (0, 0.5, 20, 19.5))


@pytest.mark.parametrize("seed", range(4))
def test_nearly_equal_boxes_against_all_pairs(make_index, seed: int) -> None:
    rng = np.random.default_rng(seed)
    images = []
    for _ in range(6):
        base = np.column_stack([rng.integers(0, 2, 8), rng.uniform(0, 40, (8, 2)), rng.uniform(1, 40, (8, 2))])
        moved = base[rng.integers(0, 8, 12)]
        moved[:, 1:] *= 1 + rng.normal(0, 0.012, (12, 4))
        images.append([tuple(row) for row in np.concatenate([base, moved])])
    index = make_index(*images, ignore=[3, 50])

    def iou(a: np.ndarray, b: np.ndarray) -> float:
        width = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
        height = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
        shared = max(width, 0) * max(height, 0)
        return shared / (a[2] * a[3] + b[2] * b[3] - shared)

    expected = [
        (a, b)
        for image in range(len(index))
        for a, b in combinations(range(index.starts[image], index.starts[image + 1]), 2)
        if index.labels[a] == index.labels[b] and not index.ignore[[a, b]].any()
        and iou(index.xywh[a], index.xywh[b]) > 0.95
    ]  # fmt: skip
    one, other = near_duplicates(index)
    assert list(zip(one.tolist(), other.tolist())) == expected
    assert len(expected) > 5


def test_two_thousand_boxes_on_an_image(make_index) -> None:
    rng = np.random.default_rng(0)
    rows = [(0, float(x), float(y), 3, 3) for x, y in rng.uniform(0, 900, (1999, 2))]
    index = make_index([*rows, rows[7]], sizes=[(1000, 1000)])
    found = by_kind(check_boxes("train", index))
    assert found["duplicate"].count == 1
    assert found["duplicate"].examples[0].picture is not None
    assert len(found["duplicate"].examples[0].picture.others) == 1999
    many = by_kind(check_boxes("train", make_index([(0, 1, 1, 5, 5)] * 2000)))
    assert many["duplicate"].count == 1999
    assert len(many["duplicate"].examples) == EXAMPLES
    assert many["duplicate"].more(5) == "and 1,994 more: --json lists all"
    assert "near" not in many


def test_plain_data_hold_all_examples(make_index) -> None:
    (duplicates,) = check_boxes("train", make_index([(0, 1, 1, 5, 5)] * 20, [(0, 1, 1, 5, 5)] * 3))
    examples = duplicates.to_dict()["examples"]
    assert [one["image"] for one in examples] == ["/0.png"] * 19 + ["/1.png"] * 2
    assert examples[20]["boxes"] == [[1, 1, 5, 5]]


@pytest.mark.parametrize(
    ("boxes", "severity", "text"),
    [(3, "note", "1 image has no box: background only"), (2, "note", "2 images have no box: background only"),
     (1, "warning", "3 images have no box: background only"), (0, "warning", "4 images have no box: background only")],
)  # fmt: skip
def test_images_without_boxes(make_index, boxes: int, severity: str, text: str) -> None:
    index = make_index(*[[(0, 1, 1, 5, 5)]] * boxes, *[[]] * (4 - boxes))
    (empty,) = check_boxes("train", index)
    assert (empty.kind, empty.severity, empty.text, empty.count) == ("unlabelled", severity, text, 4 - boxes)
    assert empty.examples[0].picture is not None
    assert empty.examples[0].picture.path == f"/{boxes}.png"


def test_annotation_errors_are_findings(make_index) -> None:
    logged = AnnotationError("class", 1200, ("labels/1.txt:3: class 7", "labels/2.txt:1: class 8"))
    (error,) = check_boxes("train", make_index([(0, 1, 1, 5, 5)], annotation_errors=(logged,)))
    assert (error.severity, error.kind, error.count) == ("error", "class", 1200)
    assert error.text == "1,200 boxes are of an unknown class: training refuses the split"
    assert [example.text for example in error.examples] == list(logged.examples)
    assert error.more(2) == "and 1,198 more"  # the reader keeps a few
    assert len(error.to_dict()["examples"]) == 2


def test_notes_of_the_reader_are_findings(make_index) -> None:
    notes = ("set/train: 1 of 3 boxes without width or height: not trained on.", "a.json: 2 boxes left out.")
    (note,) = check_boxes("train", make_index([(0, 1, 1, 5, 5)], notes=notes))
    assert (note.severity, note.text) == ("note", "a.json: 2 boxes left out.")
