"""Candidates against a slow loop over levels, images and classes."""

from __future__ import annotations

import pytest
import torch
from torchvision.models.detection._utils import BoxCoder

from cledet.models import postprocess as module
from cledet.models.anchors import Anchors
from cledet.models.network import RawOutputs
from cledet.models.nms import MOVING, NMS, NMSOptions, apply_nms
from cledet.models.postprocess import candidates, detect, suppress_candidates

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
        assert torch.equal(kept.boxes, found.boxes[kept.keep]) == (nms not in MOVING)
