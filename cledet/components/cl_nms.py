"""Classification-localization-balanced NMS (CL-B): select the box of each cluster by score and position."""

from __future__ import annotations

import torch
from torch import Tensor

from cledet.ops.boxes import widest_float
from cledet.ops.nms_clusters import index_clusters


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
    """Keep the box with the highest score + localization score in each cluster of standard NMS, Eq. 8-9.

        c^ = sum_i softmax(score)_i * c_i        # Eq. 8: approximate centre of the cluster
        s_i = score_i + loc_i                    # Eq. 9: loc from the distance d of c_i to c^

    Args:
        boxes: [N, 4].
        scores: [N].
        labels: [N] int64; clusters hold boxes of one class.
        iou_threshold: IoU over which a box joins the cluster of a box with a higher score.
        localization: "proximity" for 1 - d, "as-printed" for d.
        cl_norm: divisor of d, "max" for the largest distance in the cluster, "diagonal" for the diagonal of the
            box that encloses the cluster.
        cl_score: score of the kept box, "own" or "max" for the highest in its cluster.

    Returns indices keep [K] int64 of the kept boxes and their scores [K], highest first, ties by the lower index.
    Raises KeyError for an unknown option.
    """
    cluster_index = index_clusters(boxes, scores, labels, iou_threshold)
    relative = center_distances(boxes, scores, cluster_index, cl_norm)
    score = scores.to(relative.dtype)
    keep = _argmax_of_clusters(score + LOCALIZATION[localization](relative), cluster_index)
    kept_score, order = CL_SCORE[cl_score](scores, keep, cluster_index).sort(descending=True, stable=True)
    return keep.index_select(0, order), kept_score


def center_distances(boxes: Tensor, scores: Tensor, cluster_index: Tensor, cl_norm: str = "max") -> Tensor:
    """Compute the normalized distance d [N] of each box's centre from the approximate centre of its cluster, Eq. 9.

    boxes [N, 4], scores [N], cluster_index [N] int64 of `index_clusters`; cl_norm as in `cl_balanced_nms`. Returns
    float64 (float32 on MPS).
    """
    dtype = widest_float(boxes.device)
    score, box = scores.to(dtype), boxes.t().to(dtype, memory_format=torch.contiguous_format)
    center = (box[:2] + box[2:]) * 0.5
    cluster_center = approximate_centers(center, score, cluster_index).gather(1, cluster_index.expand(2, -1))
    distance = torch.hypot(*(center - cluster_center))
    length = CL_NORM[cl_norm](distance, box, cluster_index).clamp(min=torch.finfo(dtype).tiny)
    return distance / length.index_select(0, cluster_index)


def approximate_centers(centers: Tensor, scores: Tensor, cluster_index: Tensor) -> Tensor:
    """Compute the approximate centre c^ [2, N] of each cluster, Eq. 8, at the index of its top-scoring box.

    centers [2, N] of the boxes, a row of x and one of y; scores [N]; cluster_index [N] int64 of `index_clusters`. The
    softmax subtracts the highest score of the cluster, which prevents overflow.
    """
    weight = (scores - scores.index_select(0, cluster_index)).exp()
    return _sum(weight * centers, cluster_index) / _sum(weight, cluster_index)


def _sum(values: Tensor, cluster_index: Tensor) -> Tensor:
    """Sum values [..., N] over each cluster, at the index of its top-scoring box."""
    return torch.zeros_like(values).index_add_(-1, cluster_index, values)


def _argmax_of_clusters(value: Tensor, cluster_index: Tensor) -> Tensor:
    """Return the index [K] of the highest value [N] in each cluster, sorted; ties by the lowest index.

    Values are compared in float32, because the summation order within a cluster must not break a tie.
    """
    value = value.float()
    top = value.scatter_reduce(0, cluster_index, value, "amax").index_select(0, cluster_index)
    index = torch.arange(len(cluster_index), device=cluster_index.device)
    first = torch.add(index, value < top, alpha=len(cluster_index))  # places all others behind the maxima
    first = first.scatter_reduce(0, cluster_index, first, "amin").index_select(0, cluster_index)
    return (first == index).nonzero().squeeze(1)


def _max_distance(distance: Tensor, box: Tensor, cluster_index: Tensor) -> Tensor:
    """Compute the largest distance in each cluster, at the index of its top-scoring box."""
    return distance.scatter_reduce(0, cluster_index, distance, "amax")


def _enclosing_diagonal(distance: Tensor, box: Tensor, cluster_index: Tensor) -> Tensor:
    """Compute the diagonal of the box that encloses each cluster, from rows box [4, N]."""
    low, high = box.split(2)
    index = cluster_index.expand(2, -1)
    return torch.hypot(*(high.scatter_reduce(1, index, high, "amax") - low.scatter_reduce(1, index, low, "amin")))


LOCALIZATION = {"proximity": lambda distance: 1 - distance, "as-printed": lambda distance: distance}
CL_NORM = {"max": _max_distance, "diagonal": _enclosing_diagonal}
CL_SCORE = {
    "own": lambda scores, keep, cluster_index: scores.index_select(0, keep),
    "max": lambda scores, keep, cluster_index: scores.index_select(0, cluster_index.index_select(0, keep)),
}
