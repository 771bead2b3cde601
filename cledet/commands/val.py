"""`cledet val`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from cledet.commands.find_detector import find_detector
from cledet.commands.options import Json
from cledet.config.evaluate import ValSettings
from cledet.console import say, show, show_json, show_table
from cledet.errors import UserError

if TYPE_CHECKING:
    from cledet.data.index import DetectionIndex
    from cledet.detector import Detector
    from cledet.metrics.evaluation import EvaluatedDetections
    from cledet.training.ablation import Row


def val(settings: ValSettings, json: Json = False) -> None:
    """Evaluate a model, a grid of models, or a file of predictions: the COCO metrics, error types and misalignment.

    Examples:
        cledet val
        cledet val --nms all --bootstrap 1000
        cledet val --predictions results.json --data coco.yaml
    """
    from cledet.evaluation.report.val_folder import write_val
    from cledet.evaluation.score_file import is_plain, score_file

    if is_plain(settings):  # needs no torch
        validations, index = score_file(settings)
        _show_val(*write_val(validations, settings, index), settings, json)
        return
    from cledet.detector import Detector
    from cledet.training.ablation import names_grid, summary

    if names_grid(settings):
        folder, rows = grid_to_folder(settings)
        show_json([row.to_dict() for row in rows]) if json else show_table("", *summary(rows))
        say(f"grid.md and grid.json: {folder}")
        return
    detector = Detector() if settings.predictions else find_detector(settings)
    _show_val(*val_to_folder(detector, settings), settings, json)


def val_to_folder(
    detector: Detector, settings: ValSettings, index: DetectionIndex | None = None
) -> tuple[Path, dict[str, EvaluatedDetections]]:
    """Evaluate a detector and write detections and metrics into a new run folder.

    `index` is the split if it is open already.
    """
    from cledet.evaluation.report.val_folder import write_val

    index = index or detector.split(settings)
    validations = detector.validate(settings, index)
    data = settings.data or (detector.model.data if detector.model is not None else None)
    return write_val(validations, settings.model_copy(update={"data": data}), index)


def grid_to_folder(settings: ValSettings) -> tuple[Path, list[Row]]:
    """Evaluate the runs of a grid and write the table (Table 2) as grid.md and .json into a new run folder."""
    from cledet.detector import Detector
    from cledet.io.atomic import write_json, write_whole
    from cledet.io.run_folders import whole_run
    from cledet.metrics.metric_tables import to_markdown
    from cledet.training.ablation import find_grid, rows_of, summary

    if settings.predictions is not None or len(settings.nms_methods(())) > 1:
        raise UserError("a table of several ablations takes no --predictions and one --nms", "leave one of them out")
    of_run = settings.model_copy(update={"ablation": None})

    def evaluate(run: Path) -> dict[str, float | None]:
        say(f"weights: {run}")
        return Detector(run).val(of_run).metrics

    grid = find_grid(settings.project, settings.weights, settings.ablation)
    rows = rows_of({parts: {seed: evaluate(run) for seed, run in runs.items()} for parts, runs in grid.items()})
    with whole_run(settings.project, "val", settings.name or "grid") as folder:
        write_whole(folder / "grid.md", to_markdown(*summary(rows)))
        write_json(folder / "grid.json", [row.to_dict() for row in rows])
    return folder, rows


def _show_val(run: Path, validations: Mapping[str, EvaluatedDetections], settings: ValSettings, json: bool) -> None:
    from cledet.evaluation.report.val_folder import submissions
    from cledet.metrics.metric_tables import as_document, val_tables

    files = [str(run / name) for name in submissions(validations, settings).values()]
    if files:
        split = next(iter(validations.values())).unlabelled
        say(f"{split} has no annotations: no metrics are computed, but the files for COCO's server are written")
        show_json({"submissions": files}) if json else show(*files)
        return
    evaluations = {name: validation.evaluation for name, validation in validations.items()}
    if json:
        show_json(as_document(evaluations))
        return
    for columns, rows in val_tables(evaluations):
        show_table("", columns, rows)
    report = run / "report.html"
    say(f"run folder: {run}" + (f"; error analysis: {report}" if report.exists() else ""))
    for one in evaluations.values():
        if (kinds := (one.analysis or {}).get("suspects")) is not None:
            say(_suspects_line(kinds, run))


def _suspects_line(kinds: Mapping[str, int], run: Path) -> str:
    """Return the number of suspected label errors of each kind, and their files."""
    if not any(kinds.values()):
        return "suspected label errors: none"
    parts = ", ".join(f"{count:,} {kind}" for kind, count in kinds.items() if count)
    return f"suspected label errors: {parts}; {run / 'suspects.json'}, for tools {run / 'review'}"
