"""The commands about the shipped recipes, and the paper's tables that they fill."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cledet.commands.options import Json, app, command
from cledet.config.loading import read_notes, read_recipe, resolve
from cledet.config.loading import recipes as shipped
from cledet.config.recipe import PAPER_TABLES, Figures, RecipeNotes, ReproduceSettings
from cledet.console import say, show, show_json, show_table
from cledet.errors import UserError, nearest

if TYPE_CHECKING:
    from cledet.training.reproduce_jobs import Job


@app.command()
def recipes(json: Json = False) -> None:
    """Show the shipped recipes, with the paper's figures and ours."""
    found = sorted(((path, read_notes(path)) for path in shipped().values()), key=_place)
    if json:
        show_json([_document(path, notes) for path, notes in found])
        return
    rows = [
        (
            path.stem,
            " / ".join(_points(row) for row in notes.paper) or "-",
            "; ".join(f"{_points(one)}, {one.split}" for one in notes.measured) or "-",
            notes.about,
        )
        for path, notes in found
    ]
    show_table("", ["recipe", "paper", "ours", "what it is"], rows)


def _place(recipe: tuple[Path, RecipeNotes]) -> tuple[int, str, int]:
    """The paper's rows in the paper's order, after all others."""
    rows = recipe[1].paper
    return (rows[0].table, rows[0].split, rows[0].row) if rows else (0, "", 0)


def _document(path: Path, notes: RecipeNotes) -> dict[str, Any]:
    data = read_recipe(path).get("data")
    return {"name": path.stem, "file": str(path), "data": data, **_without_none(notes.model_dump())}


def _points(row: Figures) -> str:
    """AP, or VOC's mAP, in points."""
    return f"{100 * next(iter(row.figures.values())):.1f}"


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_none(one) for key, one in value.items() if one is not None}
    return [_without_none(one) for one in value] if isinstance(value, list | tuple) else value


@command(ReproduceSettings)
def reproduce(
    flags: dict[str, Any],
    table: Annotated[str, typer.Argument(help="table1, table2 or table3 of the paper")],
    data: Annotated[str | None, typer.Option("--data", help="only the rows of this data set: coco or voc")] = None,
    given: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="a flag of `cledet train` in the recipes' place, as batch=32"),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="show commands, GPU hours and disk; run nothing")] = False,
    json: Json = False,
) -> None:
    """Fill a table of the paper: train its rows, evaluate them, write ours beside theirs; called again, go on."""
    settings = resolve(ReproduceSettings, flags)
    if table not in PAPER_TABLES:
        raise UserError(f"there is no {table!r} in the paper", nearest(table, PAPER_TABLES))
    chosen = _pairs(given or [])
    from cledet.training.reproduce_jobs import jobs_of, to_document

    jobs = jobs_of(table, chosen, settings.project, data)
    if dry_run:
        document = to_document(table, jobs, settings.gpu_tflops, settings.utilization)
        show_json(document) if json else _show_plan(jobs, document)
        return
    from cledet.commands.reproduce import reproduce as fill
    from cledet.training.paper_table import side_by_side

    folder, lines = fill(table, jobs)
    show_json([line.to_dict() for line in lines]) if json else show_table("", *side_by_side(lines))
    say(f"{table}.md, .csv and .json: {folder}")


def _pairs(given: list[str]) -> dict[str, str]:
    """KEY=VALUE, KEY as a flag or with underscores -> by key."""
    for pair in given:
        if "=" not in pair:
            raise UserError(f"--set {pair} is not KEY=VALUE", "as --set batch=32")
    split = [pair.split("=", 1) for pair in given]
    return {key.strip().lstrip("-").replace("-", "_"): value.strip() for key, value in split}


def _show_plan(jobs: list[Job], document: dict[str, Any]) -> None:
    for line in document["commands"]:
        show(line)
    columns = ["job", "trainings", "images", "GMACs an image", "GPU hours", "GB of checkpoints"]
    rows = [
        (
            job["name"],
            job["trainings"],
            f"{job['images']:,}",
            round(job["multiply_adds"] / 1e9),
            f"{job['gpu_hours']:.1f}",
            f"{job['checkpoint_bytes'] / 1e9:.1f}",
        )
        for job in document["jobs"]
    ]
    show_table("", columns, rows)
    peak = f"{document['utilization']:.0%} of {document['gpu_tflops']:g} TFLOPS"
    show(f"GPU hours: {document['gpu_hours']:.1f}, at {peak}: images x multiply-adds x 2 operations x 3, as going back")
    show("takes twice as long as going forward, for photos of 4:3; evaluation is not counted")
    checkpoints = f"{document['checkpoint_bytes'] / 1e9:.1f} GB of checkpoints"
    sets = [
        f"{size / 1e9:.1f} GB of {name}, twice that while it comes" for name, size in document["data_bytes"].items()
    ]
    show(f"disk: {'; '.join([checkpoints, *sets])}")
