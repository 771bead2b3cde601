"""What `cledet val` leaves in its run folder. Nothing here imports torch."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

from cledet.config.evaluate import ValSettings
from cledet.data.index import DetectionIndex
from cledet.io.atomic import write_file, write_json, write_whole
from cledet.io.run_folders import from_anywhere, whole_run
from cledet.metrics.evaluation import Validation
from cledet.metrics.results_file import encode_results
from cledet.metrics.submission import submission_name, zip_submission
from cledet.metrics.tables import as_document, nms_table, to_csv, to_markdown


def write_val(
    found: dict[str, Validation], settings: ValSettings, index: DetectionIndex
) -> tuple[Path, dict[str, Validation]]:
    """A new run folder with metrics.json and config.yaml.

    With them detections.json in COCO's results format and, if the settings want it, the report of what went wrong; or
    the table of several NMS methods as nms.md and nms.csv. Of a split without annotations the server's zips instead of
    figures, see `submissions`.

    Returns the folder, and what was found, with what the report adds.
    """
    with whole_run(settings.project, "val", settings.name or settings.split) as run:
        write_whole(run / "config.yaml", from_anywhere(settings).to_yaml())
        if files := submissions(found, settings):
            for name, file in files.items():
                write_whole(run / file, zip_submission(found[name].results, Path(file).stem))
            return run, found
        if settings.report and len(found) == 1:
            from cledet.evaluation.report.report import write_report

            found = {name: write_report(one, index, run) for name, one in found.items()}
        _write_figures(found, run)
    return run, found


def _write_figures(found: Mapping[str, Validation], run: Path) -> None:
    """The detections or the table, and metrics.json last: where it is, all is."""
    figures = {name: one.evaluation for name, one in found.items()}
    if len(found) == 1:
        (one,) = found.values()
        _write_detections(run / "detections.json", one)
    else:
        columns, rows = nms_table(figures)
        write_whole(run / "nms.md", to_markdown(columns, rows))
        write_whole(run / "nms.csv", to_csv(columns, rows))
    write_json(run / "metrics.json", as_document(figures))


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
