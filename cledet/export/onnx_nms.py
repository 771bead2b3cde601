"""NMS as ONNX: every method of `cledet.models.nms` as one greedy loop. It needs onnx and onnxscript.

A round takes the box of highest score that is left, the pick. A method says which box leaves in its place, with what
score, where it is moved, and what scores the others are left with; -1 is no longer left. Scores fall from pick to
pick, except for "cl-balanced", whose boxes may leave with a score of their own: it takes all its rounds.

The functions are compiled by onnxscript; what they take from outside becomes a constant of the file.
"""

# mypy: allow-untyped-defs
from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
import onnx.compose
import onnx.inliner
import onnx.version_converter
import onnxscript
from onnxscript import script

from cledet.models.nms import DECAY_IOU, VOTERS_IOU, NMSOptions

op: Any = onnxscript.opset18
FLOAT: Any = onnxscript.FLOAT
INT64: Any = onnxscript.INT64
SIGMA, MIN_SCORE = 0.5, 0.001
"""Of the soft methods, as `cledet.models.nms.suppress` has them by default."""
TINY = float(np.finfo(np.float32).tiny)
OUTPUTS = ("boxes", "scores", "labels")

Step = Callable[..., Any]


def append_nms(network: onnx.ModelProto, post: NMSOptions, candidates: Sequence[str]) -> onnx.ModelProto:
    """Append NMS to a network: its outputs `candidates` (boxes, scores, labels) become OUTPUTS."""
    nms = suppression(post, network.ir_version)
    version = next(used.version for used in network.opset_import if not used.domain)
    if version != op.version:
        nms = onnx.version_converter.convert_version(nms, version)
    nms = onnx.compose.add_prefix(nms, "nms/", rename_inputs=False, rename_outputs=False)
    joined = onnx.compose.merge_models(
        network, nms, io_map=[(name, name) for name in candidates], outputs=list(OUTPUTS)
    )
    joined.graph.value_info.extend(network.graph.output)  # for who looks inside
    return joined


def suppression(post: NMSOptions, ir_version: int = 10) -> onnx.ModelProto:
    """Build the graph that filters candidates by score and area, suppresses and sorts them: outputs OUTPUTS."""
    floor = MIN_SCORE if post.method in ("soft", "soft-linear", "soft-vote") else 0.0
    rounds = np.iinfo(np.int64).max if post.method == "cl-balanced" else post.max_det
    whole = detector(STEPS[post.method](post), post.conf, floor, int(rounds), post.max_det)
    taken, given = ([FLOAT[count, 4], FLOAT[count], INT64[count]] for count in ("M", "K"))
    proto = whole.to_model_proto(input_types=taken, output_types=given, ir_version=ir_version)
    return onnx.inliner.inline_local_functions(proto)


def detector(step: Step, conf: float, floor: float, rounds: int, most: int) -> Any:
    """The whole as an onnxscript function, by the method's step."""

    @script()
    def detect(candidate_boxes, candidate_scores, candidate_labels):
        real = op.And(op.Greater(candidate_scores, conf), op.Greater(areas(candidate_boxes), 0.0))
        nothing = op.Constant(value_floats=[-1.0])  # one box that is never picked, so that there is a highest score
        place = op.Constant(value=onnx.helper.make_tensor("place", onnx.TensorProto.FLOAT, (1, 4), [0.0] * 4))
        all_boxes = op.Concat(op.Compress(candidate_boxes, real, axis=0), place, axis=0)
        all_scores = op.Concat(op.Compress(candidate_scores, real, axis=0), nothing, axis=0)
        all_labels = op.Concat(op.Compress(candidate_labels, real, axis=0), op.Constant(value_ints=[-1]), axis=0)
        left = op.Identity(all_scores)
        final = op.Sub(op.Mul(all_scores, 0.0), 1.0)
        moved = op.Identity(all_boxes)
        count = op.Constant(value_int=0)
        more = op.GreaterOrEqual(op.ReduceMax(left, keepdims=0), floor)
        while more:
            pick = op.ArgMax(left, axis=0, keepdims=1)
            chosen, score, box, left = step(all_boxes, all_scores, all_labels, left, pick)
            final = op.ScatterElements(final, chosen, score)
            moved = op.ScatterND(moved, op.Unsqueeze(chosen, [1]), box)
            left = op.ScatterElements(left, pick, op.Constant(value_floats=[-1.0]))
            count = op.Add(count, 1)
            more = op.And(op.GreaterOrEqual(op.ReduceMax(left, keepdims=0), floor), op.Less(count, rounds))
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
    """Areas [M] of boxes [M, 4], 0 where corners are swapped."""
    sides = op.Sub(op.Slice(boxes, [2], [4], [1]), op.Slice(boxes, [0], [2], [1]))
    return op.ReduceProd(op.Max(sides, 0.0), [1], keepdims=0)


