"""The commands that make, judge and use a model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cledet.commands.options import Json, Recipe, command
from cledet.config.base import ExplainSettings, ExportSettings, PredictSettings
from cledet.config.evaluate import ValSettings
from cledet.config.loading import resolve
from cledet.config.train import GridSettings
from cledet.console import say, show, show_json, show_table

if TYPE_CHECKING:
    from cledet.metrics.evaluation import Validation


@command(GridSettings)
def train(
    flags: dict[str, Any],
    recipe: Recipe = None,
    resume: Annotated[Path | None, typer.Option("--resume", help="go on with this run's or grid's folder")] = None,
    json: Json = False,
) -> None:
    """Train a detector, or a grid of them; without --data, on the embedded set `shapes` by its recipe."""
    given = {key: value for key, value in flags.items() if value is not None}
    if recipe is None and resume is None and "data" not in given:
        recipe = "shapes"
    settings = resolve(GridSettings, given, recipe=recipe) if resume is None else None  # before torch is imported
    from cledet.detector import Detector

    detector = Detector()
    run = detector.train(settings) if settings is not None else detector.train(resume=resume, **given)
    if detector.model is None:
        say(f"done; the run is on the machine of rank 0: {run}")
        return
    if not (run / "weights").is_dir():
        show_json({"grid": str(run)}) if json else show(run)
        say(f"its table: cledet val --weights {run}")
        return
    if json:
        show_json({"run": str(run), **detector.model.metrics})
        return
    from cledet.metrics.evaluation import METRICS

    metrics = {key: value for key, value in detector.model.metrics.items() if key in METRICS}
    if metrics:
        show_table("", list(metrics), [list(metrics.values())])
    show(run / "weights" / "best.pt")
    say(f"next: cledet val --weights {run}; cledet predict IMAGES --weights {run}; cledet export --weights {run}")


@command(ValSettings)
def val(flags: dict[str, Any], recipe: Recipe = None, json: Json = False) -> None:
    """Evaluate a model, a grid of models, or a file of predictions: pycocotools' figures and more."""
    settings = resolve(ValSettings, flags, recipe=recipe)
    from cledet.evaluation.report.val_folder import write_val
    from cledet.evaluation.score_file import is_plain, score_file

    if is_plain(settings):  # which takes no torch
        found, index = score_file(settings)
        _show_val(*write_val(found, settings, index), settings, json)
        return
    from cledet.commands.run_folders import grid_to_folder, newest_detector, val_to_folder
    from cledet.detector import Detector
    from cledet.training.ablation import names_grid, summary

    if names_grid(settings):
        folder, grid = grid_to_folder(settings)
        show_json([row.to_dict() for row in grid]) if json else show_table("", *summary(grid))
        say(f"grid.md, grid.csv and grid.json: {folder}")
        return
    detector = Detector() if settings.predictions else newest_detector(settings)
    _show_val(*val_to_folder(detector, settings), settings, json)


def _show_val(run: Path, found: Mapping[str, Validation], settings: ValSettings, json: bool) -> None:
    from cledet.evaluation.report.val_folder import submissions
    from cledet.metrics.tables import as_document, val_tables

    files = [str(run / name) for name in submissions(found, settings).values()]
    if files:
        say(f"{next(iter(found.values())).unlabelled} has no annotations: no figures, but what COCO's server takes")
        show_json({"submissions": files}) if json else show(*files)
        return
    figures = {name: one.evaluation for name, one in found.items()}
    if json:
        show_json(as_document(figures))
        return
    for columns, rows in val_tables(figures):
        show_table("", columns, rows)
    page = run / "report.html"
    say(f"run folder: {run}" + (f"; what went wrong: {page}" if page.exists() else ""))


@command(PredictSettings)
def predict(
    flags: dict[str, Any],
    source: Annotated[str, typer.Argument(help="an image, a folder, or a glob in quotes")],
    recipe: Recipe = None,
    json: Json = False,
) -> None:
    """Detect in images: annotated pictures and predictions.json."""
    settings = resolve(PredictSettings, flags, recipe=recipe)
    from cledet.commands.run_folders import newest_detector, predict_to_folder

    run, documents = predict_to_folder(newest_detector(settings), source, settings)
    if json:
        show_json(documents)
        return
    for document in documents:
        names = [found["name"] for found in document["detections"]]
        counts = ", ".join(f"{names.count(name)} {name}" for name in dict.fromkeys(names))
        show(f"{document['file']}: {counts or 'nothing'}")
    say(f"pictures and predictions.json: {run}")


@command(ExplainSettings)
def explain(
    flags: dict[str, Any],
    image: Annotated[str, typer.Argument(help="an image")],
    json: Json = False,
) -> None:
    """Show why a model sees an image as it does: anchors, coefficients, clusters, and where each branch is best."""
    settings = resolve(ExplainSettings, flags)
    from cledet.commands.run_folders import explain_to_folder, newest_detector

    run, document = explain_to_folder(newest_detector(settings), image, settings)
    show_json(document) if json else show(run / "explain.png")


@command(ExportSettings)
def export(flags: dict[str, Any], recipe: Recipe = None, json: Json = False) -> None:
    """Write a model for another runtime, and prove that it computes the same there."""
    settings = resolve(ExportSettings, flags, recipe=recipe)
    from cledet.commands.run_folders import newest_detector

    result = newest_detector(settings).export(settings=settings)
    show_json(result.to_dict()) if json else show(result.path)
