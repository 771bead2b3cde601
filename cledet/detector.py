"""The Python API, on which the command line is built."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cledet.config.base import ExplainSettings, ExportSettings, PredictSettings
from cledet.config.evaluate import ValSettings
from cledet.config.loading import resolve
from cledet.config.train import GridSettings
from cledet.console import say
from cledet.data.index import DetectionIndex
from cledet.data.open import open_source
from cledet.distributed.devices import amp_dtype, describe, pick_device
from cledet.errors import UserError, nearest
from cledet.evaluation.evaluator import nms_options, validate, validate_results
from cledet.evaluation.nms_methods import add_gains
from cledet.evaluation.score_file import predictions_split
from cledet.evaluation.splits import load_index
from cledet.explain.explainer import explain_image
from cledet.explain.explanation import Explanation
from cledet.export import exporter
from cledet.export.exporter import Export
from cledet.inference.predictor import Predictor
from cledet.inference.results import Results
from cledet.inference.sources import read_frames
from cledet.inference.torchvision_detector import TorchvisionDetector, TorchvisionPredictor
from cledet.io.run_folders import name_from, newest_run, whole_run
from cledet.metrics.evaluation import EvaluatedDetections, Evaluation
from cledet.metrics.results_file import read_results
from cledet.models.backbones.build import BACKBONES, known_backbones
from cledet.models.checkpoint import Checkpoint, load_checkpoint
from cledet.training import run as training_run

__all__ = ["Detector", "Results", "known_backbones"]


class Detector:
    """A detector: trained weights, or the name of a backbone to train from.

        det = Detector("runs/train/shapes/weights/best.pt")  # or a run folder, another project's RetinaNet, or "r50"
        for result in det.predict("images/", nms="cl-balanced", conf=0.3):
            print(result.boxes, result.scores, result.labels)

    Settings are the flags of the command line, with underscores. An invalid one raises UserError.
    """

    def __init__(self, weights: str | Path | None = None, *, backbone: str | None = None) -> None:
        self.backbone = backbone
        self.model: Checkpoint | None = None
        self.foreign: TorchvisionDetector | None = None
        if weights is not None and str(weights) in BACKBONES and not Path(weights).exists():
            self.backbone = str(weights)
        elif weights is not None:
            self.load(weights)

    def load(self, weights: str | Path) -> Detector:
        """Load the weights of a checkpoint, a run folder, another project's detector, or torchvision:NAME."""
        self.model = self.foreign = None
        if str(weights).startswith("torchvision:"):
            self.foreign = TorchvisionDetector(str(weights).partition(":")[2])
            return self
        path = Path(weights)
        if not path.exists() and path.suffix == "" and path.parent == Path():
            raise UserError(f"{str(weights)!r} is neither a file nor a backbone", nearest(str(weights), BACKBONES))
        self.model = load_checkpoint(path)
        return self

    @property
    def components(self) -> tuple[str, ...]:
        """The components that the model was trained with."""
        return self.model.components if self.model is not None else ()

    def save(self, path: str | Path) -> Path:
        """Write the weights, with classes and components, as a checkpoint, and return its path."""
        self._trained().save(Path(path))
        return Path(path)

    def train(
        self,
        settings: GridSettings | None = None,
        *,
        recipe: str | Path | None = None,
        resume: str | Path | None = None,
        **given: Any,
    ) -> Path:
        """Train by the settings, or go on with a run; returns the run's folder and takes its best weights.

        A grid of runs (several `ablation`s or `seeds`): returns the grid's folder and takes its last run's weights.
        """
        if self.foreign is not None:
            raise self.foreign.unsupported("be trained")
        if resume is not None:
            run = training_run.resume(Path(resume), given if settings is None else settings.explicit)
        else:
            if self.backbone is not None:
                given.setdefault("backbone", self.backbone)
            run = training_run.train(settings or resolve(GridSettings, given, recipe=recipe), self.model)
        if list(run.glob("**/best.pt")):  # else it is on the machine that led the run
            self.load(newest_run(run))
        return run

    def val(self, settings: ValSettings | None = None, **given: Any) -> Evaluation:
        """Evaluate the model, or a file of predictions, on a split with one NMS method."""
        settings = settings or resolve(ValSettings, given)
        if len(settings.nms_methods(())) > 1:
            raise UserError(f"val takes one NMS method, not {settings.nms}", "use compare_nms")
        (evaluation,) = self.compare_nms(settings).values()
        return evaluation

    def compare_nms(self, settings: ValSettings | None = None, **given: Any) -> dict[str, Evaluation]:
        """Evaluate each NMS method of the settings on the same candidates."""
        validations = self.validate(settings or resolve(ValSettings, given))
        return {name: validation.evaluation for name, validation in validations.items()}

    def split(self, settings: ValSettings) -> DetectionIndex:
        """Load the split of the settings. The image files may be missing if predictions are evaluated."""
        if settings.predictions is not None:
            return predictions_split(settings)
        if self.foreign is not None and settings.data is None:
            raise UserError(f"torchvision:{self.foreign.name} needs --data", "name the data set to evaluate it on")
        return load_index(open_source(settings.data or self._trained().data), settings.split)

    def validate(self, settings: ValSettings, index: DetectionIndex | None = None) -> dict[str, EvaluatedDetections]:
        """The same with the detections that the figures are of; `index` is the split if it is open already."""
        index = index or self.split(settings)
        if settings.predictions is not None:
            found = validate_results(read_results(settings.predictions, index), index, settings)
        elif self.foreign is not None:
            found = validate_results(self.foreign.results(index, settings), index, settings)
        else:
            model, device = self._trained(), pick_device(settings.device)
            methods = ", ".join(settings.nms_methods(model.components))
            say(f"{index.name}: {len(index)} images on {describe(device)}, NMS {methods}")
            dtype = amp_dtype(device, settings.amp)
            found = validate(model.network().to(device), index, model, settings, device, dtype)
        return add_gains(found, index, settings.bootstrap) if settings.bootstrap else found

    def predict(
        self,
        source: str | Path | NDArray[np.uint8] | Iterable[Any],
        settings: PredictSettings | None = None,
        **given: Any,
    ) -> Iterator[Results]:
        """Yield the detections of each image of a file, a folder, a glob, an array of uint8, or several of these.

        An array is RGB [H, W, 3], gray [H, W], RGBA [H, W, 4], whose alpha is dropped, or a batch [N, H, W, 3].
        """
        settings = settings or resolve(PredictSettings, given)
        frames = read_frames(source, recursive=settings.recursive)
        return self.predictor(settings).stream(frames, settings.batch)

    def predictor(self, settings: PredictSettings) -> Predictor | TorchvisionPredictor:
        """Prepare the network for prediction on single images."""
        if self.foreign is not None:
            return TorchvisionPredictor(self.foreign, settings, self.foreign.prepare(settings))
        model, device = self._trained(), pick_device(settings.device)
        return Predictor(
            network=model.network().to(device),
            post=nms_options(settings, model.components),
            imgsz=settings.imgsz or model.imgsz,
            device=device,
            dtype=amp_dtype(device, settings.amp),
            names=model.classes,
            category_ids=model.category_ids,
            classes=_labels_of(settings.classes, model.classes),
            agnostic=settings.agnostic,
        )

    def explain(
        self, image: str | Path | NDArray[np.uint8], settings: ExplainSettings | None = None, **given: Any
    ) -> Explanation:
        """Explain the effect of the components on one image: a file, or an RGB array [H, W, 3] without annotations."""
        settings = settings or resolve(ExplainSettings, given)
        return explain_image(self._trained(), Path(image) if isinstance(image, str) else image, settings)

    def export(self, format: str = "onnx", *, settings: ExportSettings | None = None, **given: Any) -> Export:
        """Write the network for another runtime, and verify its outputs against PyTorch."""
        settings = settings or resolve(ExportSettings, {"format": format, **given})
        model = self._trained()
        name = settings.name or name_from(Path(model.data or model.architecture.backbone).stem, "model")
        return exporter.export(model, lambda: whole_run(settings.project, "export", name), settings)

    def _trained(self) -> Checkpoint:
        if self.foreign is not None:
            raise self.foreign.unsupported("be saved, explained or exported")
        if self.model is None:
            raise UserError("this detector has no weights yet", "train it, or create it with Detector(weights)")
        return self.model


def _labels_of(classes: tuple[str, ...] | None, names: tuple[str, ...]) -> tuple[int, ...] | None:
    """Return the labels of classes by name. Raises UserError for an unknown one."""
    for name in classes or ():
        if name not in names:
            raise UserError(f"the model has no class {name!r}", nearest(name, names))
    return None if classes is None else tuple(names.index(name) for name in classes)
