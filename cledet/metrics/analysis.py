"""Error analysis of a split: kinds of errors, curves, confusion, calibration, sizes, shapes, and hardest images."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

from cledet.data.index import DetectionIndex, Ints
from cledet.metrics.calibration import Calibration, calibration
from cledet.metrics.confidence import best_confidences
from cledet.metrics.confusion import confusion, mistaken
from cledet.metrics.curves import Curves, curves
from cledet.metrics.influence import LostAP, hardest_images
from cledet.metrics.matching import THRESHOLDS, Match, Overlaps, overlaps
from cledet.metrics.results_file import DetectionRows
from cledet.metrics.slices import Slice, by_shape, by_size
from cledet.metrics.suspects import KINDS, Suspect, find_suspects
from cledet.metrics.tide import Errors, find_errors

HARDEST = 12
"""Number of hardest images."""


@dataclass(frozen=True, eq=False)
class Analysis:
    """Error analysis; detections are shown from `confidence`, that of the highest F1, or else the lowest."""

    overlaps: Overlaps
    match: Match
    """Matching at IoU 0.5."""
    errors: Errors
    curves: Curves
    confidence: float
    confusion: Ints
    """Confusion matrix, see `cledet.metrics.confusion`."""
    calibration: Calibration | None
    calibration_shown: Calibration | None
    """Calibration of the detections that are shown."""
    sizes: list[Slice]
    shapes: list[Slice]
    hardest: list[LostAP]
    suspects: list[Suspect] | None
    """Suspected label errors, highest score first; None if they were not asked for."""

    @property
    def index(self) -> DetectionIndex:
        """Return the index of the split."""
        return self.overlaps.index

    def to_dict(self) -> dict[str, Any]:
        """Convert to the content of `analysis` in metrics.json."""
        names, ids = self.index.classes, self.index.image_ids
        document: dict[str, Any] = {
            "errors": self.errors.to_dict(),
            "calibration": self.calibration.to_dict() if self.calibration else None,
            "calibration_shown": self.calibration_shown.to_dict() if self.calibration_shown else None,
            "by_size": [one._asdict() for one in self.sizes],
            "by_shape": [one._asdict() for one in self.shapes],
            "confused": [
                {"class": names[one.true], "taken_for": names[one.predicted], "count": one.times, "share": one.share}
                for one in mistaken(self.confusion)
            ],
            "worst_images": [{"image_id": int(ids[one.image]), "AP": one.ap} for one in self.hardest],
        }
        if self.suspects is not None:
            kinds = Counter(one.kind for one in self.suspects)
            document["suspects"] = {kind: kinds[kind] for kind in KINDS}
        return document


def analyse(index: DetectionIndex, results: DetectionRows, suspects: int = 0) -> Analysis:
    """Analyse the errors of the detections of a split, and find so many suspected label errors at most."""
    o = overlaps(index, results)
    matches = [o.match(threshold) for threshold in THRESHOLDS]
    match = matches[0]
    by_confidence, (best, _) = curves(o, match), best_confidences(o, match)
    confidence = float(by_confidence.confidence[0]) if best["conf"] is None else best["conf"]
    return Analysis(
        overlaps=o,
        match=match,
        errors=find_errors(o, match),
        curves=by_confidence,
        confidence=confidence,
        confusion=confusion(o, confidence),
        calibration=calibration(o, match),
        calibration_shown=calibration(o, match, confidence),
        sizes=by_size(o),
        shapes=by_shape(o),
        hardest=hardest_images(o, matches, HARDEST),
        suspects=find_suspects(o, match, suspects) if suspects else None,
    )
