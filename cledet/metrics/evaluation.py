"""The figures of a split."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from cledet.metrics.results_file import Results

METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
"""COCO's twelve figures, in pycocotools' order."""
Figures = dict[str, float | None]
LARGEST = 1e5**2
"""The end of COCO's area ranges."""


class Limits(NamedTuple):
    """What COCO's figures count; by default what COCO itself does."""

    max_dets: tuple[int, int, int] = (1, 10, 100)
    """Detections an image and class that AR is measured at; all other figures are at the last."""
    areas: tuple[float, float] = (32, 96)
    """The sides in pixels of the squares that are the largest small object and the largest medium one."""

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the twelve figures: those of recall carry the numbers of detections."""
        return *METRICS[:6], *(f"AR{count}" for count in self.max_dets), *METRICS[9:]

    @property
    def ranges(self) -> list[list[float]]:
        """The area ranges in pixels, all, small, medium and large; both ends belong to each."""
        small, medium = (side**2 for side in self.areas)
        return [[0, LARGEST], [0, small], [small, medium], [medium, LARGEST]]


@dataclass(frozen=True)
class Evaluation:
    """Figures of a split: fractions, None where there is nothing to measure."""

    metrics: Figures
    """COCO's twelve, and VOC07 and VOC12: VOC's mAP at IoU 0.5, see `cledet.metrics.voc`."""
    per_class: dict[str, Figures]
    """The same of each class, and `conf`, the confidence of highest F1 at IoU 0.5, with `f1`, `precision`, `recall`."""
    best: Figures
    """The confidence of highest F1 over all classes, as for each; see `cledet.metrics.confidence`."""
    nms_ms: float | None = None
    """Milliseconds of NMS an image, the median."""
    misalignment: dict[str, Any] | None = None
    """How well scores say how well boxes lie, see `cledet.evaluation.misalignment`."""
    gain: dict[str, float] | None = None
    """AP less that of the first method compared, and the low and high end of its 95 % interval over images."""
    seconds: dict[str, float] | None = None
    """What each stage took: data, network, post-processing, evaluation."""
    analysis: dict[str, Any] | None = None
    """What went wrong, see `cledet.metrics.analysis`."""

    def to_dict(self) -> dict[str, Any]:
        """COCO's figures and VOC's, best_conf with its best_f1, best_precision and best_recall, and the figures of each
        class; the others where they were measured.
        """
        extra = {name: getattr(self, name) for name in ("nms_ms", "misalignment", "gain", "seconds", "analysis")}
        best = {f"best_{name}": value for name, value in self.best.items()}
        figures = {**self.metrics, **best, "per_class": self.per_class}
        return figures | {name: value for name, value in extra.items() if value is not None}


@dataclass(frozen=True)
class Validation:
    """Figures, and the detections that they are of."""

    evaluation: Evaluation
    results: Results
    unlabelled: str | None = None
    """The name of the split, if it has no annotations and so no figures."""
    source: Path | None = None
    """The file that they were read from, if they are all that it holds."""

    def with_figures(self, **figures: Any) -> Validation:
        """The same with these fields of its evaluation."""
        return replace(self, evaluation=replace(self.evaluation, **figures))
