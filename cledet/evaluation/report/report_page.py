"""What went wrong as one page that needs nothing else: figures, what to do next, plots, and the worst images."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np

from cledet.evaluation.report.hardest_images import Shown
from cledet.evaluation.report.plots import FEW, MOST
from cledet.metrics.analysis import Analysis
from cledet.metrics.evaluation import Evaluation
from cledet.metrics.tables import misalignment_table
from cledet.metrics.tide import KINDS
from cledet.visualization.html import frame, image, named, table

CODE = r"<code>\1</code>"
SECTIONS = (
    ("What AP is lost to", ("errors", "errors_by_class")),
    ("Sizes and shapes", ("size", "shape")),
    ("Precision, recall, and where to cut", ("precision_recall", "f1")),
)
NOTES = {
    "errors": "Each bar is the AP50 gained were all errors of that kind put right, and only these; they do not add up. "
    "Localization: the right class, the box at IoU 0.1 to 0.5. Classification: the box at IoU 0.5 or more, another "
    "class. Both: another class, and IoU 0.1 to 0.5. Duplicate: the object has a better detection. Background: nothing "
    "is there. Missed: an object with no detection near.",
    "errors_by_class": "The same for each class by itself.",
    "size": "Objects of other sizes are ignored, as in COCO's APs, APm and APl. COCO's bounds are 32 and 96.",
    "shape": "Objects of other shapes are ignored in the same way.",
    "precision_recall": "The area under a class's curve is its AP50.",
    "f1": "Detections below the confidence are left out. All together: the classes' detections and objects in one pot.",
    "reliability": "Of detections with confidence 0.7, seven of ten should be right. Bars over the dashed line: scores "
    "promise too little; under it: too much.",
    "confusion": "Boxes are matched at IoU 0.5 whatever their class; the diagonal is right. Bottom row: missed; last "
    "column: false alarms.",
}

UNCALIBRATED = "There is no calibration: there are no detections, or scores lie outside 0 to 1."


def page(name: str, evaluation: Evaluation, analysis: Analysis, advice: Sequence[str], plots: Mapping[str, bytes],
         pictures: Sequence[Shown]) -> str:  # fmt: skip
    """The report as HTML, plots and pictures inside."""
    sections = [_section(title, "".join(_plot(plots, one) for one in names), "plots") for title, names in SECTIONS]
    sections += [
        _section("Which class is taken for which", _plot(plots, "confusion") + _mistaken(analysis), _width(analysis)),
        _section("What scores are worth", _plot(plots, "reliability") + _scores(evaluation, analysis), "plots"),
        _section("The images that cost most", _worst(pictures, analysis.confidence), ""),
        _section("Classes", _classes(evaluation, analysis), "tables"),
    ]
    return frame("val", name, _header(evaluation, analysis, advice), "\n".join(sections))


def _header(evaluation: Evaluation, analysis: Analysis, advice: Sequence[str]) -> str:
    """The split in a line, the headline figures, and what to do next."""
    index = analysis.index
    counts = f"{len(index):,} images, {int(analysis.overlaps.objects.sum()):,} objects, {len(index.classes)} classes"
    metrics = evaluation.metrics
    tiles = {key: metrics[key] for key in ("AP", "AP50", "AP75", "APs", "APm", "APl")}
    tiles |= {"best F1": evaluation.best["f1"]}
    shown = "".join(
        f"<div><dt>{key}</dt><dd>{'-' if value is None else f'{value:.3f}'}</dd></div>" for key, value in tiles.items()
    )
    sentences = "".join(f"<li>{re.sub('`([^`]+)`', CODE, escape(sentence))}</li>" for sentence in advice)
    found = f"{len(analysis.overlaps.score):,} detections"
    return (
        f'<p class="more">{counts}; {found}</p>\n<dl class="tiles">{shown}</dl>\n'
        f'<h2>What to do next</h2>\n<ol class="advice">{sentences}</ol>'
    )


def _width(analysis: Analysis) -> str:
    """A confusion matrix of many classes takes the page's whole width, and on a narrow one can be moved sideways."""
    classes = len(analysis.index.classes)
    return "plots whole broad" if classes > MOST else "plots broad" if classes > FEW else "plots"


