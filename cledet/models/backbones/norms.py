"""Normalization layers of the networks."""

from __future__ import annotations

import math

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


class FrozenBatchNorm2d(nn.BatchNorm2d):
    """Batch norm with fixed statistics and fixed scale, in one fused pass of any precision.

    Torchvision's class of this name multiplies by float32 tensors, which promotes bfloat16 features to float32.
    """

    def __init__(self, channels: int, eps: float = 1e-5, momentum: float = 0.1) -> None:
        super().__init__(channels, eps=eps, momentum=momentum)
        self.requires_grad_(False)

    def train(self, mode: bool = True) -> FrozenBatchNorm2d:
        super().train(False)
        return self


class GroupNorm(nn.GroupNorm):
    """Group norm of 32 groups, or of the greatest common divisor of 32 and the channels."""

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__(math.gcd(32, channels), channels, eps=eps)


def synchronized(module: nn.Module) -> nn.Module:
    """Replace batch norm in a module by batch norm over all processes; FrozenBatchNorm2d stays. Returns the module."""
    if isinstance(module, FrozenBatchNorm2d):
        return module
    if isinstance(module, _BatchNorm):
        convert = nn.SyncBatchNorm.convert_sync_batchnorm
        if hasattr(module, "act"):  # timm's norms with an activation, which torch's conversion drops
            from timm.layers.norm_act import convert_sync_batchnorm as convert
        return convert(module)
    for name, child in module.named_children():
        setattr(module, name, synchronized(child))
    return module


Norm = type[nn.BatchNorm2d] | type[GroupNorm]
NORMS: dict[str, Norm] = {"frozen": FrozenBatchNorm2d, "batch": nn.BatchNorm2d, "group": GroupNorm}
