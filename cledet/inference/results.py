"""Results of one image: detections as tensors, picture and plain data."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from cledet.visualization.draw import draw_detections


@dataclass(frozen=True)
class Results:
    """Detections of one image, best first: boxes [K, 4] in its pixels, scores [K], labels [K] and class names."""

    path: Path | None
    image: NDArray[np.uint8]
    boxes: Tensor
    scores: Tensor
    labels: Tensor
    names: tuple[str, ...]
    category_ids: tuple[int, ...]
    name: str = ""
    """The origin of the image as it is shown."""
    number: int | None = None
    """Index of a video frame, from 0."""
    seconds: float | None = None
    """Time of a video frame from the start."""
    highest_score: float | None = None
    """The highest score of any class, before the threshold."""

    def __len__(self) -> int:
        return len(self.boxes)

    def to_dict(self) -> dict[str, Any]:
        """Return the detections as plain data, boxes as x1, y1, x2, y2."""
        height, width = self.image.shape[:2]
        return {
            "file": self.name or None,
            **({} if self.number is None else {"frame": self.number, "seconds": self.seconds}),
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

    def plot(self) -> NDArray[np.uint8]:
        """Return the image, RGB [H, W, 3], with boxes, names and scores drawn."""
        labels = self.labels.tolist()
        captions = [f"{self.names[k]} {score:.2f}" for k, score in zip(labels, self.scores.tolist())]
        return draw_detections(self.image, self.boxes.float().cpu().numpy(), labels, captions)
