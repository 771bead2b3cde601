"""The order of boxes within the clusters of standard NMS: by hand, and against a slow loop."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from cledet.evaluation import cluster_alignment as module
from cledet.evaluation.candidates import Candidates, all_candidates
from cledet.evaluation.misalignment import match
from cledet.models.nms import NMSOptions, suppress

SIDE = 40
OPTIONS = NMSOptions(conf=0.0)


def cluster_alignment(candidates, index, options):
    """Measurements of all classes together."""
    return module.cluster_alignment(candidates, index, options)[None]


def image(image_id: int, *found: tuple[float, float, float], label: int = 0) -> Candidates:
    """Candidates of square boxes of one size: x and y of the corner, and score."""
    x, y, scores = torch.tensor(found, dtype=torch.float64).reshape(-1, 3).T
    boxes = torch.stack([x, y, x + SIDE, y + SIDE], 1)
    labels = torch.full((len(scores),), label)
    return Candidates(image_id, boxes, scores, labels, torch.ones(4), np.array([1, 2]))


@pytest.fixture
def one_object(make_index):
    return make_index([(0, 0, 0, SIDE, SIDE)])


@pytest.mark.parametrize(
    ("scores", "correlation"),
    [
        ((0.9, 0.8, 0.7), 1),
        ((0.7, 0.8, 0.9), -1),
        ((0.8, 0.9, 0.7), 0.5),
        ((0.8, 0.8, 0.7), math.sqrt(3) / 2),  # two scores share a rank
    ],
)
def test_a_cluster_by_hand(one_object, scores, correlation):
    """Boxes 0, 4 and 6 px off the object, in falling order of IoU; 4 is nearest to their mean, then 6, then 0."""
    found = image(0, *zip((0, 4, 6), (0, 0, 0), scores))
    measured = cluster_alignment([found], one_object, OPTIONS)
    assert measured == (1, 3, 1, pytest.approx(correlation), pytest.approx(-0.5))


def test_the_centre_box_may_be_the_best(one_object):
    found = image(0, (-6, 0, 0.9), (1, 0, 0.5), (5, 0, 0.8))
    measured = cluster_alignment([found], one_object, OPTIONS)
    assert (measured.score, measured.closeness) == pytest.approx((-1, 1))


def test_two_boxes_are_no_choice_and_other_clusters_do_not_count(one_object):
    """Nor do boxes of another class, below conf, or beyond max_det."""
    pair = ((0, 0, 0.9), (4, 0, 0.8))
    beside = image(0, *pair, (200, 0, 0.7), (204, 0, 0.6), (202, 0, 0.5), (2, 0, 0.05))
    assert cluster_alignment([beside], one_object, replace(OPTIONS, conf=0.1)) == (1, 2, 0, None, None)
    assert cluster_alignment([beside], one_object, OPTIONS)[:3] == (1, 3, 1)
    other = image(0, *pair, label=1)
    assert cluster_alignment([other], one_object, OPTIONS) == (0, None, 0, None, None)
    first = image(0, *pair, (200, 0, 0.95))
    assert cluster_alignment([first], one_object, replace(OPTIONS, max_det=1)).clusters == 0


def test_without_boxes_or_objects(one_object):
    nothing = (0, None, 0, None, None)
    assert cluster_alignment([], one_object, OPTIONS) == nothing
    assert cluster_alignment([image(0)], one_object, OPTIONS) == nothing
    ignored = replace(one_object, ignore=np.array([True]))
    assert cluster_alignment([image(0, (0, 0, 0.9))], ignored, OPTIONS) == nothing
    assert cluster_alignment([image(0, (0, 0, 0.9))], one_object, OPTIONS) == (1, 1, 0, None, None)


def test_equal_scores_or_boxes_have_no_correlation(one_object):
    same_score = image(0, (0, 0, 0.9), (4, 0, 0.9), (6, 0, 0.9))
    measured = cluster_alignment([same_score], one_object, OPTIONS)
    assert measured.score is None
    assert measured.closeness == pytest.approx(-0.5)
    same_box = image(0, (2, 0, 0.9), (2, 0, 0.8), (2, 0, 0.7))
    assert cluster_alignment([same_box], one_object, OPTIONS) == (1, 3, 1, None, None)


def test_images_count_by_cluster(make_index):
    """The mean over one cluster of correlation 1, one of -1 and one of 1, one of which is in another image."""
    index = make_index([(0, 0, 0, SIDE, SIDE), (0, 100, 100, SIDE, SIDE)], [(0, 0, 0, SIDE, SIDE)], [])
    best_first, best_last = ((0, 0, 0.9), (4, 0, 0.8), (6, 0, 0.7)), ((100, 100, 0.7), (104, 100, 0.8), (106, 100, 0.9))
    images = [image(0, *best_first, *best_last), image(1, *best_first), image(2, *best_first)]
    measured = cluster_alignment(images, index, OPTIONS)
    assert measured[:3] == (3, 3, 3)
    assert measured.score == pytest.approx(1 / 3)


@pytest.mark.parametrize("cl_norm", ["max", "diagonal"])
def test_a_slow_loop_in_float64_finds_the_same(make_index, cl_norm):
    rng = np.random.default_rng(5)
    truths, images = [], []
    for number in range(6):
        x, y = rng.uniform(0, 100, (2, 5))
        label = rng.integers(0, 2, 5)
        truths.append([(int(k), a, b, SIDE, SIDE) for k, a, b in zip(label, x, y)])
        of = rng.integers(0, 5, 60)
        xy = torch.from_numpy(np.stack([x, y], 1)[of] + rng.normal(0, 5, (60, 2)))
        scores = torch.from_numpy(rng.integers(1, 20, 60) / 20)  # with ties
        boxes = torch.cat([xy, xy + SIDE + torch.from_numpy(rng.normal(0, 2, (60, 2)))], 1)
        labels = torch.from_numpy(label[of])
        images.append(Candidates(number, boxes, scores, labels, torch.full((4,), 1.0), np.array([1, 2])))
    index = make_index(*truths)
    options = replace(OPTIONS, conf=0.1, iou=0.5, cl_norm=cl_norm)
    sizes, of_score, of_closeness = slow(images, truths, options)
    measured = cluster_alignment(images, index, options)
    assert measured.clusters == len(sizes) > 15
    assert measured.boxes == pytest.approx(np.mean(sizes))
    assert measured.choices == sum(size >= 3 for size in sizes) > 10
    assert measured.score == pytest.approx(np.mean(of_score))
    assert measured.closeness == pytest.approx(np.mean(of_closeness))


def slow(images, truths, options):
    """Sizes of the clusters on objects, and the two correlations of those of three boxes or more."""
    sizes, of_score, of_closeness = [], [], []
    for one, objects in zip(images, truths):
        high = one.scores > options.conf
        boxes, scores, labels = one.boxes[high], one.scores[high], one.labels[high]
        keep = suppress(boxes, scores, labels, options.iou).keep.tolist()
        clusters = {k: [k] for k in keep}
        for i in set(range(len(boxes))) - set(keep):
            clusters[next(k for k in keep if labels[k] == labels[i] and iou(boxes[k], boxes[i]) > options.iou)].append(
                i
            )
        rows = [
            [iou(boxes[k], (x, y, x + w, y + h)) * (label == labels[k]) for label, x, y, w, h in objects] for k in keep
        ]
        for k, gt in zip(keep, match(np.array(rows))):
            if gt < 0:
                continue
            members, (_, x, y, w, h) = clusters[k], objects[gt]
            sizes.append(len(members))
            if len(members) < 3:
                continue
            score = [float(scores[i]) for i in members]
            weight = [math.exp(s) for s in score]
            middle = [((boxes[i, :2] + boxes[i, 2:]) / 2).tolist() for i in members]
            center = [sum(u * m[axis] for u, m in zip(weight, middle)) / sum(weight) for axis in (0, 1)]
            apart = [math.dist(m, center) for m in middle]
            own = boxes[members]
            if options.cl_norm == "max":
                length = max(apart)
            else:
                length = math.dist(own[:, :2].amin(0).tolist(), own[:, 2:].amax(0).tolist())
            overlap = [iou(boxes[i], (x, y, x + w, y + h)) for i in members]
            of_score.append(rho(score, overlap))
            of_closeness.append(rho([1 - d / length for d in apart], overlap))
    return sizes, [r for r in of_score if r == r], [r for r in of_closeness if r == r]


def iou(a, b):
    (ax, ay, az, aw), (bx, by, bz, bw) = (map(float, box) for box in (a, b))
    shared = max(0.0, min(az, bz) - max(ax, bx)) * max(0.0, min(aw, bw) - max(ay, by))
    return shared / ((az - ax) * (aw - ay) + (bz - bx) * (bw - by) - shared)


def rho(a, b):
    x, y = ([sum(u < v for u in values) + sum(u == v for u in values) / 2 for v in values] for values in (a, b))
    x, y = ([v - sum(values) / len(values) for v in values] for values in (x, y))
    spread = math.sqrt(sum(v * v for v in x) * sum(v * v for v in y))
    return sum(u * v for u, v in zip(x, y)) / spread if spread else math.nan


def test_boxes_are_compared_in_pixels_of_the_original_image(make_index):
    """A square in the network's input is flat in the original image."""
    index = make_index([(0, 0, 0, SIDE, SIDE / 2)])
    square = image(0, (0, 0, 0.9), (4, 0, 0.8), (6, 0, 0.7))
    flat = square._replace(scale=torch.tensor([1, 0.5, 1, 0.5]))
    assert all_candidates(flat)[0, 3:5].tolist() == [SIDE, SIDE / 2]
    assert cluster_alignment([flat], index, OPTIONS).score == pytest.approx(1)
    assert cluster_alignment([square._replace(scale=torch.tensor([0.5, 1, 0.5, 1]))], index, OPTIONS).clusters == 0


