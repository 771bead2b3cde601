"""NMS in ONNX equals NMS in PyTorch, method by method."""

from __future__ import annotations

import inspect

import numpy as np
import pytest
import torch

from cledet.config.types import NMS_METHODS
from cledet.export.backends import CANDIDATES
from cledet.export.parity import as_detected, match_detections, random_candidates
from cledet.models.nms import NMS, NMSOptions, suppress
from cledet.models.postprocess import Detected, suppress_candidates

pytestmark = pytest.mark.slow

onnxruntime = pytest.importorskip("onnxruntime")
onnx_nms = pytest.importorskip("cledet.export.onnx_nms")

OPTIONS = [
    *(NMSOptions(method=method) for method in NMS_METHODS),
    *(NMSOptions(method=method, iou=0.6, max_det=7, conf=0.3) for method in NMS_METHODS),
    NMSOptions(method="cl-balanced", cl_norm="diagonal"),
    NMSOptions(method="cl-balanced", localization="as-printed"),
    NMSOptions(method="cl-balanced", cl_score="max"),
    NMSOptions(method="standard", iou=1.0),
    NMSOptions(method="cl-balanced", iou=1.0),
    NMSOptions(method="weighted", iou=0.0),
]


def opened(options):
    single = onnxruntime.SessionOptions()
    single.intra_op_num_threads = 1
    proto = onnx_nms.suppression(options).SerializeToString()
    session = onnxruntime.InferenceSession(proto, single, providers=["CPUExecutionProvider"])

    def run(found):
        return as_detected(session.run(None, dict(zip(CANDIDATES, (part.numpy() for part in found)))))

    return run


def edge_cases(seed):
    """Boxes in clusters; some scores equal, some boxes equal, one without area, one with swapped corners."""
    boxes, scores, labels = random_candidates(seed, (320, 544), 2)
    scores[::7] = scores[0]
    boxes[3], boxes[9, 2] = boxes[4], boxes[9, 0]
    boxes[17] = boxes[17, [2, 3, 0, 1]]
    return Detected(boxes, scores, labels)


def wanted(options, found):
    sides = found.boxes[:, 2:] - found.boxes[:, :2]
    real = (found.scores > options.conf) & (sides > 0).all(1)
    return suppress_candidates(Detected(*(part[real] for part in found)), options)


@pytest.mark.parametrize(
    "options", OPTIONS, ids=lambda p: f"{p.method}-{p.iou}-{p.cl_norm}-{p.localization}-{p.cl_score}"
)
def test_the_same_boxes_scores_and_order(options):
    run = opened(options)
    for seed in range(2):
        found, right = run(edge_cases(seed)), wanted(options, edge_cases(seed))
        assert 0 < len(right.scores) <= options.max_det
        torch.testing.assert_close(found.scores, right.scores, atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(found.boxes, right.boxes, atol=1e-3, rtol=0)
        assert torch.equal(found.labels, right.labels)


@pytest.mark.parametrize("method", NMS_METHODS)
def test_no_candidate_gives_no_detection_and_one_is_kept(method):
    run = opened(NMSOptions(method=method))
    one = Detected(torch.tensor([[1.0, 2, 30, 40]]), torch.tensor([0.5]), torch.tensor([2]))
    low = one._replace(scores=torch.tensor([0.05]))  # not over 0.05
    empty = Detected(*(part[:0] for part in one))
    for nothing in (low, empty, one._replace(boxes=torch.tensor([[1.0, 2, 1, 40]]))):
        assert [tuple(part.shape) for part in run(nothing)] == [(0, 4), (0,), (0,)]
    for part, right in zip(run(one), one):
        torch.testing.assert_close(part, right)


def test_two_boxes_by_hand():
    """IoU 60/140: 10x10 boxes shifted by 4. Soft-linear leaves 0.5 (1 - 3/7), weighted stays, diou keeps both."""
    boxes = torch.tensor([[0.0, 0, 10, 10], [4, 0, 14, 10]])
    pair = Detected(boxes, torch.tensor([0.75, 0.5]), torch.tensor([0, 0]))
    linear = opened(NMSOptions(method="soft-linear", iou=0.4))(pair)
    torch.testing.assert_close(linear.scores, torch.tensor([0.75, 0.5 * 4 / 7]))
    mean = opened(NMSOptions(method="weighted", iou=0.4))(pair)
    torch.testing.assert_close(mean.boxes, torch.tensor([[4 * 0.4, 0, 10 + 4 * 0.4, 10]]))
    for bound, left in ((0.37, 1), (0.38, 2)):  # 3/7 - 16/296 = 0.3745
        assert len(opened(NMSOptions(method="diou", iou=bound))(pair).scores) == left


def test_the_methods_and_their_constants_are_those_of_pytorch():
    assert set(onnx_nms.STEPS) == set(NMS)
    defaults = {name: p.default for name, p in inspect.signature(suppress).parameters.items()}
    assert (defaults["sigma"], defaults["min_score"]) == (onnx_nms.SIGMA, onnx_nms.MIN_SCORE)


@pytest.mark.parametrize("threshold", [0.1, 0.5, 0.6, 0.7])
def test_a_box_at_the_threshold_is_kept(threshold):
    """The constant in the file is the last float32 that does not exceed the threshold."""
    bound = np.float32(onnx_nms.bound_of(NMSOptions(iou=threshold)))
    assert float(bound) <= threshold < float(np.nextafter(bound, np.float32(2)))


def found(boxes, scores, labels):
    return Detected(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4), torch.tensor(scores), torch.tensor(labels))


def test_detections_match_in_any_order():
    a, b = [0.0, 0, 10, 10], [5.0, 5, 20, 20]
    two = found([a, b], [0.5, 0.5], [0, 1])
    assert match_detections([(two, found([b, a], [0.5, 0.5], [1, 0]))]) == (0, 0, 0)
    assert match_detections([(two, found([a], [0.5], [0]))])[0] == 1
    assert match_detections([(two, found([a, b], [0.5, 0.5], [0, 0]))])[0] == 2
    assert match_detections([(two, found([a, b], [0.5, 0.6], [0, 1]))])[0] == 2
    assert match_detections([(two, found([a, [5.1, 5, 20, 20]], [0.5, 0.5], [0, 1]))])[0] == 2
    assert match_detections([(found([a, a], [0.5, 0.5], [0, 0]), found([a], [0.5], [0]))])[0] == 1
    unmatched, box, score = match_detections([(two, found([a, [5.0078125, 5, 20, 20]], [0.5, 0.5], [0, 1]))])
    assert (unmatched, box, score) == (0, 0.0078125, 0)
