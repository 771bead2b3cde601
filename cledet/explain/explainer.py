"""From a checkpoint and an image to an explanation: its objects are annotated, or else those that the model finds."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import ValidationError
from torch import Tensor

from cledet.config.base import ExplainSettings, long_side
from cledet.config.train import TrainSettings
from cledet.console import say
from cledet.data.dataset import DetectionDataset, preprocess
from cledet.data.formats.paths import absolute
from cledet.data.images import Pixels, read_image, rgb_arrays
from cledet.data.index import DetectionIndex
from cledet.data.open import DataSource, open_source
from cledet.distributed.devices import pick_device
from cledet.errors import UserError
from cledet.evaluation.evaluator import category_ids_for, nms_options
from cledet.explain.explanation import IAC_OPTIONS, OPTIONS, SHOWN_SCORE, Explanation, Objects
from cledet.explain.finders import explain
from cledet.models.checkpoint import Checkpoint
from cledet.models.network import RawOutputs
from cledet.models.postprocess import detect


@dataclass(frozen=True)
class Annotated:
    """One annotated image, as an index of length 1."""

    index: DetectionIndex
    by_name: bool
    """Whether it was found by the file's name, not by its path."""


@torch.no_grad()
def explain_image(model: Checkpoint, image: Path | NDArray[np.uint8], settings: ExplainSettings) -> Explanation:
    """Explain one image: a file, or an array as `predict` takes it, which has no annotations."""
    path = image if isinstance(image, Path) else None
    trained, imgsz = as_trained(model, settings), settings.imgsz or model.imgsz
    found, reason = _look_up(path, settings.data, model.data)
    size_of = found.index.size(0) if found else None
    pixels = _only(rgb_arrays(image)) if isinstance(image, np.ndarray) else read_image(image, size_of)
    if found is not None and found.by_name and size_of not in (None, pixels.shape[1::-1]):
        reason = f"the image of that name in {found.index.name} has another size"
        found = None

    batch, size = preprocess(pixels, imgsz, long_side(imgsz))
    raw = _run(model, batch, settings.device)
    if found is not None:
        objects = annotated_objects(found, model, imgsz)
        by_name = ", found by its file name" if found.by_name else ""
        say(f"objects: the {len(objects.boxes)} annotated in {found.index.name}{by_name}")
    else:
        objects = detected_objects(raw, size, trained)
        say(f"{reason}: the model's own detections, of score {SHOWN_SCORE:g} or more, stand in for the objects")
    return explain(raw, size, objects, trained, image=pixels, path=path, names=model.classes)


def _only(images: list[Pixels]) -> Pixels:
    if len(images) != 1:
        raise UserError(f"explain takes one image, not a batch of {len(images)}", "explain them one by one")
    return images[0]


def as_trained(model: Checkpoint, settings: ExplainSettings) -> TrainSettings:
    """The settings that the model was trained with, or the defaults, but for those that are given."""
    kept = {key: value for key, value in model.settings.items() if key in TrainSettings.model_fields}
    given = {key: getattr(settings, key) for key in OPTIONS if getattr(settings, key) is not None}
    kept |= given | {"ablation": model.components, "head": model.architecture.head}
    try:
        trained = TrainSettings(**kept)
    except ValidationError as error:
        key, reason = error.errors()[0]["loc"], error.errors()[0]["msg"]
        raise UserError(
            f"the model's settings are not as cledet wrote them: {'.'.join(map(str, key))}: {reason}"
        ) from None
    idle = [key for key in given if key in IAC_OPTIONS] if "iac" not in trained.possible else []
    if idle:
        flag, assign = f"--{idle[0].replace('_', '-')}", trained.of_head("assign")
        raise UserError(f"{flag} is of IAC, which has no part in this model's assignment ({assign})", "leave it out")
    return trained


def find_annotated(source: DataSource, path: Path) -> Annotated | None:
    """The image's annotations in any split of a data set: by absolute path, else by a file name that is unique."""
    path = absolute(path)
    indices = []
    for split in source.splits:
        index = source.index(split, need_images=False)
        at = np.flatnonzero(index.paths == str(path))
        if len(at):
            return Annotated(index.subset(at[:1]), by_name=False)
        indices.append(index)
    named = {
        other: (index, i)
        for index in indices
        for i, other in enumerate(index.paths.tolist())
        if Path(other).name == path.name
    }
    if len(named) != 1:
        return None
    ((index, i),) = named.values()
    return Annotated(replace(index.subset([i]), paths=np.array([str(path)])), by_name=True)


def annotated_objects(found: Annotated, model: Checkpoint, imgsz: int) -> Objects:
    """The annotated objects, in pixels of the network's input; UserError for classes that the model does not know."""
    index = found.index
    category_ids_for(model, index)
    sample = DetectionDataset(index, short=imgsz, long=long_side(imgsz))[0]
    labels = torch.tensor([model.classes.index(name) for name in index.classes], dtype=torch.int64)
    return Objects(sample.boxes, labels[sample.labels], sample.ignored, index.name)


def detected_objects(raw: RawOutputs, size: tuple[int, int], trained: TrainSettings) -> Objects:
    """The model's own detections from SHOWN_SCORE on, to stand in for objects that nobody annotated."""
    boxes, scores, labels = detect(raw, torch.tensor([size]), nms_options(trained, trained.ablation))[0]
    sure = scores >= SHOWN_SCORE
    return Objects(boxes[sure], labels[sure], torch.zeros(0, 4), "")


def _look_up(path: Path | None, asked: str | None, trained_on: str) -> tuple[Annotated | None, str]:
    """The image's annotations, or the reason why there are none; a data set that was asked for must be there."""
    data = asked or trained_on
    if path is None or not data:
        return None, "no data set is known for this image"
    try:
        found = find_annotated(open_source(data), path)
    except UserError as error:
        if asked is not None:
            raise
        return None, f"the data set that the model was trained on cannot be read ({error.message})"
    return found, f"{data} has no annotations of {path.name}"


def _run(model: Checkpoint, batch: Tensor, device_name: str) -> RawOutputs:
    """Compute the raw outputs of a batch, in float32, and return them on the CPU."""
    device = pick_device(device_name)
    raw = model.network().to(device)(batch.to(device))
    return raw._replace(**{name: part.float().cpu() for name, part in raw._asdict().items() if torch.is_tensor(part)})
