"""The error report of an evaluation: plots/*.png, the analysis for metrics.json, and report.html.

The page is self-contained: metrics, advice, plots, tables, the hardest images, and suspected label errors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cledet.data.index import DetectionIndex
from cledet.evaluation.report.advice import advice
from cledet.evaluation.report.hardest_images import Picture, draw_hardest_images
from cledet.evaluation.report.plots import FEW, MOST, plots
from cledet.evaluation.report.review_files import write_suspects
from cledet.evaluation.report.suspect_pictures import draw_suspects
from cledet.io.atomic import write_whole
from cledet.metrics.analysis import Analysis, analyse
from cledet.metrics.confusion import mistaken
from cledet.metrics.evaluation import EvaluatedDetections, Evaluation
from cledet.metrics.metric_tables import SIZES, misalignment_table
from cledet.metrics.tide import KINDS
from cledet.visualization.html import render

NOTES = {
    "errors": "Each bar is the AP50 gained if all errors of that kind alone were corrected; bars do not add up. "
    "Localization: the right class at IoU 0.1 to 0.5. Classification: another class at IoU 0.5 or more. Both: another "
    "class at IoU 0.1 to 0.5. Duplicate: the object has a better detection. Background: no object is near. Missed: an "
    "object without a detection near.",
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


def write_report(
    evaluated: EvaluatedDetections, index: DetectionIndex, run: Path, suspects: int = 0
) -> EvaluatedDetections:
    """Analyse the errors, write the report into the run folder, and return the detections with their analysis.

    At most so many suspected label errors are written to suspects.json and review/; none for 0.
    """
    analysis = analyse(index, evaluated.results, suspects)
    evaluation = evaluated.evaluation
    sentences = advice(metrics_for_advice(evaluation, analysis))
    drawn = dict(plots(analysis))
    for name, content in drawn.items():
        write_whole(run / "plots" / f"{name}.png", content, sync=False)
    pictures, suspicious = draw_hardest_images(analysis), draw_suspects(analysis)
    write_whole(run / "report.html", page(index.name, evaluation, analysis, sentences, drawn, pictures, suspicious))
    if suspects:
        write_suspects(analysis, run)
    return evaluated.with_fields(analysis={"advice": sentences, **analysis.to_dict()})


def metrics_for_advice(evaluation: Evaluation, analysis: Analysis) -> dict[str, Any]:
    """Collect the plain data that the rules of `cledet.evaluation.report.advice` read."""
    objects = dict(zip(analysis.index.classes, analysis.curves.objects.tolist()))
    own = {name: getattr(evaluation, name) for name in ("per_class", "best", "misalignment")}
    return {**evaluation.metrics, **analysis.to_dict(), **own, "objects": objects}


def page(name: str, evaluation: Evaluation, analysis: Analysis, advice: Sequence[str], plots: Mapping[str, bytes],
         pictures: Sequence[Picture], suspicious: Sequence[Picture] = ()) -> str:  # fmt: skip
    """Render the report with plots and pictures embedded."""
    index, classes = analysis.index, len(analysis.index.classes)
    of_classes = f"{classes} class{'es' if classes > 1 else ''}"
    counts = f"{len(index):,} images, {int(analysis.overlaps.objects.sum()):,} objects, {of_classes}"
    tiles = {key: evaluation.metrics[key] for key in SIZES} | {"best F1": evaluation.best["f1"]}
    parts = {"all": analysis.calibration, f"from {analysis.confidence:.3g} on": analysis.calibration_shown}
    calibration = [[name, *map(_fraction, (c.ece, c.ece_mass, c.bias))] for name, c in parts.items() if c is not None]
    misalignment = None
    if evaluation.misalignment is not None:
        columns, (row,) = misalignment_table({"": evaluation})
        misalignment = columns[1:], [[*map(_fraction, row[1:])]]
    return render(
        "report.html",
        "val",
        name,
        counts=f"{counts}; {len(analysis.overlaps.score):,} detections",
        tiles={name: _fraction(value) for name, value in tiles.items()},
        advice=advice,
        plots=plots,
        notes=NOTES,
        # a large confusion matrix takes the width of the page and scrolls
        confusion_kind="plots whole broad" if classes > MOST else "plots broad" if classes > FEW else "plots",
        confused=[
            [index.classes[m.true], index.classes[m.predicted], m.times, f"{100 * m.share:.1f} %"]
            for m in mistaken(analysis.confusion)
        ],
        calibration=calibration,
        misalignment=misalignment,
        hardest=pictures,
        suspects=None if analysis.suspects is None else len(analysis.suspects),
        suspicious=suspicious,
        confidence=f"{analysis.confidence:.3g}",
        of_classes=of_classes,
        class_columns=CLASS_COLUMNS,
        classes=_class_rows(evaluation, analysis),
    )


def _class_rows(evaluation: Evaluation, analysis: Analysis) -> list[list[Any]]:
    """Return a row per class: AP, the confidence of its highest F1, and the most costly kind of error."""
    costs, rows = np.nan_to_num(analysis.errors.class_cost()), []
    for objects, cost, (name, metrics) in zip(analysis.curves.objects.tolist(), costs.T, evaluation.per_class.items()):
        kind = int(cost.argmax())
        loses = f"{KINDS[kind]} {cost[kind]:.3f}" if cost[kind] else "nothing" if objects else "-"
        fractions = (_fraction(metrics[key]) for key in ("AP", "AP50", "f1", "conf", "recall"))
        rows.append([name, objects, *fractions, loses])
    return rows


def _fraction(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
