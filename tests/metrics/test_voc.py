"""VOC's average precision: published figures, a slow loop written from the development kit, and by hand."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from cledet.data.formats.coco import read_coco
from cledet.data.open import open_source
from cledet.metrics.coco import evaluate
from cledet.metrics.matching import overlaps
from cledet.metrics.voc import area_ap, eleven_point_ap, match_voc, voc_aps

# rafaelpadilla/Object-Detection-Metrics, its example of seven images: x, y, w, h; detections with their score
OBJECTS = [
    [(25, 16, 38, 56), (129, 123, 41, 62)],
    [(123, 11, 43, 55), (38, 132, 59, 45)],
    [(16, 14, 35, 48), (123, 30, 49, 44), (99, 139, 47, 47)],
    [(53, 42, 40, 52), (154, 43, 31, 34)],
    [(59, 31, 44, 51), (48, 128, 34, 52)],
    [(36, 89, 52, 76), (62, 58, 44, 67)],
    [(28, 31, 55, 63), (58, 67, 50, 58)],
]
FOUND = [
    (0, 5, 67, 31, 48, 0.88), (0, 119, 111, 40, 67, 0.70), (0, 124, 9, 49, 67, 0.80), (1, 64, 111, 64, 58, 0.71),
    (1, 26, 140, 60, 47, 0.54), (1, 19, 18, 43, 35, 0.74), (2, 109, 15, 77, 39, 0.18), (2, 86, 63, 46, 45, 0.67),
    (2, 160, 62, 36, 53, 0.38), (2, 105, 131, 47, 47, 0.91), (2, 18, 148, 40, 44, 0.44), (3, 83, 28, 28, 26, 0.35),
    (3, 28, 68, 42, 67, 0.78), (3, 87, 89, 25, 39, 0.45), (3, 10, 155, 60, 26, 0.14), (4, 50, 38, 28, 46, 0.62),
    (4, 95, 11, 53, 28, 0.44), (4, 29, 131, 72, 29, 0.95), (4, 29, 163, 72, 29, 0.23), (5, 43, 48, 74, 38, 0.45),
    (5, 17, 155, 29, 35, 0.84), (5, 95, 110, 25, 42, 0.43), (6, 16, 20, 101, 88, 0.48), (6, 33, 116, 37, 49, 0.95),
]  # fmt: skip


def aps(index, results, threshold=0.5):
    o = overlaps(index, results, most=None)
    return voc_aps(o, o.of_class(threshold), threshold)


def slow_aps(index, results, threshold=0.5):
    """AP of every class by both rules, one detection after the other."""
    eleven, areas = [], []
    for label, category in enumerate(index.category_ids):
        mine = index.labels == label
        objects = int((mine & ~index.ignore).sum())
        hits, taken = [], set()
        found = [row for row in results.tolist() if row[6] == category]
        for image, x, y, w, h, _, _ in sorted(found, key=lambda row: -row[5]):
            best, best_iou = None, -1.0
            for box in np.flatnonzero(mine & (index.image_ids[index.image_of_boxes()] == image)):
                gx, gy, gw, gh = index.xywh[box]
                across, down = min(x + w, gx + gw) - max(x, gx), min(y + h, gy + gh) - max(y, gy)
                if across > 0 and down > 0 and across * down / (w * h + gw * gh - across * down) > best_iou:
                    best, best_iou = box, across * down / (w * h + gw * gh - across * down)
            if best_iou < threshold:
                hits.append(False)
            elif not index.ignore[best]:
                hits.append(best not in taken)
                taken.add(best)
        if not objects:
            eleven.append(None)
            areas.append(None)
            continue
        curve = [(sum(hits[:n]), sum(hits[:n]) / n) for n in range(1, len(hits) + 1)]
        tops = [max((p for tp, p in curve if 10 * tp >= k * objects), default=0) for k in range(11)]
        eleven.append(sum(tops) / 11)
        steps = [max(p for tp, p in curve if tp >= n) for n in range(1, sum(hits) + 1)]
        areas.append(sum(steps) / objects)
    return eleven, areas


def test_the_published_metrics_of_a_small_example(make_index):
    """24.56 % (cut off) and 26.84 % at IoU 0.3. Its boxes hold one pixel more than the width and height they are
    written with, each way, without which the detection of score 0.18 would find nothing.
    """
    index = make_index(*([(0, x, y, w + 1, h + 1) for x, y, w, h in boxes] for boxes in OBJECTS), classes=("person",))
    results = np.array([(image, x, y, w + 1, h + 1, score, 1) for image, x, y, w, h, score in FOUND])
    assert (index.num_boxes, len(results)) == (15, 24)
    (eleven,), (whole,) = aps(index, results, 0.3)
    assert round(100 * eleven, 2) == 26.84
    assert int(10_000 * whole) == 2456
    assert whole == pytest.approx((1 + 2 / 3 + 4 * 6 / 14 + 7 / 23) / 15, abs=1e-12)  # its table of 24 rows


def test_real_detections_equal_a_slow_loop(shared_data, tmp_path):
    """With a third of the objects made difficult, for these photos have none."""
    folder = shared_data / "voc2012_sub"
    content = json.loads((folder / "detections" / "coco_dets.json").read_text())
    source = open_source(folder).index("val", need_images=False)
    image_ids = dict(zip((path.rpartition("/")[2] for path in source.paths.tolist()), source.image_ids.tolist()))
    names = {image["id"]: image["file_name"] for image in content["images"]}
    labels = {c["id"]: source.category_ids[source.classes.index(c["name"])] for c in content["categories"]}
    results = np.array(
        [
            (image_ids[names[d["image_id"]]], *d["bbox"], d["score"], labels[d["category_id"]])
            for d in content["annotations"]
        ]
    )
    assert len(results) == 452
    for index in (source, replace(source, ignore=np.arange(source.num_boxes) % 3 == 0)):
        found = evaluate(index, results)
        for key, wanted in zip(("VOC07", "VOC12"), slow_aps(index, results)):
            assert [one[key] for one in found.per_class.values()] == pytest.approx(wanted, abs=1e-12)
            assert found.metrics[key] == pytest.approx(np.mean([v for v in wanted if v is not None]), abs=1e-12)
        assert 0.1 < found.metrics["VOC12"] < 1


@pytest.mark.parametrize("seed", range(20))
def test_random_boxes_on_a_grid_equal_a_slow_loop(make_index, seed):
    """Ties in score and in IoU, difficult objects, boxes without area, classes without objects."""
    rng = np.random.default_rng(seed)

    def box():
        return (*rng.integers(0, 8, 2), *rng.integers(0, 8, 2))

    images = [[(rng.integers(0, 2), *box()) for _ in range(rng.integers(0, 6))] for _ in range(3)]
    index = make_index(*images, classes=("cat", "dog", "cow"))
    index = replace(index, ignore=rng.random(index.num_boxes) < 0.3)
    results = np.array([(rng.integers(0, 3), *box(), rng.integers(0, 5), rng.integers(1, 4)) for _ in range(60)], float)
    if index.num_boxes:
        for found, wanted in zip(aps(index, results, 0.3), slow_aps(index, results, 0.3)):
            assert found == pytest.approx(wanted, abs=1e-12)


def test_the_second_detection_of_an_object_is_false_though_another_object_is_near(make_index):
    """COCO would match it with the second object, which it overlaps by 0.54."""
    index = make_index([(0, 0, 0, 10, 10), (0, 0, 2, 10, 10)])
    results = np.array([(0, 0, 0, 10, 10, 0.9, 1), (0, 0, -1, 10, 10, 0.8, 1)], dtype=float)
    found = evaluate(index, results)
    assert found.metrics["VOC12"] == 0.5
    assert found.metrics["AP50"] == 1.0


def test_of_objects_of_equal_iou_the_first_is_matched_and_difficult_ones_are_never_used_up(make_index):
    index = make_index([(0, 0, 0, 10, 10), (0, 2, 0, 10, 10)])
    results = np.array([(0, 1, 0, 10, 10, 0.9, 1), (0, 0, 0, 10, 10, 0.8, 1)], dtype=float)
    o = overlaps(index, results)
    assert match_voc(o, o.same, 0.5)[0].tolist() == [True, False]
    o = overlaps(replace(index, ignore=np.array([True, False])), results)
    correct, ignored = match_voc(o, o.same, 0.5)
    assert (correct.tolist(), ignored.tolist()) == ([False, False], [True, True])


def test_an_iou_of_exactly_the_threshold_is_enough_as_in_the_kit(make_index):
    index = make_index([(0, 0, 0, 10, 10)])
    assert aps(index, np.array([(0, 0, 0, 10, 5, 0.9, 1)], dtype=float))[1][0] == 1


def test_three_of_ten_reach_a_recall_of_three_tenths():
    """3 / 10 is less than 3 * 0.1 as floats are."""
    assert eleven_point_ap(np.array([True, True, True]), 10) == 4 / 11
    assert area_ap(np.array([True, True, True]), 10) == pytest.approx(0.3)
    assert eleven_point_ap(np.zeros(0, dtype=bool), 1) == area_ap(np.zeros(0, dtype=bool), 1) == 0


def test_voc_has_no_limit_of_detections(squares):
    index = read_coco(squares / "annotations" / "instances_val.json")
    row = [index.image_ids[index.image_of_boxes()[0]], *index.xywh[0], 0.1, index.category_ids[index.labels[0]]]
    strays = np.tile([row[0], 0, 0, 1, 1, 0.9, row[6]], (150, 1))
    found = evaluate(index, np.concatenate([strays, [row]])).per_class[index.classes[index.labels[0]]]
    assert found["AP50"] == 0
    assert found["VOC12"] > 0
