"""Deformable convolution: a 3x3 convolution whose nine samples are moved, each position on its own.

Sources: Dai et al., Deformable Convolutional Networks (arXiv 1703.06211); Zhu et al., Deformable ConvNets v2 (arXiv
1811.11168), which also weights the samples.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torchvision.ops import deform_conv2d

TAPS = 9
PLAIN, MODULATED = 2 * TAPS, 3 * TAPS
VERSIONS = {PLAIN: "", MODULATED: "v2"}
"""Output channels of the convolution that predicts the offsets -> the version, as names have it."""


class DeformConv2d(nn.Conv2d):
    """A 3x3 convolution without bias that predicts how its samples are moved, and in version 2 their weights.

    It starts as the plain convolution: offsets are zero, and a sample's weight is twice a sigmoid, so 1. (As published
    it is one sigmoid, so 0.5; weights trained with that are halved when they are read, which comes to the same.)
    Computed in float32 whatever the precision around it: torchvision's operator knows no bfloat16.
    """

    def __init__(self, plain: nn.Conv2d, modulated: bool) -> None:
        super().__init__(
            plain.in_channels,
            plain.out_channels,
            3,
            plain.stride,  # type: ignore[arg-type]
            plain.padding,  # type: ignore[arg-type]
            plain.dilation,  # type: ignore[arg-type]
            plain.groups,
            bias=False,
        )
        self.weight = plain.weight
        count = MODULATED if modulated else PLAIN
        self.offset = nn.Conv2d(self.in_channels, count, 3, self.stride, self.padding, self.dilation)  # type: ignore[arg-type]
        nn.init.zeros_(self.offset.weight)
        nn.init.zeros_(self.offset.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        """Maps [N, C, H, W] -> as the plain convolution, in x's type."""
        if x.device.type == "meta" or not torch.is_autocast_enabled(x.device.type):
            return self._moved(x)
        with torch.autocast(x.device.type, enabled=False):
            return self._moved(x.float()).to(x.dtype)

    def _moved(self, x: Tensor) -> Tensor:
        moves = self.offset(x)
        offset, rest = moves[:, :PLAIN], moves[:, PLAIN:]
        mask = 2 * rest.sigmoid() if rest.shape[1] else None
        return deform_conv2d(
            x,
            offset,
            self.weight,
            None,
            self.stride,
            self.padding,
            self.dilation,
            mask,
        )


def is_deformable(network: nn.Module) -> bool:
    """Whether there is a deformable convolution in it."""
    return any(isinstance(module, DeformConv2d) for module in network.modules())


def fresh_names(network: nn.Module) -> set[str]:
    """The parameters that weights of the plain network lack."""
    return {
        f"{name}.offset.{kind}"
        for name, module in network.named_modules()
        if isinstance(module, DeformConv2d)
        for kind in ("weight", "bias")
    }
