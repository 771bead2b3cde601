"""Torchvision's detectors with their published weights, image sizes, thresholds and NMS, for comparison."""

from __future__ import annotations

import copy
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import NamedTuple

import numpy as np
import torch
from torch import nn
from torchvision.models import detection as published
from torchvision.models import get_model, get_model_weights, list_models

from cledet.config.base import PredictSettings
from cledet.config.evaluate import ValSettings
from cledet.console import say, track, warn
from cledet.data.dataset import DetectionDataset
from cledet.data.images import Pixels
from cledet.data.index import DetectionIndex, Ints
from cledet.distributed.devices import describe, pick_device
from cledet.errors import UserError, nearest
from cledet.evaluation.candidates import Candidates, all_candidates
from cledet.evaluation.evaluator import nms_options
from cledet.inference.frame import Frame
from cledet.inference.predictor import class_thresholds, over_threshold, results_of
from cledet.inference.results import Results
from cledet.inference.views import ViewOptions, unite
from cledet.io.weight_files import read_file
from cledet.metrics.results_file import DetectionRows
from cledet.models.postprocess import Detected, suppress_candidates

UNUSED = ("imgsz", "batch", "workers", "amp")
"""Settings without effect: images are processed one by one, in torchvision's size and in float32."""
UNUSED_WITHOUT_NMS = (*UNUSED, "localization", "cl_norm", "cl_score")
"""Settings without effect if torchvision's own NMS is used."""
OFF = 2.0
"""IoU threshold with which torchvision's NMS suppresses nothing."""
_LOADING = Lock()
"""Held while weights are loaded, which threads may ask for at the same time."""


class Thresholds(NamedTuple):
    """Minimum score, IoU threshold of NMS, and most detections per image, by torchvision's names."""

    score_thresh: float
    nms_thresh: float
    detections_per_img: int


@dataclass(frozen=True)
class TorchvisionDetector:
    """A torchvision detector by name, whose weights are loaded on first use.

    Raises UserError for an unknown name.
    """

    name: str
    _networks: dict[torch.device, nn.Module] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        known = list_models(module=published)
        if self.name not in known:
            raise UserError(f"torchvision has no detector {self.name!r}", nearest(self.name, known))

    def network(self, device: torch.device) -> nn.Module:
        """The network on a device, from images [3, H, W], 0 to 1, to detections in their pixels; loaded once."""
        with _LOADING:
            if device not in self._networks:
                self._networks[device] = load_network(self.name).to(device)
            return self._networks[device]

    @property
    def names(self) -> tuple[str, ...]:
        """The class name of each label; label 0 is the background."""
        return tuple(get_model_weights(self.name).DEFAULT.meta["categories"])

    def prepare(self, settings: ValSettings | PredictSettings, with_nms: bool = True) -> PreparedDetector:
        """Give the network the thresholds of the settings; without its own NMS, it returns all candidates.

        For `predict`, the minimum score is at most the published one, so that the highest score is known.
        """
        refuse_unused(self.name, settings)
        device = pick_device(settings.device)
        network = self.network(device)
        default = default_thresholds(network)
        chosen = thresholds(default, settings)
        if isinstance(settings, PredictSettings):
            chosen = chosen._replace(score_thresh=min(chosen.score_thresh, default.score_thresh))
        if not with_nms:
            chosen = chosen._replace(nms_thresh=OFF, detections_per_img=sys.maxsize)
        return PreparedDetector(with_thresholds(network, chosen), device)

    def results(self, index: DetectionIndex, settings: ValSettings) -> DetectionRows:
        """Detect objects on a split; detections of classes that the split lacks are dropped."""
        ids = category_ids(self, index)
        prepared = self.prepare(settings)
        nms = "its own" if settings.nms == "auto" else ", ".join(settings.nms_methods(()))
        say(f"{index.name}: {len(index)} images on {describe(prepared.device)}, NMS {nms}")
        images, rows = DetectionDataset(index, short=32, long=32), [np.zeros((0, 7))]  # read without resizing
        for i in track(range(len(index)), f"evaluating {index.name}", len(index)):
            boxes, scores, labels = prepared.detect(images.read(i).image)
            found = Candidates(int(index.image_ids[i]), boxes, scores, labels, torch.ones(4), ids)
            rows.append(all_candidates(found))
        results = np.concatenate(rows)
        return results[results[:, 6] >= 0]


@dataclass(frozen=True)
class PreparedDetector:
    """A torchvision network with its thresholds, on its device."""

    network: nn.Module
    device: torch.device

    @torch.inference_mode()
    def detect(self, image: Pixels) -> Detected:
        """Detect objects in one RGB image [H, W, 3], in its pixels; tensors on the CPU."""
        pixels = torch.from_numpy(np.require(image, requirements="W")).permute(2, 0, 1).to(self.device).float() / 255
        (outputs,) = self.network([pixels])
        return Detected(*(outputs[key].cpu() for key in Detected._fields))


