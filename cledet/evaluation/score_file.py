"""Scoring any detector's results as they are: no network, so nothing here imports torch."""

from __future__ import annotations

from cledet.config.evaluate import TuneSettings, ValSettings
from cledet.data.index import DetectionIndex
from cledet.data.open import open_source
from cledet.errors import UserError
from cledet.evaluation.splits import load_index
from cledet.metrics.coco import evaluate_alone
from cledet.metrics.evaluation import Limits, Validation
from cledet.metrics.results_file import Results, read_results

AS_IT_IS = "as it is"
"""Stands for an NMS method where results are scored without any."""


def is_plain(settings: ValSettings) -> bool:
    """Whether the settings ask for a file's detections as they are, and for nothing else."""
    models = (settings.weights, settings.ablation)
    return settings.predictions is not None and settings.nms == "auto" and models == (None, None)


def score_file(settings: ValSettings) -> tuple[dict[str, Validation], DetectionIndex]:
    """The figures of the file that the settings name, and the split that they are of."""
    assert settings.predictions is not None
    index = predictions_split(settings)
    return {AS_IT_IS: score(index, read_results(settings.predictions, index), settings)}, index


def score(index: DetectionIndex, results: Results, settings: ValSettings) -> Validation:
    """The figures of a file's detections, of those over `conf` if it was given."""
    kept = over_floor(results, settings)
    evaluation = evaluate_alone(index, kept, limits_of(settings))
    unlabelled = None if index.num_boxes else index.name
    return Validation(evaluation, kept, unlabelled, settings.predictions if kept is results else None)


def predictions_split(settings: ValSettings | TuneSettings) -> DetectionIndex:
    """The split that predictions are of, whose images may be missing."""
    if settings.data is None:
        raise UserError("--predictions needs --data", "name the data set that they are of")
    return load_index(open_source(settings.data), settings.split, need_images=False)


def given_conf(settings: ValSettings | TuneSettings) -> float | None:
    """`conf`, if it was given: else whoever wrote the results has chosen a floor."""
    return settings.conf if settings.origins.get("conf", "default") != "default" else None


def over_floor(results: Results, settings: ValSettings | TuneSettings) -> Results:
    """The detections over `conf`, if it was given."""
    floor = given_conf(settings)
    return results if floor is None else results[results[:, 5] > floor]


def limits_of(settings: ValSettings) -> Limits:
    """What COCO's figures are to count."""
    return Limits(settings.eval_max_dets, settings.areas)
