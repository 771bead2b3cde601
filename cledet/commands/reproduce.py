"""`cledet reproduce`."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from cledet.commands.options import Json
from cledet.config.recipe import PAPER_TABLES, ReproduceSettings
from cledet.console import say, show, show_json, show_table
from cledet.errors import UserError, nearest


def reproduce(
    settings: ReproduceSettings,
    table: Annotated[str, typer.Argument(help="table1, table2 or table3 of the paper.")],
    data: Annotated[
        str | None, typer.Option("--data", metavar="NAME", help="Only the rows of this data set: coco or voc.")
    ] = None,
    given: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Override a recipe's flag of `cledet train`, as batch=32."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", metavar="", help="Show commands, GPU hours and disk; run nothing.")
    ] = False,
    json: Json = False,
) -> None:
    """Fill a table of the paper: train and evaluate its rows, and write our metrics beside the paper's.

    A second call continues where the first stopped.

    Examples:
        cledet reproduce table2 --dry-run
        cledet reproduce table2 --data voc --set batch=8
    """
    if table not in PAPER_TABLES:
        raise UserError(f"there is no {table!r} in the paper", nearest(table, PAPER_TABLES))
    overrides = parse_overrides(given or [])
    from cledet.training.reproduce_jobs import jobs_of, side_by_side, to_document

    jobs = jobs_of(table, overrides, settings.project, data)
    if dry_run:
        document = to_document(table, jobs, settings.gpu_tflops, settings.utilization)
        show_json(document) if json else _show_plan(document)
        return
    from cledet.commands.fill_table import fill_table

    folder, lines = fill_table(table, jobs)
    show_json([line.to_dict() for line in lines]) if json else show_table("", *side_by_side(lines))
    say(f"{table}.md and .json: {folder}")


def parse_overrides(pairs: list[str]) -> dict[str, str]:
    """Split KEY=VALUE pairs; KEY may be written as a flag or with underscores."""
    for pair in pairs:
        if "=" not in pair:
            raise UserError(f"--set {pair} is not KEY=VALUE", "as --set batch=32")
    split = [pair.split("=", 1) for pair in pairs]
    return {key.strip().lstrip("-").replace("-", "_"): value.strip() for key, value in split}


def _show_plan(document: dict[str, Any]) -> None:
    show(*document["commands"])
    costs = [(x["name"], x["trainings"], x["gpu_hours"], x["checkpoint_bytes"] / 1e9) for x in document["jobs"]]
    rows = [(name, trainings, f"{hours:.1f}", f"{size:.1f}") for name, trainings, hours, size in costs]
    show_table("", ["job", "trainings", "GPU hours", "GB of checkpoints"], rows)
    peak = f"{document['utilization']:.0%} of {document['gpu_tflops']:g} TFLOPS"
    show(f"GPU hours: {document['gpu_hours']:.1f}, at {peak}: images x multiply-adds x 2 operations x 3, because the")
    show("backward pass costs twice the forward pass; for photos of 4:3, without evaluation")
    sets = [f"{size / 1e9:.1f} GB of {name}, twice that to download" for name, size in document["data_bytes"].items()]
    show("; ".join([f"disk: {document['checkpoint_bytes'] / 1e9:.1f} GB of checkpoints", *sets]))
