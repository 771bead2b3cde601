"""What is known of how a model sees one image, as tensors and as plain data."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from cledet.config.train import TrainSettings
from cledet.ops.boxes import area

SHOWN_SCORE = 0.3
"""A cluster is shown, and a detection may stand in for an object, from this score on."""

IAC_OPTIONS = ("alpha", "score_threshold", "recall_min_iou")
OPTIONS = (*IAC_OPTIONS, "center_unit", "conf", "iou", "localization", "cl_norm")
"""The settings of training that can be changed for an explanation; the first are for models that IAC can be part of."""


class Objects(NamedTuple):
    """What is on the image: boxes [G, 4], labels [G] int64 of the model, and regions of unknown content [K, 4]."""

    boxes: Tensor
    labels: Tensor
    ignored: Tensor
    source: str  # the annotated split, "bccd/test"; empty where the model's own detections stand in


class Positives(NamedTuple):
    """The anchors that answer for an object, P of them."""

    anchors: Tensor  # [P, 4]
    boxes: Tensor  # [P, 4] what the network makes of them
    gt: Tensor  # [P] int64 the object
    recalled: Tensor  # [P] bool: by IAC only, not by the assignment
    weight: Tensor  # [P] DC's lambda' (Eq. 3)


class Clusters(NamedTuple):
    """The clusters of NMS over M candidates, K of them, that of the best box first."""

    boxes: Tensor  # [M, 4]
    scores: Tensor  # [M]
    labels: Tensor  # [M] int64
    cluster: Tensor  # [M] int64 whose member each candidate is
    centers: Tensor  # [K, 2] the approximate centre (Eq. 8)
    standard: Tensor  # [K] int64 the box that standard NMS keeps
    balanced: Tensor  # [K] int64 the box that CL-B keeps (Eq. 9)

    def members(self) -> list[int]:
        """How many candidates each cluster has."""
        return self.cluster.bincount(minlength=len(self.standard)).tolist()

    def shown(self) -> int:
        """How many clusters, from the first on, have a box that scores SHOWN_SCORE."""
        return int((self.scores[self.standard] >= SHOWN_SCORE).sum())


class Places(NamedTuple):
    """Where classifier and localizer are best: over the image as maps [h, w], and for each of G objects."""

    probability: Tensor  # [h, w] highest probability of the true class
    iou: Tensor  # [h, w] highest IoU of a decoded box with its object
    classified_at: Tensor  # [G, 2] the position of the object's highest probability; not a number without anchors
    localized_at: Tensor  # [G, 2] that of its highest IoU
    best_probability: Tensor  # [G]
    best_iou: Tensor  # [G]


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """What the components do on one image, RGB [H, W, 3]; boxes and points in its pixels."""

    path: Path | None
    image: NDArray[np.uint8]
    names: tuple[str, ...]
    components: tuple[str, ...]
    settings: TrainSettings
    objects: Objects
    positives: Positives
    clusters: Clusters
    places: Places

    @property
    def assignment(self) -> str:
        """What the model's anchors were assigned by: iou, atss, fcos, paa or tal."""
        return str(self.settings.of_head("assign"))

    @property
    def options(self) -> tuple[str, ...]:
        """Those of OPTIONS that mean something for the model."""
        return OPTIONS if "iac" in self.settings.possible else OPTIONS[len(IAC_OPTIONS) :]

    def to_dict(self) -> dict[str, Any]:
        """The figures as plain data; boxes x1, y1, x2, y2 and points x, y."""
        height, width = self.image.shape[:2]
        recalled, members = int(self.positives.recalled.sum()), self.clusters.members()
        return {
            "file": None if self.path is None else str(self.path),
            "width": width,
            "height": height,
            "components": list(self.components),
            "settings": {name: getattr(self.settings, name) for name in self.options},
            "objects_from": self.objects.source or "detections",
            "objects": [_object(self, i) for i in range(len(self.objects.boxes))],
            "positives": {
                f"by_{self.assignment}": len(self.positives.gt) - recalled,
                "recalled": recalled,
                "anchors": [_positive(self.positives, i) for i in range(len(self.positives.gt))],
            },
            "clusters": [_cluster(self.clusters, self.names, k, count) for k, count in enumerate(members)],
        }

    def peak_distances(self) -> Tensor:
        """How far apart [G] classifier and localizer are best, in square roots of the object's area; may be nan."""
        apart = (self.places.classified_at - self.places.localized_at).norm(dim=-1)
        return apart / area(self.objects.boxes).sqrt().clamp(min=1e-6)


def _object(found: Explanation, i: int) -> dict[str, Any]:
    """One object, what answers for it, and where each branch is best at it; null where no anchor overlaps it."""
    positives, places = found.positives, found.places
    mine = positives.gt == i
    recalled = int(positives.recalled[mine].sum())
    seen = not bool(places.classified_at[i].isnan().any())
    return {
        "name": found.names[int(found.objects.labels[i])],
        "box": _rounded(found.objects.boxes[i]),
        f"by_{found.assignment}": int(mine.sum()) - recalled,
        "recalled": recalled,
        "coefficient": round(float(positives.weight[mine].mean()), 4) if mine.any() else None,
        "best_classified": {
            "at": _rounded(places.classified_at[i]) if seen else None,
            "probability": round(float(places.best_probability[i]), 4),
        },
        "best_localized": {
            "at": _rounded(places.localized_at[i]) if seen else None,
            "iou": round(float(places.best_iou[i]), 4),
        },
        "distance": round(float(found.peak_distances()[i]), 4) if seen else None,
    }


def _positive(positives: Positives, i: int) -> dict[str, Any]:
    return {
        "object": int(positives.gt[i]),
        "recalled": bool(positives.recalled[i]),
        "coefficient": round(float(positives.weight[i]), 4),
        "anchor": _rounded(positives.anchors[i]),
        "box": _rounded(positives.boxes[i]),
    }


def _cluster(grouped: Clusters, names: tuple[str, ...], k: int, members: int) -> dict[str, Any]:
    kept = {"standard": int(grouped.standard[k]), "cl_balanced": int(grouped.balanced[k])}
    return {
        "name": names[int(grouped.labels[kept["standard"]])],
        "members": members,
        "center": _rounded(grouped.centers[k]),
        **{
            method: {"score": round(float(grouped.scores[box]), 5), "box": _rounded(grouped.boxes[box])}
            for method, box in kept.items()
        },
        "differ": kept["standard"] != kept["cl_balanced"],
    }


def _rounded(values: Tensor) -> list[float]:
    return [round(value, 2) for value in values.tolist()]
