"""The run folder of `cledet val`; nothing here imports torch."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

from cledet.config.evaluate import ValSettings
from cledet.data.index import DetectionIndex
from cledet.io.atomic import write_file, write_json, write_whole
from cledet.io.run_folders import from_anywhere, whole_run
from cledet.metrics.evaluation import EvaluatedDetections
from cledet.metrics.metric_tables import as_document, nms_table, to_csv, to_markdown
from cledet.metrics.results_file import encode_results, submission_name, zip_submission


def write_val(
    evaluated: dict[str, EvaluatedDetections], settings: ValSettings, index: DetectionIndex
) -> tuple[Path, dict[str, EvaluatedDetections]]:
    """Write a new run folder with config.yaml and metrics.json.

    For one NMS method it also holds detections.json in COCO's results format and, if the settings ask for it, the error
    report with the suspected label errors; for several, their table as nms.md and nms.csv. For a split without
    annotations it holds zips for COCO's server instead of metrics, see `submissions`.

    Returns the folder, and the evaluated detections with the error analysis.
    """
    with whole_run(settings.project, "val", settings.name or settings.split) as run:
        write_whole(run / "config.yaml", from_anywhere(settings).to_yaml())
        if files := submissions(evaluated, settings):
            for name, file in files.items():
                write_whole(run / file, zip_submission(evaluated[name].results, Path(file).stem))
            return run, evaluated
        if len(evaluated) > 1:
            columns, rows = nms_table({name: one.evaluation for name, one in evaluated.items()})
            write_whole(run / "nms.md", to_markdown(columns, rows))
            write_whole(run / "nms.csv", to_csv(columns, rows))
        else:
            ((name, one),) = evaluated.items()
            if settings.report:
                from cledet.evaluation.report.write_report import write_report

                evaluated = {name: write_report(one, index, run, settings.suspects)}
            _write_detections(run / "detections.json", one)
        # last, so that it marks a complete folder
        write_json(run / "metrics.json", as_document({name: one.evaluation for name, one in evaluated.items()}))
    return run, evaluated


def _write_detections(path: Path, one: EvaluatedDetections) -> None:
    """Write detections in COCO's results format: a copy of the source file if it holds exactly these."""
    source = one.source
    if source is None:
        write_whole(path, encode_results(one.results))
    else:
        write_file(path, lambda file: shutil.copyfile(source, file.name), sync=False)  # by the kernel, where it can


def submissions(evaluated: Mapping[str, EvaluatedDetections], settings: ValSettings) -> dict[str, str]:
    """Return the name of the zip of each NMS method for COCO's server, for a split without annotations.

    The algorithm is called `--name`, or cledet, followed by the method if there are several.
    """
    algorithm = settings.name or "cledet"
    return {
        name: submission_name(one.unlabelled, f"{algorithm}-{name}" if len(evaluated) > 1 else algorithm) + ".zip"
        for name, one in evaluated.items()
        if one.unlabelled is not None
    }
