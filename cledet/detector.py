"""Detector: the Python API. The command line does the same things through it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cledet.config import ExportSettings, PredictSettings, TrainSettings, ValSettings, ablation_name
from cledet.console import say, track, warn
from cledet.data.images import image_files
from cledet.data.index import DetectionIndex
from cledet.data.source import open_source
from cledet.engine import exporter
from cledet.engine.checkpoint import Checkpoint, load_checkpoint
from cledet.engine.devices import amp_dtype, describe, pick_device
from cledet.engine.evaluator import Evaluation, evaluate, read_results, to_coco_results
from cledet.engine.exporter import Export
from cledet.engine.predictor import Detections, Predictor, picture_path, write_picture
from cledet.engine.runs import find_weights, new_run, write_whole
from cledet.engine.setup import initial_model
from cledet.engine.trainer import Task, Trainer
from cledet.engine.validator import Validation, post_process, validate
from cledet.errors import UserError, nearest
from cledet.models.backbones import BACKBONES
from cledet.resolve import read_recipe, resolve

__all__ = ["Detections", "Detector"]


class Detector:
    """A detector: trained weights, or the name of a backbone to train from.

        det = Detector("runs/train/shapes/weights/best.pt")     # or a run's folder, a torchvision .pth, or "r50"
        for result in det.predict("images/", nms="cl-balanced", conf=0.3):
            print(result.boxes, result.scores, result.labels)

    Settings are those of the command line with underscores; a wrong one raises UserError.
    """

    def __init__(self, weights: str | Path | None = None, *, backbone: str | None = None) -> None:
        self.backbone = backbone
        self.model: Checkpoint | None = None
        if weights is not None and str(weights) in BACKBONES and not Path(weights).exists():
            self.backbone = str(weights)
        elif weights is not None:
            self.load(weights)

    def load(self, weights: str | Path) -> Detector:
        """Take the weights of a checkpoint, a run's folder or a torchvision RetinaNet file."""
        path = Path(weights)
        if not path.exists() and path.suffix == "" and path.parent == Path():
            raise UserError(f"{str(weights)!r} is neither a file nor a backbone", nearest(str(weights), BACKBONES))
        self.model = load_checkpoint(path)
        return self

    def save(self, path: str | Path) -> Path:
        """Write the weights, with classes and components, as a checkpoint."""
        self._trained().save(Path(path))
        return Path(path)

    def train(self, *, recipe: str | Path | None = None, resume: str | Path | None = None, **settings: Any) -> Path:
        """Train by the settings, or go on with a run; returns the run's folder and takes its best weights."""
        if resume is not None:
            run = self._resume(Path(resume), settings)
        else:
            if self.backbone is not None:
                settings.setdefault("backbone", self.backbone)
            run = self._train(resolve(TrainSettings, settings, recipe=recipe))
        self.load(run)
        return run

    def val(self, settings: ValSettings | None = None, **given: Any) -> Evaluation:
        """Figures of the model, or of a file of predictions, on a split."""
        return self.validate(settings or resolve(ValSettings, given)).evaluation

    def validate(self, settings: ValSettings) -> Validation:
        """The same with the detections that the figures are of."""
        if settings.predictions is not None:
            if settings.data is None:
                raise UserError("--predictions needs --data", "name the data set that they are of")
            index = load_index(settings.data, settings.split, need_images=False)
            results = read_results(settings.predictions, index)
            return Validation(evaluate(index, results), results)
        model, device = self._trained(), pick_device(settings.device)
        index = load_index(settings.data or model.data, settings.split)
        say(f"{index.name}: {len(index)} images on {describe(device)}, NMS {settings.nms_for(model.components)}")
        dtype = amp_dtype(device, settings.amp)
        return validate(model.network().to(device), index, model, settings, device, dtype)

    def predict(
        self,
        source: str | Path | NDArray[np.uint8] | Iterable[Any],
        settings: PredictSettings | None = None,
        **given: Any,
    ) -> Iterator[Detections]:
        """Detections of a file, a folder, a glob, an RGB array [H, W, 3], or several of these, one by one."""
        settings = settings or resolve(PredictSettings, given)
        return self.predictor(settings).stream(_images(source))

    def predictor(self, settings: PredictSettings) -> Predictor:
        """The network made ready for single images."""
        model, device = self._trained(), pick_device(settings.device)
        return Predictor(
            network=model.network().to(device),
            post=post_process(settings, model.components),
            imgsz=settings.imgsz or model.imgsz,
            device=device,
            dtype=amp_dtype(device, settings.amp),
            names=model.classes,
            category_ids=model.category_ids,
        )

    def export(self, format: str = "onnx", *, settings: ExportSettings | None = None, **given: Any) -> Export:
        """Write the network for another runtime, and prove there that it computes the same."""
        settings = settings or resolve(ExportSettings, {"format": format, **given})
        model = self._trained()
        name = settings.name or Path(model.data or model.architecture.backbone).stem
        return exporter.export(model, lambda: new_run(settings.project, "export", name), settings)

    def _train(self, settings: TrainSettings) -> Path:
        if Path(settings.data).exists():  # so that the run can be used and resumed from any folder
            settings = settings.model_copy(update={"data": str(Path(settings.data).absolute())})
        task = load_task(settings)
        model = initial_model(settings, task.train, self.model)
        run = new_run(settings.project, "train", settings.name or Path(settings.data).stem)
        write_whole(run / "config.yaml", settings.to_yaml())
        return Trainer(settings, task, model, run).fit()

    def _resume(self, run: Path, given: dict[str, Any]) -> Path:
        last = run / "weights" / "last.pt"
        if not last.is_file():
            raise UserError(f"there is no run to resume: {last} is missing", "pass a folder like runs/train/shapes")
        changed = sorted(set(given) - {"device", "workers"})
        if changed:
            hint = "start a new run with --weights"
            raise UserError(f"a resumed run keeps its settings; --{changed[0]} cannot be changed", hint)
        settings = resolve(TrainSettings, {**read_recipe(run / "config.yaml"), **given})
        return Trainer(settings, load_task(settings), load_checkpoint(last), run).fit()

    def _trained(self) -> Checkpoint:
        if self.model is None:
            raise UserError("this detector has no weights yet", "train it, or make it with Detector(weights)")
        return self.model


