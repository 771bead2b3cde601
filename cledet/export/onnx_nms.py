"""NMS as ONNX: every method of `cledet.models.nms` as one greedy loop. Requires onnx and onnxscript.

Each round picks the remaining box of highest score. The step of a method returns the index of the box to keep, its
score and coordinates, and the updated scores of all boxes; removed boxes have score -1. The scores of kept boxes
decrease from round to round, except for "cl-balanced", whose kept boxes may have their own score, and "agreement",
which lowers scores. So their rounds are not limited to `max_det`.

The functions are compiled by onnxscript; outer variables become constants of the file.
"""

# mypy: allow-untyped-defs
from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import onnx
import onnx.compose
import onnx.inliner
import onnx.version_converter
import onnxscript
from onnxscript import script

from cledet.models.nms import AGREEING_IOU, CLOSENESS, DECAY_IOU, VOTERS_IOU, NMSOptions

op: Any = onnxscript.opset18
FLOAT: Any = onnxscript.FLOAT
INT64: Any = onnxscript.INT64
SIGMA, MIN_SCORE = 0.5, 0.001
"""Constants of the soft methods, the defaults of `cledet.models.nms.suppress`."""
TINY = float(np.finfo(np.float32).tiny)
OUTPUTS = ("boxes", "scores", "labels")

Step = Callable[..., Any]


def append_nms(network: onnx.ModelProto, options: NMSOptions, candidates: Sequence[str]) -> onnx.ModelProto:
    """Append NMS to a network, with its outputs `candidates` (boxes, scores, labels) as input and OUTPUTS as output."""
    nms = suppression(options, network.ir_version)
    version = next(used.version for used in network.opset_import if not used.domain)
    if version != op.version:
        nms = onnx.version_converter.convert_version(nms, version)
    nms = onnx.compose.add_prefix(nms, "nms/", rename_inputs=False, rename_outputs=False)
    joined = onnx.compose.merge_models(
        network, nms, io_map=[(name, name) for name in candidates], outputs=list(OUTPUTS)
    )
    joined.graph.value_info.extend(network.graph.output)  # the parity check reads them
    return joined


def suppression(options: NMSOptions, ir_version: int = 10) -> onnx.ModelProto:
    """Build a graph that filters candidates by score and area, applies NMS and sorts the detections into OUTPUTS."""
    floor = MIN_SCORE if options.method in ("soft", "soft-linear", "soft-vote", "agreement") else 0.0
    rounds = np.iinfo(np.int64).max if options.method in ("cl-balanced", "agreement") else options.max_det
    loop = build_loop(STEPS[options.method](options), options.conf, floor, int(rounds), options.max_det)
    inputs, outputs = ([FLOAT[count, 4], FLOAT[count], INT64[count]] for count in ("M", "K"))
    proto = loop.to_model_proto(input_types=inputs, output_types=outputs, ir_version=ir_version)
    return onnx.inliner.inline_local_functions(proto)


def build_loop(step: Step, conf: float, floor: float, rounds: int, most: int) -> Any:
    """Compile the greedy loop over a method's step to an onnxscript function."""

    @script()
    def detect(candidate_boxes, candidate_scores, candidate_labels):
        real = op.And(op.Greater(candidate_scores, conf), op.Greater(areas(candidate_boxes), 0.0))
        nothing = op.Constant(value_floats=[-1.0])  # one box that is never picked, so that ReduceMax has input
        place = op.Constant(value=onnx.helper.make_tensor("place", onnx.TensorProto.FLOAT, (1, 4), [0.0] * 4))
        all_boxes = op.Concat(op.Compress(candidate_boxes, real, axis=0), place, axis=0)
        all_scores = op.Concat(op.Compress(candidate_scores, real, axis=0), nothing, axis=0)
        all_labels = op.Concat(op.Compress(candidate_labels, real, axis=0), op.Constant(value_ints=[-1]), axis=0)
        remaining = op.Identity(all_scores)
        final = op.Sub(op.Mul(all_scores, 0.0), 1.0)
        moved = op.Identity(all_boxes)
        count = op.Constant(value_int=0)
        more = op.GreaterOrEqual(op.ReduceMax(remaining, keepdims=0), floor)
        while more:
            pick = op.ArgMax(remaining, axis=0, keepdims=1)
            chosen, score, box, remaining = step(all_boxes, all_scores, all_labels, remaining, pick)
            final = op.ScatterElements(final, chosen, score)
            moved = op.ScatterND(moved, op.Unsqueeze(chosen, [1]), box)
            remaining = op.ScatterElements(remaining, pick, op.Constant(value_floats=[-1.0]))
            count = op.Add(count, 1)
            more = op.And(op.GreaterOrEqual(op.ReduceMax(remaining, keepdims=0), floor), op.Less(count, rounds))
        kept = op.ReduceSum(op.Cast(op.Greater(final, 0.0), to=7), keepdims=1)
        count_out = op.Min(kept, op.Constant(value_ints=[most]))
        best, places = op.TopK(final, op.Max(count_out, op.Constant(value_ints=[1])), axis=0)  # OpenVINO takes no 0
        scores = op.Slice(best, [0], count_out, [0])
        order = op.Slice(places, [0], count_out, [0])
        boxes = op.Gather(moved, order)
        labels = op.Gather(all_labels, order)
        return boxes, scores, labels

    return detect


