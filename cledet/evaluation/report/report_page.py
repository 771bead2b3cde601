"""The report as one self-contained HTML page: metrics, advice, plots, tables, and the hardest images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cledet.evaluation.report.hardest_images import HardestImage
from cledet.evaluation.report.plots import FEW, MOST
from cledet.metrics.analysis import Analysis
from cledet.metrics.evaluation import Evaluation
from cledet.metrics.metric_tables import SIZES, Table, misalignment_table
from cledet.metrics.tide import KINDS
from cledet.visualization.html import render

NOTES = {
    "errors": "Each bar is the AP50 gained if all errors of that kind alone were corrected; bars do not add up. "
    "Localization: the right class at IoU 0.1 to 0.5. Classification: another class at IoU 0.5 or more. Both: another "
    "class at IoU 0.1 to 0.5. Duplicate: the object has a better detection. Background: no object is near. Missed: an "
    "object without a detection near.",
    "errors_by_class": "The same for each class.",
    "size": "Objects of other sizes are ignored, as in COCO's APs, APm and APl. COCO's bounds are 32 and 96.",
    "shape": "Objects of other aspect ratios are ignored in the same way.",
    "precision_recall": "The area under the curve of a class is its AP50.",
    "f1": "Detections below the confidence are left out. All together: over the detections and objects of all classes.",
    "reliability": "Of detections with confidence 0.7, seven of ten should be correct. Bars above the dashed line: "
    "underconfident scores; below it: overconfident.",
    "confusion": "Boxes are matched at IoU 0.5 regardless of class; the diagonal is correct. Bottom row: missed; "
    "last column: false positives on background.",
}
CLASS_COLUMNS = (
    "class", "objects", "AP", "AP50", "best F1", "confidence", "recall", "AP50 lost most to"
)  # fmt: skip


def page(name: str, evaluation: Evaluation, analysis: Analysis, advice: Sequence[str], plots: Mapping[str, bytes],
         pictures: Sequence[HardestImage]) -> str:  # fmt: skip
    """Render the report with plots and pictures embedded."""
    return render(
        "report.html",
        "val",
        name,
        counts=_counts(analysis),
        tiles=_headline_metrics(evaluation),
        advice=advice,
        plots=plots,
        notes=NOTES,
        confusion_kind=_confusion_layout(len(analysis.index.classes)),
        confused=_confused_classes(analysis),
        calibration=_calibration_rows(analysis),
        misalignment=_misalignment(evaluation),
        hardest=pictures,
        confidence=f"{analysis.confidence:.3g}",
        class_columns=CLASS_COLUMNS,
        classes=_class_rows(evaluation, analysis),
    )


def _counts(analysis: Analysis) -> str:
    index = analysis.index
    counts = f"{len(index):,} images, {int(analysis.overlaps.objects.sum()):,} objects, {len(index.classes)} classes"
    return f"{counts}; {len(analysis.overlaps.score):,} detections"


def _headline_metrics(evaluation: Evaluation) -> dict[str, str]:
    metrics = {key: evaluation.metrics[key] for key in SIZES} | {"best F1": evaluation.best["f1"]}
    return {name: _fraction(value) for name, value in metrics.items()}


def _confusion_layout(classes: int) -> str:
    """Return the CSS classes of the section: a large confusion matrix takes the width of the page and scrolls."""
    return "plots whole broad" if classes > MOST else "plots broad" if classes > FEW else "plots"


def _confused_classes(analysis: Analysis) -> list[list[Any]]:
    """Return the rows of the class pairs that are confused most often."""
    names = analysis.index.classes
    pairs = analysis.confusion.mistaken()
    return [[names[m.true], names[m.predicted], m.times, f"{100 * m.share:.1f} %"] for m in pairs]


def _calibration_rows(analysis: Analysis) -> list[list[str]]:
    known = {"all": analysis.calibration, f"from {analysis.confidence:.3g} on": analysis.calibration_shown}
    return [[name, *map(_fraction, (c.ece, c.ece_mass, c.bias))] for name, c in known.items() if c is not None]


def _misalignment(evaluation: Evaluation) -> Table | None:
    if evaluation.misalignment is None:
        return None
    columns, (row,) = misalignment_table({"": evaluation})
    return columns[1:], [[*map(_fraction, row[1:])]]


def _class_rows(evaluation: Evaluation, analysis: Analysis) -> list[list[Any]]:
    """Return a row per class: AP, its own best confidence, and the most costly kind of error."""
    cost, curves = analysis.errors.class_cost(), analysis.curves
    rows: list[list[Any]] = []
    for k, (name, metrics) in enumerate(evaluation.per_class.items()):
        objects = int(curves.objects[k])
        if not objects:
            rows.append([name, 0, *["-"] * 6])
            continue
        step, kind = curves.best(k), int(np.argmax(cost[:, k]))
        loses = f"{KINDS[kind]} {cost[kind, k]:.3f}" if cost[kind, k] else "nothing"
        f1 = float(curves.f1[k, step])
        rows.append([name, objects, _fraction(metrics["AP"]), _fraction(metrics["AP50"]), _fraction(f1),
                     f"{curves.confidence[step]:.3g}", f"{100 * curves.recall[k, step]:.1f} %", loses])  # fmt: skip
    return rows


def _fraction(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
