"""TIDE's errors, by hand and against a loop over detections written from the paper."""

from __future__ import annotations

import numpy as np
import pytest

from cledet.metrics.matching import overlaps
from cledet.metrics.tide import KINDS, find_errors

A, B, C, D = (0, 0, 20, 20), (40, 0, 20, 20), (0, 40, 20, 20), (70, 50, 20, 20)


def by_hand(make_index):
    """Three cats and a dog, C; one detection of each kind."""
    index = make_index([(0, *A), (0, *B), (1, *C), (0, *D)])
    rows = [(*A, 0.9), (0, 0, 20, 18, 0.8), (50, 0, 20, 20, 0.7), (*C, 0.6), (10, 40, 20, 20, 0.5), (30, 60, 9, 9, 0.4)]
    return index, np.array([[0, *row, 1] for row in rows], dtype=float)


def test_by_hand(make_index):
    o = overlaps(*by_hand(make_index))
    found = find_errors(o, o.match())
    kinds = [KINDS[k] if k >= 0 else "" for k in found.kind]
    assert kinds == ["", "duplicate", "localization", "classification", "both", "background"]
    assert found.about.tolist() == [-1, -1, 1, 2, -1, -1]
    assert found.missed.tolist() == [False, False, False, True]
    assert found.ap50.tolist() == pytest.approx([34 / 101, 0])  # recall 1/3 at precision 1; no dog is found
    assert found.cost == pytest.approx(
        {
            "classification": 1 / 2,  # the dog is found at precision 1
            "localization": 33 * 2 / 3 / 101 / 2,  # recall 2/3 at precision 2/3
            "both": 0,  # of these none stands before a right one
            "duplicate": 0,
            "background": 0,
            "missed": (51 - 34) / 101 / 2,  # recall 1/2
            "false positives": 0,
            "false negatives": 1 - 17 / 101,  # A alone is left to find, and no dog
        }
    )
    assert found.to_dict()["localization"]["count"] == 1
    assert found.class_cost()[1].tolist() == pytest.approx([22 / 101, 0])


def test_false_positives_before_a_true_positive_cost(make_index):
    """A duplicate between two right ones: recall 1 at precision 2/3, and 1 without it."""
    index = make_index([(0, *A), (0, *B)])
    o = overlaps(index, np.array([[0, *A, 0.9, 1], [0, *A, 0.8, 1], [0, *B, 0.7, 1]]))
    found = find_errors(o, o.match())
    assert found.cost["duplicate"] == pytest.approx(50 / 3 / 101)
    assert found.cost["false positives"] == pytest.approx(50 / 3 / 101)
    assert found.cost["missed"] == found.cost["background"] == 0


def test_only_the_first_of_two_errors_on_an_object_is_corrected(make_index):
    index = make_index([(0, *B)])
    o = overlaps(index, np.array([[0, 50, 0, 20, 20, 0.9, 1], [0, 49, 0, 20, 20, 0.8, 1], [0, 70, 70, 5, 5, 0.95, 1]]))
    found = find_errors(o, o.match())
    assert found.counts["localization"] == 2
    assert found.cost["localization"] == pytest.approx(0.5)


def test_all_is_missed(make_index):
    o = overlaps(make_index([(0, *A)], classes=("cat", "dog")), np.zeros((0, 7)))
    found = find_errors(o, o.match())
    assert found.cost["missed"] == found.cost["false negatives"] == 1
    assert found.cost["false positives"] == 0
    empty = overlaps(make_index([]), np.array([[0, *A, 0.5, 1]]))
    found = find_errors(empty, empty.match())
    assert found.to_dict()["AP50"] is None
    assert found.counts["background"] == 1
    assert set(found.cost.values()) == {0.0}


@pytest.mark.parametrize("seed", range(6))
def test_against_a_loop(random_split, seed):
    index, results = random_split(seed)
    o = overlaps(index, results)
    found = find_errors(o, o.match())
    counts, costs = loop(index, results)
    assert found.counts == counts
    assert found.cost == pytest.approx(costs, abs=1e-12)