@script()
def areas(boxes):
    """Compute the areas [M] of boxes [M, 4], 0 for swapped corners."""
    sides = op.Sub(op.Slice(boxes, [2], [4], [1]), op.Slice(boxes, [0], [2], [1]))
    return op.ReduceProd(op.Max(sides, 0.0), [1], keepdims=0)


@script()
def centers(boxes):
    """Compute the centres [M, 2] of boxes [M, 4]."""
    return op.Div(op.Add(op.Slice(boxes, [0], [2], [1]), op.Slice(boxes, [2], [4], [1])), 2.0)


@script()
def ious_with(boxes, one):
    """Compute the IoU [M] of boxes [M, 4] with a box [1, 4]."""
    low = op.Max(op.Slice(boxes, [0], [2], [1]), op.Slice(one, [0], [2], [1]))
    high = op.Min(op.Slice(boxes, [2], [4], [1]), op.Slice(one, [2], [4], [1]))
    shared = op.ReduceProd(op.Max(op.Sub(high, low), 0.0), [1], keepdims=0)
    union = op.Sub(op.Add(areas(boxes), areas(one)), shared)
    return op.Div(shared, op.Max(union, TINY))


@script()
def ious(boxes, labels, pick):
    """Compute the IoU [M] of boxes [M, 4] with the pick [1], -1 for boxes of another class."""
    return op.Where(op.Equal(labels, op.Gather(labels, pick)), ious_with(boxes, op.Gather(boxes, pick)), -1.0)


@script()
def dious(boxes, labels, pick):
    """Compute the DIoU [M] of boxes [M, 4] with the pick [1], -1 or less for boxes of another class."""
    one = op.Gather(boxes, pick)
    low = op.Min(op.Slice(boxes, [0], [2], [1]), op.Slice(one, [0], [2], [1]))
    high = op.Max(op.Slice(boxes, [2], [4], [1]), op.Slice(one, [2], [4], [1]))
    squared_distance = op.ReduceSumSquare(op.Sub(centers(boxes), centers(one)), [1], keepdims=0)
    squared_diagonal = op.ReduceSumSquare(op.Sub(high, low), [1], keepdims=0)
    return op.Sub(ious(boxes, labels, pick), op.Div(squared_distance, op.Max(squared_diagonal, TINY)))


@script()
def weighted_mean(boxes, weights, pick):
    """Compute the mean [1, 4] of boxes [M, 4] weighted by [M], as a mean shift from the pick [1]."""
    one = op.Gather(boxes, pick)
    shift = op.ReduceSum(op.Mul(op.Sub(boxes, one), op.Unsqueeze(weights, [1])), [0], keepdims=1)
    return op.Add(one, op.Div(shift, op.ReduceSum(weights, keepdims=1)))


@script()
def removed(remaining, iou, near):
    """Remove the boxes that are near the pick."""
    return op.Where(near, -1.0, remaining)


@script()
def gaussian(remaining, iou, near):
    """Decay scores by a Gaussian of the IoU."""
    own = op.Max(iou, 0.0)
    return op.Mul(remaining, op.Exp(op.Div(op.Neg(op.Mul(own, own)), SIGMA)))


@script()
def linear(remaining, iou, near):
    """Decay the scores of the boxes that are near the pick by 1 - IoU."""
    return op.Mul(remaining, op.Where(near, op.Sub(1.0, iou), 1.0))


@script()
def unmoved(boxes, scores, remaining, iou, near, pick):
    """Return the box [1, 4] of the pick."""
    return op.Gather(boxes, pick)


@script()
def cluster_mean(boxes, scores, remaining, iou, near, pick):
    """Compute the mean [1, 4] of the pick and the remaining boxes near it, weighted by score."""
    others = op.Where(op.And(near, op.Greater(remaining, 0.0)), scores, 0.0)
    return weighted_mean(boxes, op.ScatterElements(others, pick, op.Gather(scores, pick)), pick)


@script()
def vote(boxes, scores, remaining, iou, near, pick):
    """Compute the mean [1, 4] of the boxes whose IoU exceeds VOTERS_IOU, weighted by the scores before any decay."""
    return weighted_mean(boxes, op.Where(op.Greater(iou, VOTERS_IOU), scores, 0.0), pick)


