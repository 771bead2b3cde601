"""Validation: a model's figures on a split."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from cledet.config import DetectionSettings, TrainSettings, ValSettings, long_side
from cledet.console import track
from cledet.data.dataset import DetectionDataset
from cledet.data.index import DetectionIndex
from cledet.data.loader import eval_loader
from cledet.engine.checkpoint import Checkpoint
from cledet.engine.devices import default_workers
from cledet.engine.evaluator import Evaluation, Results, detect, evaluate
from cledet.errors import UserError
from cledet.models.decode import PostProcess
from cledet.models.network import RetinaNet


@dataclass(frozen=True)
class Validation:
    """Figures, and the detections that they are of."""

    evaluation: Evaluation
    results: Results


def validate(
    network: RetinaNet,
    index: DetectionIndex,
    model: Checkpoint,
    settings: ValSettings | TrainSettings,
    device: torch.device,
    dtype: torch.dtype | None,
) -> Validation:
    """Run the network over the split and let pycocotools score what it finds."""
    short = settings.imgsz or model.imgsz
    dataset = DetectionDataset(index, short=short, long=long_side(short))
    loader = eval_loader(dataset, batch=settings.batch, workers=default_workers(settings.workers))
    batches = track(loader, f"evaluating {index.name}", len(loader))
    post = post_process(settings, model.components)
    results = detect(network, batches, post, category_ids_for(model, index), device, dtype)
    return Validation(evaluate(index, results), results)


def post_process(settings: DetectionSettings, components: tuple[str, ...]) -> PostProcess:
    """Thresholds and NMS as the settings say, for a model with these components."""
    return PostProcess(
        nms=settings.nms_for(components),
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
