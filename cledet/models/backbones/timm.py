"""Feature backbones of timm: `timm:NAME`."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor, nn

from cledet.errors import UserError, nearest
from cledet.models.backbones.stages import Staged

SOURCE = re.compile(r"[^\w.-]")
"""Characters of folders and repositories (`hf-hub:`, which timm would download), but not of timm's model names."""

ALTERNATIVE = "choose another, as timm:convnext_tiny"


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
        self.unused = self._probe(name)
        config = _timm().get_pretrained_cfg(name)
        self.mean, self.std = (tuple(255 * v for v in values) for values in (config.mean, config.std))
        self.fixed_norms = fixed_norms
        for module in self._frozen_modules():
            module.requires_grad_(False)

    def forward(self, x: Tensor) -> list[Tensor]:
        maps = self.body(x)
        return [maps[i] for i in self.indices]

    def _probe(self, name: str) -> list[nn.Parameter]:
        """Return the parameters that the maps of an image do not depend on; none of a network that cannot compute them.

        Raises UserError for a network that does not compute maps [N, C, H, W] of images of any size.
        """
        parameters = list(self.body.parameters())
        if parameters[0].is_meta or parameters[0].is_inference():
            return []
        self.body.eval()
        with torch.enable_grad():
            try:
                maps = self(parameters[0].new_zeros(1, 3, 96, 128))
            except (AssertionError, RuntimeError) as error:
                reason = str(error).partition("\n")[0]
                raise UserError(f"timm's {name} does not take images of any size: {reason}", ALTERNATIVE) from None
            if any(x.ndim != 4 or x.shape[1] != channels for x, channels in zip(maps, self.channels)):
                raise UserError(f"the maps of timm's {name} are not of the form [N, C, H, W]", ALTERNATIVE)
            gradients = torch.autograd.grad([x.sum() for x in maps], parameters, allow_unused=True)
        self.body.train()
        return [parameter for parameter, gradient in zip(parameters, gradients) if gradient is None]

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
