"""The explanation of one image: positives, NMS clusters and the peaks of both branches, as tensors and plain data."""

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
"""Lowest score of a cluster that is shown, and of a detection that replaces a missing annotation."""

IAC_OPTIONS = ("alpha", "score_threshold", "recall_min_iou")
OPTIONS = (*IAC_OPTIONS, "center_unit", "conf", "iou", "localization", "cl_norm")
"""Training settings that an explanation may override; IAC_OPTIONS apply only where the assignment admits IAC."""


class Objects(NamedTuple):
    """The G objects of one image, annotated or detected, and its K ignored regions."""

    boxes: Tensor  # [G, 4]
    labels: Tensor  # [G] int64, class indices of the model
    ignored: Tensor  # [K, 4]
    source: str  # the annotated split, such as "bccd/test"; empty if the objects are the model's own detections


class Positives(NamedTuple):
    """The P positive anchors."""

    anchors: Tensor  # [P, 4]
    boxes: Tensor  # [P, 4] decoded
    gt: Tensor  # [P] int64 index of the assigned object
    recalled: Tensor  # [P] bool: positive by IAC only
    weight: Tensor  # [P] DC's lambda' (Eq. 3)


class Clusters(NamedTuple):
    """The K clusters that NMS forms of M candidates, by descending highest score."""

    boxes: Tensor  # [M, 4]
    scores: Tensor  # [M]
    labels: Tensor  # [M] int64
    cluster_index: Tensor  # [M] int64 cluster of each candidate
    centers: Tensor  # [K, 2] approximate centres (Eq. 8)
    standard: Tensor  # [K] int64 candidate that standard NMS keeps
    balanced: Tensor  # [K] int64 candidate that CL-B keeps (Eq. 9)

    def sizes(self) -> list[int]:
        """Count the candidates of each cluster."""
        return self.cluster_index.bincount(minlength=len(self.standard)).tolist()

    def count_shown(self) -> int:
        """Count the leading clusters whose best candidate scores at least SHOWN_SCORE."""
        return int((self.scores[self.standard] >= SHOWN_SCORE).sum())


class Peaks(NamedTuple):
    """The best probability and IoU, over the image as maps and for each of G objects (the paper's Fig. 1)."""

    probability: Tensor  # [h, w] highest probability of the matched object's class
    iou: Tensor  # [h, w] highest IoU of a decoded box with its matched object
    classified_at: Tensor  # [G, 2] centre of the anchor with the highest probability; NaN if none overlaps the object
    localized_at: Tensor  # [G, 2] centre of the anchor with the highest IoU
    best_probability: Tensor  # [G]
    best_iou: Tensor  # [G]


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """The effect of the components on one image, RGB [H, W, 3]; boxes and points in its pixels."""

    path: Path | None
    image: NDArray[np.uint8]
    names: tuple[str, ...]
    settings: TrainSettings
    objects: Objects
    positives: Positives
    clusters: Clusters
    peaks: Peaks

    @property
    def components(self) -> tuple[str, ...]:
        """The components that the model was trained with."""
        return self.settings.ablation

    @property
    def assignment(self) -> str:
        """The model's anchor assignment: iou, atss, fcos, paa or tal."""
        return str(self.settings.of_head("assign"))

    @property
    def options(self) -> tuple[str, ...]:
        """The OPTIONS that apply to the model."""
        return OPTIONS if "iac" in self.settings.possible else OPTIONS[len(IAC_OPTIONS) :]

    def to_dict(self) -> dict[str, Any]:
        """Return all results as plain data; boxes x1, y1, x2, y2 and points x, y."""
        height, width = self.image.shape[:2]
        recalled = int(self.positives.recalled.sum())
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
            "clusters": [_cluster(self.clusters, self.names, k, size) for k, size in enumerate(self.clusters.sizes())],
        }

    def peak_distances(self) -> Tensor:
        """Compute the distance [G] between the two peaks, in square roots of the object's area; NaN without anchors."""
        distance = (self.peaks.classified_at - self.peaks.localized_at).norm(dim=-1)
        return distance / area(self.objects.boxes).sqrt().clamp(min=1e-6)


def _object(explanation: Explanation, i: int) -> dict[str, Any]:
    """Return one object with its positives and peaks; peaks are None if no anchor overlaps it."""
    positives, peaks = explanation.positives, explanation.peaks
    assigned = positives.gt == i
    recalled = int(positives.recalled[assigned].sum())
    return {
        "name": explanation.names[int(explanation.objects.labels[i])],
        "box": _rounded(explanation.objects.boxes[i]),
        f"by_{explanation.assignment}": int(assigned.sum()) - recalled,
        "recalled": recalled,
        "coefficient": _number(positives.weight[assigned].mean()),
        "best_classified": {
            "at": _rounded(peaks.classified_at[i]),
            "probability": _number(peaks.best_probability[i]),
        },
        "best_localized": {"at": _rounded(peaks.localized_at[i]), "iou": _number(peaks.best_iou[i])},
        "distance": _number(explanation.peak_distances()[i]),
    }


def _positive(positives: Positives, i: int) -> dict[str, Any]:
    return {
        "object": int(positives.gt[i]),
        "recalled": bool(positives.recalled[i]),
        "coefficient": _number(positives.weight[i]),
        "anchor": _rounded(positives.anchors[i]),
        "box": _rounded(positives.boxes[i]),
    }


def _cluster(clusters: Clusters, names: tuple[str, ...], k: int, size: int) -> dict[str, Any]:
    standard, balanced = (
        {"score": _number(clusters.scores[i], 5), "box": _rounded(clusters.boxes[i])}
        for i in (clusters.standard[k], clusters.balanced[k])
    )
    return {
        "name": names[int(clusters.labels[clusters.standard[k]])],
        "members": size,
        "center": _rounded(clusters.centers[k]),
        "standard": standard,
        "cl_balanced": balanced,
        "differ": bool(clusters.standard[k] != clusters.balanced[k]),
    }


def _number(value: Tensor, digits: int = 4) -> float | None:
    return None if value.isnan() else round(float(value), digits)


def _rounded(values: Tensor) -> list[float] | None:
    return None if values.isnan().any() else [round(value, 2) for value in values.tolist()]
