"""RetinaNets of other projects as functions of their weights, without our modules."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

DEPTHS = (3, 4, 6, 3)


@pytest.fixture(scope="session")
def random_weights() -> Callable[..., dict[str, Tensor]]:
    """Makes random weights of a ResNet-50's RetinaNet with the names that `name` gives to torchvision's.

    Four classes, a pyramid of 16 channels, P6 from C5; the batch norms are not the identity.
    """

    def make(name: Callable[[str], str], offsets: int = 0) -> dict[str, Tensor]:
        shapes: dict[str, tuple[int, ...]] = {"conv1.weight": (64, 3, 7, 7), **norm("bn1", 64)}
        inside = 64
        for stage, depth in enumerate(DEPTHS):
            width, out = 64 * 2**stage, 256 * 2**stage
            for block in range(depth):
                start = f"layer{stage + 1}.{block}"
                shapes |= {f"{start}.conv1.weight": (width, inside, 1, 1), **norm(f"{start}.bn1", width)}
                shapes |= {f"{start}.conv2.weight": (width, width, 3, 3), **norm(f"{start}.bn2", width)}
                shapes |= {f"{start}.conv3.weight": (out, width, 1, 1), **norm(f"{start}.bn3", out)}
                if stage and offsets:
                    shapes |= {f"{start}.offset.weight": (offsets, width, 3, 3), f"{start}.offset.bias": (offsets,)}
                if block == 0:
                    shapes |= {f"{start}.downsample.0.weight": (out, inside, 1, 1)}
                    shapes |= norm(f"{start}.downsample.1", out)
                inside = out
        for i, channels in enumerate((512, 1024, 2048)):
            shapes |= conv(f"lateral{i}", 16, channels, 1) | conv(f"output{i}", 16, 16, 3)
        shapes |= conv("p6", 16, 2048, 3) | conv("p7", 16, 16, 3)
        for tower, outputs in (("cls", 4), ("box", 4)):
            for i in range(4):
                shapes |= conv(f"{tower}{i}", 16, 16, 3)
            shapes |= conv(tower, 9 * outputs, 16, 3)
        generator = torch.Generator().manual_seed(0)
        return {name(key): draw(key, shape, generator) for key, shape in shapes.items()}

    return make


def norm(name: str, channels: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.{key}": (channels,) for key in ("weight", "bias", "running_mean", "running_var")}


def conv(name: str, outputs: int, inputs: int, side: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (outputs, inputs, side, side), f"{name}.bias": (outputs,)}


def draw(key: str, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    if len(shape) == 1:
        noise = torch.rand(shape, generator=generator)
        return 0.75 + 0.5 * noise if key.endswith(("weight", "running_var")) else 0.1 * (noise - 0.5)
    gain = 0.1 if "offset" in key or "conv3" in key else 1.4
    return torch.randn(shape, generator=generator) * gain / math.sqrt(math.prod(shape[1:]))


@pytest.fixture(scope="session")
def slow_retinanet() -> Callable[..., tuple[Tensor, Tensor]]:
    """Logits [N, A, 4] and deltas [N, A, 4] from normalised images and weights by torchvision's names."""

    def run(x: Tensor, state: dict[str, Tensor], caffe: bool, relu: bool) -> tuple[Tensor, Tensor]:
        def batch_norm(x: Tensor, name: str) -> Tensor:
            mean, var, weight, bias = (state[f"{name}.{k}"] for k in ("running_mean", "running_var", "weight", "bias"))
            return F.batch_norm(x, mean, var, weight, bias)

        def plain(x: Tensor, name: str, **how: int) -> Tensor:
            return F.conv2d(x, state[f"{name}.weight"], state[f"{name}.bias"], **how)

        x = batch_norm(F.conv2d(x, state["conv1.weight"], stride=2, padding=3), "bn1").relu()
        x = F.max_pool2d(x, 3, 2, 1)
        maps = []
        for stage, depth in enumerate(DEPTHS):
            for block in range(depth):
                start = f"layer{stage + 1}.{block}"
                stride = 2 if stage and block == 0 else 1
                first, second = (stride, 1) if caffe else (1, stride)
                y = batch_norm(F.conv2d(x, state[f"{start}.conv1.weight"], stride=first), f"{start}.bn1").relu()
                y = F.conv2d(y, state[f"{start}.conv2.weight"], stride=second, padding=1)
                y = F.conv2d(batch_norm(y, f"{start}.bn2").relu(), state[f"{start}.conv3.weight"])
                if block == 0:
                    x = F.conv2d(x, state[f"{start}.downsample.0.weight"], stride=stride)
                    x = batch_norm(x, f"{start}.downsample.1")
                x = (batch_norm(y, f"{start}.bn3") + x).relu()
            maps.append(x)
        inner = [plain(c, f"lateral{i}") for i, c in enumerate(maps[1:])]
        for i in (1, 0):
            inner[i] = inner[i] + F.interpolate(inner[i + 1], size=inner[i].shape[-2:])
        levels = [plain(m, f"output{i}", padding=1) for i, m in enumerate(inner)]
        levels.append(plain(maps[3], "p6", stride=2, padding=1))
        levels.append(plain(levels[-1].relu() if relu else levels[-1], "p7", stride=2, padding=1))
        found = []
        for tower in ("cls", "box"):
            flat = []
            for y in levels:
                for i in range(4):
                    y = plain(y, f"{tower}{i}", padding=1).relu()
                y = plain(y, tower, padding=1)  # [N, 9 * 4, H, W]
                flat.append(y.permute(0, 2, 3, 1).reshape(len(y), -1, 4))
            found.append(torch.cat(flat, 1))
        return found[0], found[1]

    return run


@pytest.fixture(scope="session")
def slow_anchors() -> Callable[[int, int, bool], Tensor]:
    """Anchors [A, 4] of an image, not rounded, position by position; size by size or ratio by ratio."""

    def make(height: int, width: int, by_size: bool) -> Tensor:
        rows = []
        for stride in (8, 16, 32, 64, 128):
            sizes = [4 * stride * 2 ** (octave / 3) for octave in range(3)]
            shapes = [(s, r) for s in sizes for r in (0.5, 1, 2)] if by_size else []
            shapes = shapes or [(s, r) for r in (0.5, 1, 2) for s in sizes]
            for y in range(math.ceil(height / stride)):
                for x in range(math.ceil(width / stride)):
                    for size, ratio in shapes:
                        w, h = size / math.sqrt(ratio), size * math.sqrt(ratio)
                        rows.append([x * stride - w / 2, y * stride - h / 2, x * stride + w / 2, y * stride + h / 2])
        return torch.tensor(rows)

    return make
