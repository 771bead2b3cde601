"""What the commands do with a detector: which one they mean, and what they leave in a new run folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from cledet.choices import ablation_name
from cledet.config import ExplainSettings, ModelSettings, PredictSettings
from cledet.console import say, track
from cledet.data.images import image_files
from cledet.detector import Detector
from cledet.engine.explain_figure import draw
from cledet.engine.grid import Row, find_grid, listing, rows_of, summary
from cledet.engine.predictor import picture_path, write_picture
from cledet.engine.runs import find_weights, new_run, write_whole
from cledet.errors import UserError
from cledet.eval_config import ValSettings
from cledet.evaluation.figures import Evaluation
from cledet.evaluation.results import to_coco_results
from cledet.evaluation.tables import as_document, nms_table, to_csv, to_markdown


def newest_detector(settings: ModelSettings) -> Detector:
    """The detector that a command means: `--weights`, else the newest run, trained with `--ablation`."""
    path = find_weights(settings.project, settings.weights, settings.ablation)
    detector = Detector(path)
    components = detector.components
    if settings.ablation is not None and settings.ablation[0] != components:
        wanted = ablation_name(settings.ablation[0])
        raise UserError(f"{path} was trained with {ablation_name(components)}, not {wanted}")
    say(f"weights: {path}")
    return detector


def val_to_folder(detector: Detector, settings: ValSettings) -> tuple[Path, dict[str, Evaluation]]:
    """metrics.json in a new run folder; with it detections.json in COCO's results format, or the table of several NMS
    methods as nms.md and nms.csv.
    """
    found = detector.validate(settings)
    figures = {name: one.evaluation for name, one in found.items()}
    run = new_run(settings.project, "val", settings.name or settings.split)
    write_whole(run / "metrics.json", json.dumps(as_document(figures), indent=1))
    if len(found) == 1:
        (one,) = found.values()
        write_whole(run / "detections.json", json.dumps(to_coco_results(one.results)))
    else:
        columns, rows = nms_table(figures)
        write_whole(run / "nms.md", to_markdown(columns, rows))
        write_whole(run / "nms.csv", to_csv(columns, rows))
    return run, figures


def grid_to_folder(settings: ValSettings) -> tuple[Path, list[Row]]:
    """The table of a grid (Table 2) as grid.md, grid.csv and grid.json in a new run folder."""
    if settings.predictions is not None or len(settings.nms_methods(())) > 1:
        raise UserError("a table of several ablations takes no --predictions and one --nms", "leave one of them out")
    found = find_grid(settings.project, settings.weights, settings.ablation)
    one = settings.model_copy(update={"ablation": None})
    figures: dict[tuple[str, ...], dict[int, dict[str, float | None]]] = {}
    for components, runs in found.items():
        figures[components] = {}
        for seed, run in runs.items():
            say(f"weights: {run}")
            figures[components][seed] = Detector(run).val(one).metrics
    rows = rows_of(figures)
    folder = new_run(settings.project, "val", settings.name or "grid")
    write_whole(folder / "grid.md", to_markdown(*summary(rows)))
    write_whole(folder / "grid.csv", to_csv(*listing(rows)))
    write_whole(folder / "grid.json", json.dumps([row.to_dict() for row in rows], indent=1))
    return folder, rows


def predict_to_folder(detector: Detector, source: str, settings: PredictSettings) -> tuple[Path, list[dict[str, Any]]]:
    """Annotated pictures and predictions.json of all images of a source, in a new run folder."""
    files = image_files(source)
    predictor = detector.predictor(settings)
    run = new_run(settings.project, "predict", settings.name or Path(source).stem.strip("*?[]") or "images")
    taken: set[str] = set()
    documents = []
    for found in track(predictor.stream(files), "predicting", len(files)):
        assert found.path is not None
        write_picture(picture_path(run, found.path, taken), found.draw())
        documents.append(found.to_dict())
    write_whole(run / "predictions.json", json.dumps(documents, indent=1))
    return run, documents


def explain_to_folder(detector: Detector, image: str, settings: ExplainSettings) -> tuple[Path, dict[str, Any]]:
    """explain.png and explain.json of one image in a new run folder."""
    found = detector.explain(image, settings)
    run = new_run(settings.project, "explain", settings.name or Path(image).stem)
    draw(found, run / "explain.png")
    document = found.to_dict()
    write_whole(run / "explain.json", json.dumps(document, indent=1))
    return run, document
