"""Scores against IoU, and what the clusters hold: on scenes worked by hand, and matched as pycocotools does."""

from __future__ import annotations

import contextlib
import io
from dataclasses import replace

import numpy as np
import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from cledet.data.index import DetectionIndex
from cledet.data.open import open_source
from cledet.evaluation.candidates import Candidates, by_image, to_results
from cledet.evaluation.misalignment import MisalignmentMeter, match, matches, objects_of, overlaps
from cledet.evaluation.pycocotools_evaluator import coco_annotations
from cledet.metrics.results_file import read_results
from cledet.models.nms import Kept, NMSOptions, apply_nms

CLASSES = np.array([7, 3])


@pytest.mark.parametrize(
    ("overlap", "wanted"),
    [
        ([[0.6, 0.55], [0.9, 0.0], [0.0, 0.5]], [0, -1, 1]),  # the second comes too late, the third is just enough
        ([[0.49, 0.3], [0.5, 0.7]], [-1, 1]),
        ([[0.6, 0.0], [0.9, 0.8]], [0, 1]),  # what is left after the best is taken
        ([[0.9], [0.9]], [0, -1]),
        (np.zeros((2, 0)), [-1, -1]),
        (np.zeros((0, 2)), []),
    ],
)
def test_the_best_score_chooses_first(overlap, wanted):
    assert match(np.array(overlap)).tolist() == wanted


def test_matches_are_those_of_pycocotools(shared_data):
    """On real detections, crowds included: the same detections are true positives at IoU 0.5, with the same objects."""
    folder = shared_data / "coco2017_sub"
    index = open_source(folder).index("val", need_images=False)
    assert index.ignore.any()
    results = read_results(folder / "detections" / "yolox_nano_raw.json", index)
    results = results[results[:, 5] > 0.1]
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = coco_annotations(index)
        truth.createIndex()
        coco = COCOeval(truth, truth.loadRes(results), "bbox")
        coco.params.iouThrs, coco.params.maxDets = np.array([0.5]), [1000]
        coco.params.areaRng, coco.params.areaRngLbl = [[0, 1e10]], ["all"]
        coco.evaluate()
    wanted = set()
    for one in filter(None, coco.evalImgs):
        for row, gt, ignored in zip(one["dtIds"], one["dtMatches"][0], one["dtIgnore"][0]):
            if gt and not ignored:
                wanted.add((one["image_id"], *results[row - 1, 1:6].tolist(), *truth.anns[int(gt)]["bbox"]))
    found, objects = set(), objects_of(index)
    for rows in by_image(results):
        detections = results[rows[np.argsort(-results[rows, 5], kind="stable")]]
        truths = objects[int(detections[0, 0])]
        row, gt, _ = matches(detections, overlaps(detections, truths))
        for d, g in zip(row, gt):
            found.add((int(detections[d, 0]), *detections[d, 1:6].tolist(), *truths.xywh[g].tolist()))
    assert found == wanted
    assert len(found) > 500


@pytest.fixture
def index() -> DetectionIndex:
    """Images 1 and 2, each with an object of class 7 at the corner, ten pixels wide; image 1 also has a crowd."""
    return DetectionIndex(
        name="by hand",
        classes=("seven", "three"),
        category_ids=CLASSES,
        paths=np.array(["1.png", "2.png"]),
        image_ids=np.array([1, 2]),
        sizes=np.full((2, 2), 100, dtype=np.int32),
        starts=np.array([0, 2, 3]),
        xywh=np.array([[0.0, 0, 10, 10], [60, 60, 20, 20], [0, 0, 10, 10]]),
        labels=np.zeros(3, dtype=np.int64),
        ignore=np.array([False, True, False]),
        area=np.array([100.0, 400, 100]),
    )


def candidates(image: int, *found: tuple[list[float], float, int]) -> Candidates:
    """Those of an image that was halved for the network: boxes in its pixels, scores, labels."""
    boxes, scores, labels = zip(*found)
    halved = torch.tensor(boxes, dtype=torch.float32) / 2
    return Candidates(image, halved, torch.tensor(scores), torch.tensor(labels), torch.full((4,), 2.0), CLASSES)


