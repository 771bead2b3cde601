"""Suspected label errors: each kind by hand, and against a loop written from the definitions."""

from __future__ import annotations

import numpy as np
import pytest

from cledet.metrics.analysis import analyse
from cledet.metrics.matching import overlaps
from cledet.metrics.suspects import KINDS, LEAST, NEIGHBOURS, UNSURE, find_suspects

A, B = (0, 0, 20, 20), (60, 40, 20, 20)
MANY = 40


def cats_and_dogs(make_index, *images, **more):
    """These images (label rows) after 40 images with a cat at A and a dog at B each, which the model detects at 0.9."""
    index = make_index(*[[(0, *A), (1, *B)]] * MANY, *images, **{"ignore": (), **more})
    rows = [[i, *box, 0.9, k] for i in range(MANY) for box, k in ((A, 1), (B, 2))]
    return index, rows


def suspects(index, rows, most=50):
    o = overlaps(index, np.array(rows, dtype=float).reshape(-1, 7))
    return o, find_suspects(o, o.match(), most)


def test_wrong_class(make_index):
    index, rows = cats_and_dogs(make_index, [(1, *A)])
    o, (one,) = suspects(index, [*rows, [MANY, 1, 0, 20, 20, 0.8, 1]])
    assert one[:3] == ("wrong class", MANY, 2 * MANY)
    assert o.row[one.detection] == 2 * MANY
    precision = MANY / (MANY + 1)  # of the cats
    assert one.score == pytest.approx((precision + 0.8) / 2)
    assert one.text(o) == "wrong class: labelled dog, detected cat 0.80"
    assert one.to_dict(o) == {
        "kind": "wrong class",
        "score": one.score,
        "image_id": MANY,
        "file": f"/{MANY}.png",
        "label": {"class": "dog", "bbox": [0, 0, 20, 20]},
        "detection": {"class": "cat", "bbox": [1, 0, 20, 20], "score": 0.8},
    }


def test_a_trusted_detection_of_its_own_class_clears_a_label(make_index):
    """A weak one does not."""
    index, rows = cats_and_dogs(make_index, [(1, *A)])
    contradiction = [MANY, *A, 0.8, 1]
    assert suspects(index, [*rows, contradiction, [MANY, *A, 0.9, 2]])[1] == []
    _, (one,) = suspects(index, [*rows, contradiction, [MANY, *A, 0.05, 2]])
    assert one.kind == "wrong class"
    trust, other = ((MANY / (MANY + 1) + 0.8) / 2, (1 + 0.05) / 2)
    assert one.score == pytest.approx(trust * (1 - other))


def test_missing_label(make_index):
    index, rows = cats_and_dogs(make_index, [])
    o, (one,) = suspects(index, [*rows, [MANY, *A, 0.8, 1], [MANY, *A, 0.7, 2]])
    assert one[:3] == ("missing label", MANY, -1)
    assert one.score == pytest.approx((MANY / (MANY + 1) + 0.8) / 2)
    assert one.text(o) == "missing label: detected cat 0.80"
    assert one.to_dict(o)["label"] is None


def test_misplaced(make_index):
    """One suspect for the label and the detection beside it."""
    index, rows = cats_and_dogs(make_index, [(0, 10, 0, 20, 20)])
    _, (one,) = suspects(index, [*rows, [MANY, *A, 0.8, 1]])
    assert one[:3] == ("misplaced", MANY, 2 * MANY)
    assert one.score == pytest.approx((MANY / (MANY + 1) + 0.8) / 2)


def test_a_label_that_its_detection_matches_is_not_misplaced(make_index):
    """IoU 14 / 26, just above the threshold of a match."""
    index, rows = cats_and_dogs(make_index, [(0, 6, 0, 20, 20)])
    assert suspects(index, [*rows, [MANY, *A, 0.8, 1]])[1] == []


def test_precision_is_that_of_detections_of_similar_score(make_index):
    """Of 120 cats at 0.9 and 0.8 all are right, of 60 at 0.3 none: one without a label is trusted at 0.85 only."""
    index = make_index(*[[(0, *A)]] * 120, [], [])
    rows = [[i, *A, 0.9 if i % 2 else 0.8, 1] for i in range(120)] + [[i, *B, 0.3, 1] for i in range(60)]
    _, (one,) = suspects(index, [*rows, [120, *A, 0.85, 1], [121, *A, 0.3, 1]])
    assert one[:3] == ("missing label", 120, -1)
    assert one.score == pytest.approx((1 + 0.85) / 2)  # 1: of the 50 that follow, which score no higher


