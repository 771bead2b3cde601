"""Validation: a model's figures on a split, or those of any detector's results."""

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
from cledet.evaluation.misalignment import Meter
from cledet.evaluation.nms_methods import compare
from cledet.evaluation.score_file import AS_IT_IS, limits_of, over_floor, score
from cledet.evaluation.timing import Stages
from cledet.metrics.evaluation import Validation
from cledet.metrics.results_file import Results
from cledet.models.checkpoint import Checkpoint
from cledet.models.network import RetinaNet
from cledet.models.nms import NMSOptions


def validate(
    network: RetinaNet,
    index: DetectionIndex,
    model: Checkpoint,
    settings: ValSettings | TrainSettings,
    device: torch.device,
    dtype: torch.dtype | None,
) -> dict[str, Validation]:
    """Run the network once over the split, and score what each NMS method of the settings keeps.

    The settings of `val` also measure time and misalignment.
    """
    stages = Stages(device)
    stream = network_stream(network, index, model, settings, device, dtype, stages)
    methods = nms_options_by_method(settings, model.components)
    if not isinstance(settings, ValSettings):
        return compare(stream, index, methods, complete=True)
    meter = Meter(index, settings.iou, settings.max_det)
    found = compare(stream, index, methods, meter, complete=True, limits=limits_of(settings), stages=stages)
    say(stages.sentence(len(index)))
    return {name: one.with_figures(seconds=stages.seconds) for name, one in found.items()}


def network_stream(
    network: RetinaNet,
    index: DetectionIndex,
    model: Checkpoint,
    settings: ValSettings | TrainSettings | TuneSettings,
    device: torch.device,
    dtype: torch.dtype | None,
    stages: Stages | None = None,
) -> Iterator[Candidates]:
    """Run the network once over the split: of each image the candidates that score over `conf` of the settings."""
    short = settings.imgsz or model.imgsz
    dataset = DetectionDataset(index, short=short, long=long_side(short))
    loader = eval_loader(
        dataset,
        batch=max(1, settings.batch // collectives.world_size()),
        workers=default_workers(settings.workers),
        rank=collectives.rank(),
        world=collectives.world_size(),
    )
    batches = track(loader, f"evaluating {index.name}", len(loader))
    return from_network(network, batches, settings.conf, category_ids_for(model, index), device, dtype, stages)


def validate_results(results: Results, index: DetectionIndex, settings: ValSettings) -> dict[str, Validation]:
    """Score any detector's results: as they are, or what each NMS method of the settings keeps of them."""
    if settings.nms == "auto":
        return {AS_IT_IS: score(index, results, settings)}
    results = over_floor(results, settings)
    stream = track(from_results(results), f"suppressing on {index.name}", len(np.unique(results[:, 0])))
    meter = Meter(index, settings.iou, settings.max_det)
    return compare(stream, index, nms_options_by_method(settings, ()), meter, limits=limits_of(settings))


def nms_options_by_method(settings: SuppressionSettings, components: tuple[str, ...]) -> dict[str, NMSOptions]:
    """Build the NMS options of each method in the settings, for a model with these components."""
    options = nms_options(settings, components)
    return {name: replace(options, method=name) for name in settings.nms_methods(components)}


def nms_options(settings: SuppressionSettings, components: tuple[str, ...]) -> NMSOptions:
    """Build the NMS options of the settings, for a model with these components."""
    return NMSOptions(
        method=settings.nms_for(components),
        conf=settings.conf,
        iou=settings.iou,
        max_det=settings.max_det,
        localization=settings.localization,
        cl_norm=settings.cl_norm,
        cl_score=settings.cl_score,
    )


def category_ids_for(model: Checkpoint, index: DetectionIndex) -> list[int]:
    """The data set's category id of each of the model's classes, matched by name."""
    ids = dict(zip(index.classes, (int(i) for i in index.category_ids)))
    unknown = [name for name in index.classes if name not in model.classes]
    if unknown:
        raise UserError(
            f"the model does not know {', '.join(unknown[:5])} of {index.name}",
            f"it was trained on {', '.join(model.classes[:10])}{' ...' if len(model.classes) > 10 else ''}",
        )
    spare = int(np.max(index.category_ids, initial=0)) + 1  # classes that this data set lacks: nothing to compare with
    return [ids.get(name, spare + i) for i, name in enumerate(model.classes)]
