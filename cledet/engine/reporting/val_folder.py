"""What `cledet val` leaves in its run folder. Nothing here imports torch."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

from cledet.data.index import DetectionIndex
from cledet.engine.runs import from_anywhere, new_run
from cledet.engine.writing import write_file, write_json, write_whole
from cledet.eval_config import ValSettings
from cledet.evaluation.figures import Validation
from cledet.evaluation.results import encode_results
from cledet.evaluation.submission import submission_name, zip_submission
from cledet.evaluation.tables import as_document, nms_table, to_csv, to_markdown


def write_val(
    found: Mapping[str, Validation], settings: ValSettings, index: DetectionIndex
) -> tuple[Path, dict[str, Validation]]:
    """A new run folder with metrics.json and config.yaml.

    With them detections.json in COCO's results format and, if the settings want it, the report of what went wrong; or
    the table of several NMS methods as nms.md and nms.csv. Of a split without annotations the server's zips instead of
    figures, see `submissions`.

    Returns the folder, and what was found, with what the report adds.
    """
    run = new_run(settings.project, "val", settings.name or settings.split)
    write_whole(run / "config.yaml", from_anywhere(settings).to_yaml())
    files = submissions(found, settings)
    for name, one in found.items():
        if name in files:
            write_whole(run / files[name], zip_submission(one.results, Path(files[name]).stem))
    if files:
        return run, dict(found)
    if settings.report and len(found) == 1:
        from cledet.engine.reporting.report import write_report

        found = {name: write_report(one, index, run) for name, one in found.items()}
    figures = {name: one.evaluation for name, one in found.items()}
    write_json(run / "metrics.json", as_document(figures))
    if len(found) == 1:
        (one,) = found.values()
        _write_detections(run / "detections.json", one)
    else:
        columns, rows = nms_table(figures)
        write_whole(run / "nms.md", to_markdown(columns, rows))
        write_whole(run / "nms.csv", to_csv(columns, rows))
    return run, dict(found)


def _write_detections(path: Path, one: Validation) -> None:
    """Detections in COCO's results format: a copy of the file that they came from, if they are all of it."""
    source = one.source
    if source is None:
        write_whole(path, encode_results(one.results))
    else:
        write_file(path, lambda file: shutil.copyfile(source, file.name), sync=False)  # by the kernel, where it can


def submissions(found: Mapping[str, Validation], settings: ValSettings) -> dict[str, str]:
    """The zip of each NMS method for COCO's evaluation server, if the split has no annotations.

    The algorithm's name in it is `--name`, else cledet; with that of the method where there are several.
    """
    algorithm = settings.name or "cledet"
    return {
        name: submission_name(one.unlabelled, f"{algorithm}-{name}" if len(found) > 1 else algorithm) + ".zip"
        for name, one in found.items()
        if one.unlabelled is not None
    }
