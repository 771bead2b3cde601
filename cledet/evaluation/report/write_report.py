"""The error report of an evaluation: plots/*.png, report.html, and the analysis for metrics.json."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cledet.data.index import DetectionIndex
from cledet.evaluation.report.advice import advice
from cledet.evaluation.report.hardest_images import draw_hardest_images
from cledet.evaluation.report.plots import plots
from cledet.evaluation.report.report_page import page
from cledet.io.atomic import write_whole
from cledet.metrics.analysis import Analysis, analyse
from cledet.metrics.evaluation import EvaluatedDetections, Evaluation


def write_report(evaluated: EvaluatedDetections, index: DetectionIndex, run: Path) -> EvaluatedDetections:
    """Analyse the errors, write the report into the run folder, and return the detections with their analysis."""
    analysis = analyse(index, evaluated.results)
    evaluation = evaluated.evaluation
    sentences = advice(metrics_for_advice(evaluation, analysis))
    drawn = dict(plots(analysis))
    (run / "plots").mkdir(exist_ok=True)
    for name, content in drawn.items():
        write_whole(run / "plots" / f"{name}.png", content, sync=False)
    text = page(index.name, evaluation, analysis, sentences, drawn, draw_hardest_images(analysis))
    write_whole(run / "report.html", text)
    return evaluated.with_fields(analysis={"advice": sentences, **analysis.to_dict()})


def metrics_for_advice(evaluation: Evaluation, analysis: Analysis) -> dict[str, Any]:
    """Collect the plain data that the rules of `cledet.evaluation.report.advice` read."""
    objects = dict(zip(analysis.index.classes, analysis.curves.objects.tolist()))
    own = {name: getattr(evaluation, name) for name in ("per_class", "best", "misalignment")}
    return {**evaluation.metrics, **analysis.to_dict(), **own, "objects": objects}
