"""Ranks are those that matching all detections gives, and precision and recall from them are pycocotools' own."""

from __future__ import annotations

import contextlib
import io

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from cledet.evaluation.pycocotools_evaluator import coco_annotations
from cledet.metrics.coco import evaluate, precision_and_recall
from cledet.metrics.evaluation import Limits
from cledet.metrics.matching import THRESHOLDS, overlaps
from cledet.metrics.tp_ranks import matchable_detections


@pytest.mark.parametrize("seed", range(4))
def test_as_among_all_detections(random_split, seed):
    index, results = random_split(seed, images=20)
    o = overlaps(index, results)
    rng = np.random.default_rng(seed)
    objects, detections = rng.random(index.num_boxes) < 0.6, rng.random(len(o.score)) < 0.6
    part = matchable_detections(o).part(objects, detections)
    several = 0
    for threshold in THRESHOLDS:
        match, found = o.match(threshold, objects, detections), part.ranks(threshold)
        for k, ranks in enumerate(found.by_class(len(index.classes))):
            counted = (o.label == k) & ~match.ignored
            assert ranks.tolist() == (np.flatnonzero(match.correct[counted]) + 1).tolist()
            several += len(ranks) > 1
        assert sorted(part.of.detection[found.position]) == np.flatnonzero(match.correct).tolist()
    assert several > 10


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("limits", [Limits(), Limits((1, 2, 4), (20, 30.5))])
def test_precision_and_recall_are_pycocotools(random_split, seed, limits):
    """Everything that its `accumulate` gives and that the figures are means of."""
    index, results = random_split(seed, images=9 + seed)
    results[::9, 3:5], results[1, 3] = 2e5, -4
    truth = COCO()
    truth.dataset = coco_annotations(index)
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
        coco = COCOeval(truth, truth.loadRes(results), "bbox")
        coco.params.maxDets, coco.params.areaRng = list(limits.max_dets), limits.ranges
        coco.evaluate()
        coco.accumulate()
    found = precision_and_recall(overlaps(index, results, None).best(limits.max_dets[-1]), limits)
    order = np.argsort(index.category_ids)
    theirs = coco.eval["recall"]
    np.testing.assert_array_equal(found[0][:, :, order], coco.eval["precision"][..., -1])
    np.testing.assert_array_equal(found[1][:, order], np.concatenate([theirs[:, :, 0], theirs[:, :, 1:, -1]], axis=2))
    assert len(np.unique(found[0])) > 10


def test_classes_without_objects_or_detections(make_index):
    """Class b has a crowd only, class a a detection too small to count, and c an object that nothing lies on."""
    index = make_index([(0, 0, 0, 40, 40), (1, 0, 0, 50, 50)], [(2, 0, 0, 9, 9)], ignore=[1], classes=("a", "b", "c"))
    found = evaluate(index, np.array([[0, 0, 0, 40, 38, 0.9, 1], [0, 0, 0, 40, 40, 0.8, 2]]))
    assert [found.per_class[name]["AP"] for name in index.classes] == [pytest.approx(1), None, 0]
    assert [found.per_class[name]["APs"] for name in index.classes] == [None, None, 0]
    assert matchable_detections(overlaps(index, np.zeros((0, 7)))).label.tolist() == []