@script()
def centers(boxes):
    """Centre points [M, 2] of boxes [M, 4]."""
    return op.Div(op.Add(op.Slice(boxes, [0], [2], [1]), op.Slice(boxes, [2], [4], [1])), 2.0)


@script()
def ious(boxes, labels, pick):
    """IoU [M] of boxes [M, 4] with the pick [1]; -1 for those of another class."""
    one = op.Gather(boxes, pick)
    low = op.Max(op.Slice(boxes, [0], [2], [1]), op.Slice(one, [0], [2], [1]))
    high = op.Min(op.Slice(boxes, [2], [4], [1]), op.Slice(one, [2], [4], [1]))
    shared = op.ReduceProd(op.Max(op.Sub(high, low), 0.0), [1], keepdims=0)
    union = op.Sub(op.Add(areas(boxes), areas(one)), shared)
    return op.Where(op.Equal(labels, op.Gather(labels, pick)), op.Div(shared, op.Max(union, TINY)), -1.0)


@script()
def dious(boxes, labels, pick):
    """IoU less the squared distance of the centres over the enclosing box's squared diagonal, [M]; or -1 or less."""
    one = op.Gather(boxes, pick)
    low = op.Min(op.Slice(boxes, [0], [2], [1]), op.Slice(one, [0], [2], [1]))
    high = op.Max(op.Slice(boxes, [2], [4], [1]), op.Slice(one, [2], [4], [1]))
    apart = op.ReduceSumSquare(op.Sub(centers(boxes), centers(one)), [1], keepdims=0)
    diagonal = op.ReduceSumSquare(op.Sub(high, low), [1], keepdims=0)
    return op.Sub(ious(boxes, labels, pick), op.Div(apart, op.Max(diagonal, TINY)))


@script()
def weighted_mean(boxes, weights, pick):
    """Mean box [1, 4] of boxes [M, 4] by weights [M], summed as shifts from the pick [1]."""
    one = op.Gather(boxes, pick)
    shift = op.ReduceSum(op.Mul(op.Sub(boxes, one), op.Unsqueeze(weights, [1])), [0], keepdims=1)
    return op.Add(one, op.Div(shift, op.ReduceSum(weights, keepdims=1)))


def greedy(post: NMSOptions) -> Step:
    """Who overlaps the pick too much goes: by IoU ("standard") or by DIoU ("diou")."""
    overlap, bound = OVERLAP[post.method], bound_of(post)

    @script()
    def step(boxes, scores, labels, left, pick):
        gone = op.Greater(overlap(boxes, labels, pick), bound)
        return pick, op.Gather(left, pick), op.Gather(boxes, pick), op.Where(gone, -1.0, left)

    return step


def weighted(post: NMSOptions) -> Step:
    """The same; the pick moves to the mean, weighted by score, of itself and those that go."""
    bound = bound_of(post)

    @script()
    def step(boxes, scores, labels, left, pick):
        gone = op.Greater(ious(boxes, labels, pick), bound)
        others = op.Where(op.And(gone, op.Greater(left, 0.0)), scores, 0.0)
        mean = weighted_mean(boxes, op.ScatterElements(others, pick, op.Gather(scores, pick)), pick)
        return pick, op.Gather(left, pick), mean, op.Where(gone, -1.0, left)

    return step


def soft(post: NMSOptions) -> Step:
    """Scores decay by a gaussian of the IoU with the pick."""

    @script()
    def step(boxes, scores, labels, left, pick):
        iou = op.Max(ious(boxes, labels, pick), 0.0)
        decay = op.Exp(op.Div(op.Neg(op.Mul(iou, iou)), SIGMA))
        return pick, op.Gather(left, pick), op.Gather(boxes, pick), op.Mul(left, decay)

    return step


