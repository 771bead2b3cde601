"""The heads: two towers of convolutions each, shared by all pyramid levels; at the end what sets the heads apart."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from cledet.models.anchors import OCTAVES, RATIOS, STRIDES

BINS = 16
"""The n of GFL: a distance's distribution is over 0, 1, ... n strides (Li et al. 2020, section 4)."""
PRIOR = 0.01
"""The probability that every anchor starts from (Lin et al. 2017, section 3.3)."""


class Tower(nn.Module):
    """Four 3x3 convolutions with ReLU, then one to `outputs` numbers for each anchor of a position.

    If `normed`, a group norm takes the place of each of the four's bias.
    """

    def __init__(self, channels: int, anchors: int, outputs: int, bias: float = 0.0, normed: bool = False) -> None:
        super().__init__()
        self.outputs = outputs
        self.convs = nn.Sequential(*(layer for _ in range(4) for layer in _convolution(channels, normed)))
        self.predict = nn.Conv2d(channels, anchors * outputs, 3, padding=1)
        for layer in (*self.convs, self.predict):
            if isinstance(layer, nn.Conv2d):
                nn.init.normal_(layer.weight, std=0.01)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)
        nn.init.constant_(self.predict.bias, bias)  # type: ignore[arg-type]

    def forward(self, features: list[Tensor]) -> Tensor:
        """Maps [N, channels, H, W] of all levels -> [N, A, outputs], in the anchors' order."""
        return torch.cat([self.level(x) for x in features], 1)

    def level(self, x: Tensor) -> Tensor:
        """One of the maps -> [N, A, outputs]."""
        y = self.predict(self.convs(x))
        return y.permute(0, 2, 3, 1).reshape(x.shape[0], -1, self.outputs)


def _convolution(channels: int, normed: bool) -> list[nn.Module]:
    """A convolution of a tower; its group norm has 32 groups of 256 channels, and of fewer channels as large groups."""
    conv = nn.Conv2d(channels, channels, 3, padding=1, bias=not normed)
    groups = math.gcd(min(32, max(1, channels // 8)), channels)
    return [conv, *([nn.GroupNorm(groups, channels)] if normed else []), nn.ReLU(True)]


def he_initialize(head: nn.Module) -> None:
    """He's initialization of the towers, for narrow ones: a normal of 0.01, as published for 256 channels, fades out.

    The last convolutions stay as they are. Source: He et al., Delving Deep into Rectifiers (2015).
    """
    for module in head.modules():
        if isinstance(module, Tower):
            for layer in module.convs:
                if isinstance(layer, nn.Conv2d):
                    nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")


class RetinaHead(nn.Module):
    """RetinaNet's head: class logits [N, A, C] and box deltas [N, A, 4]."""

    def __init__(self, channels: int, anchors: int, classes: int, normed: bool = False) -> None:
        super().__init__()
        self.classification = Tower(channels, anchors, classes, -math.log((1 - PRIOR) / PRIOR), normed)
        self.regression = Tower(channels, anchors, 4, normed=normed)

    def forward(self, features: list[Tensor]) -> tuple[Tensor, Tensor]:
        return self.classification(features), self.regression(features)


class GFLHead(nn.Module):
    """GFL's head: class logits [N, A, C], and [N, A, 4 * (BINS + 1)] the logits of four distances' distributions.

    The probability of a class is also the IoU that the box is expected to have. The distributions' logits are
    multiplied by a learned number a level. Source: Li et al., "Generalized Focal Loss" (arXiv 2006.04388).
    """

    def __init__(self, channels: int, anchors: int, classes: int, normed: bool) -> None:
        super().__init__()
        self.classification = Tower(channels, anchors, classes, bias=-math.log((1 - PRIOR) / PRIOR), normed=normed)
        self.regression = Tower(channels, anchors, 4 * (BINS + 1), normed=normed)
        self.scales = nn.Parameter(torch.ones(len(STRIDES)))

    def forward(self, features: list[Tensor]) -> tuple[Tensor, Tensor]:
        codes = [self.regression.level(x) * scale for x, scale in zip(features, self.scales)]
        return self.classification(features), torch.cat(codes, 1)


class FCOSHead(nn.Module):
    """FCOS's head: class logits [N, A, C], distances to the sides [N, A, 4] in strides, centerness's logits [N, A].

    The distances are ReLU of what the tower says times a learned number a level, and centerness comes from their tower,
    as in the paper's later version. Source: Tian et al., "FCOS" (arXiv 1904.01355; 2006.09214).
    """

    def __init__(self, channels: int, anchors: int, classes: int, normed: bool) -> None:
        super().__init__()
        self.classification = Tower(channels, anchors, classes, bias=-math.log((1 - PRIOR) / PRIOR), normed=normed)
        self.regression = Tower(channels, anchors, 5, normed=normed)
        self.scales = nn.Parameter(torch.ones(len(STRIDES)))

    def forward(self, features: list[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        said = [self.regression.level(x) for x in features]
        sides = [(level[..., :4] * scale).relu() for level, scale in zip(said, self.scales)]
        return self.classification(features), torch.cat(sides, 1), torch.cat([level[..., 4] for level in said], 1)


class HeadSpec(NamedTuple):
    """How a head is built from (channels, anchors of a position, classes, group norm?), and what it wants around it."""

    build: Callable[[int, int, int, bool], nn.Module]
    coder: str
    """How it says where a box is: a key of `cledet.ops.box_coder.CODERS`."""
    octaves: tuple[float, ...]
    ratios: tuple[float, ...]
    """Of its anchors; a head of points has one, a square, by which ATSS compares it with objects."""
    relu_before_p7: bool
    normed: bool
    """Whether its towers have group norm, whatever the architecture says."""


HEADS = {
    "retinanet": HeadSpec(RetinaHead, "deltas", OCTAVES, RATIOS, relu_before_p7=True, normed=False),
    "gfl": HeadSpec(GFLHead, "distances", (1.0,), (1.0,), relu_before_p7=False, normed=True),
    "fcos": HeadSpec(FCOSHead, "sides", (1.0,), (1.0,), relu_before_p7=True, normed=True),
}
"""What differs between the heads in the network; how they are trained differs by `cledet.config.train.HEADS`."""
