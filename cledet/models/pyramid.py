"""The feature pyramid: backbone maps C3 to C5 in, maps P3 to P7 of one width out (Lin et al. 2017)."""

from __future__ import annotations

from torch import Tensor, nn
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelP6P7


class TopLevels(LastLevelP6P7):
    """P6 from P5 or from C5, and P7 from P6, with a ReLU between the two or not."""

    def __init__(self, inputs: int, width: int, from_c5: bool, relu: bool) -> None:
        super().__init__(inputs if from_c5 else width, width)
        self.from_c5, self.relu = from_c5, relu

    def forward(self, p: list[Tensor], c: list[Tensor], names: list[str]) -> tuple[list[Tensor], list[str]]:
        p6 = self.p6(c[-1] if self.from_c5 else p[-1])
        p7 = self.p7(nn.functional.relu(p6) if self.relu else p6)
        return [*p, p6, p7], [*names, "p6", "p7"]


def build_pyramid(channels: list[int], width: int, p6_from: str, p7_relu: bool) -> FeaturePyramidNetwork:
    """A pyramid over maps of so many channels; `p6_from` is `p5` or `c5`."""
    top = TopLevels(channels[-1], width, p6_from == "c5", p7_relu)
    return FeaturePyramidNetwork(channels, width, extra_blocks=top)
