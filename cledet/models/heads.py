"""Heads: two towers of convolutions shared by all pyramid levels. A table at the end lists their differences."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from cledet.models.anchors import OCTAVES, RATIOS, STRIDES

BINS = 16
"""GFL's n: distributions of distances are over 0, 1, ... n strides (Li et al. 2020, section 4)."""
PRIOR_LOGIT = -math.log((1 - 0.01) / 0.01)
"""Bias of the class logits: an initial probability of 0.01 (Lin et al. 2017, section 3.3)."""


class Tower(nn.Module):
    """Four 3x3 convolutions with ReLU, and one with `outputs` channels per anchor of a position.

    `norm` is "none", "group" (group norms in place of the biases of the first four) or "group-bias" (both). With
    `depthwise`, each convolution is a 3x3 convolution per channel, then one of 1x1 (Howard et al., MobileNets, 2017).
    """

    def __init__(
        self, channels: int, anchors: int, outputs: int, bias: float = 0.0, norm: str = "none", depthwise: bool = False
    ) -> None:
        super().__init__()
        self.outputs = outputs
        layers = [layer for _ in range(4) for layer in _convolution(channels, norm, depthwise)]
        self.convs = nn.Sequential(*layers, *([_per_channel(channels)] if depthwise else []))
        size = 1 if depthwise else 3
        self.predict = nn.Conv2d(channels, anchors * outputs, size, padding=size // 2)
        for layer in (*self.convs, self.predict):
            if isinstance(layer, nn.Conv2d) and layer.groups == 1:
                nn.init.normal_(layer.weight, std=0.01)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)
        nn.init.constant_(self.predict.bias, bias)  # type: ignore[arg-type]

    def forward(self, features: list[Tensor]) -> Tensor:
        """Compute outputs [N, A, outputs] from maps [N, channels, H, W] of all levels, in the order of the anchors."""
        return torch.cat([self.level(x) for x in features], 1)

    def level(self, x: Tensor) -> Tensor:
        """Compute outputs [N, A, outputs] from the map of one level."""
        y = self.predict(self.convs(x))
        return y.permute(0, 2, 3, 1).reshape(x.shape[0], -1, self.outputs)


def _convolution(channels: int, norm: str, depthwise: bool) -> list[nn.Module]:
    """Build a convolution of a tower; group norm has 32 groups for 256 channels, and groups of that size for fewer."""
    size = 1 if depthwise else 3
    conv = nn.Conv2d(channels, channels, size, padding=size // 2, bias=norm != "group")
    groups = math.gcd(min(32, max(1, channels // 8)), channels)
    norms = [] if norm == "none" else [nn.GroupNorm(groups, channels)]
    return [*([_per_channel(channels)] if depthwise else []), conv, *norms, nn.ReLU(True)]


def _per_channel(channels: int) -> nn.Conv2d:
    """Build a 3x3 convolution per channel, whose initial weights preserve the variance."""
    conv = nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False)
    nn.init.kaiming_normal_(conv.weight, nonlinearity="linear")
    return conv


def he_initialize(head: nn.Module) -> None:
    """Initialize the towers with He's method, except the last convolutions and those per channel.

    For narrow towers the published normal of 0.01, chosen for 256 channels, makes activations vanish. Source: He et
    al., Delving Deep into Rectifiers (2015).
    """
    for module in head.modules():
        if isinstance(module, Tower):
            for layer in module.convs:
                if isinstance(layer, nn.Conv2d) and layer.groups == 1:
                    nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")


class RetinaHead(nn.Module):
    """RetinaNet's head: class logits [N, A, C] and box deltas [N, A, 4]."""

    def __init__(self, channels: int, anchors: int, classes: int, norm: str = "none", depthwise: bool = False) -> None:
        super().__init__()
        self.classification = Tower(channels, anchors, classes, PRIOR_LOGIT, norm, depthwise)
        self.regression = Tower(channels, anchors, 4, 0.0, norm, depthwise)

    def forward(self, features: list[Tensor]) -> tuple[Tensor, Tensor]:
        return self.classification(features), self.regression(features)


class GFLHead(nn.Module):
    """GFL's head: class logits [N, A, C] and logits [N, A, 4 * (BINS + 1)] of the four distances' distributions.

    The probability of a class also estimates the IoU of the box. The distributions' logits are multiplied by a learned
    scale per level. Source: Li et al., "Generalized Focal Loss" (arXiv 2006.04388).
    """

    def __init__(self, channels: int, anchors: int, classes: int, norm: str, depthwise: bool = False) -> None:
        super().__init__()
        self.classification = Tower(channels, anchors, classes, PRIOR_LOGIT, norm, depthwise)
        self.regression = Tower(channels, anchors, 4 * (BINS + 1), 0.0, norm, depthwise)
        self.scales = nn.Parameter(torch.ones(len(STRIDES)))

    def forward(self, features: list[Tensor]) -> tuple[Tensor, Tensor]:
        codes = [self.regression.level(x) * scale for x, scale in zip(features, self.scales)]
        return self.classification(features), torch.cat(codes, 1)


class FCOSHead(nn.Module):
    """FCOS's head: class logits [N, A, C], distances to the sides [N, A, 4] in strides, centerness logits [N, A].

    The distances are the ReLU of the tower's outputs times a learned scale per level. Centerness is predicted by the
    same tower, as in the paper's later version. Source: Tian et al., "FCOS" (arXiv 1904.01355; 2006.09214).
    """

    def __init__(self, channels: int, anchors: int, classes: int, norm: str, depthwise: bool = False) -> None:
        super().__init__()
        self.classification = Tower(channels, anchors, classes, PRIOR_LOGIT, norm, depthwise)
        self.regression = Tower(channels, anchors, 5, 0.0, norm, depthwise)
        self.scales = nn.Parameter(torch.ones(len(STRIDES)))

    def forward(self, features: list[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        outputs = [self.regression.level(x) for x in features]
        sides = [(level[..., :4] * scale).relu() for level, scale in zip(outputs, self.scales)]
        return self.classification(features), torch.cat(sides, 1), torch.cat([level[..., 4] for level in outputs], 1)


class HeadSpec(NamedTuple):
    """A head with its coder and anchors."""

    build: Callable[[int, int, int, str, bool], nn.Module]
    """Builds it from channels, anchors per position, classes, and the towers' `norm` and `depthwise`."""
    coder: str
    """Coder of the boxes, a key of `cledet.ops.box_coder.CODERS`."""
    octaves: tuple[float, ...]
    ratios: tuple[float, ...]
    """Aspect ratios of the anchors. A head of points has one square anchor, which ATSS compares with objects."""
    relu_before_p7: bool
    norm: str
    """Norm of the towers, unless the architecture's tower_norm names one."""


HEADS = {
    "retinanet": HeadSpec(RetinaHead, "deltas", OCTAVES, RATIOS, relu_before_p7=True, norm="none"),
    "gfl": HeadSpec(GFLHead, "distances", (1.0,), (1.0,), relu_before_p7=False, norm="group"),
    "fcos": HeadSpec(FCOSHead, "sides", (1.0,), (1.0,), relu_before_p7=True, norm="group"),
}
"""Differences of the heads in the network; `cledet.config.heads.HEADS` has those in training."""
