"""The figures of a split."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
"""COCO's twelve figures, in pycocotools' order."""


@dataclass(frozen=True)
class Evaluation:
    """Figures of a split: fractions, None where there is nothing to measure."""

    metrics: dict[str, float | None]
    per_class: dict[str, dict[str, float | None]]
    nms_ms: float | None = None
    """Milliseconds of NMS an image, the median."""
    misalignment: dict[str, Any] | None = None
    """How well scores say how well boxes lie, see `cledet.engine.misalignment`."""
    gain: dict[str, float] | None = None
    """AP less that of the first method compared, and the low and high end of its 95 % interval over images."""
    analysis: dict[str, Any] | None = None
    """What went wrong, see `cledet.evaluation.analysis`."""

    def to_dict(self) -> dict[str, Any]:
        """COCO's figures and those of each class; the others where they were measured."""
        extra = {
            "nms_ms": self.nms_ms,
            "misalignment": self.misalignment,
            "gain": self.gain,
            "analysis": self.analysis,
        }
        figures = {**self.metrics, "per_class": self.per_class}
        return figures | {name: value for name, value in extra.items() if value is not None}
