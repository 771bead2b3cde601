"""Tables of metrics, and their formats Markdown and CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from cledet.metrics.evaluation import Evaluation

Table = tuple[list[str], list[list[Any]]]
"""Column names, and rows."""

SIZES = ("AP", "AP50", "AP75", "APs", "APm", "APl")
"""The metrics of the paper's Table 3."""
VOC = ("VOC07", "VOC12")
OPERATING = ("conf", "f1", "precision", "recall")
"""The confidence of highest F1 and its metrics."""


def as_document(methods: Mapping[str, Evaluation]) -> dict[str, Any]:
    """Convert to plain data: the metrics of one method, or {"methods": {name: metrics}} of several."""
    if len(methods) == 1:
        return next(iter(methods.values())).to_dict()
    return {"methods": {name: one.to_dict() for name, one in methods.items()}}


def val_tables(methods: Mapping[str, Evaluation]) -> list[Table]:
    """Build the tables that `cledet val` prints: all metrics of one method, or a comparison of several."""
    if len(methods) > 1:
        return [nms_table(methods), misalignment_table(methods)]
    (one,) = methods.values()
    metrics = {name: value for name, value in one.metrics.items() if name not in VOC}
    coco = list(metrics), [list(metrics.values())]
    return [coco, at_half(one), class_table(one), misalignment_table(methods)]


def at_half(one: Evaluation) -> Table:
    """Build the table of VOC's mAP and of the best confidence, all at IoU 0.5."""
    columns = [*VOC, "best confidence", "its F1", "precision", "recall"]
    return columns, [[*(one.metrics.get(name) for name in VOC), *(one.best[name] for name in OPERATING)]]


def class_table(one: Evaluation) -> Table:
    """Build the table with a row per class."""
    columns = ["class", "AP", "AP50", "AP75", "best confidence", "its F1", "precision", "recall"]
    names = ("AP", "AP50", "AP75", *OPERATING)
    return columns, [[name, *(metrics.get(key) for key in names)] for name, metrics in one.per_class.items()]


def nms_table(methods: Mapping[str, Evaluation]) -> Table:
    """Build the table with a row per method: metrics, time, and the gain over the first if it was measured."""
    columns = ["NMS", *SIZES, "ms per image"]
    rows: list[list[Any]] = [
        [name, *(one.metrics[metric] for metric in SIZES), one.nms_ms] for name, one in methods.items()
    ]
    if any(one.gain for one in methods.values()):
        columns += [f"AP - {next(iter(methods))}", "95 % from", "to"]
        for row, one in zip(rows, methods.values()):
            row += (one.gain or dict.fromkeys(("AP", "low", "high"))).values()
    return columns, rows


def misalignment_table(methods: Mapping[str, Evaluation]) -> Table:
    """Build the table of misalignment with a row per method, see `cledet.evaluation.misalignment`."""
    measured = {name: one.misalignment for name, one in methods.items() if one.misalignment is not None}
    columns = ["NMS", "score-IoU rank correlation", "IoU kept"]
    rows: list[list[Any]] = [[name, one["spearman"], one["kept_iou"]] for name, one in measured.items()]
    if any("oracle" in one for one in measured.values()):
        columns += ["best IoU in cluster", "AP if the best were kept"]
        for row, one in zip(rows, measured.values()):
            row += [one["best_iou"], one["oracle"]["AP"]]
    return columns, rows


def to_markdown(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Format a table as Markdown; columns of numbers are right-aligned."""
    rows = list(rows)
    right = [all(not isinstance(row[i], str) for row in rows) for i in range(len(columns))]
    lines = [columns, ["--:" if number else "---" for number in right], *([_cell(v) for v in row] for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def to_csv(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Format a table as comma-separated values, unrounded."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([columns, *rows])
    return text.getvalue()


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4f}" if isinstance(value, float) else str(value).replace("|", r"\|").replace("\n", r"\n")
