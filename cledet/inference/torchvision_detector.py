"""Torchvision's own detectors with its published weights, image sizes, thresholds and NMS, to compare with."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torchvision.models import detection as published
from torchvision.models import get_model, get_model_weights, list_models

from cledet.config.base import PredictSettings
from cledet.config.evaluate import ValSettings
from cledet.console import say, track, warn
from cledet.data.dataset import DetectionDataset
from cledet.data.images import read_image
from cledet.data.index import DetectionIndex, Ints
from cledet.distributed.devices import describe, pick_device
from cledet.errors import UserError, nearest
from cledet.evaluation.candidates import Candidates, everything
from cledet.evaluation.evaluator import nms_options
from cledet.inference.predictor import Detections
from cledet.io.weight_files import read_file
from cledet.metrics.results_file import Results
from cledet.models.postprocess import Detected, suppress_candidates

IDLE = ("imgsz", "batch", "workers", "amp")
"""Settings that mean nothing here: images are taken one by one, as large as torchvision resizes them, in float32."""
IDLE_WITHOUT_NMS = (*IDLE, "localization", "cl_norm", "cl_score")


class Thresholds(NamedTuple):
    """What a detection must score, over which IoU its own NMS suppresses, and how many are left of an image."""

    score_thresh: float
    nms_thresh: float
    detections_per_img: int


@dataclass(frozen=True)
class TorchvisionDetector:
    """A detector of torchvision's by name, else UserError; its weights are loaded when they are needed."""

    name: str

    def __post_init__(self) -> None:
        known = list_models(module=published)
        if self.name not in known:
            raise UserError(f"torchvision has no detector {self.name!r}", nearest(self.name, known))

    @cached_property
    def network(self) -> nn.Module:
        """It takes images [3, H, W], 0 to 1, and gives detections in their pixels."""
        return load_network(self.name)

    @cached_property
    def own(self) -> Thresholds:
        """The thresholds that it was made with."""
        return Thresholds(*(getattr(self.part, key) for key in Thresholds._fields))

    @property
    def part(self) -> nn.Module:
        """That of the network which has the thresholds."""
        return self.network.roi_heads if hasattr(self.network, "roi_heads") else self.network  # type: ignore[return-value]

    @property
    def names(self) -> tuple[str, ...]:
        """Of its labels from 0, which is the background."""
        return tuple(get_model_weights(self.name).DEFAULT.meta["categories"])

    def cannot(self, what: str) -> UserError:
        """The complaint about something that only our models can."""
        hint = "val and predict take it; train one of its kind with --head fcos or retinanet"
        return UserError(f"torchvision:{self.name} is as torchvision has it and cannot {what} here", hint)

    def prepare(self, settings: ValSettings | PredictSettings) -> torch.device:
        """Put the network on its device, with thresholds as the settings say."""
        refuse_idle(self.name, settings)
        for key, value in thresholds(self.own, settings)._asdict().items():
            setattr(self.part, key, value)
        device = pick_device(settings.device)
        self.network.to(device).eval()
        return device

    @torch.inference_mode()
    def detect(self, image: NDArray[np.uint8], device: torch.device) -> Detected:
        """Detections of one RGB image [H, W, 3], in its pixels, on the CPU."""
        pixels = torch.from_numpy(image).permute(2, 0, 1).to(device).float() / 255
        (found,) = self.network([pixels])
        return Detected(*(found[key].cpu() for key in Detected._fields))

    def results(self, index: DetectionIndex, settings: ValSettings) -> Results:
        """What it finds on a split, of the classes that both know by name."""
        ids = category_ids(self, index)
        device = self.prepare(settings)
        say(f"{index.name}: {len(index)} images on {describe(device)}, NMS {_nms(settings)}")
        images, rows = DetectionDataset(index, short=32, long=32), [np.zeros((0, 7))]  # read as they are, not resized
        for i in track(range(len(index)), f"evaluating {index.name}", len(index)):
            boxes, scores, labels = self.detect(images.read(i).image, device)
            found = Candidates(int(index.image_ids[i]), boxes, scores, labels, torch.ones(4), ids)
            rows.append(everything(found))
        results = np.concatenate(rows)
        return results[results[:, 6] >= 0]


