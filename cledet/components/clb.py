"""Classification-localization-balanced NMS (CL-B): keep of each cluster the box best by score and place."""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.ops import nms

from cledet.ops.boxes import centers, elementwise_iou, upcast

AT_ONCE = {False: 1000, True: 5000}
"""Up to this many boxes, off or on CUDA, are suppressed at once rather than class by class."""
PAIRS = {False: 1 << 15, True: 1 << 20}
"""Pairs of boxes, off or on CUDA, that are compared at a time: what a cache holds, what fills a GPU."""


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
    leaves with the kept box: its "own" score, or the cluster's "max". Other names are a KeyError. Ties go to
    the lower index.

    Returns indices keep [K] int64 of the kept boxes and their scores [K], highest first.
    """
    keepers, owner = clusters(boxes, scores, labels, iou_threshold)
    exact = _exact(boxes)
    box, score, n = boxes.to(exact), scores.to(exact), len(boxes)
    weight = (score - score[owner]).exp()
    total = weight.new_zeros(n).index_add_(0, owner, weight)
    agreed = box.new_zeros(n, 2).index_add_(0, owner, weight[:, None] * centers(box)) / total[:, None]
    distance = (centers(box) - agreed[owner]).norm(dim=-1)
    length = CL_NORM[cl_norm](distance, box, owner)[owner]
    relative = distance / length.clamp(min=torch.finfo(exact).tiny)
    keep = _first_best(score + LOCALIZATION[localization](relative), owner, keepers).sort().values
    kept_score = CL_SCORE[cl_score](scores, keep, owner)
    order = kept_score.argsort(descending=True, stable=True)
    return keep[order], kept_score[order]


def clusters(boxes: Tensor, scores: Tensor, labels: Tensor, iou_threshold: float) -> tuple[Tensor, Tensor]:
    """The clusters behind class-by-class NMS: keepers [K], by index, and for every box its keeper, owner [N].

    The keepers are the boxes that `torchvision.ops.nms` keeps in each class. Every other box belongs to the
    keeper that takes it away: of those of its class whose IoU with it is over the threshold, the first by score.

    Few boxes are first suppressed all at once, the classes shifted apart. That rounds differently, so it is a
    guess; but if exactly those boxes that it drops overlap a better box that it keeps, it is what NMS keeps.
    """
    order = by_class(scores, labels)
    boxes, scores, labels = upcast(boxes)[order], upcast(scores)[order], labels[order]
    sizes = labels.unique_consecutive(return_counts=True)[1]
    start = (sizes.cumsum(0) - sizes).repeat_interleave(sizes)
    place = torch.arange(len(boxes), device=boxes.device)

    if len(boxes) <= AT_ONCE[boxes.is_cuda]:
        kept = _kept_at_once(boxes, scores, labels, iou_threshold)
        owner = _owners(boxes, kept, start, torch.ones_like(kept), iou_threshold)
        sure = torch.equal(owner == place, kept)
    else:
        sure = False
    if not sure:
        kept = _kept_by_class(boxes, scores, sizes, iou_threshold)
        owner = _owners(boxes, kept, start, ~kept, iou_threshold)
    return order[kept].sort().values, torch.empty_like(order).index_put_((order,), order[owner])


def by_class(scores: Tensor, labels: Tensor) -> Tensor:
    """The order [N] of boxes by class, then score from high to low, then index."""
    order = scores.argsort(descending=True, stable=True)
    return order[labels[order].argsort(stable=True)]


def _kept_by_class(boxes: Tensor, scores: Tensor, sizes: Tensor, iou_threshold: float) -> Tensor:
    """Which of the boxes [N], in order by class, `torchvision.ops.nms` keeps of each: [N] bool."""
    lengths = sizes.tolist()
    kept = torch.zeros_like(scores, dtype=torch.bool)
    for mask, *members in zip(kept.split(lengths), boxes.split(lengths), scores.split(lengths)):
        mask[nms(*members, iou_threshold)] = True
    return kept


def _kept_at_once(boxes: Tensor, scores: Tensor, labels: Tensor, iou_threshold: float) -> Tensor:
    """Nearly that, in one go: in double precision, each class in a place of its own."""
    kept = torch.zeros_like(scores, dtype=torch.bool)
    if len(boxes):
        exact = boxes.to(_exact(boxes))
        low, high = exact.aminmax()
        kept[nms(exact + (labels * (high - low + 1))[:, None], scores.to(exact.dtype), iou_threshold)] = True
    return kept


def _owners(boxes: Tensor, kept: Tensor, start: Tensor, asked: Tensor, iou_threshold: float) -> Tensor:
    """For the boxes asked [N] bool the first kept box before them, in their class, that takes them; or themselves.

    boxes [N, 4] in order by class, start [N] where each one's class begins. PAIRS pairs at a time.
    """
    owner = torch.arange(len(boxes), device=boxes.device)
    by_corner = boxes.T.contiguous()  # four times as fast to pick pairs from
    keepers, rows = owner[kept], owner[asked]
    before = kept.cumsum(0) - kept.long()
    first, count = before[start[rows]], (before - before[start])[rows]
    lengths = (count.cumsum(0) // PAIRS[boxes.is_cuda]).unique_consecutive(return_counts=True)[1].tolist()
    for parts in zip(rows.split(lengths), first.split(lengths), count.split(lengths)):
        row, nth = _ranges(*parts)
        keeper = keepers.index_select(0, nth)
        iou = elementwise_iou(by_corner.index_select(1, row).T, by_corner.index_select(1, keeper).T)
        hit = _exceeds(iou, iou_threshold).nonzero().squeeze(-1)
        owner.scatter_reduce_(0, row.index_select(0, hit), keeper.index_select(0, hit), "amin")
    return owner


def _ranges(rows: Tensor, first: Tensor, count: Tensor) -> tuple[Tensor, Tensor]:
    """Each of rows [M] beside each number of its range [first, first + count): rows [P] and numbers [P]."""
    row = rows.repeat_interleave(count)
    number = torch.arange(len(row), device=row.device)
    return row, number + (first - (count.cumsum(0) - count)).repeat_interleave(count)


def _exact(boxes: Tensor) -> torch.dtype:
    """The most exact arithmetic that the device of the boxes has."""
    return torch.float32 if boxes.device.type == "mps" else torch.float64


def _exceeds(iou: Tensor, threshold: float) -> Tensor:
    """IoU over the threshold as torchvision compares them: a float32 against a double, neither rounded."""
    bound = torch.tensor(threshold, dtype=iou.dtype)
    if bound.item() > threshold:
        bound = bound.nextafter(bound.new_tensor(-torch.inf))
    return iou > bound.item()


def _first_best(value: Tensor, owner: Tensor, keepers: Tensor) -> Tensor:
    """Index [K] of each cluster's highest value [N], the lowest index of equals, equal to about 7 digits."""
    value = value.float()  # the order in which a cluster was summed must not break a tie
    top = value.new_full((len(value),), -torch.inf).scatter_reduce_(0, owner, value, "amax")
    index = torch.arange(len(value), device=value.device)
    candidate = torch.where(value == top[owner], index, len(value))
    return index.new_full((len(value),), len(value)).scatter_reduce_(0, owner, candidate, "amin")[keepers]


def _farthest(distance: Tensor, boxes: Tensor, owner: Tensor) -> Tensor:
    """The largest distance in each cluster, at the index of its keeper."""
    return torch.zeros_like(distance).scatter_reduce_(0, owner, distance, "amax")


def _enclosing_diagonal(distance: Tensor, boxes: Tensor, owner: Tensor) -> Tensor:
    """The diagonal of the box that encloses each cluster, at the index of its keeper."""
    index = owner[:, None].expand(-1, 2)
    low = boxes[:, :2].scatter_reduce(0, index, boxes[:, :2], "amin")
    high = boxes[:, 2:].scatter_reduce(0, index, boxes[:, 2:], "amax")
    return (high - low).norm(dim=-1)


LOCALIZATION = {
    "proximity": lambda distance: 1 - distance,
    "literal": lambda distance: distance,
}
CL_NORM = {"max": _farthest, "diagonal": _enclosing_diagonal}
CL_SCORE = {
    "own": lambda scores, keep, owner: scores[keep],
    "max": lambda scores, keep, owner: scores[owner[keep]],
}