def test_spurious_label(make_index):
    """Of 41 cats of one size, 40 are detected."""
    index, rows = cats_and_dogs(make_index, [(0, *B)])
    o, (one,) = suspects(index, rows)
    assert one[:4] == ("spurious label", MANY, 2 * MANY, -1)
    assert one.score == pytest.approx(UNSURE * MANY / (MANY + 1))
    assert one.text(o) == "spurious label: labelled cat"
    assert one.to_dict(o)["detection"] is None


def test_labels_that_the_model_rarely_detects_are_not_spurious(make_index):
    """Recall is that of labels of similar size: large cats are detected, tiny ones are not."""
    tiny = [[(0, 5, 5, 3, 3)]] * NEIGHBOURS
    index, rows = cats_and_dogs(make_index, *tiny)
    assert suspects(index, rows)[1] == []


def test_neighbours_are_not_misplaced(make_index):
    """A detection beside a confirmed label is of another object, whose label is missing."""
    index, rows = cats_and_dogs(make_index, [(0, *A)])
    found = [[MANY, *A, 0.9, 1], [MANY, 15, 0, 20, 20, 0.85, 1]]
    _, (one,) = suspects(index, [*rows, *found])
    assert one[:3] == ("missing label", MANY, -1)


def test_duplicates_and_weak_detections_are_no_suspects(make_index):
    index, rows = cats_and_dogs(make_index, [(0, *A)])
    found = [[MANY, *A, 0.9, 1], [MANY, 1, 0, 20, 20, 0.8, 1]]
    weak = [[i, 30, 20, 20, 20, 0.05, 2] for i in range(MANY)]
    assert suspects(index, [*rows, *found, *weak])[1] == []


def test_ignored_labels_and_detections_in_them_are_never_suspects(make_index):
    """Whatever the class."""
    crowd = [(0, 0, 0, 60, 60)]
    index, rows = cats_and_dogs(make_index, crowd, ignore=[2 * MANY])
    found = [[MANY, 0, 0, 20, 20, 0.9, 1], [MANY, 30, 30, 20, 20, 0.9, 2]]
    assert suspects(index, [*rows, *found])[1] == []
    index, _ = cats_and_dogs(make_index, crowd)
    assert suspects(index, [*rows, *found])[1] != []


def test_labels_without_extent_are_no_suspects(make_index):
    """`cledet check` lists them."""
    index, rows = cats_and_dogs(make_index, [(0, 5, 5, 0, 20), (0, np.nan, 5, 10, 20)])
    assert suspects(index, rows)[1] == []


def test_order_and_ties(make_index):
    """Equal scores: the higher score of the detector first, then the order of the data set; `most` cuts the list."""
    empty = [[] for _ in range(3)]
    index, rows = cats_and_dogs(make_index, *empty)
    found = [[MANY + 2, *A, 0.8, 1], [MANY + 1, *A, 0.8, 1], [MANY, *A, 0.7, 1]]
    _, listed = suspects(index, [*rows, *found])
    assert [one.image - MANY for one in listed] == [1, 2, 0]
    assert suspects(index, [*rows, *found], 2)[1] == listed[:2]
    assert [one.score for one in listed] == sorted((one.score for one in listed), reverse=True)


def test_nothing_to_suspect(make_index):
    assert suspects(make_index([]), [])[1] == []
    assert suspects(make_index([(0, *A)]), [])[1] == []  # a model that detects nothing accuses no label
    assert suspects(make_index([(0, *A)]), [[0, *A, 0.9, 1]])[1] == []
    assert suspects(make_index(), [])[1] == []


def test_scores_of_any_scale(make_index):
    """Trust stays within 0 and 1 for scores outside."""
    index, rows = cats_and_dogs(make_index, [])
    scaled = np.array([*rows, [MANY, *A, 0.8, 1]]) * [1, 1, 1, 1, 1, 100, 1]
    _, (one,) = suspects(index, scaled)
    assert one.kind == "missing label"
    assert 0 < one.score <= 1


def test_the_analysis_counts_them(make_index):
    index, rows = cats_and_dogs(make_index, [(1, *A)], [])
    results = np.array([*rows, [MANY, *A, 0.8, 1], [MANY + 1, *A, 0.8, 1]], dtype=float)
    document = analyse(index, results, suspects=10).to_dict()
    assert document["suspects"] == {"wrong class": 1, "misplaced": 0, "missing label": 1, "spurious label": 0}
    assert "suspects" not in analyse(index, results).to_dict()


