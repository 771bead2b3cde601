"""`cledet tune`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from cledet.commands.find_detector import find_detector
from cledet.commands.options import Json
from cledet.config.evaluate import TuneSettings
from cledet.console import say, show, show_json, show_table

if TYPE_CHECKING:
    from cledet.evaluation.tune.tuner import TuningResult


def tune(settings: TuneSettings, json: Json = False) -> None:
    """Search the best NMS settings for a model or a file of raw detections, and test whether the gain is significant.

    Examples:
        cledet tune --weights runs/train/photos
        cledet tune --predictions raw.json --data coco.yaml --metric AP75
    """
    from cledet.evaluation.tune.tuning_report import methods_table, sentences, to_document

    folder, tuned, lines = tune_to_folder(settings)
    if json:
        show_json(to_document(tuned, settings, lines))
    else:
        show_table("", *methods_table(tuned, settings.metric))
        for sentence in (*sentences(tuned, settings), *lines):
            show(sentence)
    say(f"{len(tuned.searched)} settings in {tuned.seconds:.0f} s; tuned.yaml (for --recipe) and tune.json: {folder}")
    if tuned.stopped is not None:
        raise typer.Exit(128 + tuned.stopped)


def tune_to_folder(settings: TuneSettings) -> tuple[Path, TuningResult, list[str]]:
    """Write tuned.yaml and tune.json into a new run folder.

    Returns the folder, the search, and the commands that use its result.
    """
    from cledet.evaluation.tune.tuner import open_candidates, tune
    from cledet.evaluation.tune.tuning_report import commands, sentences, to_document, to_recipe
    from cledet.io.atomic import write_json, write_whole
    from cledet.io.run_folders import find_weights, whole_run

    model, weights = None, None
    if settings.predictions is None:
        weights = str(find_weights(settings.project, settings.weights, settings.ablation))
        model = find_detector(settings.model_copy(update={"weights": weights})).model
    tuned = tune(*open_candidates(model, settings), settings)
    lines = commands(tuned, settings, weights)
    with whole_run(settings.project, "tune", settings.name or settings.split) as run:
        write_whole(run / "tuned.yaml", to_recipe(tuned, [*sentences(tuned, settings), *lines]))
        write_json(run / "tune.json", to_document(tuned, settings, lines))
    return run, tuned, lines
