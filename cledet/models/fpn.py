"""The feature pyramid: backbone maps C3 to C5 in, maps P3 to P7 of one width out (Lin et al. 2017)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelP6P7


class TopLevels(LastLevelP6P7):
    """P6 from P5 or from C5, and P7 from P6, with a ReLU between the two or not."""

    def __init__(self, inputs: int, width: int, from_c5: bool, relu: bool) -> None:
        super().__init__(inputs if from_c5 else width, width)
        self.from_c5, self.relu = from_c5, relu

    def forward(self, p: list[Tensor], c: list[Tensor], names: list[str]) -> tuple[list[Tensor], list[str]]:
        p6 = _strided(self.p6, c[-1] if self.from_c5 else p[-1])
        p7 = _strided(self.p7, nn.functional.relu(p6) if self.relu else p6)
        return [*p, p6, p7], [*names, "p6", "p7"]


def _strided(convolution: nn.Module, x: Tensor) -> Tensor:
    """The convolution of x, in float32 where x is too small for bfloat16 on a CPU.

    The backward pass of a 3x3 convolution of stride 2 over one position reads memory that nobody wrote, in torch's
    bfloat16 kernels. In 25 of 120 trials gradients of P7 were nan, of one image of 64 px. It depends on the CPU: with
    AVX2 only, where torch has no such kernel, this prints no False.

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
    """A pyramid over maps of so many channels; `p6_from` is `p5` or `c5`."""
    top = TopLevels(channels[-1], width, p6_from == "c5", p7_relu)
    return FeaturePyramidNetwork(channels, width, extra_blocks=top)
