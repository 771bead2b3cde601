"""What all backbones share: stages that can be kept fixed."""

from __future__ import annotations

from typing import TypeVar

from torch import nn

T = TypeVar("T", bound="Staged")


class Staged(nn.Module):
    """A module in five stages (the stem is the first), some of which may be fixed: weights and statistics."""

    channels: list[int]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    frozen = 0

    def stages(self) -> list[list[nn.Module]]:
        """The modules of the stem and of strides 4, 8, 16 and 32, in order."""
        raise TypeError(f"{type(self).__name__} names no stages")

    def freeze(self, count: int) -> None:
        """Fix the first `count` stages."""
        self.frozen = count
        for module in self._fixed():
            module.requires_grad_(False)
        self.train(self.training)

    def train(self: T, mode: bool = True) -> T:
        super().train(mode)
        for module in self._fixed():
            module.eval()
        return self

    def _fixed(self) -> list[nn.Module]:
        return [module for stage in self.stages()[: self.frozen] for module in stage] if self.frozen else []
