"""Classification-localization-balanced NMS (CL-B): keep of each cluster the box best by score and place."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torchvision.ops import nms

from cledet.ops.boxes import area, centers, upcast

PAIRS_PER_BOX = {False: 64, True: 512}
"""Up to this many pairs within classes for each box, off or on CUDA, all are compared; else NMS goes first."""
PAIRS = {False: 1 << 14, True: 1 << 20}
"""Pairs of boxes, off or on CUDA, that are compared at a time: what a cache holds, what fills a GPU."""
Corners = tuple[Tensor, Tensor, Tensor]


def cl_balanced_nms(
    boxes: Tensor,
    scores: Tensor,
    labels: Tensor,
    iou_threshold: float = 0.5,
    *,
    localization: str = "proximity",
    cl_norm: str = "max",
    cl_score: str = "own",
) -> tuple[Tensor, Tensor]:
    """Keep of each cluster the box of highest score + localization, Eq. 8-9, instead of the highest score.

        c^ = sum_i softmax(score)_i * c_i        # Eq. 8: where the cluster agrees that the centre is
        s_i = score_i + loc_i                    # Eq. 9: loc from the distance d of c_i to c^

    boxes [N, 4], scores [N], labels [N] int64. localization: "proximity" 1 - d, or "literal" d. cl_norm, what
    d is divided by: "max" distance in the cluster, or "diagonal" of the box that encloses it. cl_score, what
    leaves with the kept box: its "own" score, or the cluster's "max"; else KeyError. Ties go to the lower index.

    Returns indices keep [K] int64 of the kept boxes and their scores [K], highest first.
    """
    keepers, owner = clusters(boxes, scores, labels, iou_threshold)
    exact = _exact(boxes)
    box, score = boxes.to(exact), scores.to(exact)
    center = centers(box)
    agreed = agreed_centers(center, score, owner)
    distance = torch.linalg.vector_norm(center - agreed.index_select(0, owner), dim=-1)
    length = CL_NORM[cl_norm](distance, box, owner).clamp(min=torch.finfo(exact).tiny)
    relative = distance / length.index_select(0, owner)
    keep = _first_best(score + LOCALIZATION[localization](relative), owner, keepers)
    kept_score, order = CL_SCORE[cl_score](scores, keep, owner).sort(descending=True, stable=True)
    return keep.index_select(0, order), kept_score


def agreed_centers(centers: Tensor, scores: Tensor, owner: Tensor) -> Tensor:
    """Approximate centre c^ [N, 2] of each cluster, Eq. 8, at the index of its keeper.

    centers [N, 2] of the boxes, scores [N], owner [N] int64 as from `clusters`. The softmax over a cluster is taken
    of scores less its keeper's, which is the same and cannot overflow.
    """
    weight = (scores - scores.index_select(0, owner)).exp()[:, None]
    return _sum(weight * centers, owner) / _sum(weight, owner)


def clusters(boxes: Tensor, scores: Tensor, labels: Tensor, iou_threshold: float) -> tuple[Tensor, Tensor]:
    """The clusters behind class-by-class NMS: keepers [K], by index, and for every box its keeper, owner [N].

    The keepers are the boxes that `torchvision.ops.nms` keeps in each class. Every other box belongs to the
    keeper that takes it away: of those of its class whose IoU with it is over the threshold, the first by score.
    """
    boxes, scores = upcast(boxes.detach()), upcast(scores.detach())
    order = by_class(scores, labels)
    boxes, labels = boxes.index_select(0, order), labels.index_select(0, order)
    start = torch.searchsorted(labels, labels)
    count = torch.arange(len(boxes), device=boxes.device) - start
    if int(count.sum()) <= PAIRS_PER_BOX[boxes.is_cuda] * len(boxes):
        kept, owner = _from_all_pairs(boxes, start, count, iou_threshold)
    else:
        kept = _kept_by_class(boxes, scores.index_select(0, order).to(boxes.dtype), labels, iou_threshold)
        owner = _owners(boxes, kept, start, iou_threshold)
    keepers = order.masked_select(kept).sort().values
    return keepers, torch.empty_like(order).scatter_(0, order, order.index_select(0, owner))


def by_class(scores: Tensor, labels: Tensor) -> Tensor:
    """The order [N] of boxes by class, then score from high to low, then index."""
    order = scores.argsort(descending=True, stable=True)
    return order.index_select(0, labels.index_select(0, order).argsort(stable=True))


def _from_all_pairs(boxes: Tensor, start: Tensor, count: Tensor, iou_threshold: float) -> tuple[Tensor, Tensor]:
    """Which boxes [N], in order by class, are kept, and their owners: each box against the `count` before it.

    A box is kept if no kept box before it overlaps it. Who is kept is guessed and the guess repeated from itself:
    a round decides for good the first undecided box of every class, and all that depend on decided ones only.
    """
    row, other = map(torch.cat, zip(*_overlapping(boxes, boxes, start, count, iou_threshold)))
    place = torch.arange(len(boxes), device=boxes.device)
    kept, settled = torch.ones_like(place, dtype=torch.bool).index_fill_(0, row, False), False
    while not settled:
        owner = place.scatter_reduce(0, row, torch.where(kept.index_select(0, other), other, row), "amin")
        before, kept = kept, owner == place
        settled = torch.equal(before, kept)
    return kept, owner


def _kept_by_class(boxes: Tensor, scores: Tensor, labels: Tensor, iou_threshold: float) -> Tensor:
    """Which of the boxes [N], in order by class, `torchvision.ops.nms` keeps of each: [N] bool."""
    lengths = labels.unique_consecutive(return_counts=True)[1].tolist()
    kept = torch.zeros_like(scores, dtype=torch.bool)
    for mask, *members in zip(kept.split(lengths), boxes.split(lengths), scores.split(lengths)):
        mask.index_fill_(0, nms(*members, iou_threshold), True)
    return kept


def _owners(boxes: Tensor, kept: Tensor, start: Tensor, iou_threshold: float) -> Tensor:
    """For the boxes [N], in order by class, the first kept box before them, in their class, that takes them."""
    owner = torch.arange(len(boxes), device=boxes.device)
    rows, keepers = owner.masked_select(~kept), owner.masked_select(kept)
    before = kept.cumsum(0) - kept.long()
    first, last = before.index_select(0, start.index_select(0, rows)), before.index_select(0, rows)
    dropped, better = boxes.index_select(0, rows), boxes.index_select(0, keepers)
    for row, other in _overlapping(dropped, better, first, last - first, iou_threshold):
        owner.scatter_reduce_(0, rows.index_select(0, row), keepers.index_select(0, other), "amin")
    return owner


def _overlapping(
    a: Tensor, b: Tensor, first: Tensor, count: Tensor, iou_threshold: float
) -> Iterator[tuple[Tensor, Tensor]]:
    """Pairs (index in a, index in b) of IoU over the threshold, of each a [M, 4] with b[first : first + count].

    PAIRS pairs are compared at a time, in the arithmetic of torchvision: a float32 IoU with a double threshold.
    """
    corners_a = _corners(a)
    corners_b = corners_a if b is a else _corners(b)
    end, done = count.cumsum(0), 0
    shift = first - (end - count)
    for rows, to in zip(*_parts(end, PAIRS[a.is_cuda])):
        row = torch.repeat_interleave(count[rows:to]).add_(rows)
        other = torch.arange(done, done + len(row), device=row.device).add_(shift.index_select(0, row))
        hit = (_iou(corners_a, corners_b, row, other).to(_exact(a)) > iou_threshold).nonzero().squeeze(1)
        yield row.index_select(0, hit), other.index_select(0, hit)
        done += len(row)


def _parts(end: Tensor, pairs: int) -> tuple[list[int], list[int]]:
    """Where to begin and to end parts of the rows whose pairs end at `end` [M], of about so many pairs each."""
    cuts = list(range(pairs, int(end[-1:].sum()), pairs))
    cuts = torch.searchsorted(end, end.new_tensor(cuts)).tolist() if cuts else []
    return [0, *cuts], [*cuts, len(end)]


def _corners(boxes: Tensor) -> Corners:
    """Low and high corner of boxes [N, 4], each two floats in one element [N] (half as many to pick), and area [N]."""
    whole = torch.int64 if boxes.dtype == torch.float32 else torch.complex128
    low, high = boxes.view(whole).unbind(1)
    return low.contiguous(), high.contiguous(), area(boxes)


def _iou(a: Corners, b: Corners, row: Tensor, other: Tensor) -> Tensor:
    """IoU [P] of boxes with corners a at row [P] and b at other [P], `elementwise_iou` to the last bit."""
    low_a, high_a, area_a = (part.index_select(0, row) for part in a)
    low_b, high_b, area_b = (part.index_select(0, other) for part in b)
    real = area_a.dtype
    low = torch.maximum(low_a.view(real), low_b.view(real))  # x and y by turns
    side = torch.minimum(high_a.view(real), high_b.view(real)).sub_(low).clamp_(min=0)
    shared = side[0::2] * side[1::2]
    return shared / (area_a + area_b).sub_(shared).clamp_(min=torch.finfo(real).tiny)


def _exact(boxes: Tensor) -> torch.dtype:
    """The most exact arithmetic that the device of the boxes has."""
    return torch.float32 if boxes.device.type == "mps" else torch.float64


def _sum(values: Tensor, owner: Tensor) -> Tensor:
    """Sum of values [N, ...] over each cluster, at the index of its keeper."""
    return torch.zeros_like(values).index_add_(0, owner, values)


def _first_best(value: Tensor, owner: Tensor, keepers: Tensor) -> Tensor:
    """Index [K] of each cluster's highest value [N], the lowest index of equals, equal to about 7 digits; sorted."""
    value = value.float()  # the order in which a cluster was summed must not break a tie
    top = value.scatter_reduce(0, owner, value, "amax").index_select(0, owner)
    best = (value == top).nonzero().squeeze(1)
    first = torch.full_like(owner, len(owner)).scatter_reduce_(0, owner.index_select(0, best), best, "amin")
    return first.index_select(0, keepers).sort().values


def _farthest(distance: Tensor, boxes: Tensor, owner: Tensor) -> Tensor:
    """The largest distance in each cluster, at the index of its keeper."""
    return distance.scatter_reduce(0, owner, distance, "amax")


def _enclosing_diagonal(distance: Tensor, boxes: Tensor, owner: Tensor) -> Tensor:
    """The diagonal of the box that encloses each cluster, at the index of its keeper."""
    index = owner[:, None].expand(-1, 2)
    low = boxes[:, :2].scatter_reduce(0, index, boxes[:, :2], "amin")
    high = boxes[:, 2:].scatter_reduce(0, index, boxes[:, 2:], "amax")
    return torch.linalg.vector_norm(high - low, dim=-1)


LOCALIZATION = {"proximity": lambda distance: 1 - distance, "literal": lambda distance: distance}
CL_NORM = {"max": _farthest, "diagonal": _enclosing_diagonal}
CL_SCORE = {
    "own": lambda scores, keep, owner: scores.index_select(0, keep),
    "max": lambda scores, keep, owner: scores.index_select(0, owner.index_select(0, keep)),
}
