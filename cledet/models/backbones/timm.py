"""Feature backbones of timm: `timm:NAME`."""

from __future__ import annotations

import re
from typing import Any

from torch import Tensor, nn

from cledet.errors import UserError, nearest
from cledet.models.backbones.stages import Staged

SOURCE = re.compile(r"[^\w.-]")
"""Characters of folders and repositories (`hf-hub:`, which timm would download), but not of timm's model names."""


class TimmBody(Staged):
    """A timm network with maps of strides 8, 16 and 32; its stages are unknown, so none can be frozen."""

    def __init__(self, name: str, fixed_norms: bool) -> None:
        super().__init__()
        self.body = _create(name)
        reductions, channels = self.body.feature_info.reduction(), self.body.feature_info.channels()
        if not {8, 16, 32} <= set(reductions):
            raise UserError(f"timm's {name} has maps of strides {reductions}, not 8, 16 and 32", "choose another")
        self.indices = [reductions.index(stride) for stride in (8, 16, 32)]
        self.channels = [channels[i] for i in self.indices]
        config = _timm().get_pretrained_cfg(name)
        self.mean, self.std = (tuple(255 * v for v in values) for values in (config.mean, config.std))
        self.fixed_norms = fixed_norms
        for module in self._frozen_modules():
            module.requires_grad_(False)

    def forward(self, x: Tensor) -> list[Tensor]:
        maps = self.body(x)
        return [maps[i] for i in self.indices]

    def freeze(self, count: int) -> None:
        if count:
            raise UserError("--freeze does not know the stages of timm's backbones", "try --backbone-lr 0.1")

    def _frozen_modules(self) -> list[nn.Module]:
        norms = (nn.modules.batchnorm._BatchNorm,)
        return [module for module in self.modules() if isinstance(module, norms)] if self.fixed_norms else []


def timm_weights(name: str) -> dict[str, Tensor]:
    """Load the network's published weights from timm's hub."""
    return {f"body.{key}": value for key, value in _create(name, pretrained=True).state_dict().items()}


def timm_url(name: str) -> str:
    """Return the URL of the published weights, or \"timm's hub\"."""
    config = _timm().get_pretrained_cfg(name)
    return (config and config.url) or "timm's hub"


def _create(name: str, pretrained: bool = False) -> Any:
    timm = _timm()
    if SOURCE.search(name):
        hint = "models of other sources are not supported; pass a name like timm:convnext_tiny"
        raise UserError(f"timm:{name} is not a name of timm's own models", hint)
    try:
        return timm.create_model(name, features_only=True, pretrained=pretrained)
    except RuntimeError:
        if timm.is_model(name):
            raise
        raise UserError(f"timm has no model {name!r}", nearest(name, timm.list_models())) from None


def _timm() -> Any:
    try:
        import timm
    except ImportError:
        raise UserError("timm is not installed", "pip install 'cledet[timm]'") from None
    return timm
