"""Classification-localization-balanced NMS (CL-B): keep of each cluster the box best by score and place."""

from __future__ import annotations

import torch
from torch import Tensor

from cledet.ops.nms_clusters import owners


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

    boxes [N, 4], scores [N], labels [N] int64. localization: "proximity" 1 - d, or "as-printed" d. cl_norm, what
    d is divided by: "max" distance in the cluster, or "diagonal" of the box that encloses it. cl_score, what
    leaves with the kept box: its "own" score, or the cluster's "max"; else KeyError. Ties go to the lower index.

    Returns indices keep [K] int64 of the kept boxes and their scores [K], highest first.
    """
    owner = owners(boxes, scores, labels, iou_threshold)
    exact = _exact(boxes)
    score, box = scores.to(exact), boxes.t().to(exact, memory_format=torch.contiguous_format)
    center = (box[:2] + box[2:]) * 0.5
    agreed = agreed_centers(center, score, owner)
    distance = torch.hypot(*(center - agreed.gather(1, owner.expand(2, -1))))
    length = CL_NORM[cl_norm](distance, box, owner).clamp(min=torch.finfo(exact).tiny)
    relative = distance / length.index_select(0, owner)
    keep = _first_best(score + LOCALIZATION[localization](relative), owner)
    kept_score, order = CL_SCORE[cl_score](scores, keep, owner).sort(descending=True, stable=True)
    return keep.index_select(0, order), kept_score


def agreed_centers(centers: Tensor, scores: Tensor, owner: Tensor) -> Tensor:
    """Approximate centre c^ [2, N] of each cluster, Eq. 8, at the index of its keeper.

    centers [2, N] of the boxes, a row of x and one of y; scores [N], owner [N] int64 as from `clusters`. The softmax
    over a cluster is taken of scores less its keeper's, which is the same and cannot overflow.
    """
    weight = (scores - scores.index_select(0, owner)).exp()
    return _sum(weight * centers, owner) / _sum(weight, owner)


def _exact(boxes: Tensor) -> torch.dtype:
    """The most exact arithmetic that the device of the boxes has."""
    return torch.float32 if boxes.device.type == "mps" else torch.float64


def _sum(values: Tensor, owner: Tensor) -> Tensor:
    """Sum of values [..., N] over each cluster, at the index of its keeper."""
    return torch.zeros_like(values).index_add_(-1, owner, values)


def _first_best(value: Tensor, owner: Tensor) -> Tensor:
    """Index [K] of each cluster's highest value [N], the lowest index of equals, equal to about 7 digits; sorted."""
    value = value.float()  # the order in which a cluster was summed must not break a tie
    top = value.scatter_reduce(0, owner, value, "amax").index_select(0, owner)
    place = torch.arange(len(owner), device=owner.device)
    first = torch.add(place, value < top, alpha=len(owner))  # those that are not best come behind all
    first = first.scatter_reduce(0, owner, first, "amin").index_select(0, owner)
    return (first == place).nonzero().squeeze(1)


def _farthest(distance: Tensor, box: Tensor, owner: Tensor) -> Tensor:
    """The largest distance in each cluster, at the index of its keeper."""
    return distance.scatter_reduce(0, owner, distance, "amax")


def _enclosing_diagonal(distance: Tensor, box: Tensor, owner: Tensor) -> Tensor:
    """The diagonal of the box that encloses each cluster, at the index of its keeper; of rows box [4, N]."""
    low, high = box.split(2)
    index = owner.expand(2, -1)
    return torch.hypot(*(high.scatter_reduce(1, index, high, "amax") - low.scatter_reduce(1, index, low, "amin")))


LOCALIZATION = {"proximity": lambda distance: 1 - distance, "as-printed": lambda distance: distance}
CL_NORM = {"max": _farthest, "diagonal": _enclosing_diagonal}
CL_SCORE = {
    "own": lambda scores, keep, owner: scores.index_select(0, keep),
    "max": lambda scores, keep, owner: scores.index_select(0, owner.index_select(0, keep)),
}