def test_classes_are_measured_apart(make_index):
    """The first class has a correlation of 1 in one cluster, the second -1 in another; the third has no object."""
    index = make_index([(0, 0, 0, SIDE, SIDE), (1, 100, 100, SIDE, SIDE)])
    index = replace(index, classes=("a", "b", "c"), category_ids=np.array([1, 2, 5]))
    first = image(0, (0, 0, 0.9), (4, 0, 0.8), (6, 0, 0.7))
    second = image(0, (100, 100, 0.7), (104, 100, 0.8), (106, 100, 0.85), (106, 101, 0.9), label=1)
    both = first._replace(
        boxes=torch.cat([first.boxes, second.boxes]),
        scores=torch.cat([first.scores, second.scores]),
        labels=torch.cat([first.labels, second.labels]),
    )
    measured = module.cluster_alignment([both], index, OPTIONS)
    assert list(measured) == [None, "a", "b", "c"]
    assert measured["a"] == (1, 3, 1, pytest.approx(1), pytest.approx(-0.5))
    assert measured["b"][:3] == (1, 4, 1)
    assert measured["b"].score == pytest.approx(-1)
    assert measured["c"] == (0, None, 0, None, None)
    assert measured[None][:3] == (2, 3.5, 2)
    assert measured[None].score == pytest.approx(0)
