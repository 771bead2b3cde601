"""Anchors: the reference boxes at every position of the pyramid."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

STRIDES = (8, 16, 32, 64, 128)
"""Strides of the pyramid levels P3 to P7."""
OCTAVES, RATIOS = (1.0, 2 ** (1 / 3), 2 ** (2 / 3)), (0.5, 1.0, 2.0)
"""Three sizes per octave and three aspect ratios (h/w), of Lin et al., Focal Loss for Dense Object Detection (2017)."""

KEPT = 16
"""Number of shapes whose anchors are kept."""


def cell_anchors(sizes: Sequence[float], ratios: Sequence[float] = RATIOS, rounded: bool = True) -> Tensor:
    """Compute anchors [R * S, 4] around the origin, ratio by ratio, optionally rounded to pixels as in torchvision."""
    scales = torch.tensor(sizes, dtype=torch.float32)
    height = torch.tensor(ratios, dtype=torch.float32).sqrt()
    w = (1 / height)[:, None] * scales
    h = height[:, None] * scales
    cells = torch.stack([-w, -h, w, h], -1).reshape(-1, 4) / 2
    return cells.round() if rounded else cells


class Anchors(nn.Module):
    """Anchors of a pyramid, level by level, row by row.

    Anchor sizes are `scale` x stride x octave, each in all `ratios` (height/width). The step of a level is its stride;
    with `from_image`, as torchvision's weights require, it is the image's side divided by the map's. The two differ at
    P6 and P7 unless the image's sides are multiples of 128. If `rounded`, sizes and corners are whole pixels.
    """

    def __init__(
        self,
        strides: Sequence[int],
        scale: float = 4.0,
        from_image: bool = False,
        rounded: bool = True,
        octaves: Sequence[float] = OCTAVES,
        ratios: Sequence[float] = RATIOS,
    ) -> None:
        super().__init__()
        self.strides, self.from_image, self.per_position = tuple(strides), from_image, len(octaves) * len(ratios)
        for stride in self.strides:
            sizes = [scale * stride * octave for octave in octaves]
            cells = cell_anchors([int(size) for size in sizes] if rounded else sizes, ratios, rounded)
            self.register_buffer(f"cells{stride}", cells, persistent=False)
        self._kept: dict[tuple[object, ...], tuple[Tensor, Tensor]] = {}

    def forward(self, shapes: Sequence[tuple[int, int]], image: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Compute anchors [A, 4] and their strides [A] from (height, width) of the maps and of the padded image.

        The tensors are kept for the next call with these shapes, so they must not be changed.
        """
        cells: Tensor = getattr(self, f"cells{self.strides[0]}")
        tracing = torch.compiler.is_compiling() or torch.jit.is_tracing()  # type: ignore[attr-defined]
        if tracing or type(cells) is not Tensor:
            return self._compute(shapes, image)
        key = (*shapes, image, cells.device, cells.dtype)
        found = self._kept.get(key)
        if found is None:
            with torch.inference_mode(False):  # training may use them after validation
                found = self._compute(shapes, image)
            if len(self._kept) >= KEPT:
                self._kept = {}
            self._kept[key] = found
        return found

    def _compute(self, shapes: Sequence[tuple[int, int]], image: tuple[int, int]) -> tuple[Tensor, Tensor]:
        levels, strides = [], []
        for stride, (rows, columns) in zip(self.strides, shapes):
            cells = getattr(self, f"cells{stride}")
            down, right = (image[0] // rows, image[1] // columns) if self.from_image else (stride, stride)
            y = torch.arange(rows, device=cells.device, dtype=torch.float32) * down
            x = torch.arange(columns, device=cells.device, dtype=torch.float32) * right
            y, x = torch.meshgrid(y, x, indexing="ij")
            shift = torch.stack([x, y, x, y], -1).reshape(-1, 1, 4)
            levels.append((shift + cells).reshape(-1, 4))
            strides.append(levels[-1].new_full(levels[-1].shape[:1], stride))
        return torch.cat(levels), torch.cat(strides)
