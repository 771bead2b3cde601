"""What the commands do with a detector: which one they mean, and what they leave in a new run folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cledet.config.base import ExplainSettings, ModelSettings, PredictSettings
from cledet.config.evaluate import CompareSettings, TuneSettings, ValSettings
from cledet.config.loading import resolve
from cledet.config.types import ablation_name
from cledet.console import say, track
from cledet.data.images import image_files
from cledet.data.open import open_source
from cledet.detector import Detector
from cledet.errors import UserError
from cledet.evaluation.compare.compare_runs import compare_runs, most_influential_images
from cledet.evaluation.compare.comparison_tables import main_table, notes, sections, to_document, to_page
from cledet.evaluation.compare.entries import common_ground, names, open_entries
from cledet.evaluation.compare.side_by_side import save_side_by_side
from cledet.evaluation.report.val_folder import write_val
from cledet.evaluation.splits import load_index
from cledet.evaluation.tune import tuning_report
from cledet.evaluation.tune.tuner import TuningResult, open_candidates, tune
from cledet.explain.figure import draw
from cledet.inference.predictor import picture_path
from cledet.io.atomic import write_json, write_whole
from cledet.io.run_folders import find_weights, new_run, whole_run
from cledet.metrics.evaluation import EvaluatedDetections
from cledet.metrics.metric_tables import Table, to_csv, to_markdown
from cledet.metrics.results_file import read_results
from cledet.training.ablation import Row, find_grid, listing, rows_of, summary
from cledet.visualization.draw import write_picture


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


def val_to_folder(detector: Detector, settings: ValSettings) -> tuple[Path, dict[str, EvaluatedDetections]]:
    """The run folder that holds what a detector finds, and its figures."""
    index = detector.split(settings)
    found = detector.validate(settings, index)
    data = settings.data or (detector.model.data if detector.model is not None else None)
    return write_val(found, settings.model_copy(update={"data": data}), index)


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
    with whole_run(settings.project, "val", settings.name or "grid") as folder:
        write_whole(folder / "grid.md", to_markdown(*summary(rows)))
        write_whole(folder / "grid.csv", to_csv(*listing(rows)))
        write_json(folder / "grid.json", [row.to_dict() for row in rows])
    return folder, rows


def compare_to_folder(
    paths: list[Path], settings: CompareSettings
) -> tuple[Path, list[tuple[str, Table]], list[str], dict[str, Any]]:
    """compare.md, compare.csv, compare.json and images/ in a new run folder; tables with their titles, notes, and all
    of it as plain data.
    """

    def validate(path: Path, data: str | None, split: str) -> Path:
        say(f"validating {path}")
        same = {key: getattr(settings, key) for key in ("project", "device", "batch", "workers")}
        given = resolve(ValSettings, {**same, "data": data, "split": split}, environ={})
        run, _ = val_to_folder(Detector(path), given)
        say(f"{path} is compared as {run}")
        return run

    entries = open_entries(paths, settings.data, settings.split, validate)
    data, split = common_ground(entries, settings.data, settings.split)
    called = names(entries)
    index = load_index(open_source(data), split, need_images=any(entry.of_model for entry in entries))
    results = {name: read_results(entry.file, index) for name, entry in zip(called, entries)}
    found = compare_runs(index, results, settings.bootstrap)
    document = to_document(found, index, settings.bootstrap)
    with whole_run(settings.project, "compare", settings.name or split) as run:
        write_json(run / "compare.json", document)
        write_whole(run / "compare.md", to_page(found, index))
        write_whole(run / "compare.csv", to_csv(*main_table(found)))
        for name, against in found.differences.items():
            pair = {called[0]: results[called[0]], name: results[name]}
            folder = run / "images" / name.replace("/", "-") if len(entries) > 2 else run / "images"
            save_side_by_side(folder, index, most_influential_images(against, settings.pictures), pair, settings.conf)
    return run, sections(found, index), notes(found), document


def tune_to_folder(settings: TuneSettings) -> tuple[Path, TuningResult, list[str]]:
    """tuned.yaml and tune.json in a new run folder; what was found, and the commands that use it."""
    model, weights = None, None
    if settings.predictions is None:
        model = newest_detector(settings).model
        weights = str(find_weights(settings.project, settings.weights, settings.ablation))
    tuned = tune(*open_candidates(model, settings), settings)
    lines = tuning_report.commands(tuned, settings, weights)
    said = [*tuning_report.sentences(tuned, settings), *lines]
    with whole_run(settings.project, "tune", settings.name or settings.split) as run:
        write_whole(run / "tuned.yaml", tuning_report.to_recipe(tuned, said))
        write_json(run / "tune.json", tuning_report.to_document(tuned, settings, lines))
    return run, tuned, lines


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
    write_json(run / "predictions.json", documents)
    return run, documents


def explain_to_folder(detector: Detector, image: str, settings: ExplainSettings) -> tuple[Path, dict[str, Any]]:
    """explain.png and explain.json of one image in a new run folder."""
    found = detector.explain(image, settings)
    document = found.to_dict()
    with whole_run(settings.project, "explain", settings.name or Path(image).stem) as run:
        draw(found, run / "explain.png")
        write_json(run / "explain.json", document)
    return run, document
