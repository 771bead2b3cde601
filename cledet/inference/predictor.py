"""Prediction on single images, with detections as tensors, pictures and JSON."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cledet.config.base import long_side
from cledet.data.dataset import preprocess
from cledet.data.images import read_image
from cledet.distributed.devices import autocast, within_memory
from cledet.evaluation.candidates import to_original
from cledet.models.network import RetinaNet
from cledet.models.nms import NMSOptions
from cledet.models.postprocess import detect
from cledet.visualization.draw import draw_detections


@dataclass(frozen=True)
class Detections:
    """Detections of one image, best first: boxes [K, 4] in its pixels, scores [K], labels [K] and class names."""

    path: Path | None
    image: NDArray[np.uint8]
    boxes: Tensor
    scores: Tensor
    labels: Tensor
    names: tuple[str, ...]
    category_ids: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.boxes)

    def to_dict(self) -> dict[str, Any]:
        """Return the detections as plain data, boxes as x1, y1, x2, y2."""
        height, width = self.image.shape[:2]
        return {
            "file": None if self.path is None else str(self.path),
            "width": width,
            "height": height,
            "detections": [
                {
                    "name": self.names[label],
                    "category_id": self.category_ids[label],
                    "score": round(score, 5),
                    "box": [round(v, 2) for v in box],
                }
                for box, score, label in zip(self.boxes.tolist(), self.scores.tolist(), self.labels.tolist())
            ],
        }

    def draw(self) -> NDArray[np.uint8]:
        """Return the image, RGB [H, W, 3], with boxes, names and scores drawn."""
        labels = self.labels.tolist()
        captions = [f"{self.names[k]} {score:.2f}" for k, score in zip(labels, self.scores.tolist())]
        return draw_detections(self.image, self.boxes.float().cpu().numpy(), labels, captions)


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

    def stream(self, images: Iterable[Path | NDArray[np.uint8]]) -> Iterator[Detections]:
        """Yield the detections of each image: a file, or an RGB array [H, W, 3] of uint8."""
        for image in images:
            if isinstance(image, Path):
                yield self.predict(read_image(image), image)
            else:
                yield self.predict(image, None)

    @torch.inference_mode()
    def predict(self, image: NDArray[np.uint8], path: Path | None) -> Detections:
        """Detect objects in one RGB image [H, W, 3]."""
        batch, resized = preprocess(image, self.imgsz, long_side(self.imgsz))
        size, original = torch.tensor(resized), torch.tensor(image.shape[:2])
        with within_memory(self.device, "lower --imgsz"):
            with autocast(self.device, self.dtype):
                raw = self.network(batch.to(self.device))
            boxes, scores, labels = detect(raw, size[None], self.post)[0]
        boxes = to_original(boxes, size, original)
        return Detections(path, image, boxes.cpu(), scores.cpu(), labels.cpu(), self.names, self.category_ids)


def picture_path(folder: Path, source: Path, taken: set[str]) -> Path:
    """Return a path for the picture of `source` by its file name, numbered if the name is taken already."""
    name, number = f"{source.stem}.jpg", 2
    while name in taken:
        name, number = f"{source.stem}-{number}.jpg", number + 1
    taken.add(name)
    return folder / name