def agreement(options: NMSOptions) -> Step:
    """Build the step that keeps the mean of the pick's neighbours, with its score times their agreement."""
    voters, decaying, width = AGREEING_IOU, DECAY_IOU, CLOSENESS

    @script()
    def step(boxes, scores, labels, remaining, pick):
        iou = ious(boxes, labels, pick)
        weight = op.Where(op.Greater(iou, voters), scores, 0.0)
        apart = op.Sub(1.0, iou)
        box = weighted_mean(boxes, op.Mul(weight, op.Exp(op.Div(op.Neg(op.Mul(apart, apart)), width))), pick)
        agreed = op.ReduceSum(op.Mul(weight, ious_with(boxes, box)), keepdims=1)
        score = op.Mul(op.Gather(remaining, pick), op.Div(agreed, op.ReduceSum(weight, keepdims=1)))
        return pick, score, box, linear(remaining, iou, op.Greater(iou, decaying))

    return step


def greedy(overlap: Any, options: NMSOptions, *, decay: Any = removed, move: Any = unmoved) -> Step:
    """Build the step that keeps the pick, moved by `move`, and updates the scores by `decay`.

    Boxes are near the pick if their `overlap` with it exceeds the threshold of the method.
    """
    bound = {"soft-linear": options.iou, "soft-vote": DECAY_IOU}.get(options.method, bound_of(options))

    @script()
    def step(boxes, scores, labels, remaining, pick):
        iou = overlap(boxes, labels, pick)
        near = op.Greater(iou, bound)
        box = move(boxes, scores, remaining, iou, near, pick)
        return pick, op.Gather(remaining, pick), box, decay(remaining, iou, near)

    return step


def cl_balanced(options: NMSOptions) -> Step:
    """Build the step that keeps the box of highest score + localization from the cluster of the pick (Eq. 8-9)."""
    bound, length = bound_of(options), CL_NORM[options.cl_norm]
    constant, slope = LOCALIZATION[options.localization]
    own = options.cl_score == "own"

    @script()
    def step(boxes, scores, labels, remaining, pick):
        near = op.Greater(ious(boxes, labels, pick), bound)
        index = op.Range(0, op.Squeeze(op.Shape(scores)), 1)
        member = op.Or(op.And(near, op.Greater(remaining, 0.0)), op.Equal(index, pick))
        box = op.Cast(op.Compress(boxes, member, axis=0), to=11)
        score = op.Cast(op.Compress(scores, member, axis=0), to=11)
        weight = op.Exp(op.Sub(score, op.ReduceMax(score)))
        center = centers(box)
        cluster_center = op.Div(op.ReduceSum(op.Mul(op.Unsqueeze(weight, [1]), center), [0]), op.ReduceSum(weight))
        distance = op.Sqrt(op.ReduceSumSquare(op.Sub(center, cluster_center), [1], keepdims=0))
        relative = op.Div(distance, op.Max(length(distance, box), TINY))
        value = op.Cast(op.Add(score, op.Add(op.Mul(relative, slope), constant)), to=1)
        chosen = op.Gather(op.Compress(index, member, axis=0), op.ArgMax(value, axis=0))
        kept_score = op.Where(own, op.Gather(scores, chosen), op.Gather(scores, pick))
        return chosen, kept_score, op.Gather(boxes, chosen), op.Where(near, -1.0, remaining)

    return step


@script()
def farthest(distance, boxes):
    """Return the largest distance."""
    return op.ReduceMax(distance)


@script()
def enclosing_diagonal(distance, boxes):
    """Compute the diagonal of the box that encloses all boxes."""
    low = op.ReduceMin(op.Slice(boxes, [0], [2], [1]), [0])
    high = op.ReduceMax(op.Slice(boxes, [2], [4], [1]), [0])
    return op.Sqrt(op.ReduceSumSquare(op.Sub(high, low), keepdims=0))


def bound_of(options: NMSOptions) -> float:
    """Return the largest float32 that does not exceed the IoU threshold, so that both bounds compare alike."""
    bound = np.float32(options.iou)
    return float(bound if float(bound) <= options.iou else np.nextafter(bound, np.float32(-1)))


CL_NORM = {"max": farthest, "diagonal": enclosing_diagonal}
LOCALIZATION = {"proximity": (1.0, -1.0), "as-printed": (0.0, 1.0)}
"""Constant and slope of Eq. 9's localization score, constant + slope x relative distance."""
STEPS: dict[str, Callable[[NMSOptions], Step]] = {
    "standard": partial(greedy, ious),
    "soft": partial(greedy, ious, decay=gaussian),
    "soft-linear": partial(greedy, ious, decay=linear),
    "soft-vote": partial(greedy, ious, decay=linear, move=vote),
    "agreement": agreement,
    "diou": partial(greedy, dious),
    "weighted": partial(greedy, ious, move=cluster_mean),
    "cl-balanced": cl_balanced,
}