def iou(a, b):
    w, h = (max(min(a[i] + a[i + 2], b[i] + b[i + 2]) - max(a[i], b[i]), 0) for i in (0, 1))
    return w * h / (a[2] * a[3] + b[2] * b[3] - w * h)


def share(a, b):
    w, h = (max(min(a[i] + a[i + 2], b[i] + b[i + 2]) - max(a[i], b[i]), 0) for i in (0, 1))
    return w * h / (a[2] * a[3])


def loop(index, results):
    """Kind by kind and detection by detection; of equally good objects the later one counts, as in pycocotools."""
    of_image, position = index.image_of_boxes(), {int(c): k for k, c in enumerate(index.category_ids)}
    points, used, about, missed = [], set(), {}, []  # points: [score, class, right, kind, object]
    for row in sorted(results.tolist(), key=lambda row: (-row[5], row[0])):
        image, box, k = index.image_ids.tolist().index(row[0]), row[1:5], position[int(row[6])]
        gts = [g for g in range(index.num_boxes) if of_image[g] == image]
        real = [g for g in gts if not index.ignore[g]]
        overlap = {g: iou(box, index.xywh[g]) for g in real}
        free = [g for g in real if index.labels[g] == k and g not in used and overlap[g] >= 0.5]
        best = max(free, key=lambda g: (overlap[g], g), default=None)
        crowds = [g for g in gts if index.ignore[g] and index.labels[g] == k and share(box, index.xywh[g]) >= 0.5]
        if best is not None:
            used.add(best)
            points.append([k, True, "", None])
        elif not crowds:
            same = [g for g in real if index.labels[g] == k]
            other = [g for g in real if index.labels[g] != k]
            near, wrong = (max(some, key=lambda g: (overlap[g], g), default=None) for some in (same, other))
            own = overlap[near] if near is not None else 0
            if 0.1 <= own < 0.5:
                points.append([k, False, "localization", near])
            elif wrong is not None and overlap[wrong] >= 0.5:
                points.append([k, False, "classification", wrong])
            elif own >= 0.5:
                points.append([k, False, "duplicate", None])
            elif max(overlap.values(), default=0) <= 0.1:
                points.append([k, False, "background", None])
            else:
                points.append([k, False, "both", None])
    for number, (_, _, _, gt) in enumerate(points):
        if gt is not None and gt not in used:
            about.setdefault(gt, number)
    real = [g for g in range(index.num_boxes) if not index.ignore[g]]
    lost = [g for g in real if g not in used]
    missed = [g for g in lost if g not in about]
    counts = {kind: sum(p[2] == kind for p in points) for kind in KINDS} | {"missed": len(missed)}
    base = ap50(points, index.labels[real], index.labels[real])
    costs = {}
    for kind in KINDS[:-1]:
        fixed = []
        for number, (k, right, what, gt) in enumerate(points):
            if what != kind:
                fixed.append((k, right))
            elif about.get(gt) == number:
                fixed.append((int(index.labels[gt]), True))
        costs[kind] = ap50(fixed, index.labels[real], index.labels[real]) - base
    left = [g for g in real if g not in missed]
    costs["missed"] = ap50(points, index.labels[left], index.labels[real]) - base
    right = [p for p in points if p[1]]
    costs["false positives"] = ap50(right, index.labels[real], index.labels[real]) - base
    costs["false negatives"] = ap50(points, index.labels[list(used)], index.labels[real]) - base
    return counts, {kind: max(cost, 0) for kind, cost in costs.items()}


def ap50(points, labels, all_labels):
    """The mean over classes with objects of the precision at 101 recalls; 1 for a class with none left."""
    aps = []
    for k in sorted(set(all_labels.tolist())):
        objects, flags = (labels == k).sum(), [p[1] for p in points if p[0] == k]
        precisions = [(sum(flags[: n + 1]) / max(objects, 1), sum(flags[: n + 1]) / (n + 1)) for n in range(len(flags))]
        at = [max((p for r, p in precisions if r >= recall), default=0) for recall in np.linspace(0, 1, 101)]
        aps.append(float(np.mean(at)) if objects else 1.0)
    return float(np.mean(aps))
