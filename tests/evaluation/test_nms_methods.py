"""NMS methods on the same candidates: separate metrics, and gains by the bootstrap."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torchvision.ops import batched_nms

from cledet.data.open import open_source
from cledet.evaluation.candidates import from_results, to_results
from cledet.evaluation.misalignment import MisalignmentMeter
from cledet.evaluation.nms_methods import EvaluatedDetections, add_gains, evaluate_methods
from cledet.metrics.bootstrap import ap_samples, interval
from cledet.metrics.coco import evaluate
from cledet.metrics.results_file import read_results
from cledet.models.nms import Kept, NMSOptions


@pytest.fixture(scope="module")
def detections(squares):
    """The squares, each found twice on its image, the worse box with the better score; and a class of no data set's."""
    return found_twice(open_source(squares).index("val", need_images=False))


@pytest.fixture(scope="module")
def many(make_index):
    """Twelve images with objects of two classes, found twice as well."""
    return found_twice(make_index(*([(i % 2, 10 + i, 10, 30, 30), (0, 60, 50, 20, 20)] for i in range(12))))


def found_twice(index):
    ids = index.image_ids[index.image_of_boxes()]
    good = np.column_stack([ids, index.xywh, np.full(len(ids), 0.5), index.category_ids[index.labels]])
    shifted = good.copy()
    shifted[:, 1] += 5
    shifted[:, 5] = 0.75
    strange = good[:1].copy()
    strange[:, 6] = 8
    return index, np.concatenate([good, shifted, strange])


def test_each_method_has_its_own_metrics(detections):
    """Standard NMS drops the good boxes; with a threshold of 1 only what is of no class of the set is dropped."""
    index, results = detections
    methods = {"standard": NMSOptions(), "none": NMSOptions(iou=1.0)}
    found = evaluate_methods(from_results(results), index, methods)
    assert len(found["standard"].results) == len(results) // 2
    assert len(found["none"].results) == len(results) - 1
    assert set(found["none"].results[:, 6]) == set(index.category_ids)
    for name in methods:
        assert found[name].evaluation == evaluate(index, found[name].results)
    assert found["none"].evaluation.metrics["AP75"] > found["standard"].evaluation.metrics["AP75"]


def test_a_meter_adds_time_and_misalignment(detections):
    index, results = detections
    methods = {"standard": NMSOptions(), "cl-balanced": NMSOptions(method="cl-balanced")}
    found = evaluate_methods(from_results(results), index, methods, MisalignmentMeter(index, 0.5, 100))
    for one in found.values():
        assert one.evaluation.nms_ms > 0
        assert one.evaluation.misalignment["best_iou"] == pytest.approx(1.0)
        assert one.evaluation.misalignment["oracle"]["AP"] == pytest.approx(1.0)
    assert found["standard"].evaluation.misalignment["kept_iou"] < 1


def test_nothing_to_compare_on(detections):
    index, _ = detections
    found = evaluate_methods(iter(()), index, {"standard": NMSOptions()}, MisalignmentMeter(index, 0.5, 100))[
        "standard"
    ]
    assert found.results.shape == (0, 7)
    assert found.evaluation.metrics["AP"] == 0.0
    assert found.evaluation.nms_ms is None


def test_gains_are_those_of_the_bootstrap(many):
    """Classes that the data set lacks, which a model may know, are no hindrance."""
    index, results = many
    methods = {"standard": NMSOptions(), "none": NMSOptions(iou=1.0)}
    found = evaluate_methods(from_results(results), index, methods)
    gained = add_gains(found, index, 50)
    assert gained["standard"] == found["standard"]
    known = {name: one.results[one.results[:, 6] != 8] for name, one in found.items()}
    samples = ap_samples(index, known, 50, 0)
    low, high = interval(samples["none"] - samples["standard"])
    ap = {name: one.evaluation.metrics["AP"] for name, one in found.items()}
    assert gained["none"].evaluation.gain == {"AP": ap["none"] - ap["standard"], "low": low, "high": high}
    assert low <= ap["none"] - ap["standard"] <= high


def test_the_gain_on_few_images_has_no_interval(many, capsys):
    index, results = many
    for number, low in ((9, None), (10, pytest.approx(0, abs=1))):
        few = index.subset(range(number))
        rows = results[np.isin(results[:, 0], few.image_ids)]
        found = evaluate_methods(from_results(rows), few, {"standard": NMSOptions(), "none": NMSOptions(iou=1.0)})
        gain = add_gains(found, few, 50)["none"].evaluation.gain
        assert gain["AP"] is not None
        assert gain["low"] == low
        assert ("has objects on 9 images: an interval of the gain needs 10" in capsys.readouterr().err) == (low is None)


def test_without_objects_there_is_no_gain(detections):
    index = detections[0].subset([0])
    nothing = np.zeros((0, 7))
    one = EvaluatedDetections(evaluate(index, nothing), nothing)
    assert add_gains({"a": one, "b": one}, index, 5)["b"].evaluation.gain is None


def test_standard_nms_of_real_detections_is_torchvisions(shared_data):
    folder = shared_data / "coco2017_sub"
    index = open_source(folder).index("val", need_images=False)
    raw = read_results(folder / "detections" / "yolox_nano_raw.json", index)
    found = evaluate_methods(from_results(raw), index, {"standard": NMSOptions(iou=0.6)})["standard"]
    wanted = []
    for one in from_results(raw):
        keep = batched_nms(one.boxes, one.scores, one.labels, 0.6)[:100]
        wanted.append(to_results(one, Kept(keep, one.scores[keep], one.boxes[keep])))
    assert torch.equal(torch.from_numpy(found.results), torch.from_numpy(np.concatenate(wanted)))
    assert found.evaluation.metrics["AP"] > evaluate(index, raw).metrics["AP"] + 0.02
