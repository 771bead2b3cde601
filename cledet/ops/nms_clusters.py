"""Clusters of class-by-class NMS: each kept box with the boxes that it suppresses."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import torch
from torch import Tensor
from torchvision.ops import nms

from cledet.ops.boxes import upcast

LARGE = {False: 256, True: 1024}
"""Largest class, off or on CUDA, in which all pairs of boxes are compared; NMS runs first in a larger one."""
PAIRS = {False: 1 << 18, True: 1 << 22}
"""Pairs of boxes, off or on CUDA, that are compared at a time: they fit into a cache, or fill a GPU."""

LOW = 2**32 - 1
"""Lower half of an int64. Added to a class in the upper half minus a score's bits, it keeps the class unchanged."""


def find_clusters(boxes: Tensor, scores: Tensor, labels: Tensor, iou_threshold: float) -> tuple[Tensor, Tensor]:
    """Run class-by-class NMS: ascending indices keep [K] of the kept boxes, and cluster_index [N] of all boxes."""
    cluster_index = index_clusters(boxes, scores, labels, iou_threshold)
    index = torch.arange(len(cluster_index), device=cluster_index.device)
    return (cluster_index == index).nonzero().squeeze(1), cluster_index


def index_clusters(boxes: Tensor, scores: Tensor, labels: Tensor, iou_threshold: float) -> Tensor:
    """Compute cluster_index [N] int64: for each box the index of the kept box that suppresses it, or its own if kept.

    boxes [N, 4], scores [N], labels [N] of any integer type. The kept boxes are those that `torchvision.ops.nms` keeps
    in each class. Every other box belongs to the kept box of its class with the highest score among those whose IoU
    with it exceeds the threshold.
    """
    boxes, scores = upcast(boxes.detach()), upcast(scores.detach())
    pairs, large = PAIRS[boxes.is_cuda], LARGE[boxes.is_cuda]
    labels, order = sort_by_class(scores, labels)
    boxes, place = boxes.index_select(0, order), torch.arange(len(order), device=order.device)
    rank = place - torch.searchsorted(labels, labels)
    margin = min(large, len(boxes))
    rows = _rows(boxes, margin)
    threshold = _round_down(iou_threshold, boxes.dtype)
    cluster_index = torch.empty_like(order)
    for begin, end, k in _chunks(rank, pairs, large):
        if k < large:
            window = rows[:, margin + begin - k : margin + end]
            first = _index_small_classes(window, rank[begin:end], place[: end - begin], threshold)
        else:
            kept = nms(boxes[begin:end], scores.index_select(0, order[begin:end]).to(boxes.dtype), iou_threshold)
            first = _index_large_class(rows[:, margin + begin : margin + end], kept, pairs, threshold)
        torch.add(first, begin, out=cluster_index[begin:end])
    return torch.empty_like(order).scatter_(0, order, order.index_select(0, cluster_index))


