"""The head: two towers of convolutions, shared by all pyramid levels."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from cledet.models.norms import GroupNorm

PRIOR = 0.01
"""The probability that every anchor starts from (Lin et al. 2017, section 3.3)."""


class Tower(nn.Module):
    """Four 3x3 convolutions with ReLU, then one to `outputs` numbers for each anchor of a position.

    If `normed`, a group norm takes the place of each of the four's bias.
    """

    def __init__(self, channels: int, anchors: int, outputs: int, bias: float = 0.0, normed: bool = False) -> None:
        super().__init__()
        self.outputs = outputs
        layers: list[nn.Module] = []
        for _ in range(4):
            layers.append(nn.Conv2d(channels, channels, 3, padding=1, bias=not normed))
            layers += [GroupNorm(channels), nn.ReLU(True)] if normed else [nn.ReLU(True)]
        self.convs = nn.Sequential(*layers)
        self.predict = nn.Conv2d(channels, anchors * outputs, 3, padding=1)
        for layer in (*self.convs, self.predict):
            if isinstance(layer, nn.Conv2d):
                nn.init.normal_(layer.weight, std=0.01)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)
        nn.init.constant_(self.predict.bias, bias)  # type: ignore[arg-type]

    def forward(self, features: list[Tensor]) -> Tensor:
        """Maps [N, channels, H, W] of all levels -> [N, A, outputs], in the anchors' order."""
        return torch.cat([self._level(x) for x in features], 1)

    def _level(self, x: Tensor) -> Tensor:
        y = self.predict(self.convs(x))
        return y.permute(0, 2, 3, 1).reshape(x.shape[0], -1, self.outputs)


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
