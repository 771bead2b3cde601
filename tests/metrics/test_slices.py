"""AP by size and by shape is what pycocotools gives for such an area range."""

from __future__ import annotations

import contextlib
import io

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from cledet.evaluation.pycocotools_evaluator import coco_annotations
from cledet.metrics import slices
from cledet.metrics.matching import overlaps
from cledet.metrics.slices import by_shape, by_size


def coco_ap(index, results, of_gt, of_box, low, high):
    """AP and AP50 by pycocotools, with its areas replaced by another measure."""
    truth, found = COCO(), COCO()
    content = coco_annotations(index)
    for annotation, value in zip(content["annotations"], of_gt):
        annotation["area"] = float(value)
    truth.dataset = content
    rows = [
        {
            "id": i,
            "image_id": int(r[0]),
            "category_id": int(r[6]),
            "bbox": r[1:5],
            "score": r[5],
            "area": of_box(*r[3:5]),
        }
        for i, r in enumerate(results.tolist(), 1)
    ]
    found.dataset = {**content, "annotations": rows}
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
        found.createIndex()
        coco = COCOeval(truth, found, "bbox")
        coco.params.areaRng, coco.params.areaRngLbl, coco.params.maxDets = [[low, high - 1e-9]], ["all"], [100]
        coco.evaluate()
        coco.accumulate()
    precision = coco.eval["precision"][..., 0, 0]
    return [values[values > -1].mean() if (values > -1).any() else None for values in (precision, precision[0])]


@pytest.mark.parametrize("seed", range(3))
def test_as_pycocotools(random_split, seed, monkeypatch):
    index, results = random_split(seed, images=20)
    monkeypatch.setattr(slices, "SIDES", (16, 20, 24, 28, 32))  # where there are objects
    o = overlaps(index, results)
    sides, ratios = np.sqrt(index.area), index.xywh[:, 2] / index.xywh[:, 3]
    for found, of_gt, of_box, bounds in (
        (by_size(o), sides, lambda w, h: float(np.sqrt(w * h)), slices.SIDES),
        (by_shape(o), ratios, lambda w, h: w / h, slices.SHAPES),
    ):
        for one, low, high in zip(found, (0, *bounds), (*bounds, 1e9)):
            assert one.objects == ((of_gt >= low) & (of_gt < high) & ~index.ignore).sum()
            ap, ap50 = coco_ap(index, results, of_gt, of_box, low, high)
            assert pytest.approx(ap, abs=1e-12) == one.AP
            assert pytest.approx(ap50, abs=1e-12) == one.AP50
    assert sum(one.objects for one in by_size(o)) == o.objects.sum()


def test_bounds_and_found(make_index):
    """A square of 16 px is not "under 16"; of two in a bin one is found; a box without height is as wide as can be."""
    index = make_index([(0, 0, 0, 16, 16), (0, 30, 0, 20, 20), (0, 60, 0, 15, 15), (0, 60, 40, 30, 0)])
    o = overlaps(index, np.array([[0, 0, 0, 16, 16, 0.9, 1]]))
    under, small, *_ = by_size(o)
    assert (under.objects, under.found) == (2, 0)
    assert (small.objects, small.found, small.AP) == (2, 0.5, pytest.approx(51 / 101))
    assert [one.objects for one in by_shape(o)] == [0, 0, 3, 0, 1]
    assert by_shape(o)[0]._asdict() == {"name": "under 1:3", "objects": 0, "AP": None, "AP50": None, "found": None}
