"""The commands that compare detections with each other and choose how they are suppressed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from cledet.commands.options import Json, command
from cledet.config.evaluate import CompareSettings, TuneSettings
from cledet.config.loading import resolve
from cledet.console import say, show, show_json, show_table
from cledet.errors import UserError


@command(CompareSettings)
def compare(
    flags: dict[str, Any],
    runs: Annotated[
        list[Path], typer.Argument(help="two or more of: runs of val or train, COCO results files, weights")
    ],
    json: Json = False,
) -> None:
    """Compare detections with those of the first run: is the difference noise, and where does it come from?"""
    settings = resolve(CompareSettings, flags)
    if len(runs) < 2:
        raise UserError(f"one run alone, {runs[0]}, cannot be compared", "name two or more")
    from cledet.commands.run_folders import compare_to_folder

    folder, tables, notes, document = compare_to_folder(runs, settings)
    if json:
        show_json(document)
        return
    for title, table in tables:
        show_table(title, *table)
    for note in notes:
        show(note)
    say(f"compare.md, .csv, .json and pictures: {folder}")


@command(TuneSettings)
def tune(flags: dict[str, Any], json: Json = False) -> None:
    """Find NMS settings for a model or a file of raw detections, and say whether what they gain is noise."""
    settings = resolve(TuneSettings, flags)
    from cledet.commands.run_folders import tune_to_folder
    from cledet.evaluation.tune.tuning_report import conf_table, methods_table, sentences, to_document

    folder, tuned, lines = tune_to_folder(settings)
    if json:
        show_json(to_document(tuned, settings, lines))
    else:
        show_table("", *methods_table(tuned, settings.metric))
        if len(tuned.confs) > 1:
            show_table("", *conf_table(tuned, settings.metric))
        for sentence in (*sentences(tuned, settings), *lines):
            show(sentence)
    say(f"{len(tuned.searched)} settings in {tuned.seconds:.0f} s; tuned.yaml (for --recipe) and tune.json: {folder}")
    if tuned.stopped is not None:
        raise typer.Exit(128 + tuned.stopped)
