"""Why a model sees one image as it does: its positives, its coefficients, its clusters, and where each branch is best.

Computed on one image as if it were a training batch of its own; all boxes and points end in the image's pixels.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cledet.components.cl_nms import approximate_centers, cl_balanced_nms
from cledet.components.iac import at_matched_class
from cledet.config.train import TrainSettings
from cledet.explain.explanation import Clusters, Explanation, Objects, Places, Positives
from cledet.models.criterion import Criterion, Targets, positives
from cledet.models.network import RawOutputs
from cledet.models.postprocess import Detected, candidates
from cledet.ops.assigners.max_iou import match
from cledet.ops.boxes import centers, clip_boxes, elementwise_iou
from cledet.ops.nms_clusters import index_clusters
from cledet.training.init_model import build_criterion


def explain(
    raw: RawOutputs,
    size: tuple[int, int],
    objects: Objects,
    settings: TrainSettings,
    *,
    image: NDArray[np.uint8],
    path: Path | None,
    names: tuple[str, ...],
) -> Explanation:
    """Raw outputs of one image of `size` (height, width) without padding, and its objects in those pixels.

    `settings` are those of training, in which a component that was off still has its options: each component that
    the assignment leaves room for is shown, on or off. `image` is the original, whatever its size.
    """
    every = settings.model_copy(update={"ablation": settings.possible})
    found = candidates(raw, torch.tensor([size]), settings.conf)[0]
    parts = (
        find_positives(raw, objects, build_criterion(every)),
        find_clusters(found, settings.iou, localization=settings.localization, cl_norm=settings.cl_norm),
        find_places(raw, size, objects),
    )
    objects, positives, grouped, places = _to_original(objects, *parts, size, image.shape[:2])
    return Explanation(
        path=path,
        image=image,
        names=names,
        components=settings.ablation,
        settings=settings,
        objects=objects,
        positives=positives,
        clusters=grouped,
        places=places,
    )


def find_positives(raw: RawOutputs, objects: Objects, criterion: Criterion) -> Positives:
    """The positive anchors of the first image as the criterion assigns and weighs them."""
    targets = Targets(objects.boxes[None], objects.labels[None], objects.ignored[None])
    assigned = criterion.assign(raw, targets)
    found = positives(raw, targets, assigned)
    loss = criterion.classification(raw, targets, assigned, found)[found.image, found.anchor]
    weight = criterion.coefficient(found, loss)
    return Positives(found.anchors, found.boxes, found.gt, assigned.recalled[0, found.anchor], weight)


def find_clusters(found: Detected, iou: float, *, localization: str = "proximity", cl_norm: str = "max") -> Clusters:
    """The clusters of the candidates, and of each what either NMS keeps; the other options are those of CL-B."""
    boxes, scores, labels = found
    cluster_index = index_clusters(boxes, scores, labels, iou)
    balanced = cl_balanced_nms(boxes, scores, labels, iou, localization=localization, cl_norm=cl_norm)[0]
    balanced = balanced[scores[cluster_index[balanced]].argsort(descending=True, stable=True)]
    standard = cluster_index[balanced]
    cluster = torch.empty_like(cluster_index).index_put_((standard,), torch.arange(len(standard)))[cluster_index]
    agreed = approximate_centers(centers(boxes.double()).t(), scores.double(), cluster_index).t()[standard]
    return Clusters(boxes, scores, labels, cluster, agreed.float(), standard, balanced)


def find_places(raw: RawOutputs, size: tuple[int, int], objects: Objects) -> Places:
    """Where classifier and localizer are best: the paper's Fig. 1.

    An anchor speaks of the object that it overlaps most: with the probability of its class, and with the IoU of the
    decoded box, clipped to the image as a detection is. One that overlaps none says 0.
    """
    matches = match(raw.anchors, objects.boxes[None])
    touches, gt = matches.iou[0] > 0, matches.gt[0]
    probability = at_matched_class(raw.logits, objects.labels[None], matches)[0].float().sigmoid() * touches
    iou = torch.zeros_like(probability)
    boxes = clip_boxes(raw.boxes(0, touches), size)
    iou[touches] = elementwise_iou(boxes, objects.boxes[gt[touches]])
    owner = torch.where(touches, gt, -1)
    classified_at, best_probability = _peaks(probability, owner, raw.anchors, len(objects.boxes))
    localized_at, best_iou = _peaks(iou, owner, raw.anchors, len(objects.boxes))
    return Places(
        spread(probability, raw, size), spread(iou, raw, size), classified_at, localized_at, best_probability, best_iou
    )


def spread(values: Tensor, raw: RawOutputs, size: tuple[int, int]) -> Tensor:
    """Values [A] of the anchors as a map [h, w]: the highest of a position, linear between, the highest level."""
    result = torch.zeros(size)
    for value, center in zip(values.split(raw.levels), centers(raw.anchors).split(raw.levels)):
        xs, ys = center[:, 0].unique(), center[:, 1].unique()
        grid = value.view(len(ys), len(xs), -1).amax(-1)
        result = torch.maximum(result, _between(ys, size[0]) @ grid @ _between(xs, size[1]).T)
    return result


def _between(points: Tensor, count: int) -> Tensor:
    """The share [count, n] that each of n rising points has in the centre of each pixel."""
    pixels, known = np.arange(count) + 0.5, points.numpy()
    shares = [np.interp(pixels, known, one) for one in np.eye(len(known))]
    return torch.from_numpy(np.stack(shares, 1)).float()


def _peaks(values: Tensor, owner: Tensor, anchors: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Of each of `count` objects the highest value [count] of its anchors, and the centre [count, 2] of that anchor."""
    places, best = torch.full((count, 2), torch.nan), torch.zeros(count)
    for i in range(count):
        mine = (owner == i).nonzero().squeeze(-1)
        if len(mine):
            best[i], at = values[mine].max(0)
            places[i] = centers(anchors[mine[at]])
    return places, best


def _to_original(
    objects: Objects,
    positives: Positives,
    grouped: Clusters,
    places: Places,
    size: tuple[int, int],
    original: tuple[int, ...],
) -> tuple[Objects, Positives, Clusters, Places]:
    """All boxes and points in the pixels of the image of size `original` (height, width)."""
    ratio = torch.tensor([original[1] / size[1], original[0] / size[0]])

    def box(boxes: Tensor) -> Tensor:
        return boxes * ratio.repeat(2)

    return (
        objects._replace(boxes=box(objects.boxes), ignored=box(objects.ignored)),
        positives._replace(anchors=box(positives.anchors), boxes=box(positives.boxes)),
        grouped._replace(boxes=box(grouped.boxes), centers=grouped.centers * ratio),
        places._replace(classified_at=places.classified_at * ratio, localized_at=places.localized_at * ratio),
    )
