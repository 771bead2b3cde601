"""Evaluation of a model on a split, or of the results of any detector."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch

from cledet.config.base import SuppressionSettings, long_side
from cledet.config.evaluate import TuneSettings, ValSettings
from cledet.config.train import TrainSettings
from cledet.console import say, track
from cledet.data.dataset import DetectionDataset
from cledet.data.index import DetectionIndex
from cledet.data.loader import eval_loader
from cledet.distributed import collectives
from cledet.distributed.devices import default_workers
from cledet.errors import UserError
from cledet.evaluation.candidates import Candidates, from_network, from_results
from cledet.evaluation.misalignment import MisalignmentMeter
from cledet.evaluation.nms_methods import evaluate_methods
from cledet.evaluation.pycocotools_evaluator import apply_evaluator
from cledet.evaluation.score_file import WITHOUT_NMS, above_conf, limits_of, score
from cledet.evaluation.timing import StageTimer
from cledet.metrics.evaluation import EvaluatedDetections
from cledet.metrics.results_file import DetectionRows
from cledet.models.checkpoint import Checkpoint
from cledet.models.network import Network
from cledet.models.nms import NMSOptions


def validate(
    network: Network,
    index: DetectionIndex,
    model: Checkpoint,
    settings: ValSettings | TrainSettings,
    device: torch.device,
    dtype: torch.dtype | None,
) -> dict[str, EvaluatedDetections]:
    """Run the network once over the split and evaluate the detections of each NMS method of the settings.

    With the settings of `val`, time and misalignment are measured too.
    """
    timer = StageTimer(device)
    stream = network_stream(network, index, model, settings, device, dtype, timer)
    methods = nms_options_by_method(settings, model.components)
    if not isinstance(settings, ValSettings):
        return evaluate_methods(stream, index, methods, complete=True)
    meter = MisalignmentMeter(index, settings.iou, settings.max_det)
    evaluated = evaluate_methods(stream, index, methods, meter, complete=True, limits=limits_of(settings), timer=timer)
    say(timer.summary(len(index)))
    timed = {name: one.with_fields(seconds=timer.seconds) for name, one in evaluated.items()}
    return {name: apply_evaluator(one, index, settings) for name, one in timed.items()}


def network_stream(
    network: Network,
    index: DetectionIndex,
    model: Checkpoint,
    settings: ValSettings | TrainSettings | TuneSettings,
    device: torch.device,
    dtype: torch.dtype | None,
    timer: StageTimer | None = None,
) -> Iterator[Candidates]:
    """Run the network once over the split and yield the candidates of each image above `conf` of the settings."""
    short = settings.imgsz or model.imgsz
    dataset = DetectionDataset(index, short=short, long=long_side(short), canvas=network.canvas)
    loader = eval_loader(
        dataset,
        batch=max(1, settings.batch // collectives.world_size()),
        workers=default_workers(settings.workers),
        rank=collectives.rank(),
        world=collectives.world_size(),
    )
    batches = track(loader, f"evaluating {index.name}", len(loader))
    return from_network(network, batches, settings.conf, category_ids_for(model, index), device, dtype, timer)


def validate_results(
    results: DetectionRows, index: DetectionIndex, settings: ValSettings
) -> dict[str, EvaluatedDetections]:
    """Evaluate the results of any detector: without NMS, or after each NMS method of the settings."""
    if settings.nms == "auto":
        return {WITHOUT_NMS: score(index, results, settings)}
    results = above_conf(results, settings)
    stream = track(from_results(results), f"suppressing on {index.name}", len(np.unique(results[:, 0])))
    meter = MisalignmentMeter(index, settings.iou, settings.max_det)
    evaluated = evaluate_methods(stream, index, nms_options_by_method(settings, ()), meter, limits=limits_of(settings))
    return {name: apply_evaluator(one, index, settings) for name, one in evaluated.items()}


def nms_options_by_method(settings: SuppressionSettings, components: tuple[str, ...]) -> dict[str, NMSOptions]:
    """Build the post-processing of each NMS method of the settings, for a model with these components."""
    options = nms_options(settings, components)
    return {name: replace(options, method=name) for name in settings.nms_methods(components)}


def nms_options(
    settings: SuppressionSettings, components: tuple[str, ...], conf: float | tuple[float, ...] | None = None
) -> NMSOptions:
    """Build the post-processing of the settings for a model with these components.

    `conf` replaces that of the settings: a threshold for all classes, or one for each.
    """
    conf = settings.conf if conf is None else conf
    return NMSOptions(
        method=settings.nms_for(components),
        conf=min(conf) if isinstance(conf, tuple) else conf,
        class_confs=conf if isinstance(conf, tuple) else (),
        iou=settings.iou,
        max_det=settings.max_det,
        localization=settings.localization,
        cl_norm=settings.cl_norm,
        cl_score=settings.cl_score,
    )


def category_ids_for(model: Checkpoint, index: DetectionIndex) -> list[int]:
    """Return the category id in the data set of each class of the model, matched by name."""
    ids = dict(zip(index.classes, (int(i) for i in index.category_ids)))
    unknown = [name for name in index.classes if name not in model.classes]
    if unknown:
        raise UserError(
            f"the model does not know {', '.join(unknown[:5])} of {index.name}",
            f"it was trained on {', '.join(model.classes[:10])}{' ...' if len(model.classes) > 10 else ''}",
        )
    spare = int(np.max(index.category_ids, initial=0)) + 1  # classes that this data set lacks: nothing to compare with
    return [ids.get(name, spare + i) for i, name in enumerate(model.classes)]