def sort_by_class(scores: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Sort boxes by class, then by score from high to low, then by index: sorted labels [N] and the order [N].

    labels [N] of any integer type. Sorting dominates the run time, so class and score are sorted as one integer where
    both fit: the bits of a non-negative float32, read as an integer, have the order of the floats.
    """
    if scores.dtype == torch.float32:
        wide = labels.long()
        both = (wide << 32).sub_(scores.view(torch.int32)).add_(LOW)
        if torch.equal(both >> 32, wide):  # no label is too large, no score negative
            order = both.argsort(stable=True)
            return labels.index_select(0, order), order
    order = scores.argsort(descending=True, stable=True)
    labels, place = labels.index_select(0, order).sort(stable=True)
    return labels, order.index_select(0, place)


def _rows(boxes: Tensor, margin: int) -> Tensor:
    """Arrange boxes [N, 4] as rows x1, y1, -x2, -y2, area after a margin of zeros: [5, margin + N].

    With a negated high corner, both corners of an intersection are maxima.
    """
    rows = boxes.new_zeros(5, margin + len(boxes))
    filled = rows[:, margin:]
    filled[:4] = boxes.t()
    filled[2:4].neg_()
    side = (filled[:2] + filled[2:4]).clamp_(max=0)
    torch.mul(side[0], side[1], out=filled[4])
    return rows


def _chunks(rank: Tensor, pairs: int, large: int) -> Iterator[tuple[int, int, int]]:
    """Split sorted boxes into chunks (begin, end, k) of whole classes, in which at most k boxes precede a box.

    rank [N] int64 of each box in its class. A chunk of several classes has k < large and (end - begin) * k <= pairs.
    """
    n = len(rank)
    if not n:
        return
    most = max(1, int(rank.amax()))
    if most < large and n * most <= pairs:
        yield 0, n, most
        return
    starts = (rank == 0).nonzero().squeeze(1).tolist()
    begin, k = 0, 1
    for start, end in zip(starts, [*starts[1:], n]):
        alone = max(1, end - start - 1)
        together = max(k, alone)
        if start > begin and (together >= large or (end - begin) * together > pairs):
            yield begin, start, k
            begin, together = start, alone
        k = together
    yield begin, n, k


def _index_small_classes(rows: Tensor, rank: Tensor, place: Tensor, threshold: float) -> Tensor:
    """Compute the cluster index [n] of all boxes of several sorted classes.

    rows [5, k + n]; rank [n] in the class, at most k; place [n] is 0 to n - 1. Each box is compared with the k boxes
    before it, and pairs of different classes are discarded. That compares several times the needed pairs but gathers
    nothing: the k comparisons are views of the rows, each shifted by one more.

    A box is kept for certain if no box that may be kept suppresses it. It is suppressed for certain if the first such
    box is kept for certain, and then joins its cluster. The rest is undecided until the next round. Each round decides
    at least the first undecided box of every class.
    """
    n, k = len(rank), rows.shape[1] - len(rank)
    windows = rows.unfold(1, n, 1)  # [5, k + 1, n]: for each box those k, ..., 1 places before, and itself
    places = torch.uint8 if k < 256 else torch.int16
    reach = torch.arange(k, 0, -1, dtype=places, device=rows.device)[:, None]
    hit = _exceeds(windows[:, :k], windows[:, k:], threshold).bool().view(torch.uint8).to(places).mul_(reach)
    hit.mul_(torch.le(hit, rank.to(places), out=torch.empty_like(hit)))
    padded = hit.new_zeros(k + n)
    before, possible = padded.unfold(0, n, 1)[:k], padded[k:]
    while True:
        back = hit.amax(0)  # distance in places to the first box that suppresses this one, 0 for none
        first = place - back
        doubt = back.index_select(0, first)  # nonzero if that box may be suppressed itself
        if not doubt.any():
            return first
        torch.logical_not(torch.logical_xor(back, doubt), out=possible)
        hit.mul_(before)


def _index_large_class(rows: Tensor, kept: Tensor, pairs: int, threshold: float) -> Tensor:
    """Compute the cluster index [n] of one sorted class, rows [5, n], from the indices that NMS kept.

    The suppressed boxes are compared with the kept ones, `pairs` at a time. A suppressed box whose IoU exceeds the
    threshold with no kept box, due to rounding on another device, keeps its own index.
    """
    n = rows.shape[1]
    cluster_index = torch.arange(n, device=rows.device)
    is_kept = torch.zeros(n, dtype=torch.bool, device=rows.device).index_fill_(0, kept, True)
    keep, suppressed = cluster_index[is_kept], cluster_index[~is_kept]
    better, first = rows.index_select(1, keep)[:, :, None], (n - keep).to(rows.dtype)[:, None]
    for part in suppressed.split(max(1, pairs // max(1, len(keep)))):
        hit = _exceeds(better, rows.index_select(1, part)[:, None], threshold)
        cluster_index.index_copy_(0, part, torch.minimum(part, n - hit.mul_(first).amax(0).long()))
    return cluster_index


def _exceeds(a: Tensor, b: Tensor, threshold: float) -> Tensor:
    """Return 1 where the IoU of a [5, K, 1 or N] and b [5, 1, N] of `_rows` exceeds the threshold >= 0, else 0: [K, N].

    The IoU equals `elementwise_iou` to the last bit, in few operations and little memory. It is negative instead of 0
    for disjoint boxes.
    """
    shape = (a.shape[1], b.shape[2])
    corners = torch.maximum(a[:4], b[:4], out=a.new_empty(4, *shape))  # out: else rows of windows become columns
    side = corners[:2].add_(corners[2:])
    shared = side[0].clamp_(max=0).mul_(side[1])
    union = torch.add(a[4], b[4], out=corners[2]).sub_(shared)
    return shared.div_(union).gt_(threshold)


@cache
def _round_down(threshold: float, dtype: torch.dtype) -> float:
    """Return the largest number of the dtype that is at most the threshold, so that comparisons are unchanged."""
    near = torch.tensor(threshold, dtype=dtype, device="cpu")
    return float(near if float(near) <= threshold else near.nextafter(torch.full_like(near, -torch.inf)))