FIRST = candidates(
    1,
    ([0, 0, 10, 8], 0.9, 0),  # IoU 0.8 with the object: what standard NMS keeps
    ([0, 0, 10, 9], 0.8, 0),  # IoU 0.9, in its cluster
    ([0, 0, 10, 10], 0.3, 0),  # IoU 1, in its cluster
    ([30, 30, 40, 40], 0.7, 0),  # nothing there
    ([0, 0, 10, 10], 0.6, 1),  # another class
    ([60, 60, 80, 80], 0.5, 0),  # on the crowd
)
SECOND = candidates(2, ([0, 0, 10, 6.25], 0.95, 0))  # IoU 0.625


def measured(index: DetectionIndex, options: NMSOptions) -> dict[str, object]:
    meter = MisalignmentMeter(index, 0.5, 100)
    for found in (FIRST, SECOND):
        kept = apply_nms(found.boxes, found.scores, found.labels, options)
        meter.start_image(found)
        meter.add("method", to_results(found, kept), kept.keep.numpy())
    return meter.metrics("method")


def test_a_scene_by_hand(index):
    """Matched: score 0.9 with IoU 0.8, and score 0.95 with IoU 0.625; the clusters have IoU 1 and 0.625.

    The best boxes, with scores 0.9 and 0.95, before two false positives: at IoU 0.5, 0.55 and 0.6 AP is 1; at the
    seven thresholds above the first of the two is wrong, so precision is 1/2 at the 51 recalls up to 0.5.
    """
    figures = measured(index, NMSOptions())
    assert figures["spearman"] == pytest.approx(-1)
    assert figures["kept_iou"] == pytest.approx((0.8 + 0.625) / 2)
    assert figures["best_iou"] == pytest.approx((1 + 0.625) / 2)
    above = 51 / 101 / 2
    assert figures["oracle"] == pytest.approx({"AP": (3 + 7 * above) / 10, "AP50": 1.0, "AP75": above})


def test_a_method_that_keeps_another_box_is_compared_within_its_cluster(index):
    meter = MisalignmentMeter(index, 0.5, 100)
    meter.start_image(FIRST)
    chosen = Kept(torch.tensor([1]), FIRST.scores[[1]], FIRST.boxes[[1]])
    meter.add("other", to_results(FIRST, chosen), chosen.keep.numpy())
    assert meter.metrics("other")["kept_iou"] == pytest.approx(0.9)
    assert meter.metrics("other")["best_iou"] == pytest.approx(1.0)


def test_boxes_that_were_moved_count_where_they_are_now(index):
    meter = MisalignmentMeter(index, 0.5, 100)
    meter.start_image(FIRST)
    chosen = Kept(torch.tensor([0]), FIRST.scores[[0]], torch.tensor([[0.0, 0.0, 5.0, 3.5]]))
    meter.add("moved", to_results(FIRST, chosen), chosen.keep.numpy())
    assert meter.metrics("moved")["kept_iou"] == pytest.approx(0.7)


def test_without_matches_the_metrics_are_none(index):
    """Nor does a cluster far from all objects change: its best box is the one that standard NMS keeps."""
    far = candidates(1, ([30, 30, 40, 41], 0.6, 0), ([30, 30, 40, 40], 0.7, 0))
    meter = MisalignmentMeter(index, 0.5, 100)
    meter.start_image(far)
    meter.add("method", np.zeros((0, 7)), np.zeros(0, dtype=np.int64))
    assert meter.best[-1].tolist() == [[1, 30, 30, 10, 10, pytest.approx(0.7), 7]]
    nothing = {"spearman": None, "kept_iou": None, "best_iou": None}
    assert meter.metrics("method") == nothing | {"oracle": {"AP": 0.0, "AP50": 0.0, "AP75": 0.0}}


def test_the_best_boxes_are_no_more_than_max_det(index):
    meter = MisalignmentMeter(index, 0.5, 2)
    meter.start_image(FIRST)
    assert meter.best[-1][:, 5].tolist() == pytest.approx([0.9, 0.7])


def test_images_without_objects_or_candidates(index):
    bare = replace(index, ignore=np.ones(3, dtype=bool))
    assert measured(bare, NMSOptions())["kept_iou"] is None
    empty = Candidates(1, torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64), torch.ones(4), CLASSES)
    meter = MisalignmentMeter(index, 0.5, 100)
    meter.start_image(empty)
    meter.add("method", np.zeros((0, 7)), np.zeros(0, dtype=np.int64))
    assert meter.metrics("method")["best_iou"] is None
