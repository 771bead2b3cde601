"""Plan of an export: a network with its inputs and metadata, and the file formats' common interface."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.export import Dim

from cledet.models.network import RetinaNet
from cledet.models.nms import NMSOptions
from cledet.models.postprocess import best_of_levels
from cledet.ops.boxes import clip_boxes

TRACED, MOST_CELLS = (192, 256), 1024
"""Height and width with which a network for images of any size is traced, and its largest side in multiples of 32."""
RAW = ("logits", "deltas")
"""Inner values of every file: logits [N, A, C] of the scores, and box deltas [N, A, K]."""
PREPARED = ("images", "photo_factors")
"""Inner values of a file for photos: the network's input, and the factors [4] from boxes in it to the photo's."""
OUTPUTS = ("boxes", "scores")
"""Outputs of a file without NMS."""
CANDIDATES = ("candidate_boxes", "candidate_scores", "candidate_labels")
"""Inputs of its NMS: boxes [M, 4] clipped to the image, scores [M], labels [M] int64."""

Runner = Callable[..., list[Any]]
Open = Callable[..., Runner]
"""Opens a file and the named values in it, as a function from input arrays to these values.

`precision` is f32, or bf16 where the format has it. With `network_only`, the input is `images`, and only what the
values depend on is computed.
"""


class Format(NamedTuple):
    """A file format."""

    write_packages: tuple[str, ...]
    """Packages that writing needs; the last one names the extra of cledet that installs them."""
    run_packages: tuple[str, ...]
    suffixes: tuple[str, ...]
    """Suffixes of the files, the one to open first."""
    write: Callable[[Plan, Path], None]
    open: Open
    read_metadata: Callable[[Path], dict[str, str]] | None = None
    """None for a format that val and predict do not take."""
    precisions: tuple[str, ...] = ("f32",)


@dataclass(frozen=True)
class Plan:
    """A network to export, its inputs, NMS and metadata.

    The inputs are images resized to the `short` side and padded, or of one fixed `canvas` (height, width).
    """

    network: RetinaNet
    short: int
    canvas: tuple[int, int] | None
    nms: NMSOptions | None
    metadata: dict[str, str]
    photo: bool = False
    """The file takes a photo, uint8 [H, W, 3], and gives boxes in its pixels."""

    @property
    def module(self) -> Exported:
        """The network with the outputs of the file, in evaluation mode."""
        return Exported(self.network, with_nms=self.nms is not None).eval()

    @property
    def output_names(self) -> tuple[str, ...]:
        """Names of the module's outputs."""
        return (*(OUTPUTS if self.nms is None else CANDIDATES), *RAW)

    @property
    def example(self) -> Tensor:
        """Images [N, 3, H, W] with which the module is traced."""
        return torch.zeros(1 if self.nms or self.photo else 2, 3, *(self.canvas or TRACED))

    def dynamic_shapes(self, least: int = 1) -> dict[str, dict[int, Any]] | None:
        """Return the dimensions of the images that may change, of `least` x 32 pixels or more, for `torch.export`."""
        dynamic: dict[int, Any] = {} if self.nms or self.photo else {0: Dim("images", min=1, max=256)}
        if self.canvas is None:
            rows, columns = (Dim(name, min=least, max=MOST_CELLS) for name in ("rows", "columns"))
            dynamic |= {2: 32 * rows, 3: 32 * columns}
        return {"images": dynamic} if dynamic else None


class Exported(nn.Module):
    """The network of a file: images to boxes and class probabilities of all anchors, or to the candidates of NMS."""

    def __init__(self, network: RetinaNet, *, with_nms: bool = False) -> None:
        super().__init__()
        self.network, self.with_nms = network, with_nms

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Predict from RGB images [N, 3, H, W], 0 to 255: boxes [N, A, 4] in pixels, scores [N, A, C], raw outputs.

        With NMS, from one image: candidate boxes [M, 4], scores [M], labels [M] and the raw outputs.
        """
        raw = self.network(images).scored()
        if not self.with_nms:
            return raw.boxes(), raw.logits.sigmoid(), raw.logits, raw.deltas
        boxes, scores, labels = best_of_levels(raw)
        clipped = clip_boxes(boxes[0], (images.shape[2], images.shape[3]))
        return clipped, scores[0], labels[0], raw.logits, raw.deltas