def soft_vote(post: NMSOptions) -> Step:
    """Scores decay by 1 - IoU; the pick moves to the mean, weighted by first score, of the boxes over it."""

    @script()
    def step(boxes, scores, labels, left, pick):
        iou = ious(boxes, labels, pick)
        decay = op.Where(op.Greater(iou, DECAY_IOU), op.Sub(1.0, iou), 1.0)
        mean = weighted_mean(boxes, op.Where(op.Greater(iou, VOTERS_IOU), scores, 0.0), pick)
        return pick, op.Gather(left, pick), mean, op.Mul(left, decay)

    return step


def soft_linear(post: NMSOptions) -> Step:
    """Scores of boxes whose IoU with the pick is over the threshold decay by 1 - IoU."""
    bound = post.iou

    @script()
    def step(boxes, scores, labels, left, pick):
        iou = ious(boxes, labels, pick)
        decay = op.Where(op.Greater(iou, bound), op.Sub(1.0, iou), 1.0)
        return pick, op.Gather(left, pick), op.Gather(boxes, pick), op.Mul(left, decay)

    return step


def cl_balanced(post: NMSOptions) -> Step:
    """The pick and those that go are a cluster; its box of highest score + localization leaves (Eq. 8-9)."""
    bound, length = bound_of(post), CL_NORM[post.cl_norm]
    constant, slope = LOCALIZATION[post.localization]
    own = post.cl_score == "own"

    @script()
    def step(boxes, scores, labels, left, pick):
        gone = op.Greater(ious(boxes, labels, pick), bound)
        index = op.Range(0, op.Squeeze(op.Shape(scores)), 1)
        member = op.Or(op.And(gone, op.Greater(left, 0.0)), op.Equal(index, pick))
        box = op.Cast(op.Compress(boxes, member, axis=0), to=11)
        score = op.Cast(op.Compress(scores, member, axis=0), to=11)
        weight = op.Exp(op.Sub(score, op.ReduceMax(score)))
        center = centers(box)
        agreed = op.Div(op.ReduceSum(op.Mul(op.Unsqueeze(weight, [1]), center), [0]), op.ReduceSum(weight))
        distance = op.Sqrt(op.ReduceSumSquare(op.Sub(center, agreed), [1], keepdims=0))
        relative = op.Div(distance, op.Max(length(distance, box), TINY))
        value = op.Cast(op.Add(score, op.Add(op.Mul(relative, slope), constant)), to=1)
        chosen = op.Gather(op.Compress(index, member, axis=0), op.ArgMax(value, axis=0))
        leaves = op.Where(own, op.Gather(scores, chosen), op.Gather(scores, pick))
        return chosen, leaves, op.Gather(boxes, chosen), op.Where(gone, -1.0, left)

    return step


@script()
def farthest(distance, boxes):
    """The largest distance."""
    return op.ReduceMax(distance)


@script()
def enclosing_diagonal(distance, boxes):
    """The diagonal of the box that encloses all."""
    low = op.ReduceMin(op.Slice(boxes, [0], [2], [1]), [0])
    high = op.ReduceMax(op.Slice(boxes, [2], [4], [1]), [0])
    return op.Sqrt(op.ReduceSumSquare(op.Sub(high, low), keepdims=0))


def bound_of(post: NMSOptions) -> float:
    """The highest float32 that is not over the IoU threshold: what an IoU is over, is over the threshold."""
    bound = np.float32(post.iou)
    return float(bound if float(bound) <= post.iou else np.nextafter(bound, np.float32(-1)))


OVERLAP = {"standard": ious, "diou": dious}
CL_NORM = {"max": farthest, "diagonal": enclosing_diagonal}
LOCALIZATION = {"proximity": (1.0, -1.0), "as-printed": (0.0, 1.0)}
"""Eq. 9's localization score of a relative distance d: constant + slope x d."""
STEPS: dict[str, Callable[[NMSOptions], Step]] = {
    "standard": greedy,
    "soft": soft,
    "soft-linear": soft_linear,
    "soft-vote": soft_vote,
    "diou": greedy,
    "weighted": weighted,
    "cl-balanced": cl_balanced,
}
