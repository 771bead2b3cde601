"""The report of an evaluation: plots/*.png and report.html in its run folder, and the key figures for metrics.json."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cledet.data.index import DetectionIndex
from cledet.evaluation.report.advice import advice
from cledet.evaluation.report.hardest_images import worst_pictures
from cledet.evaluation.report.html import page
from cledet.evaluation.report.plots import plots
from cledet.io.atomic import write_whole
from cledet.metrics.analysis import Analysis, analyse
from cledet.metrics.evaluation import Evaluation, Validation


def write_report(validation: Validation, index: DetectionIndex, run: Path) -> Validation:
    """Look at what went wrong, write it into the run folder, and return the validation with its key figures."""
    analysis = analyse(index, validation.results)
    evaluation = validation.evaluation
    sentences = advice(figures_of(evaluation, analysis))
    drawn = dict(plots(analysis))
    (run / "plots").mkdir(exist_ok=True)
    for name, content in drawn.items():
        write_whole(run / "plots" / f"{name}.png", content, sync=False)
    text = page(index.name, evaluation, analysis, sentences, drawn, worst_pictures(analysis))
    write_whole(run / "report.html", text)
    return validation.with_figures(analysis={"advice": sentences, **analysis.to_dict()})


def figures_of(evaluation: Evaluation, analysis: Analysis) -> dict[str, Any]:
    """The plain figures that the rules of `cledet.evaluation.report.advice` read."""
    objects = dict(zip(analysis.index.classes, analysis.curves.objects.tolist()))
    own = {name: getattr(evaluation, name) for name in ("per_class", "best", "misalignment")}
    return {**evaluation.metrics, **analysis.to_dict(), **own, "objects": objects}
