"""The reference evaluator: metrics equal to the fast one's to the last digit, and a message where they differ."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

from cledet.config.evaluate import ValSettings
from cledet.config.loading import resolve
from cledet.data.open import open_source
from cledet.evaluation.evaluator import validate_results
from cledet.evaluation.pycocotools_evaluator import (
    apply_evaluator,
    coco_annotations,
    differences,
    evaluate_with_pycocotools,
)
from cledet.evaluation.score_file import score, score_file
from cledet.metrics.coco import evaluate
from cledet.metrics.evaluation import METRICS, EvaluatedDetections, Limits
from cledet.metrics.results_file import encode_results, read_results

EQUAL = "pycocotools: all 12 metrics are equal to those of the fast evaluator"


def settings(**given):
    return resolve(ValSettings, {"evaluator": "pycocotools", "data": "set", **given}, environ={})


@pytest.mark.parametrize("limits", [Limits(), Limits((1, 2, 3), (15, 30))])
@pytest.mark.parametrize("seed", range(3))
def test_metrics_equal_those_of_the_fast_evaluator(scattered, seed, limits):
    index, results = scattered(20, seed)
    assert index.ignore.any()
    reference = evaluate_with_pycocotools(index, results, limits)
    assert tuple(reference) == limits.names
    fast = evaluate(index, results, limits).metrics
    assert reference == {name: fast[name] for name in limits.names}
    assert 0 < reference["AP"] < 1


def test_metrics_of_the_coco_apis_example_are_the_published_ones(shared_data):
    folder = shared_data / "coco_val2014_100"
    index = open_source(folder / "instances_val2014_100.json").index("val", need_images=False)
    results = read_results(folder / "instances_val2014_fakebbox100_results.json", index)
    reference = evaluate_with_pycocotools(index, results)
    published = [0.505, 0.697, 0.573, 0.586, 0.519, 0.501, 0.387, 0.594, 0.595, 0.640, 0.566, 0.564]
    assert [round(reference[name], 3) for name in METRICS] == published
    fast = evaluate(index, results).metrics
    assert reference == {name: fast[name] for name in METRICS}


def test_without_detections_ap_is_zero_and_sizes_without_objects_have_none(make_index):
    reference = evaluate_with_pycocotools(make_index([(0, 0, 0, 20, 20)]), np.zeros((0, 7)))
    assert reference["AP"] == reference["APs"] == 0.0
    assert reference["APl"] is None


def test_the_settings_choose_the_evaluator(scattered, capsys):
    index, results = scattered(8, 0)
    fast = score(index, results, settings(evaluator="fast"))
    assert "pycocotools" not in capsys.readouterr().err
    assert score(index, results, settings()).evaluation == fast.evaluation
    assert EQUAL in capsys.readouterr().err
    methods = validate_results(results, index, settings(nms="standard,soft", predictions="r.json"))
    assert list(methods) == ["standard", "soft"]
    assert capsys.readouterr().err.count(EQUAL) == 2


def test_custom_limits_are_those_of_both_evaluators(squares, tmp_path, capsys):
    index = open_source(squares).index("val", need_images=False)
    ids = index.image_ids[index.image_of_boxes()]
    results = np.column_stack([ids, index.xywh + 2, np.linspace(0.9, 0.1, len(ids)), index.category_ids[index.labels]])
    (tmp_path / "r.json").write_bytes(encode_results(results))
    given = settings(predictions=tmp_path / "r.json", data=str(squares), eval_max_dets="1,5,300", areas="20,30")
    (found,) = score_file(given)[0].values()
    assert found.evaluation.metrics == evaluate(index, results, Limits((1, 5, 300), (20, 30))).metrics
    assert EQUAL in capsys.readouterr().err


def test_reported_metrics_are_those_of_pycocotools_and_differences_are_named(scattered, capsys):
    """The metrics of the fast evaluator are falsified."""
    index, results = scattered(8, 0)
    right = evaluate(index, results)
    wrong = EvaluatedDetections(right, results).with_fields(metrics=right.metrics | {"AP75": 0.25, "APl": 0.5})
    found = apply_evaluator(wrong, index, settings())
    assert found.evaluation.metrics == right.metrics
    said = capsys.readouterr().err
    assert "pycocotools differs from the fast evaluator in 2 of 12 metrics: AP75 " in said
    gap = right.metrics["AP75"] - 0.25
    assert f"(fast: 0.25, difference {gap:+.1e}), APl None (fast: 0.5)" in " ".join(said.split())


def test_a_difference_in_the_last_digit_is_one():
    low = {"AP": 0.5, "AP50": None}
    assert "all 2 metrics are equal" in differences(low, dict(low))
    message = differences(low, {"AP": np.nextafter(0.5, 1), "AP50": None})
    assert "in 1 of 2 metrics: AP 0.5000000000000001 (fast: 0.5, difference +1.1e-16)" in message


def test_a_split_without_annotations_is_not_evaluated(make_index, capsys):
    index = make_index([])
    one = EvaluatedDetections(evaluate(index, np.zeros((0, 7))), np.zeros((0, 7)), unlabelled="test")
    assert apply_evaluator(one, index, settings()) is one
    assert capsys.readouterr().err == ""


def test_annotations_keep_ids_and_fractions(make_index):
    index = make_index(
        [(1, 1.25, 2, 10, 20), (0, 0, 0, 40, 30)], [], ignore=[1],
        image_ids=np.array([10, 9_999_999_999]), category_ids=np.array([3, 17]), area=np.array([150.0, 1200]),
    )  # fmt: skip
    content = json.loads(json.dumps(coco_annotations(index)))
    assert [image["id"] for image in content["images"]] == [10, 9_999_999_999]
    assert content["categories"] == [{"id": 3, "name": "cat"}, {"id": 17, "name": "dog"}]
    first = {"id": 1, "image_id": 10, "category_id": 17, "bbox": [1.25, 2, 10, 20], "area": 150, "iscrowd": 0}
    assert content["annotations"][0] == first
    assert content["annotations"][1]["iscrowd"] == 1


@pytest.mark.slow
def test_pycocotools_is_imported_only_when_it_is_asked_for(squares, tmp_path):
    (tmp_path / "r.json").write_text("[]")
    arguments = ["val", "--predictions", "r.json", "--data", str(squares), "--report", "false"]
    code = f"""
import sys
from cledet.cli import app
try:
    app({arguments!r})
except SystemExit:
    pass
assert "cledet.metrics.coco" in sys.modules
assert "pycocotools" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path, capture_output=True)