@dataclass(frozen=True)
class TorchvisionPredictor:
    """One made ready, by `prepare`, for single images."""

    detector: TorchvisionDetector
    settings: PredictSettings
    device: torch.device

    def stream(self, images: Iterable[Path | NDArray[np.uint8]]) -> Iterator[Detections]:
        """Detections of each image: a file, or an RGB array [H, W, 3] of uint8."""
        names = self.detector.names
        for image in images:
            path = image if isinstance(image, Path) else None
            pixels = read_image(image) if isinstance(image, Path) else image
            found = self.detector.detect(pixels, self.device)
            if self.settings.nms != "auto":
                found = suppress_candidates(found, nms_options(self.settings, ()))
            yield Detections(path, pixels, *found, names, tuple(range(len(names))))


def load_network(name: str) -> nn.Module:
    """Torchvision's network of that name with its newest published weights, from torch.hub's folder or the web."""
    weights = get_model_weights(name).DEFAULT
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    file = folder / Path(weights.url).name
    there = file.is_file()
    say(f"{file} is used" if there else f"fetching {weights.url} ({weights.meta['_file_size']:.0f} MB) into {folder}")
    if there:
        read_file(file)  # refuses code, which torch.hub would run
    try:
        network: nn.Module = get_model(name, weights=weights, progress=False)
    except (OSError, RuntimeError) as error:
        reason = str(error).partition("\n")[0]
        if there:
            raise UserError(f"{file} does not hold the weights of {name}: {reason}", "remove it") from None
        raise UserError(f"{weights.url} could not be fetched: {reason}", f"put that file into {folder}") from None
    return network.eval()


def thresholds(own: Thresholds, settings: ValSettings | PredictSettings) -> Thresholds:
    """Its own, but for those that are given; where NMS methods of ours are asked for, theirs suppresses nothing.

    `predict` always sets the lowest score.
    """
    given = {key for key, origin in settings.origins.items() if origin != "default"}
    if settings.nms != "auto":
        return Thresholds(settings.conf, 2.0, sys.maxsize)  # no IoU is over 2
    conf = "conf" in given or isinstance(settings, PredictSettings)
    return Thresholds(
        settings.conf if conf else own.score_thresh,
        settings.iou if "iou" in given else own.nms_thresh,
        settings.max_det if "max_det" in given else own.detections_per_img,
    )


def refuse_idle(name: str, settings: ValSettings | PredictSettings) -> None:
    """Raise UserError for a flag that would do nothing."""
    idle = IDLE_WITHOUT_NMS if settings.nms == "auto" else IDLE
    given = [key for key, origin in settings.origins.items() if origin == "flag" and key in idle]
    if given:
        own = "takes images one by one in its own size and float32" if given[0] in IDLE else "has its own NMS"
        flag = f"--{given[0].replace('_', '-')}"
        raise UserError(f"{flag} does nothing with torchvision:{name}, which {own}", "leave it out")


def category_ids(detector: TorchvisionDetector, index: DetectionIndex) -> Ints:
    """The data set's category id of each of the detector's labels, by name; -1 for what the data set lacks."""
    ids = dict(zip(index.classes, (int(i) for i in index.category_ids)))
    known = [name for name in index.classes if name in detector.names]
    if not known:
        some = ", ".join(name for name in detector.names[1:] if name != "N/A")[:80]
        wanted = f"{index.name} ({', '.join(index.classes[:5])})"
        raise UserError(f"torchvision:{detector.name} knows no class of {wanted}", f"it knows {some} ...")
    if unknown := [name for name in index.classes if name not in known]:
        warn(f"torchvision:{detector.name} does not know {', '.join(unknown[:5])}, which count as not found")
    others = {name for name in detector.names if name not in ("__background__", "no person", "N/A")} - set(known)
    if others:
        say(f"what it finds of {len(others)} classes that {index.name} lacks is left out")
    return np.array([ids.get(name, -1) for name in detector.names], dtype=np.int64)


def _nms(settings: ValSettings) -> str:
    return "its own" if settings.nms == "auto" else ", ".join(settings.nms_methods(()))
