"""The Python API, on which the command line is built."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from cledet.config.base import ExplainSettings, ExportSettings, PredictSettings
from cledet.config.evaluate import ValSettings
from cledet.config.keywords import ExplainKeywords, ExportKeywords, PredictKeywords, TrainKeywords, ValKeywords, takes
from cledet.config.loading import resolve
from cledet.config.train import GridSettings
from cledet.console import say
from cledet.data.index import DetectionIndex, labels_of
from cledet.distributed.devices import amp_dtype, describe, pick_device, precision
from cledet.errors import UserError
from cledet.evaluation.evaluator import nms_options, validate, validate_results
from cledet.evaluation.nms_methods import add_gains
from cledet.evaluation.score_file import load_predictions, predictions_split
from cledet.evaluation.splits import load_split
from cledet.explain.explanation import Explanation
from cledet.export import exporter
from cledet.export.exporter import Export
from cledet.export.model_card import model_card
from cledet.export.runtime import ExportedModel, open_exported
from cledet.inference.confidence import resolve_conf
from cledet.inference.predictor import Predictor
from cledet.inference.results import Results
from cledet.inference.sources import read_frames, read_one
from cledet.inference.torchvision_detector import TorchvisionDetector, TorchvisionPredictor
from cledet.inference.views import ViewOptions
from cledet.io.run_folders import name_from, newest_run, whole_run
from cledet.io.weight_files import exported_error, exported_file
from cledet.metrics.evaluation import EvaluatedDetections, Evaluation
from cledet.models import hub
from cledet.models.backbones.build import BACKBONES, known_backbones
from cledet.models.checkpoint import Checkpoint
from cledet.models.fold import fold_batch_norm
from cledet.models.network import Network
from cledet.models.safetensors import pack
from cledet.models.weights import TORCHVISION, load_weights

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["Detector", "Results", "known_backbones"]

Source: TypeAlias = "str | Path | NDArray[np.generic] | Tensor | Image.Image | Iterable[Any]"
ImageSource: TypeAlias = "str | Path | NDArray[np.uint8]"
_BUILDING = Lock()
"""Held while a network is built, which threads may ask for at the same time."""


class Detector:
    """An object detector: trained weights, or the name of a backbone to train from.

    >>> from cledet import Detector
    >>> det = Detector("runs/train/shapes")  # or best.pt, another project's RetinaNet, or "r50" to train
    >>> det
    Detector(retinanet r18, 5 classes: star, crescent, ring, bar, elbow)
    >>> for result in det.predict("photos/", conf=0.3, max_det=5):
    ...     print(result.name, len(result), result.boxes.shape)
    photos/1.jpg 5 torch.Size([5, 4])
    photos/2.jpg 5 torch.Size([5, 4])

    Keywords are the flags of the command line, with underscores. An invalid one raises UserError. The network is
    built at the first call and kept. Threads may share a detector for everything but `train` and `load`.
    """

    def __init__(self, weights: str | Path | None = None, *, backbone: str | None = None) -> None:
        self.backbone = backbone
        self.model: Checkpoint | None = None
        self.foreign: TorchvisionDetector | None = None
        self._networks: dict[tuple[torch.device, bool], Network] = {}
        self._devices: dict[str, torch.device] = {}
        self._told = ""
        if weights is not None and str(weights) in BACKBONES and not Path(weights).exists():
            self.backbone = str(weights)
        elif weights is not None:
            self.load(weights)

    def __repr__(self) -> str:
        if self.foreign is not None:
            return f"Detector(torchvision:{self.foreign.name}, {len(self.names)} classes)"
        if self.model is None:
            return f"Detector({self.backbone or 'r50'}, not trained)"
        return f"Detector({self.model.summary()})"

    def load(self, weights: str | Path) -> Detector:
        """Load weights by path (checkpoint, run folder, exported file, another project's detector) or name.

        Names are coco, coco-v1, torchvision:NAME and hf:OWNER/REPO[@REVISION].
        """
        self.model, self.foreign, self._networks = None, None, {}
        if str(weights).startswith(TORCHVISION):
            self.foreign = TorchvisionDetector(str(weights).removeprefix(TORCHVISION))
        elif (file := exported_file(Path(weights))) is not None:
            self.model = open_exported(file)
        else:
            self.model = load_weights(weights, BACKBONES)
        return self

    @property
    def components(self) -> tuple[str, ...]:
        """The components that the model was trained with."""
        return self.model.components if self.model is not None else ()

    @property
    def names(self) -> tuple[str, ...]:
        """The class names; `Results.labels` are their indices."""
        return self.foreign.names if self.foreign is not None else self._trained().classes

    def save(self, path: str | Path) -> Path:
        """Write the weights, with classes and components, as a checkpoint, and return its path."""
        self._trained().save(Path(path))
        return Path(path)

    @takes(TrainKeywords, GridSettings)
    def train(
        self,
        settings: GridSettings | None = None,
        *,
        recipe: str | Path | None = None,
        resume: str | Path | None = None,
        **given: Unpack[TrainKeywords],
    ) -> Path:
        """Train by the settings, or go on with a run; returns the run's folder and takes its best weights.

        A grid of runs (several `ablation`s or `seeds`): returns the grid's folder and takes its last run's weights.
        """
        from cledet.training import run as training_run  # deferred: slow to import

        self._networks = {}  # leaves the device's memory to training
        if resume is not None:
            run = training_run.resume(Path(resume), {**given} if settings is None else settings.explicit)
        else:
            if self.backbone is not None:
                given.setdefault("backbone", self.backbone)
            start = self._trained() if self.foreign is not None else self.model
            if isinstance(start, ExportedModel):
                raise exported_error(start.path)
            run = training_run.train(settings or resolve(GridSettings, given, recipe=recipe), start)
        if list(run.glob("**/best.pt")):  # else it is on the machine that led the run
            self.load(newest_run(run))
        return run

    @takes(ValKeywords, ValSettings)
    def val(self, settings: ValSettings | None = None, **given: Unpack[ValKeywords]) -> Evaluation:
        """Evaluate the model, or a file of predictions, on a split with one NMS method."""
        settings = settings or resolve(ValSettings, given)
        if len(settings.nms_methods(())) > 1:
            raise UserError(f"val takes one NMS method, not {settings.nms}", "use compare_nms")
        return next(iter(self.compare_nms(settings).values()))

    @takes(ValKeywords, ValSettings, describe=False)
    def compare_nms(self, settings: ValSettings | None = None, **given: Unpack[ValKeywords]) -> dict[str, Evaluation]:
        """Evaluate each NMS method of the settings on the same candidates; the keywords are those of `val`."""
        validations = self.validate(settings or resolve(ValSettings, given))
        return {name: validation.evaluation for name, validation in validations.items()}

    def split(self, settings: ValSettings) -> DetectionIndex:
        """Load the split of the settings. The image files may be missing if predictions are evaluated."""
        if settings.predictions is not None:
            return predictions_split(settings)
        trained_on = "" if self.foreign is not None else self._trained().data
        if not settings.data and not trained_on:
            raise UserError("a detector of another project needs --data", "name the data set to evaluate it on")
        return load_split(settings.data, settings.split, trained_on)

    def validate(self, settings: ValSettings, index: DetectionIndex | None = None) -> dict[str, EvaluatedDetections]:
        """Evaluate as `compare_nms` does, and return the detections too; `index` is the split if it is open already."""
        index = index or self.split(settings)
        if settings.predictions is not None:
            found = validate_results(load_predictions(settings.predictions, index).rows, index, settings)
        elif self.foreign is not None:
            found = validate_results(self.foreign.results(index, settings), index, settings)
        else:
            model, (device, dtype) = self._trained(), self._place(settings)
            methods = ", ".join(settings.nms_methods(model.components))
            say(f"{index.name}: {len(index)} images on {describe(device)}, {precision(dtype)}, NMS {methods}")
            found = validate(self.network(device), index, model, settings, device, dtype)
        return add_gains(found, index, settings.bootstrap) if settings.bootstrap else found

    @takes(PredictKeywords, PredictSettings)
    def predict(
        self, source: Source, settings: PredictSettings | None = None, **given: Unpack[PredictKeywords]
    ) -> Iterator[Results]:
        """Yield the results of each image of a source, read when its result is asked for.

        A source is a path, folder, glob pattern, list file, URL, video, camera number or "-", a Pillow image, an array
        RGB [H, W, 3], gray [H, W] or RGBA [H, W, 4], a tensor [3, H, W], a batch of these, or an iterable of sources.
        """
        settings = settings or resolve(PredictSettings, given)
        return self.predictor(settings).stream(read_frames(source, recursive=settings.recursive), settings.batch)

    @takes(PredictKeywords, PredictSettings, describe=False)
    def predict_one(
        self, source: Source, settings: PredictSettings | None = None, **given: Unpack[PredictKeywords]
    ) -> Results:
        """Return the results of one image; UserError for several or none. The keywords are those of `predict`."""
        settings = settings or resolve(PredictSettings, given)
        return next(self.predictor(settings).stream([read_one(source, recursive=settings.recursive)]))

    def predictor(self, settings: PredictSettings) -> Predictor | TorchvisionPredictor:
        """Prepare the network for prediction, and print the origin of the confidence threshold if it is another one.

        Raises UserError for classes that the model does not have.
        """
        classes = labels_of(settings.classes or (), self.names, "the model")
        conf, origin = resolve_conf(settings, None if self.foreign is not None else self._trained())
        if origin not in ("", self._told):
            say(origin)
            self._told = origin
        if self.foreign is not None:
            return TorchvisionPredictor(self.foreign, settings.model_copy(update={"conf": conf}), classes)
        model, (device, dtype) = self._trained(), self._place(settings)
        network = self.network(device, folded=True)
        return Predictor(
            network=network,
            options=nms_options(settings, model.components, conf),
            imgsz=settings.imgsz or model.imgsz,
            device=device,
            dtype=dtype,
            names=model.classes,
            category_ids=model.category_ids,
            classes=classes,
            agnostic=settings.agnostic,
            view_options=ViewOptions.of(settings, one_size=network.canvas is not None),
        )

    def network(self, device: str | torch.device = "auto", *, folded: bool = False) -> Network:
        """Return the network on a device, in evaluation mode, optionally with folded norms; it is built once."""
        model, device = self._trained(), self._device(device) if isinstance(device, str) else device
        if isinstance(model, ExportedModel):
            return model.runtime
        with _BUILDING:
            if (device, folded) not in self._networks:
                with torch.device("cpu"):  # whatever torch's default device is
                    network = fold_batch_norm(model.network()) if folded else model.network()
                self._networks[device, folded] = network.to(device)
            return self._networks[device, folded]

    @takes(ExplainKeywords, ExplainSettings)
    def explain(
        self, image: ImageSource, settings: ExplainSettings | None = None, **given: Unpack[ExplainKeywords]
    ) -> Explanation:
        """Explain the effect of the components on one image: a file, or an RGB array [H, W, 3] without annotations."""
        from cledet.explain.explainer import explain_image  # deferred, as it imports training

        settings = settings or resolve(ExplainSettings, given)
        return explain_image(self._trained(), Path(image) if isinstance(image, str) else image, settings)

    @takes(ExportKeywords, ExportSettings)
    def export(
        self, format: str = "onnx", *, settings: ExportSettings | None = None, **given: Unpack[ExportKeywords]
    ) -> Export:
        """Write the network for another runtime, and verify its outputs against PyTorch."""
        settings = settings or resolve(ExportSettings, {"format": format, **given})
        model = self._trained()
        name = settings.name or name_from(Path(model.data or model.architecture.backbone).stem, "model")
        return exporter.export(model, lambda: whole_run(settings.project, "export", name), settings)

    def push_to_hub(self, repo: str, *, license: str = "unknown", private: bool = False) -> str:
        """Upload the weights, as safetensors, and a model card to OWNER/REPO on the Hugging Face Hub; return its URL.

        `license` is an identifier of the Hub, such as apache-2.0. A repository that does not exist is created. Needs
        `cledet[hub]` and a login (`hf auth login`).
        """
        model = self._trained()
        files = {hub.FILE: pack(model.content()), "README.md": model_card(model, repo, license).encode()}
        return hub.push(repo, files, private)

    def _place(self, settings: ValSettings | PredictSettings) -> tuple[torch.device, torch.dtype | None]:
        """Return device and precision. Raises UserError for settings that an exported file cannot follow."""
        if isinstance(self.model, ExportedModel):
            return self.model.place(settings)
        return (device := self._device(settings.device)), amp_dtype(device, settings.amp)

    def _device(self, wanted: str) -> torch.device:
        """Select a device once, so that `auto` does not change between calls."""
        if wanted not in self._devices:
            self._devices[wanted] = pick_device(wanted)
        return self._devices[wanted]

    def _trained(self) -> Checkpoint:
        if self.foreign is not None:
            return load_weights(f"{TORCHVISION}{self.foreign.name}")
        if self.model is None:
            raise UserError("this detector has no weights yet", "train it, or create it with Detector(weights)")
        return self.model
