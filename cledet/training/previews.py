"""Preview pictures of a run: training batches, and ground truth and detections on evaluation images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from cledet.config.base import PredictSettings
from cledet.config.train import TrainSettings
from cledet.console import say
from cledet.data.dataset import Batch
from cledet.data.images import read_image
from cledet.data.index import DetectionIndex
from cledet.distributed import collectives
from cledet.evaluation.evaluator import nms_options
from cledet.inference.confidence import resolve_conf
from cledet.inference.predictor import Predictor
from cledet.inference.results import Results
from cledet.models.checkpoint import load_checkpoint
from cledet.visualization.draw import draw_detections, draw_objects, draw_text, hatch, resized, write_picture

PREVIEW_STEPS = 3
"""First steps whose batches are saved as pictures."""
CELL = (480, 400)
"""Width and height of a cell of the sheet, in pixels."""
HEAD = 30
"""Height of the captions above a sheet, in pixels."""
IMAGES, COLUMNS = 8, 4
"""Evenly spaced images of the evaluation split, and pictures per row of a sheet."""


def save_val_previews(run: Path, val: DetectionIndex, settings: TrainSettings, device: torch.device) -> None:
    """Write val.jpg into the run folder: images of the evaluation split, beside each the detections of best.pt."""
    best = load_checkpoint(run / "weights" / "best.pt")
    conf, origin = resolve_conf(PredictSettings(), best)
    predictor = Predictor(
        network=best.network().to(device),
        options=nms_options(settings, best.components, conf),
        imgsz=settings.imgsz,
        device=device,
        dtype=None,
        names=best.classes,
        category_ids=best.category_ids,
    )
    pictures = []
    for i in np.unique(np.linspace(0, len(val) - 1, IMAGES).round().astype(int)).tolist():
        image = read_image(str(val.paths[i]), val.annotated_size(i))  # as training and evaluation read it
        small, scale = _fit_image(image)
        pictures += [draw_objects(small, val, i, scale), fit_to_cell(predictor.predict(image, None)).plot()]
    body = sheet(pictures, min(COLUMNS, len(pictures)))
    head = np.full((HEAD, body.shape[1], 3), 255, dtype=np.uint8)
    for column, left in enumerate(range(0, body.shape[1], CELL[0])):
        draw_text(head, ("ground truth", "detections")[column % 2], (left + 8, 6), HEAD - 10)
    write_picture(run / "val.jpg", np.concatenate([head, body]))
    say(f"previews: {run / 'val.jpg'}; {origin}")


def save_first_batches(run: Path, step: int, batch: Batch, names: Sequence[str]) -> None:
    """Save the batch of one of the first steps as a picture; the pictures of an earlier start stay."""
    path = run / "batches" / f"{step:06d}.jpg"
    if step < PREVIEW_STEPS and collectives.is_main_process() and not path.exists():
        save_batch(batch, names, path)


def save_batch(batch: Batch, names: Sequence[str], path: Path, most: int = 16) -> None:
    """Write a sheet of the first images of a training batch, padded, with ground truth and class names.

    Ignored regions are hatched.
    """
    pictures = []
    for i in range(min(len(batch), most)):
        image, scale = _fit_image(np.ascontiguousarray(batch.images[i].permute(1, 2, 0).numpy()))
        count, ignored = int(batch.counts[i]), batch.ignored[i]
        image = hatch(image, (ignored[ignored.any(dim=1)] * scale).numpy())
        labels = batch.labels[i, :count].tolist()
        boxes = (batch.boxes[i, :count] * scale).numpy()
        pictures.append(draw_detections(image, boxes, labels, [names[label] for label in labels]))
    write_picture(path, sheet(pictures, min(COLUMNS, len(pictures))))


def fit_to_cell(detections: Results) -> Results:
    """Resize an image and its detections to a cell of the sheet, so that captions stay legible."""
    image, scale = _fit_image(detections.image)
    return replace(detections, image=image, boxes=detections.boxes * scale)


def _fit_image(image: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], float]:
    """Return the image resized to a cell of the sheet, and the scale factor."""
    width, height = CELL
    rows, columns = image.shape[:2]
    scale = min((width - 8) / columns, (height - 8) / rows)
    return resized(image, scale, cv2.INTER_CUBIC), scale


def sheet(pictures: list[NDArray[np.uint8]], columns: int) -> NDArray[np.uint8]:
    """Arrange RGB pictures that fit into CELL row by row, each centered in its cell."""
    width, height = CELL
    rows = -(-len(pictures) // columns)
    canvas = np.full((rows * height, columns * width, 3), 255, dtype=np.uint8)
    for i, picture in enumerate(pictures):
        top = i // columns * height + (height - picture.shape[0]) // 2
        left = i % columns * width + (width - picture.shape[1]) // 2
        canvas[top : top + picture.shape[0], left : left + picture.shape[1]] = picture
    return canvas