@pytest.mark.parametrize("seed", range(8))
def test_against_a_loop(random_split, seed):
    index, results = random_split(seed, images=20)
    o, listed = suspects(index, results, 10_000)
    assert len({one.kind for one in listed}) > 1
    expected = loop(o)
    assert [one[:4] for one in listed] == [one[:4] for one in expected]
    assert [one.score for one in listed] == pytest.approx([one[4] for one in expected], abs=2e-9)


def iou(a, b):
    w, h = (max(min(a[i] + a[i + 2], b[i] + b[i + 2]) - max(a[i], b[i]), 0) for i in (0, 1))
    return w * h / (a[2] * a[3] + b[2] * b[3] - w * h)


def share(a, b):
    w, h = (max(min(a[i] + a[i + 2], b[i] + b[i + 2]) - max(a[i], b[i]), 0) for i in (0, 1))
    return w * h / (a[2] * a[3])


def loop(o):
    """Label by label and detection by detection, from the words of the module."""
    index, match = o.index, o.match()
    labels = [g for g in range(index.num_boxes) if not index.ignore[g]]
    ignored = [g for g in range(index.num_boxes) if index.ignore[g]]
    inside = {
        d
        for d in range(len(o.score))
        if match.ignored[d]
        or any(o.image[d] == o.gt_image[g] and share(o.xywh[d], index.xywh[g]) >= 0.5 for g in ignored)
    }
    ious = {
        (d, g): iou(o.xywh[d], index.xywh[g])
        for d in range(len(o.score))
        for g in labels
        if o.image[d] == o.gt_image[g] and iou(o.xywh[d], index.xywh[g]) >= 0.1
    }
    matched = {d: int(match.gt[d]) for d in range(len(o.score)) if match.gt[d] >= 0}
    free = [d for d in range(len(o.score)) if d not in matched and d not in inside]

    def same(d, g):
        return o.label[d] == index.labels[g]

    def mean_of_neighbours(values, i):
        width = min(NEIGHBOURS, len(values))
        first = min(max(i - width // 2, 0), len(values) - width)
        return sum(values[first : first + width]) / width

    def trust_among(counted):
        trust = {}
        for d in counted:
            own = [e for e in sorted(counted) if o.label[e] == o.label[d]]
            right = [e in matched for e in own]
            last = max(n for n, e in enumerate(own) if o.score[e] == o.score[d])
            precision = max(mean_of_neighbours(right, n) for n in range(last, len(own)))
            trust[d] = (precision + o.score[d]) / 2
        return trust

    trust = trust_among([*matched, *free])
    on_others = [d for d in free if any(not same(d, g) and ious.get((d, g), 0) >= 0.5 for g in labels)]
    class_trust = trust_among([*matched, *on_others])
    confirmed = dict.fromkeys(labels, 0.0) | {g: trust[d] for d, g in matched.items()}

    candidates = []  # kind, label, detection, score
    for d, g in sorted(ious):
        if d in free and not same(d, g) and ious[d, g] >= 0.5:
            candidates.append((0, g, d, class_trust[d] * (1 - confirmed[g])))
        if d in free and same(d, g):
            candidates.append((1, g, d, trust[d] * (1 - confirmed[g])))
    for d in free:
        beside = [g for g in labels if (d, g) in ious and same(d, g)]
        explained = min((confirmed[g] for g in beside), default=1)
        near = max((ious[d, g] for g in beside), default=0)
        if not any(ious.get((d, g), 0) >= 0.5 for g in labels):
            candidates.append((2, -1, d, trust[d] * explained * (1 - near)))
    for g in labels:
        own = sorted((h for h in labels if index.labels[h] == index.labels[g]), key=lambda h: area(index.xywh[h]))
        recall = mean_of_neighbours([confirmed[h] > 0 for h in own], own.index(g))
        candidates.append((3, g, -1, UNSURE * recall * (1 - confirmed[g])))

    candidates = [(*one[:3], round(one[3], 9)) for one in candidates]
    candidates.sort(key=lambda one: (-one[3], -(o.score[one[2]] if one[2] >= 0 else 0)))
    chosen = []
    for kind, g, d, score in candidates:
        image = int(o.image[d] if d >= 0 else o.gt_image[g])
        others = [e for _, i, _, e, _ in chosen if i == image and e >= 0]
        if score < LEAST or (g >= 0 and any(g == h for _, _, h, _, _ in chosen)):
            continue
        if d >= 0 and any(iou(o.xywh[d], o.xywh[e]) >= 0.5 for e in others):
            continue
        chosen.append((KINDS[kind], image, g, d, score))
    return chosen


def area(box):
    return box[2] * box[3]
