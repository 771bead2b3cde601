"""Prediction: a network with its settings, from images to results."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from cledet.config.base import long_side
from cledet.data.dataset import preprocess
from cledet.data.images import read_image
from cledet.distributed.devices import autocast, within_memory
from cledet.evaluation.candidates import to_original
from cledet.inference.results import Results
from cledet.models.network import RetinaNet
from cledet.models.nms import NMSOptions
from cledet.models.postprocess import detect


@dataclass(frozen=True, kw_only=True)
class Predictor:
    """A network in evaluation mode, with the settings for prediction on single images."""

    network: RetinaNet
    post: NMSOptions
    imgsz: int
    device: torch.device
    dtype: torch.dtype | None
    names: tuple[str, ...]
    category_ids: tuple[int, ...]

    def __post_init__(self) -> None:
        self.network.eval()

    def stream(self, images: Iterable[Path | NDArray[np.uint8]]) -> Iterator[Results]:
        """Yield the detections of each image: a file, or an RGB array [H, W, 3] of uint8."""
        for image in images:
            if isinstance(image, Path):
                yield self.predict(read_image(image), image)
            else:
                yield self.predict(image, None)

    @torch.inference_mode()
    def predict(self, image: NDArray[np.uint8], path: Path | None) -> Results:
        """Detect objects in one RGB image [H, W, 3]."""
        batch, resized = preprocess(image, self.imgsz, long_side(self.imgsz))
        size, original = torch.tensor(resized), torch.tensor(image.shape[:2])
        with within_memory(self.device, "lower --imgsz"):
            with autocast(self.device, self.dtype):
                raw = self.network(batch.to(self.device))
            boxes, scores, labels = detect(raw, size[None], self.post)[0]
        boxes = to_original(boxes, size, original)
        return Results(path, image, boxes.cpu(), scores.cpu(), labels.cpu(), self.names, self.category_ids)


def picture_path(folder: Path, source: Path, taken: set[str]) -> Path:
    """Return a path for the picture of `source` by its file name, numbered if the name is taken already."""
    name, number = f"{source.stem}.jpg", 2
    while name in taken:
        name, number = f"{source.stem}-{number}.jpg", number + 1
    taken.add(name)
    return folder / name