class TorchvisionPredictor:
    """A torchvision detector with the settings for prediction; several threads may use it.

    Its own NMS is used unless one was chosen, or classes, slices, mirrored images or `agnostic` need another. As the
    network resizes images itself, test-time augmentation mirrors them only.
    """

    def __init__(self, detector: TorchvisionDetector, settings: PredictSettings, classes: tuple[int, ...] = ()) -> None:
        self.view_options = ViewOptions.of(settings, one_size=True)
        self.agnostic = settings.agnostic
        merges = bool(classes) or settings.agnostic or settings.tta or settings.slice is not None
        self.own_nms = settings.nms == "auto" and not merges
        self.options = nms_options(settings, ())
        self.names = detector.names
        self.thresholds = class_thresholds((self.options.conf,) * len(self.names), classes)
        self.prepared = detector.prepare(settings, with_nms=self.own_nms)

    @property
    def conf(self) -> float:
        """The confidence threshold."""
        return self.options.conf

    def stream(self, frames: Iterable[Frame], batch: int = 1) -> Iterator[Results]:
        """Yield the results of each frame, in order; `batch` is 1, as these networks process images one by one."""
        for frame in frames:
            views = self.view_options.views(*frame.image.shape[:2])
            found = [self._detect(view.pixels(frame.image)) for view in views]
            highest = max((score for _, score in found if score is not None), default=None)
            detected = found[0][0]
            if len(views) > 1:
                detected = unite(views, [candidates for candidates, _ in found], self.agnostic)
            if not self.own_nms:
                detected, _ = over_threshold(
                    suppress_candidates(detected, self.options, self.agnostic), self.thresholds
                )
            yield results_of(frame, detected, self.names, tuple(range(len(self.names))), highest)

    def _detect(self, image: Pixels) -> tuple[Detected, float | None]:
        return over_threshold(self.prepared.detect(image), self.thresholds)


def default_thresholds(network: nn.Module) -> Thresholds:
    """Return the thresholds of the published network."""
    return Thresholds(*(getattr(_part(network), key) for key in Thresholds._fields))


def with_thresholds(network: nn.Module, values: Thresholds) -> nn.Module:
    """Return the network with other thresholds; it shares its weights with the given one, which stays as it is."""
    network = copy.copy(network)
    network._modules = dict(network._modules)
    if _part(network) is not network:
        network.roi_heads = copy.copy(network.roi_heads)
    for key, value in values._asdict().items():
        setattr(_part(network), key, value)
    return network


def _part(network: nn.Module) -> nn.Module:
    """Return the submodule that holds the thresholds."""
    return network.roi_heads if hasattr(network, "roi_heads") else network  # type: ignore[return-value]


def load_network(name: str) -> nn.Module:
    """Load a torchvision network with its newest published weights, from torch.hub's folder or the web.

    Raises UserError if the weights cannot be downloaded or do not fit.
    """
    weights = get_model_weights(name).DEFAULT
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    file = folder / Path(weights.url).name
    cached = file.is_file()
    size = f"{weights.meta['_file_size']:.0f} MB"
    say(f"weights: {file}" if cached else f"downloading {weights.url} ({size}) to {folder}")
    if cached:
        read_file(file)  # refuses code, which torch.hub would run
    try:
        network: nn.Module = get_model(name, weights=weights, progress=False)
    except (OSError, RuntimeError) as error:
        reason = str(error).partition("\n")[0]
        if cached:
            raise UserError(f"{file} does not hold the weights of {name}: {reason}", "remove it") from None
        raise UserError(f"{weights.url} could not be downloaded: {reason}", f"put that file into {folder}") from None
    return network.eval()


def thresholds(default: Thresholds, settings: ValSettings | PredictSettings) -> Thresholds:
    """Return the default thresholds, overridden by explicit settings; `predict` always sets the minimum score.

    If an NMS method of cledet is chosen, torchvision's suppresses nothing.
    """
    explicit = {key for key, origin in settings.origins.items() if origin != "default"}
    least = float(settings.conf)  # that of predict is resolved
    if settings.nms != "auto":
        return Thresholds(least, OFF, sys.maxsize)
    conf = "conf" in explicit or isinstance(settings, PredictSettings)
    return Thresholds(
        least if conf else default.score_thresh,
        settings.iou if "iou" in explicit else default.nms_thresh,
        settings.max_det if "max_det" in explicit else default.detections_per_img,
    )


def refuse_unused(name: str, settings: ValSettings | PredictSettings) -> None:
    """Raise UserError for a flag without effect."""
    unused = UNUSED_WITHOUT_NMS if settings.nms == "auto" else UNUSED
    flags = [key for key, origin in settings.origins.items() if origin == "flag" and key in unused]
    if flags:
        reason = "processes images one by one in its own size and float32" if flags[0] in UNUSED else "has its own NMS"
        flag = f"--{flags[0].replace('_', '-')}"
        raise UserError(f"{flag} does nothing with torchvision:{name}, which {reason}", "leave it out")


def category_ids(detector: TorchvisionDetector, index: DetectionIndex) -> Ints:
    """Match classes by name: return the data set's category id of each label of the detector, -1 if it has none.

    Raises UserError if no class matches.
    """
    ids = dict(zip(index.classes, (int(i) for i in index.category_ids)))
    known = [name for name in index.classes if name in detector.names]
    if not known:
        own = ", ".join(name for name in detector.names[1:] if name != "N/A")[:80]
        split = f"{index.name} ({', '.join(index.classes[:5])})"
        raise UserError(f"torchvision:{detector.name} detects no class of {split}", f"it detects {own} ...")
    if unknown := [name for name in index.classes if name not in known]:
        warn(f"torchvision:{detector.name} does not detect {', '.join(unknown[:5])}, whose objects all count as missed")
    others = {name for name in detector.names if name not in ("__background__", "no person", "N/A")} - set(known)
    if others:
        say(f"detections of {len(others)} classes that {index.name} lacks are dropped")
    return np.array([ids.get(name, -1) for name in detector.names], dtype=np.int64)
