"""`val` on a network and on files: every method on one pass, and only what was asked for changes the detections."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from cledet import Detector
from cledet.config.evaluate import ValSettings
from cledet.config.loading import resolve
from cledet.config.types import NMS_METHODS
from cledet.data.open import open_source
from cledet.errors import UserError
from cledet.evaluation.evaluator import WITHOUT_NMS, validate_results
from cledet.metrics.coco import evaluate
from cledet.models.network import RetinaNet
from cledet.models.nms import NMS


def settings(**given):
    return resolve(ValSettings, {"device": "cpu", "workers": 0, **given}, environ={})


@pytest.fixture(scope="module")
def found(squares):
    """The squares' index, and each square found at 0.5 and again, a little moved, at 0.02."""
    index = open_source(squares).index("val", need_images=False)
    ids = index.image_ids[index.image_of_boxes()]
    good = np.column_stack([ids, index.xywh, np.full(len(ids), 0.5), index.category_ids[index.labels]])
    return index, np.concatenate([good, good + np.array([0, 1, 0, 0, 0, -0.48, 0])])


def test_all_methods_are_evaluated_and_standard_is_first():
    assert set(NMS_METHODS) == set(NMS)
    assert NMS_METHODS[0] == "standard"


def test_the_network_runs_once_and_each_method_has_the_detections_of_a_separate_run(tiny_run, monkeypatch):
    calls = []
    forward = RetinaNet.forward
    monkeypatch.setattr(RetinaNet, "forward", lambda self, images: calls.append(1) or forward(self, images))
    together = Detector(tiny_run).validate(settings(nms="all", conf=0.01, batch=4))
    assert len(calls) == 1
    assert tuple(together) == NMS_METHODS
    seconds = together["standard"].evaluation.seconds
    assert list(seconds) == ["data", "network", "evaluation", "post-processing"]
    assert all(0 < value < 60 for value in seconds.values())
    for name in ("standard", "soft", "cl-balanced"):
        (alone,) = Detector(tiny_run).validate(settings(nms=name, conf=0.01, batch=4)).values()
        np.testing.assert_array_equal(together[name].results, alone.results)
        assert together[name].evaluation.metrics == alone.evaluation.metrics
        assert together[name].evaluation.misalignment == alone.evaluation.misalignment


def test_a_file_is_evaluated_without_nms_unless_a_method_is_named(found):
    index, results = found
    (name,) = whole = validate_results(results, index, settings())
    assert name == WITHOUT_NMS
    assert whole[name].results is results
    assert whole[name].evaluation.metrics == evaluate(index, results).metrics
    assert set(whole[name].evaluation.misalignment) == {"spearman", "kept_iou"}
    one = validate_results(results, index, settings(nms="standard"))["standard"]
    assert len(one.results) == len(results) // 2
    assert one.evaluation.metrics["AP"] == 1.0


@pytest.mark.parametrize("nms", ["auto", "standard"])
def test_conf_drops_detections_only_if_it_was_set(found, nms):
    index, results = found
    apart = settings(nms=nms, iou=1.0)
    (kept,) = validate_results(results, index, apart).values()
    assert len(kept.results) == len(results)
    (kept,) = validate_results(results, index, settings(nms=nms, iou=1.0, conf=0.05)).values()
    assert len(kept.results) == len(results) // 2


def test_max_det_and_the_options_of_cl_b_take_effect(found):
    """Three boxes a cluster, the best score 4 px from the two others: near is one of these, far is the best score."""
    index, results = found
    kept = validate_results(results, index, settings(nms="standard", max_det=1))["standard"].results
    assert len(kept) == len(np.unique(results[:, 0]))
    best = results[results[:, 5] == 0.5]
    moved = [np.array([0, x, 0, 0, 0, score, 0]) for x, score in ((0, 0), (4, -0.01), (4.5, -0.02))]
    cluster = np.concatenate([best + one for one in moved])
    for localization, score in (("proximity", 0.49), ("as-printed", 0.5)):
        chosen = validate_results(
            cluster, index, settings(nms="cl-balanced", localization=localization, cl_score="own")
        )
        assert chosen["cl-balanced"].results[:, 5].tolist() == [score] * len(best)


def test_compare_and_val(squares, tmp_path, found):
    rows = [{"image_id": 101, "category_id": 3, "bbox": [0, 0, 9, 9], "score": 0.5}]
    (tmp_path / "r.json").write_text(json.dumps(rows))
    given = {"predictions": tmp_path / "r.json", "data": str(squares)}
    assert list(Detector().compare_nms(nms=["soft", "diou"], **given)) == ["soft", "diou"]
    assert Detector().val(nms="soft", **given).metrics["AP"] == 0.0
    with pytest.raises(UserError, match="val takes one NMS method, not soft,diou"):
        Detector().val(nms="soft,diou", **given)


def test_training_measures_neither_time_nor_misalignment(tiny_run):
    """What is kept in a checkpoint must not depend on a clock."""
    metrics = torch.load(tiny_run / "weights" / "best.pt", weights_only=True)["metrics"]
    assert not {"nms_ms", "misalignment"} & set(metrics)
