"""The network: images in, raw outputs for every anchor out."""

from __future__ import annotations

from collections import OrderedDict
from typing import Literal, NamedTuple

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from cledet.models.anchors import STRIDES, Anchors
from cledet.models.backbones import build_backbone
from cledet.models.heads import RetinaHead
from cledet.models.pyramid import build_pyramid
from cledet.models.stages import Staged


class Architecture(BaseModel):
    """All that is needed to build the network again; a checkpoint holds it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    backbone: str
    classes: int
    fpn_channels: int = 256
    anchor_scale: float = 4.0
    anchors_from_image: bool = False
    norm: str = "frozen"
    p6_from: Literal["p5", "c5"] = "p5"  # this and what follows: as weights from elsewhere want it
    p7_relu: bool = True
    tower_norm: Literal["none", "group"] = "none"
    anchors_rounded: bool = True


class RawOutputs(NamedTuple):
    """What the network says of every anchor, over N images, A anchors and C classes."""

    logits: Tensor  # [N, A, C]
    deltas: Tensor  # [N, A, 4]
    anchors: Tensor  # [A, 4] pixels of the padded image
    strides: Tensor  # [A] pixels
    levels: list[int]  # anchors of P3 to P7


class RetinaNet(nn.Module):
    """Backbone, feature pyramid and head (Lin et al., Focal Loss for Dense Object Detection, 2017)."""

    mean: Tensor
    std: Tensor

    def __init__(self, backbone: Staged, neck: nn.Module, head: nn.Module, anchors: Anchors) -> None:
        super().__init__()
        self.backbone, self.neck, self.head, self.anchors = backbone, neck, head, anchors
        self.register_buffer("mean", torch.tensor(backbone.mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(backbone.std).view(3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> RawOutputs:
        """RGB images [N, 3, H, W], 0 to 255, sides multiples of 32, any dtype -> raw outputs."""
        return self.raw((images.float() - self.mean) / self.std)

    def raw(self, x: Tensor) -> RawOutputs:
        """The same for images that are normalised already."""
        features = self.pyramid(x.contiguous(memory_format=torch.channels_last))
        logits, deltas = self.head(features)
        shapes = [(f.shape[-2], f.shape[-1]) for f in features]
        anchors, strides = self.anchors(shapes, (x.shape[-2], x.shape[-1]))
        levels = [rows * columns * self.anchors.per_position for rows, columns in shapes]
        return RawOutputs(logits, deltas, anchors, strides, levels)

    def pyramid(self, x: Tensor) -> list[Tensor]:
        """Normalised images -> feature maps P3 to P7."""
        maps = OrderedDict(zip("012", self.backbone(x)))
        return list(self.neck(maps).values())


def build_network(arch: Architecture) -> RetinaNet:
    """The network of that architecture, with random weights."""
    backbone = build_backbone(arch.backbone, arch.norm)
    width = arch.fpn_channels
    neck = build_pyramid(backbone.channels, width, arch.p6_from, arch.p7_relu)
    anchors = Anchors(STRIDES, arch.anchor_scale, arch.anchors_from_image, arch.anchors_rounded)
    head = RetinaHead(width, anchors.per_position, arch.classes, normed=arch.tower_norm == "group")
    return RetinaNet(backbone, neck, head, anchors).to(memory_format=torch.channels_last)
