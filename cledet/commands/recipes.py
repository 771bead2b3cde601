"""`cledet recipes`."""

from __future__ import annotations

from pathlib import Path

from cledet.commands.options import Json
from cledet.config.loading import read_notes, read_recipe
from cledet.config.loading import recipes as shipped
from cledet.config.recipe import Figures, RecipeNotes
from cledet.console import show_json, show_table


def recipes(json: Json = False) -> None:
    """List the shipped recipes, with the paper's metrics and ours.

    Examples:
        cledet recipes
        cledet train --recipe table2-voc-iac-dc-clb
    """
    notes_by_path = sorted(((path, read_notes(path)) for path in shipped().values()), key=_paper_order)
    if json:
        documents = []
        for path, notes in notes_by_path:
            named = {"name": path.stem, "file": str(path), "data": read_recipe(path).get("data")}
            documents.append(named | notes.model_dump(exclude_none=True))
        show_json(documents)
        return
    rows = [
        (
            path.stem,
            " / ".join(_points(row) for row in notes.paper) or "-",
            "; ".join(f"{_points(row)}, {row.split}" for row in notes.measured) or "-",
            notes.about,
        )
        for path, notes in notes_by_path
    ]
    show_table("", ["recipe", "paper", "ours", "about"], rows)


def _paper_order(recipe: tuple[Path, RecipeNotes]) -> tuple[int, str, int]:
    """Return the sort key: recipes without a row of the paper first, then the paper's rows in its order."""
    rows = recipe[1].paper
    return (rows[0].table, rows[0].split, rows[0].row) if rows else (0, "", 0)


def _points(row: Figures) -> str:
    """Format AP, or VOC's mAP, in points."""
    return f"{100 * next(iter(row.figures.values())):.1f}"