def _section(title: str, content: str, kind: str) -> str:
    return f'<section class="{kind}">\n<h2>{escape(title)}</h2>\n<div>\n{content}</div>\n</section>'


def _plot(plots: Mapping[str, bytes], name: str) -> str:
    if name not in plots:
        return ""
    picture = f'<div class="scroll">{image(plots[name], "png", name.replace("_", " "))}</div>'
    return f'<figure class="plot" id="{name}">{picture}<figcaption>{escape(NOTES[name])}</figcaption></figure>\n'


def _mistaken(analysis: Analysis) -> str:
    """The class pairs that are mistaken most often, as a table."""
    names = analysis.index.classes
    rows = [
        [names[m.true], names[m.predicted], m.times, f"{100 * m.share:.1f} %"] for m in analysis.confusion.mistaken()
    ]
    if not rows:
        return '<p class="more">From that confidence on no class is taken for another.</p>'
    return f"<div>{table('', ['object', 'taken for', 'times', 'of its objects'], rows)}</div>"


def _scores(evaluation: Evaluation, analysis: Analysis) -> str:
    """Calibration and misalignment as tables."""
    of = {"all": analysis.calibration, f"from {analysis.confidence:.3g} on": analysis.calibration_shown}
    rows = [[name, *map(_fraction, (c.ece, c.ece_mass, c.bias))] for name, c in of.items() if c is not None]
    columns = ["detections", "ECE", "ECE, bins of equal count", "confidence less precision"]
    text = table("Calibration", columns, rows) if rows else f'<p class="more">{UNCALIBRATED}</p>'
    if evaluation.misalignment is not None:
        columns, values = misalignment_table({"": evaluation})
        text += table("Misalignment of score and box", columns[1:], [[*map(_fraction, values[0][1:])]])
    return f"<div>{text}</div>"


def _worst(pictures: Sequence[Shown], confidence: float) -> str:
    """The worst images drawn; those without a file by name."""
    if not pictures:
        return '<p class="more">No image costs any AP.</p>'
    text = (
        "How much AP (IoU 0.50 to 0.95) would rise were the image's detections replaced by its objects. Drawn from "
        f"confidence {confidence:.3g} on: "
        '<span class="key right">right: blue, whole line</span>, '
        '<span class="key wrong">wrong: orange, dashes, with the kind of error</span>, '
        '<span class="key missed">missed: yellow, dots</span>, found objects as a thin white line; crowds are hatched.'
    )
    figures = "".join(
        f"<figure>{image(one.content, 'jpeg')}<figcaption>{named(one.path)}<br>{escape(one.text)}</figcaption></figure>"
        for one in pictures
        if one.content
    )
    words = "".join(f"<li>{named(one.path)} {escape(one.text)}</li>" for one in pictures if not one.content)
    missing = f'<p class="more">Without pictures, as their files are not there or cannot be read:</p><ul>{words}</ul>'
    examples = f'<div class="examples large">{figures}</div>' if figures else ""
    return f'<p class="more">{text}</p>{examples}{missing if words else ""}'


def _classes(evaluation: Evaluation, analysis: Analysis) -> str:
    """AP of every class, its own best confidence, and what it loses most to."""
    cost, found = analysis.errors.class_cost(), analysis.curves
    rows: list[list[Any]] = []
    for k, (name, figures) in enumerate(evaluation.per_class.items()):
        objects = int(found.objects[k])
        if not objects:
            rows.append([name, 0, *["-"] * 6])
            continue
        step, worst = found.best(k), int(np.argmax(cost[:, k]))
        loses = f"{KINDS[worst]} {cost[worst, k]:.3f}" if cost[worst, k] else "nothing"
        f1 = float(found.f1[k, step])
        rows.append([name, objects, _fraction(figures["AP"]), _fraction(figures["AP50"]), _fraction(f1),
                     f"{found.confidence[step]:.3g}", f"{100 * found.recall[k, step]:.1f} %", loses])  # fmt: skip
    columns = ["class", "objects", "AP", "AP50", "best F1", "from confidence", "found from there", "AP50 lost most to"]
    return table(f"{len(rows)} classes", columns, rows)


def _fraction(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
