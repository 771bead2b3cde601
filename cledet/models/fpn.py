"""The feature pyramid: from backbone maps C3 to C5 to maps P3 to P7 of one width (Lin et al. 2017)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelP6P7


class TopLevels(LastLevelP6P7):
    """P6 computed from P5 or C5, and P7 computed from P6, with or without a ReLU between them."""

    def __init__(self, inputs: int, width: int, from_c5: bool, relu: bool) -> None:
        super().__init__(inputs if from_c5 else width, width)
        self.from_c5, self.relu = from_c5, relu

    def forward(self, p: list[Tensor], c: list[Tensor], names: list[str]) -> tuple[list[Tensor], list[str]]:
        p6 = _strided(self.p6, c[-1] if self.from_c5 else p[-1])
        p7 = _strided(self.p7, nn.functional.relu(p6) if self.relu else p6)
        return [*p, p6, p7], [*names, "p6", "p7"]


def _strided(convolution: nn.Module, x: Tensor) -> Tensor:
    """Apply the convolution to x, in float32 if x is too small for bfloat16 on a CPU.

    In torch's bfloat16 kernels the backward pass of a 3x3 convolution of stride 2 over one position reads
    uninitialized memory. For one image of 64 px, gradients of P7 were nan in 25 of 120 trials. On a CPU with AVX2 only,
    which has no such kernel, this prints no False:

        conv = torch.nn.Conv2d(256, 256, 3, stride=2, padding=1)
        for _ in range(120):
            x = torch.randn(1, 256, 1, 1).contiguous(memory_format=torch.channels_last)
            with torch.autocast("cpu", torch.bfloat16):
                conv(x).sum().backward()
            print(conv.weight.grad.isfinite().all())
            conv.zero_grad()
    """
    if not torch.is_autocast_enabled("cpu") or x.device.type != "cpu" or min(x.shape[-2:]) > 1:
        return convolution(x)
    with torch.autocast("cpu", enabled=False):
        return convolution(x.float()).to(x.dtype)


def build_pyramid(channels: list[int], width: int, p6_from: str, p7_relu: bool) -> FeaturePyramidNetwork:
    """Build a pyramid over maps with these numbers of channels; `p6_from` is `p5` or `c5`."""
    top = TopLevels(channels[-1], width, p6_from == "c5", p7_relu)
    return FeaturePyramidNetwork(channels, width, extra_blocks=top)
