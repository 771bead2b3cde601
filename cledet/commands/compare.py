"""`cledet compare`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cledet.commands.options import Json
from cledet.commands.val import val_to_folder
from cledet.config.evaluate import CompareSettings, ValSettings
from cledet.config.loading import resolve
from cledet.console import say, show, show_json, show_table, transfer
from cledet.errors import UserError

if TYPE_CHECKING:
    from cledet.data.index import DetectionIndex
    from cledet.metrics.metric_tables import Table
    from cledet.metrics.results_file import DetectionRows


def compare(
    settings: CompareSettings,
    runs: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN...", help="Two or more: runs of val or train, predictions of any detector, weights."
        ),
    ],
    json: Json = False,
) -> None:
    """Compare detections with those of the first run: is the difference significant, and where does it arise?

    Examples:
        cledet compare runs/val/a runs/val/b
        cledet compare runs/train/photos theirs.json --data coco.yaml
        cledet compare predictions.json labels/ --data data.yaml
        cledet compare runs/train/a-seed* runs/train/b-seed* --per-side 5
        cledet compare runs/val/a runs/val/b --classes person,dog
    """
    if len(runs) < 2:
        raise UserError(f"one run alone, {runs[0]}, cannot be compared", "name two or more")
    folder, tables, notes, document = compare_to_folder(runs, settings)
    if json:
        show_json(document)
        return
    for title, table in tables:
        show_table(title, *table)
    for note in notes:
        show(note)
    pictured = " and pictures" if (folder / "images").is_dir() else ""
    say(f"compare.md, .csv, .json{pictured}: {folder}")


def compare_to_folder(
    paths: list[Path], settings: CompareSettings
) -> tuple[Path, list[tuple[str, Table]], list[str], dict[str, Any]]:
    """Write compare.md, compare.csv, compare.json and images/ into a new run folder.

    Returns the folder, tables with their titles, notes, and the whole comparison as plain data.
    """
    from cledet.evaluation.compare.compare_runs import compare_runs, compare_sides, most_influential_images
    from cledet.evaluation.compare.comparison_tables import (
        notes,
        sections,
        side_document,
        side_notes,
        side_sections,
        to_document,
        to_page,
    )
    from cledet.evaluation.compare.entries import sides_of
    from cledet.evaluation.compare.side_by_side import save_side_by_side
    from cledet.io.atomic import write_json, write_whole
    from cledet.io.run_folders import whole_run
    from cledet.metrics.metric_tables import to_csv

    index, results, split = _read_entries(paths, settings)
    first, pictures = next(iter(results)), {}
    if settings.per_side > 1:
        runs = {side: {n: results[n] for n in names} for side, names in sides_of([*results], settings.per_side).items()}
        of_sides = compare_sides(index, runs, settings.bootstrap)
        tables, lines = side_sections(of_sides, index), side_notes(of_sides)
        document = side_document(of_sides, index, settings.bootstrap)
    else:
        comparison = compare_runs(index, results, settings.bootstrap)
        tables, lines = sections(comparison, index), notes(comparison)
        document, pictures = to_document(comparison, index, settings.bootstrap), comparison.differences
    with whole_run(settings.project, "compare", settings.name or split) as run:
        write_json(run / "compare.json", document)
        write_whole(run / "compare.md", to_page(tables, lines))
        write_whole(run / "compare.csv", to_csv(*tables[0][1]))
        for name, against in pictures.items():
            pair = {first: results[first], name: results[name]}
            folder = run / "images" / name.replace("/", "-") if len(results) > 2 else run / "images"
            save_side_by_side(folder, index, most_influential_images(against, settings.pictures), pair, settings.conf)
    return run, tables, lines, document


def _read_entries(paths: list[Path], settings: CompareSettings) -> tuple[DetectionIndex, dict[str, DetectionRows], str]:
    """Return the split that is compared on, the detections of each entry by its name, and the name of the split."""
    from dataclasses import replace

    import numpy as np

    from cledet.data.index import labels_of
    from cledet.data.open import open_source
    from cledet.evaluation.compare.entries import DETECTIONS, check_seeds, common_ground, names, open_entries, sides_of
    from cledet.evaluation.score_file import load_predictions
    from cledet.evaluation.splits import load_index
    from cledet.metrics.results_file import read_results

    def validate(path: Path, data: str | None, split: str) -> Path:
        """Evaluate weights as `cledet val` does; returns the run folder."""
        from cledet.detector import Detector

        say(f"validating {path}")
        shared = {key: getattr(settings, key) for key in ("project", "device", "batch", "workers")}
        of_model = resolve(ValSettings, {**shared, "data": data, "split": split}, environ={})
        detector = Detector(path)
        index = detector.split(of_model)
        if settings.classes is not None:
            labels_of(settings.classes, index.classes, index.name)  # an unknown class is refused before the evaluation
        run, _ = val_to_folder(detector, of_model, index)
        say(f"{path} is compared as {run}")
        return run

    sides_of([str(path) for path in paths], settings.per_side)  # refused before any model is evaluated
    entries = open_entries(paths, settings.data, settings.split, validate)
    data, split = common_ground(entries, settings.data, settings.split)
    called = names(entries)
    if settings.per_side > 1:
        check_seeds(entries, settings.per_side)
    index = load_index(open_source(data, transfer), split, need_images=any(entry.of_model for entry in entries))
    detections = {
        name: read_results(entry.file, index)
        if entry.file.name == DETECTIONS
        else load_predictions(entry.file, index).rows
        for name, entry in zip(called, entries)
    }
    if settings.classes is not None:
        labels = labels_of(settings.classes, index.classes, index.name)
        name, ids = f"{index.name} ({', '.join(settings.classes)})", index.category_ids[list(labels)]
        index = replace(index.of_classes(labels), name=name)
        detections = {name: rows[np.isin(rows[:, 6], ids)] for name, rows in detections.items()}
    return index, detections, split
