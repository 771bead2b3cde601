"""Metrics of a split."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from cledet.metrics.results_file import DetectionRows

METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
"""COCO's twelve metrics, in pycocotools' order."""
Metrics = dict[str, float | None]
LARGEST = 1e5**2
"""Upper end of COCO's area ranges."""


class Limits(NamedTuple):
    """Detections and areas that COCO's metrics count; the defaults are COCO's own."""

    max_dets: tuple[int, int, int] = (1, 10, 100)
    """Detections per image and class for the three ARs; all other metrics use the last."""
    areas: tuple[float, float] = (32, 96)
    """Sides in pixels of the squares that bound small and medium objects."""

    @property
    def names(self) -> tuple[str, ...]:
        """Return the names of the twelve metrics: those of recall carry the numbers of detections."""
        return *METRICS[:6], *(f"AR{count}" for count in self.max_dets), *METRICS[9:]

    @property
    def ranges(self) -> list[list[float]]:
        """Return the area ranges in pixels, all, small, medium and large; both ends are included."""
        small, medium = (side**2 for side in self.areas)
        return [[0, LARGEST], [0, small], [small, medium], [medium, LARGEST]]


@dataclass(frozen=True)
class Evaluation:
    """Metrics of a split as fractions; None where there is nothing to measure."""

    metrics: Metrics
    """COCO's twelve, and VOC07 and VOC12: VOC's mAP at IoU 0.5, see `cledet.metrics.voc`."""
    per_class: dict[str, Metrics]
    """Also `conf`, the confidence of highest F1 at IoU 0.5, and its `f1`, `precision` and `recall`."""
    best: Metrics
    """The confidence of highest F1 over all classes, see `cledet.metrics.confidence`."""
    nms_ms: float | None = None
    """Median milliseconds of NMS per image."""
    misalignment: dict[str, Any] | None = None
    """Correlation of score and IoU, see `cledet.evaluation.misalignment`."""
    gain: Metrics | None = None
    """AP minus that of the first method compared, with the ends of its 95 % interval over images."""
    seconds: dict[str, float] | None = None
    """Duration of each stage: data, network, post-processing, evaluation."""
    analysis: dict[str, Any] | None = None
    """Error analysis, see `cledet.metrics.analysis`."""

    def to_dict(self) -> dict[str, Any]:
        """Convert to the content of metrics.json; measurements that were not made are left out."""
        extra = {name: getattr(self, name) for name in ("nms_ms", "misalignment", "gain", "seconds", "analysis")}
        best = {f"best_{name}": value for name, value in self.best.items()}
        metrics = {**self.metrics, **best, "per_class": self.per_class}
        return metrics | {name: value for name, value in extra.items() if value is not None}


@dataclass(frozen=True)
class EvaluatedDetections:
    """Detections of a split with their metrics."""

    evaluation: Evaluation
    results: DetectionRows
    unlabelled: str | None = None
    """Name of the split if it has no annotations, and therefore no metrics."""
    source: Path | None = None
    """File that holds exactly these detections, if there is one."""

    def with_fields(self, **fields: Any) -> EvaluatedDetections:
        """Return a copy with these fields of its evaluation replaced."""
        return replace(self, evaluation=replace(self.evaluation, **fields))
