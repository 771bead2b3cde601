"""The clusters of class-by-class NMS: each box that it keeps, and those that this box takes away."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import torch
from torch import Tensor
from torchvision.ops import nms

from cledet.ops.boxes import upcast

LARGE = {False: 256, True: 1024}
"""In classes of up to this many boxes, off or on CUDA, all pairs are compared; in larger ones NMS goes first."""
PAIRS = {False: 1 << 18, True: 1 << 22}
"""Pairs of boxes, off or on CUDA, that are compared at a time: what a cache holds, what fills a GPU."""

LOW = 2**32 - 1
"""The lower half of an int64: added to a class in the upper half less a score, which then does not change the class."""


def clusters(boxes: Tensor, scores: Tensor, labels: Tensor, iou_threshold: float) -> tuple[Tensor, Tensor]:
    """The clusters behind class-by-class NMS: keepers [K], by index, and for every box its keeper, owner [N].

    The keepers are the boxes that `torchvision.ops.nms` keeps in each class. Every other box belongs to the
    keeper that takes it away: of those of its class whose IoU with it is over the threshold, the first by score.
    """
    owner = owners(boxes, scores, labels, iou_threshold)
    return (owner == torch.arange(len(owner), device=owner.device)).nonzero().squeeze(1), owner


def owners(boxes: Tensor, scores: Tensor, labels: Tensor, iou_threshold: float) -> Tensor:
    """The keeper of every box, owner [N] int64, see `clusters`; a keeper is its own.

    In order by class and score: `_owners_in_small_classes` finds those of some classes at once,
    `_owners_in_large_class` those of one after NMS.
    """
    boxes, scores = upcast(boxes.detach()), upcast(scores.detach())
    pairs, large = PAIRS[boxes.is_cuda], LARGE[boxes.is_cuda]
    labels, order = by_class(scores, labels)
    boxes, place = boxes.index_select(0, order), torch.arange(len(order), device=order.device)
    rank = place - torch.searchsorted(labels, labels)
    margin = min(large, len(boxes))
    rows = _rows(boxes, margin)
    threshold = _at_most(iou_threshold, boxes.dtype)
    owner = torch.empty_like(order)
    for begin, end, k in _groups(rank, pairs, large):
        if k < large:
            window = rows[:, margin + begin - k : margin + end]
            own = _owners_in_small_classes(window, rank[begin:end], place[: end - begin], threshold)
        else:
            kept = nms(boxes[begin:end], scores.index_select(0, order[begin:end]).to(boxes.dtype), iou_threshold)
            own = _owners_in_large_class(rows[:, margin + begin : margin + end], kept, pairs, threshold)
        torch.add(own, begin, out=owner[begin:end])
    return torch.empty_like(order).scatter_(0, order, order.index_select(0, owner))


def by_class(scores: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The labels [N] in order, and that order of boxes: by class, then score from high to low, then index.

    labels [N] of any integer type. Few things here take as long as a sort, so class and score are sorted as one number
    where both fit: the bits of a float32 that is not negative, as an integer, are in the same order.
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
    """Rows x1, y1, -x2, -y2, area of boxes [N, 4] after a margin of zeros: [5, margin + N].

    With the high corner negative, low and high corner of an intersection are both a maximum.
    """
    rows = boxes.new_zeros(5, margin + len(boxes))
    own = rows[:, margin:]
    own[:4] = boxes.t()
    own[2:4].neg_()
    side = (own[:2] + own[2:4]).clamp_(max=0)
    torch.mul(side[0], side[1], out=own[4])
    return rows


def _groups(rank: Tensor, pairs: int, large: int) -> Iterator[tuple[int, int, int]]:
    """What is compared at a time: (begin, end, k), whole classes in which up to k boxes come before a box.

    rank [N] int64: how many do. Where there are more classes than one, k < large and (end - begin) * k <= pairs.
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


def _owners_in_small_classes(rows: Tensor, rank: Tensor, place: Tensor, threshold: float) -> Tensor:
    """The place [n] int64 of each box's keeper; of rows [5, k + n], rank [n] up to k, and place [n]: 0 to n - 1.

    All pairs are compared, and more: each box with the k before it, those of other classes too, which then do not
    count. That takes several times the pairs, but no index: the k are views of the rows, each shifted by one more.

    A box is kept for sure if none that may be kept takes it away, and taken for sure if the first of those that may
    is kept for sure. That one is its keeper. The rest may be kept: look again, until there is no rest. Each look
    decides at least the first undecided box of every class.
    """
    n, k = len(rank), rows.shape[1] - len(rank)
    windows = rows.unfold(1, n, 1)  # [5, k + 1, n]: of each box those k, ..., 1 places before, and itself
    places = torch.uint8 if k < 256 else torch.int16
    reach = torch.arange(k, 0, -1, dtype=places, device=rows.device)[:, None]
    hit = _overlap(windows[:, :k], windows[:, k:], threshold).bool().view(torch.uint8).to(places).mul_(reach)
    hit.mul_(torch.le(hit, rank.to(places), out=torch.empty_like(hit)))
    padded = hit.new_zeros(k + n)
    before, possible = padded.unfold(0, n, 1)[:k], padded[k:]
    while True:
        back = hit.amax(0)  # how many places before a box is the first that takes it away, 0 if none
        first = place - back
        doubt = back.index_select(0, first)  # not 0 if that one may be taken away itself
        if not doubt.any():
            return first
        torch.logical_not(torch.logical_xor(back, doubt), out=possible)
        hit.mul_(before)


def _owners_in_large_class(rows: Tensor, kept: Tensor, pairs: int, threshold: float) -> Tensor:
    """The same for one class, rows [5, n], of which NMS kept some: the others against these, `pairs` at a time.

    A box that NMS took away and none of these would, as its IoU is rounded otherwise on another device, stays its own.
    """
    n = rows.shape[1]
    owner = torch.arange(n, device=rows.device)
    is_kept = torch.zeros(n, dtype=torch.bool, device=rows.device).index_fill_(0, kept, True)
    keepers, dropped = owner[is_kept], owner[~is_kept]
    better, first = rows.index_select(1, keepers)[:, :, None], (n - keepers).to(rows.dtype)[:, None]
    for part in dropped.split(max(1, pairs // max(1, len(keepers)))):
        hit = _overlap(better, rows.index_select(1, part)[:, None], threshold)
        owner.index_copy_(0, part, torch.minimum(part, n - hit.mul_(first).amax(0).long()))
    return owner


def _overlap(a: Tensor, b: Tensor, threshold: float) -> Tensor:
    """1 where the IoU of a [5, K, 1 or N] and b [5, 1, N], see `_rows`, is over the threshold >= 0, else 0: [K, N].

    The IoU is `elementwise_iou` to the last bit, but in few operations and little memory; of boxes side by side it is
    negative instead of 0.
    """
    shape = (a.shape[1], b.shape[2])
    corners = torch.maximum(a[:4], b[:4], out=a.new_empty(4, *shape))  # out: else rows of windows become columns
    side = corners[:2].add_(corners[2:])
    shared = side[0].clamp_(max=0).mul_(side[1])
    union = torch.add(a[4], b[4], out=corners[2]).sub_(shared)
    return shared.div_(union).gt_(threshold)


@cache
def _at_most(threshold: float, dtype: torch.dtype) -> float:
    """The largest number of the dtype that is not over the threshold: what is over one is over the other."""
    near = torch.tensor(threshold, dtype=dtype)
    return float(near if float(near) <= threshold else near.nextafter(torch.full_like(near, -torch.inf)))
