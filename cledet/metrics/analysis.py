"""What went wrong on a split, all of it: errors, curves, confusion, calibration, sizes and shapes, and worst images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from cledet.data.index import DetectionIndex
from cledet.metrics.calibration import Calibration, calibration
from cledet.metrics.confusion import Confusion, confusion
from cledet.metrics.curves import Curves, curves
from cledet.metrics.hardest_images import LostAP, worst_images
from cledet.metrics.matching import THRESHOLDS, Match, Overlaps, overlaps
from cledet.metrics.results_file import Results
from cledet.metrics.slices import Slice, by_shape, by_size
from cledet.metrics.tide import Errors, find_errors

WORST = 12
"""How many of the worst images are kept."""


@dataclass(frozen=True, eq=False)
class Analysis:
    """What went wrong; `confidence` is that of the highest F1, from which detections are shown."""

    overlaps: Overlaps
    match: Match
    """At IoU 0.5."""
    errors: Errors
    curves: Curves
    confidence: float
    confusion: Confusion
    calibration: Calibration | None
    calibration_shown: Calibration | None
    """Of the detections from `confidence` on."""
    sizes: list[Slice]
    shapes: list[Slice]
    worst: list[LostAP]

    @property
    def index(self) -> DetectionIndex:
        """The split."""
        return self.overlaps.index

    def to_dict(self) -> dict[str, Any]:
        """The key figures as plain data."""
        names, ids = self.index.classes, self.index.image_ids
        return {
            "errors": self.errors.to_dict(),
            "calibration": self.calibration.to_dict() if self.calibration else None,
            "calibration_shown": self.calibration_shown.to_dict() if self.calibration_shown else None,
            "by_size": [one.to_dict() for one in self.sizes],
            "by_shape": [one.to_dict() for one in self.shapes],
            "confused": [
                {"class": names[one.true], "taken_for": names[one.predicted], "count": one.times, "share": one.share}
                for one in self.confusion.mistaken()
            ],
            "worst_images": [{"image_id": int(ids[one.image]), "AP": one.ap} for one in self.worst],
        }


def analyse(index: DetectionIndex, results: Results) -> Analysis:
    """Look at the detections of a split from all sides."""
    o = overlaps(index, results)
    matches = [o.match(threshold) for threshold in THRESHOLDS]
    match = matches[0]
    found = curves(o, match)
    confidence = float(found.confidence[found.best()])
    return Analysis(
        overlaps=o,
        match=match,
        errors=find_errors(o, match),
        curves=found,
        confidence=confidence,
        confusion=confusion(o, confidence),
        calibration=calibration(o, match),
        calibration_shown=calibration(o, match, confidence),
        sizes=by_size(o),
        shapes=by_shape(o),
        worst=worst_images(o, matches, WORST),
    )
