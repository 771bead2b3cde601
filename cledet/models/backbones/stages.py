"""Base of the backbones: stages that can be frozen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from torch import nn

T = TypeVar("T", bound="Staged")


class Staged(nn.Module):
    """A module of five stages, of which the stem is the first; frozen stages keep their weights and statistics."""

    channels: list[int]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    frozen = 0
    unused: Sequence[nn.Parameter] = ()
    """Parameters that the feature maps do not depend on."""

    def stages(self) -> list[list[nn.Module]]:
        """Return the modules of the stem and of strides 4, 8, 16 and 32, in order."""
        raise TypeError(f"{type(self).__name__} names no stages")

    def freeze(self, count: int) -> None:
        """Freeze the first `count` stages."""
        self.frozen = count
        for module in self._frozen_modules():
            module.requires_grad_(False)
        self.train(self.training)

    def train(self: T, mode: bool = True) -> T:
        super().train(mode)
        for module in self._frozen_modules():
            module.eval()
        return self

    def _frozen_modules(self) -> list[nn.Module]:
        return [module for stage in self.stages()[: self.frozen] for module in stage] if self.frozen else []
