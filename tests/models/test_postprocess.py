"""Candidates against a slow loop over levels, images and classes."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torchvision.models.detection._utils import BoxCoder

from cledet.models import postprocess as module
from cledet.models.anchors import Anchors
from cledet.models.network import RawOutputs
from cledet.models.nms import MOVING, NMS, NMSOptions, apply_nms
from cledet.models.postprocess import Detected, candidates, detect, suppress_candidates

SIZES = torch.tensor([[60, 50], [64, 64]])


def outputs(seed=0, bias=-2.0, classes=4):
    anchors, strides = Anchors((8, 16), scale=3.0)([(8, 8), (4, 4)], (64, 64))
    g = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(2, len(anchors), classes, generator=g) + bias
    deltas = 0.3 * torch.randn(2, len(anchors), 4, generator=g)
    return RawOutputs(logits, deltas, anchors, strides, [576, 144])


def slow(raw, image, conf, most):
    """Set of (label, score, box) over the levels."""
    coder, found, first = BoxCoder((1.0, 1.0, 1.0, 1.0)), [], 0
    boxes = coder.decode_single(raw.deltas[image], raw.anchors)
    for level in raw.levels:
        rows = [(float(raw.logits[image, a, c].sigmoid()), c, a)
                for a in range(first, first + level) for c in range(raw.logits.shape[2])]  # fmt: skip
        rows = sorted((row for row in rows if row[0] > conf), key=lambda row: -row[0])[:most]
        for score, label, anchor in rows:
            h, w = SIZES[image].tolist()
            x1, y1, x2, y2 = boxes[anchor].tolist()
            x1, y1, x2, y2 = max(x1, 0), max(y1, 0), min(x2, w), min(y2, h)
            if x2 > x1 and y2 > y1:  # else it lies in the padding
                found.append((label, score, x1, x2, y1, y2))
        first += level
    return sorted(found)


@pytest.mark.parametrize("most", [1000, 20])
def test_candidates_equal_the_slow_loop(monkeypatch, most):
    monkeypatch.setattr(module, "CANDIDATES", most)
    raw = outputs()
    for image, (boxes, scores, labels) in enumerate(candidates(raw, SIZES, 0.3)):
        x1, y1, x2, y2 = boxes.T.tolist()
        found = sorted(zip(labels.tolist(), scores.tolist(), x1, x2, y1, y2))
        wanted = slow(raw, image, 0.3, most)
        assert len(found) == len(wanted) > 10
        torch.testing.assert_close(torch.tensor(found), torch.tensor(wanted), atol=1e-3, rtol=1e-4)


def test_no_candidate_over_conf_gives_no_detections():
    for found in detect(outputs(bias=-20.0), SIZES, NMSOptions(conf=0.999)):
        assert found.boxes.shape == (0, 4)
        assert len(found.scores) == len(found.labels) == 0


@pytest.mark.parametrize("nms", NMS)
def test_detections_are_sorted_and_limited_to_max_det(nms):
    for found in detect(outputs(), SIZES, NMSOptions(method=nms, max_det=7, conf=0.1)):
        assert len(found.boxes) == 7
        assert (found.scores.diff() <= 0).all()


def test_nms_methods_differ_where_they_should():
    raw = outputs()
    standard, balanced = (
        detect(raw, SIZES, NMSOptions(method=n, conf=0.1, max_det=1000))[0] for n in ("standard", "cl-balanced")
    )
    assert len(standard.boxes) == len(balanced.boxes)  # one box a cluster in both
    assert not torch.equal(standard.boxes, balanced.boxes)


@pytest.mark.parametrize("nms", NMS)
def test_kept_indices_are_those_of_the_detections(nms):
    options = NMSOptions(method=nms, max_det=9, conf=0.1)
    for found in candidates(outputs(), SIZES, options.conf):
        kept, detected = apply_nms(*found, options), suppress_candidates(found, options)
        assert len(kept.keep) == len(kept.scores) == len(kept.boxes) == 9
        assert torch.equal(detected.labels, found.labels[kept.keep])
        assert torch.equal(detected.scores, kept.scores)
        assert torch.equal(detected.boxes, kept.boxes)
        every = apply_nms(*found, replace(options, max_det=1000))  # the best of agreement are boxes without others
        assert torch.equal(every.boxes, found.boxes[every.keep]) == (nms not in MOVING)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("conf", "most"), [(0.0, 50), (0.05, 1000), (0.3, 20), (0.9999, 1000)])
def test_candidates_equal_those_of_the_static_form(monkeypatch, dtype, conf, most):
    """The exported form takes the best of each level first, and the threshold comes after."""
    monkeypatch.setattr(module, "CANDIDATES", most)
    raw = outputs()
    logits = torch.randperm(raw.logits.numel()).view_as(raw.logits) / raw.logits.numel() * 12 - 8  # all differ
    raw = raw._replace(logits=logits.to(dtype))
    sizes = SIZES
    if dtype == torch.bfloat16:  # tied scores: which of them are taken may differ, so none may be dropped
        raw, sizes = raw._replace(deltas=torch.zeros_like(raw.deltas)), torch.tensor([[64, 64], [64, 64]])
    for image, found in enumerate(candidates(raw, sizes, conf)):
        boxes, scores, labels = (part[image] for part in module.best_of_levels(raw))
        boxes = module.clip_boxes(boxes, tuple(sizes[image].tolist()))
        kept = (scores > conf) & (module.area(boxes) > 0)
        torch.testing.assert_close(found.scores, scores[kept], rtol=0, atol=1e-7)
        if dtype == torch.float32:  # in bfloat16 many scores are tied, and the static form's order is topk's
            assert torch.equal(found.labels, labels[kept])
            torch.testing.assert_close(found.boxes, boxes[kept], rtol=0, atol=1e-4)


def test_tied_candidates_are_taken_by_the_lower_index(monkeypatch):
    monkeypatch.setattr(module, "CANDIDATES", 5)
    raw = outputs()._replace(logits=torch.zeros(2, 720, 4), deltas=torch.zeros(2, 720, 4))
    for found in candidates(raw, torch.tensor([[64, 64], [64, 64]]), 0.3):
        assert found.labels.tolist() == [0, 1, 2, 3, 0] * 2  # of the first anchors of both levels
        first = module.clip_boxes(raw.anchors[[0, 0, 0, 0, 1, 576, 576, 576, 576, 577]], (64, 64))
        torch.testing.assert_close(found.boxes, first)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("conf", [0.001, 0.05, 0.3, 0.5, 0.777, 0.999])
def test_scores_near_the_threshold_pass_if_they_exceed_it(dtype, conf):
    exact = torch.tensor(conf, dtype=torch.float64).logit()
    logits = (exact + torch.linspace(-0.05, 0.05, 576 * 4 + 144 * 4)).to(dtype).view(1, 720, 4)
    raw = outputs()._replace(logits=logits, deltas=torch.zeros(1, 720, 4))
    (found,) = candidates(raw, torch.tensor([[64, 64]]), conf)
    inside = module.area(module.clip_boxes(raw.anchors, (64, 64))) > 0
    passing = (logits[0].float().sigmoid() > conf) & inside[:, None]
    assert 100 < len(found.scores) == min(int(passing[:576].sum()), 1000) + int(passing[576:].sum())


def test_in_an_agnostic_cluster_score_and_class_belong_together():
    """CL-B keeps the central box, whose own class has 0.35; 0.9 is the score of the first box and of its class."""
    boxes = torch.tensor([[0.0, 0, 40, 40], [4, 0, 44, 40], [8, 0, 48, 40], [200, 0, 240, 40]])
    found = Detected(boxes, torch.tensor([0.9, 0.35, 0.5, 0.7]), torch.tensor([0, 1, 2, 1]))
    for cl_score, scores, labels in (("max", [0.9, 0.7], [0, 1]), ("own", [0.7, 0.35], [1, 1])):
        kept = suppress_candidates(found, NMSOptions(method="cl-balanced", cl_score=cl_score), agnostic=True)
        assert kept.scores.tolist() == pytest.approx(scores)
        assert kept.labels.tolist() == labels
    best = suppress_candidates(found, NMSOptions(method="cl-balanced", cl_score="max", max_det=1), agnostic=True)
    assert (best.boxes.tolist(), best.labels.tolist()) == ([[4, 0, 44, 40]], [0])