def load_index(data: str, split: str, *, need_images: bool = True) -> DetectionIndex:
    """One split of a data set; what is odd about it is said."""
    index = open_source(data).index(split, need_images=need_images)
    for note in index.notes:
        warn(note)
    return index


def load_task(settings: TrainSettings) -> Task:
    """The splits that a run is trained on and measured on."""
    train = load_index(settings.data, settings.split)
    if settings.val_split == "none":
        return Task(train=train, val=None)
    val = load_index(settings.data, settings.val_split)
    unknown = set(val.classes) - set(train.classes)
    if unknown:
        raise UserError(f"{val.name} has classes that {train.name} does not: {', '.join(sorted(unknown)[:5])}")
    if set(val.paths.tolist()) & set(train.paths.tolist()):
        warn(f"{val.name} shares images with {train.name}: its figures say little about other images")
    return Task(train=train, val=val)


def newest_detector(settings: ValSettings | PredictSettings | ExportSettings) -> Detector:
    """The detector that a command means: `--weights`, else the newest run, trained with `--ablation`."""
    path = find_weights(settings.project, settings.weights, settings.ablation)
    detector = Detector(path)
    components = detector._trained().components
    if settings.ablation is not None and settings.ablation != components:
        raise UserError(f"{path} was trained with {ablation_name(components)}, not {ablation_name(settings.ablation)}")
    say(f"weights: {path}")
    return detector


def val_to_folder(detector: Detector, settings: ValSettings) -> tuple[Path, Evaluation]:
    """metrics.json, and detections.json in COCO's results format, in a new run folder."""
    result = detector.validate(settings)
    run = new_run(settings.project, "val", settings.name or settings.split)
    write_whole(run / "metrics.json", json.dumps(result.evaluation.to_dict(), indent=1))
    write_whole(run / "detections.json", json.dumps(to_coco_results(result.results)))
    return run, result.evaluation


def predict_to_folder(detector: Detector, source: str, settings: PredictSettings) -> tuple[Path, list[dict[str, Any]]]:
    """Annotated pictures and predictions.json of all images of a source, in a new run folder."""
    files = image_files(source)
    predictor = detector.predictor(settings)
    run = new_run(settings.project, "predict", settings.name or Path(source).stem.strip("*?[]") or "images")
    taken: set[str] = set()
    documents = []
    for found in track(predictor.stream(files), "predicting", len(files)):
        assert found.path is not None
        write_picture(picture_path(run, found.path, taken), found.draw())
        documents.append(found.to_dict())
    write_whole(run / "predictions.json", json.dumps(documents, indent=1))
    return run, documents


def _images(source: Any) -> Iterator[Path | NDArray[np.uint8]]:
    if isinstance(source, np.ndarray):
        yield source
    elif isinstance(source, torch.Tensor):
        raise UserError("predict takes files and RGB arrays [H, W, 3] of uint8, not tensors")
    elif isinstance(source, str | Path):
        yield from image_files(source)
    else:
        for one in source:
            yield from _images(one)
