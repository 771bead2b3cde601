"""Prediction: a network with its settings, from images to results."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cledet.config.base import long_side
from cledet.data.dataset import preprocess
from cledet.distributed.devices import autocast, within_memory
from cledet.evaluation.candidates import to_original
from cledet.inference.frame import Frame
from cledet.inference.results import Results
from cledet.models.network import RetinaNet
from cledet.models.nms import NMSOptions, apply_nms
from cledet.models.postprocess import Detected, candidates


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
    classes: tuple[int, ...] | None = None
    agnostic: bool = False

    def __post_init__(self) -> None:
        self.network.eval()

    def stream(self, frames: Iterable[Frame], batch: int = 1) -> Iterator[Results]:
        """Yield the detections of each image, in order; successive images of one shape share a forward pass."""
        waiting: list[tuple[Frame, Tensor, tuple[int, int]]] = []
        for frame in frames:
            pixels, size = preprocess(frame.image, self.imgsz, long_side(self.imgsz))
            if waiting and waiting[0][1].shape != pixels.shape:
                yield from self._detect(waiting)
                waiting = []
            waiting.append((frame, pixels, size))
            if len(waiting) == batch:
                yield from self._detect(waiting)
                waiting = []
        if waiting:
            yield from self._detect(waiting)

    def predict(self, image: NDArray[np.uint8], path: Path | None) -> Results:
        """Detect objects in one RGB image [H, W, 3]."""
        (result,) = self.stream([Frame(image, path, "" if path is None else str(path))])
        return result

    @torch.inference_mode()
    def _detect(self, waiting: list[tuple[Frame, Tensor, tuple[int, int]]]) -> list[Results]:
        images = torch.cat([pixels for _, pixels, _ in waiting])
        sizes = torch.tensor([size for _, _, size in waiting])
        with within_memory(self.device, "lower --imgsz or --batch"):
            with autocast(self.device, self.dtype):
                raw = self.network(images.to(self.device))
            found = candidates(raw, sizes, self.post.conf)
        highest = raw.scored().logits.float().amax((1, 2)).sigmoid().tolist()
        return [
            self._result(frame, size, one, score)
            for (frame, _, _), size, one, score in zip(waiting, sizes, found, highest)
        ]

    def _result(self, frame: Frame, size: Tensor, found: Detected, highest: float) -> Results:
        if self.classes is not None:
            chosen = torch.isin(found.labels, torch.tensor(self.classes, device=found.labels.device))
            found = Detected(*(part[chosen] for part in found))
        kept = apply_nms(found.boxes, found.scores, found.labels * (not self.agnostic), self.post)
        boxes = to_original(kept.boxes, size, torch.tensor(frame.image.shape[:2])).cpu()
        scores, labels = kept.scores.cpu(), found.labels[kept.keep].cpu()
        own = (self.names, self.category_ids, frame.name, frame.number, frame.seconds, highest)
        return Results(frame.path, frame.image, boxes, scores, labels, *own)
