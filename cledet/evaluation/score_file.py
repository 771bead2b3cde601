"""Evaluation of a results file of any detector, without NMS; nothing here imports torch."""

from __future__ import annotations

from pathlib import Path

from cledet.config.evaluate import TuneSettings, ValSettings
from cledet.console import say, transfer
from cledet.data.index import DetectionIndex
from cledet.data.open import open_source
from cledet.errors import UserError
from cledet.evaluation.pycocotools_evaluator import apply_evaluator
from cledet.evaluation.splits import load_index
from cledet.metrics.coco import evaluate
from cledet.metrics.evaluation import EvaluatedDetections, Limits
from cledet.metrics.predictions.columns import Predictions
from cledet.metrics.predictions.read import read_predictions
from cledet.metrics.results_file import DetectionRows

WITHOUT_NMS = "without NMS"
"""Name in place of an NMS method for results that are evaluated without NMS."""


def is_plain(settings: ValSettings) -> bool:
    """Return whether the settings ask for the detections of a file without NMS, so that no model is needed."""
    models = (settings.weights, settings.ablation)
    return settings.predictions is not None and settings.nms == "auto" and models == (None, None)


def score_file(settings: ValSettings) -> tuple[dict[str, EvaluatedDetections], DetectionIndex]:
    """Evaluate the file that the settings name; returns its metrics and the index of the split."""
    assert settings.predictions is not None
    index = predictions_split(settings)
    found = load_predictions(settings.predictions, index)
    return {WITHOUT_NMS: score(index, found.rows, settings, found.source)}, index


def load_predictions(path: Path, index: DetectionIndex) -> Predictions:
    """Read the detections of any detector, and print how they were read."""
    found = read_predictions(path, index)
    say(found.summary)
    return found


def score(
    index: DetectionIndex, results: DetectionRows, settings: ValSettings, source: Path | None = None
) -> EvaluatedDetections:
    """Evaluate detections, those above `conf` if it was set; `source` is a COCO results file that holds them."""
    kept = above_conf(results, settings)
    evaluation = evaluate(index, kept, limits_of(settings), correlation=True)
    unlabelled = None if index.num_boxes else index.name
    same = source if kept is results else None
    return apply_evaluator(EvaluatedDetections(evaluation, kept, unlabelled, same), index, settings)


def predictions_split(settings: ValSettings | TuneSettings) -> DetectionIndex:
    """Load the split of a predictions file; its images may be missing."""
    if settings.data is None:
        raise UserError("--predictions needs --data", "name the data set of the predictions")
    return load_index(open_source(settings.data, transfer), settings.split, need_images=False)


def explicit_conf(settings: ValSettings | TuneSettings) -> float | None:
    """Return `conf` if it was set, else None: the writer of a results file has chosen a threshold already."""
    return settings.conf if settings.origins.get("conf", "default") != "default" else None


def above_conf(results: DetectionRows, settings: ValSettings | TuneSettings) -> DetectionRows:
    """Return the detections that score above `conf`, or all if it was not set."""
    conf = explicit_conf(settings)
    return results if conf is None else results[results[:, 5] > conf]


def limits_of(settings: ValSettings) -> Limits:
    """Return the limits of COCO's metrics that the settings ask for."""
    return Limits(settings.eval_max_dets, settings.areas)
