"""Each rule returns its sentence where it applies, and None elsewhere."""

from __future__ import annotations

import pytest

from cledet.evaluation.report.advice import (
    advice,
    few_objects,
    largest_error,
    miscalibration,
    odd_shapes,
    small_objects,
    threshold,
    weak_class,
)
from cledet.metrics.confidence import NOWHERE
from cledet.metrics.tide import KINDS


def figures(**changed):
    """A split of 400 objects where only the rule on the confidence applies."""
    part = {"objects": 100, "AP": 0.5, "AP50": 0.7, "found": 0.9}
    base = {
        "AP": 0.5, "AP50": 0.7, "AP75": 0.55, "APs": 0.4, "APl": 0.6,
        "errors": {kind: {"cost": 0.001, "count": 3} for kind in KINDS},
        "by_size": [part] * 6,
        "by_shape": [{**part, "name": name} for name in "abcde"],
        "best": {"conf": 0.4, "f1": 0.686, "precision": 0.8, "recall": 0.6},
        "calibration_shown": {"bias": 0.02, "bins": {"count": [50, 50]}},
        "confused": [{"class": "cat", "taken_for": "dog", "count": 9, "share": 0.25}],
        "per_class": {"cat": {"AP50": 0.7}, "dog": {"AP50": 0.7}},
        "objects": {"cat": 200, "dog": 200},
        "misalignment": None,
    }  # fmt: skip
    return base | changed


def costing(kind, cost=0.2, **changed):
    errors = {name: {"cost": cost if name == kind else 0.01, "count": 7} for name in KINDS}
    return figures(errors=errors, **changed)


def test_without_errors_only_the_confidence_is_recommended():
    assert advice(figures()) == [
        "No single kind of error costs 0.01 AP50 or more.",
        "From confidence 0.4 on 80 % of the detections are correct and 60 % of the objects are detected "
        "(F1 0.686, the best): predict with `--conf 0.4`.",
    ]


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("classification", "Most often cat is predicted as dog (9 times, 25 % of its objects)"),
        ("localization", "AP75 is 0.550 where AP50 is 0.700"),
        ("duplicate", "a lower `--iou`"),
        ("background", "for unlabelled objects"),
        ("both", "boxes of another class: 0.200 (7 of them)."),
        ("missed", "`cledet check` to see whether the anchors cover"),
    ],
)
def test_the_largest_error(kind, words):
    sentence = largest_error(costing(kind))
    assert sentence.startswith("Most AP50 is lost to")
    assert "0.200 (7 of them)" in sentence
    assert words in sentence


def test_a_better_oracle_leads_to_other_nms_methods():
    gain = {"oracle": {"AP": 0.56}}
    assert "would give AP 0.560 instead of 0.500: try `--nms all`" in largest_error(
        costing("localization", misalignment=gain)
    )
    gain = {"oracle": {"AP": 0.51}}
    assert "AP75" in largest_error(costing("localization", misalignment=gain))


def test_no_objects_and_few():
    empty = figures(objects={"cat": 0})
    assert "no objects" in largest_error(empty)
    assert few_objects(empty) is None
    assert "1 object:" in few_objects(figures(objects={"cat": 1}))
    assert few_objects(figures(objects={"cat": 200})) is None


def test_small_objects():
    assert "AP: 0.200 under 32x32 px, and 0.600 from 96x96 px" in small_objects(figures(APs=0.2))
    assert small_objects(figures(APs=0.3)) is None
    assert small_objects(figures(APs=None)) is None
    assert small_objects(figures(APs=0.2, by_size=[{"objects": 9}] * 6)) is None


def test_odd_shapes():
    parts = [{"name": "under 1:3", "objects": 30, "AP": 0.1}, {"name": "square", "objects": 90, "AP": 0.4}]
    assert "under 1:3 have AP 0.100, those of square 0.400" in odd_shapes(figures(by_shape=parts))
    assert odd_shapes(figures(by_shape=[{**parts[0], "objects": 19}, parts[1]])) is None
    assert odd_shapes(figures(by_shape=[{**parts[0], "AP": 0.25}, parts[1]])) is None


def test_weak_class():
    weak = {"cat": {"AP50": 0.9}, "dog": {"AP50": 0.2}, "cow": {"AP50": None}}
    objects = {"cat": 200, "dog": 40, "cow": 0}
    assert weak_class(figures(per_class=weak, objects=objects)).endswith("is dog: AP50 0.200 (40 objects).")
    assert weak_class(figures(per_class=weak, objects={**objects, "dog": 19})) is None
    assert weak_class(figures()) is None


def test_confidence_threshold_and_miscalibration():
    assert threshold(figures(best=NOWHERE)) is None
    assert "`--conf" not in threshold(figures(best={"conf": 7.5, "f1": 1, "precision": 1, "recall": 1}))
    over = {"bias": 0.15, "bins": {"count": [50]}}
    assert "overconfident: their mean is 95 %, but 80 % of the detections are correct" in miscalibration(
        figures(calibration_shown=over)
    )
    assert "underconfident" in miscalibration(figures(calibration_shown={**over, "bias": -0.15}))
    assert miscalibration(figures(calibration_shown={**over, "bins": {"count": [19]}})) is None
    assert miscalibration(figures(calibration_shown=None)) is None
    assert "their mean is 15 %, but 0 % of the detections are correct" in miscalibration(
        figures(calibration_shown=over, best=NOWHERE)
    )
