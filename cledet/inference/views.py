"""Views of an image: its slices, mirrored or at other sizes, whose detections are merged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from cledet.config.base import PredictSettings
from cledet.data.images import Pixels
from cledet.inference.slicing import Window, cut_off, drop_covered, slice_windows
from cledet.models.postprocess import Detected

SCALES = (0.8, 1.0, 1.25)
"""Factors of the network's image size in test-time augmentation; each is used with and without mirroring."""


class View(NamedTuple):
    """A window of an image of size (height, width), mirrored or not, at `scale` times the network's size."""

    window: Window
    size: tuple[int, int]
    mirrored: bool = False
    scale: float = 1.0

    def pixels(self, image: Pixels) -> Pixels:
        """Cut the view out of the image [H, W, 3]."""
        left, top, right, bottom = self.window
        part = image[top:bottom, left:right]
        return np.ascontiguousarray(part[:, ::-1]) if self.mirrored else part

    def to_image(self, boxes: Tensor) -> Tensor:
        """Convert boxes [K, 4] in pixels of the view to pixels of the image."""
        left, top, right, _ = self.window
        x1, y1, x2, y2 = boxes.unbind(1)
        if self.mirrored:
            x1, x2 = (right - left) - x2, (right - left) - x1
        return torch.stack([x1 + left, y1 + top, x2 + left, y2 + top], 1)


@dataclass(frozen=True, kw_only=True)
class ViewOptions:
    """Settings of views: slices of `side` pixels that overlap by a share of it, and test-time augmentation."""

    side: int | None = None
    overlap: float = 0.2
    tta: bool = False
    scales: Sequence[float] = SCALES

    @classmethod
    def of(cls, settings: PredictSettings, *, one_size: bool = False) -> ViewOptions:
        """Return the views of the settings, for a network that takes images of any size or of one."""
        scales = (1.0,) if one_size else SCALES
        return cls(side=settings.slice, overlap=settings.overlap, tta=settings.tta, scales=scales)

    def views(self, height: int, width: int) -> list[View]:
        """List the views of an image: the whole one first, then the slices, if it is larger than one."""
        windows = [(0, 0, width, height)]
        if self.side is not None and max(height, width) > self.side:
            windows += slice_windows(height, width, self.side, self.overlap)
        variants = [(mirrored, scale) for scale in self.scales for mirrored in (False, True)]
        chosen = variants if self.tta else [(False, 1.0)]
        return [View(window, (height, width), *variant) for window in windows for variant in chosen]


def unite(views: Sequence[View], found: Sequence[Detected], agnostic: bool = False) -> Detected:
    """Unite the candidates of an image's views, boxes in pixels of the views, to candidates of the image for NMS.

    Boxes that a slice cuts off are dropped if another view holds the whole object, see `drop_covered`.
    """
    boxes = [view.to_image(one.boxes) for view, one in zip(views, found)]
    cut = torch.cat([cut_off(one, view.window, view.size) for one, view in zip(boxes, views)])
    scores, labels = (torch.cat([one[i] for one in found]) for i in (1, 2))
    return drop_covered(Detected(torch.cat(boxes), scores, labels), cut, agnostic)
