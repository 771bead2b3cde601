"""Explanation of one image by a checkpoint, with annotated objects or else the model's own detections."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import ValidationError
from torch import Tensor

from cledet.config.base import ExplainSettings, long_side
from cledet.config.components import EARLIER
from cledet.config.train import TrainSettings
from cledet.console import say, transfer
from cledet.data.dataset import DetectionDataset, preprocess
from cledet.data.formats.paths import absolute
from cledet.data.images import Pixels, read_image, rgb_arrays
from cledet.data.index import DetectionIndex
from cledet.data.open import open_source
from cledet.distributed.devices import pick_device
from cledet.errors import UserError
from cledet.evaluation.evaluator import category_ids_for, nms_options
from cledet.explain.explanation import IAC_OPTIONS, OPTIONS, SHOWN_SCORE, Explanation, Objects
from cledet.explain.finders import explain
from cledet.models.checkpoint import Checkpoint
from cledet.models.network import RawOutputs
from cledet.models.postprocess import detect


@torch.no_grad()
def explain_image(model: Checkpoint, image: Path | NDArray[np.uint8], settings: ExplainSettings) -> Explanation:
    """Explain one image: a file, or an array as `predict` takes it, which has no annotations."""
    path = image if isinstance(image, Path) else None
    trained, imgsz = as_trained(model, settings), settings.imgsz or model.imgsz
    annotated, reason = _look_up(path, settings.data, model.data)
    annotated_size = annotated.annotated_size(0) if annotated else None
    pixels = _one_image(image) if isinstance(image, np.ndarray) else read_image(image, annotated_size)
    batch, size = preprocess(pixels, imgsz, long_side(imgsz))
    raw = _run(model, batch, settings.device)
    if annotated is not None:
        objects = annotated_objects(annotated, model, imgsz)
        say(f"objects: the {len(objects.boxes)} annotated in {annotated.name}")
    else:
        objects = detected_objects(raw, size, trained)
        say(f"{reason}: the model's own detections, of score {SHOWN_SCORE:g} or more, are used as objects")
    return explain(raw, size, objects, trained, image=pixels, path=path, names=model.classes)


def _one_image(array: NDArray[np.uint8]) -> Pixels:
    """Return an array as one RGB image [H, W, 3]. Raises UserError for a batch."""
    images = rgb_arrays(array)
    if len(images) != 1:
        raise UserError(f"explain takes one image, not a batch of {len(images)}", "explain them one by one")
    return images[0]


def as_trained(model: Checkpoint, settings: ExplainSettings) -> TrainSettings:
    """Return the settings that the model was trained with, or the defaults, with the explanation's overrides.

    Raises UserError for invalid settings in the checkpoint, and for options of IAC if the assignment excludes it.
    """
    stored = EARLIER | model.settings if model.settings else {}
    trained_with = {key: value for key, value in stored.items() if key in TrainSettings.model_fields}
    overrides = {key: getattr(settings, key) for key in OPTIONS if getattr(settings, key) is not None}
    trained_with |= overrides | {"ablation": model.components, "head": model.architecture.head}
    try:
        trained = TrainSettings(**trained_with)
    except ValidationError as error:
        key, reason = error.errors()[0]["loc"], error.errors()[0]["msg"]
        raise UserError(f"the model's settings are invalid: {'.'.join(map(str, key))}: {reason}") from None
    unused = [key for key in overrides if key in IAC_OPTIONS] if "iac" not in trained.possible else []
    if unused:
        flag, assign = f"--{unused[0].replace('_', '-')}", trained.of_head("assign")
        raise UserError(
            f"{flag} is an option of IAC, which this model's assignment ({assign}) excludes", "leave it out"
        )
    return trained


def annotated_objects(index: DetectionIndex, model: Checkpoint, imgsz: int) -> Objects:
    """Return the objects of an index of one image, in pixels of the network's input.

    Raises UserError for classes that the model was not trained on.
    """
    category_ids_for(model, index)
    sample = DetectionDataset(index, short=imgsz, long=long_side(imgsz))[0]
    labels = torch.tensor([model.classes.index(name) for name in index.classes], dtype=torch.int64)
    return Objects(sample.boxes, labels[sample.labels], sample.ignored, index.name)


def detected_objects(raw: RawOutputs, size: tuple[int, int], trained: TrainSettings) -> Objects:
    """Return the model's own detections that score at least SHOWN_SCORE, in pixels of the network's input."""
    boxes, scores, labels = detect(raw, torch.tensor([size]), nms_options(trained, trained.ablation))[0]
    shown = scores >= SHOWN_SCORE
    return Objects(boxes[shown], labels[shown], torch.zeros(0, 4), "")


def _look_up(path: Path | None, requested: str | None, trained_on: str) -> tuple[DetectionIndex | None, str]:
    """Find the image's annotations by its absolute path in any split: an index of length 1, or None and the reason.

    Raises UserError if the requested data set is missing.
    """
    data = requested or trained_on
    if path is None or not data:
        return None, "no data set is known for this image"
    try:
        source = open_source(data, transfer)
        for split in source.splits:
            index = source.index(split, need_images=False)
            positions = np.flatnonzero(index.paths == str(absolute(path)))
            if len(positions):
                return index.subset(positions[:1]), ""
    except UserError as error:
        if requested is not None:
            raise
        return None, f"the data set that the model was trained on cannot be read ({error.message})"
    return None, f"{data} has no annotations of {path.name}"


def _run(model: Checkpoint, batch: Tensor, device_name: str) -> RawOutputs:
    """Compute the raw outputs of a batch, in float32, and return them on the CPU."""
    device = pick_device(device_name)
    raw = model.network().to(device)(batch.to(device))
    return raw._replace(**{name: part.float().cpu() for name, part in raw._asdict().items() if torch.is_tensor(part)})
