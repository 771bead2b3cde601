"""Backbones: an image in, the feature maps C3, C4 and C5 (strides 8, 16, 32) out."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn
from torchvision import models as tv
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

from cledet.errors import UserError, nearest
from cledet.models.efficientnet import LITE0_URL, EfficientNetLite0, lite0_weights
from cledet.models.stages import Staged
from cledet.models.timm_backbone import TimmBody, timm_url, timm_weights

IMAGENET_MEAN, IMAGENET_STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


class FrozenBatchNorm2d(nn.BatchNorm2d):
    """Batch norm with fixed statistics and fixed scale, one fused pass in any precision.

    Torchvision's class of this name multiplies by float32 tensors, which turns bfloat16 features into float32.
    """

    def __init__(self, channels: int, eps: float = 1e-5, momentum: float = 0.1) -> None:
        super().__init__(channels, eps=eps, momentum=momentum)
        self.requires_grad_(False)

    def train(self, mode: bool = True) -> FrozenBatchNorm2d:
        super().train(False)
        return self


class GroupNorm(nn.GroupNorm):
    """Group norm of 32 groups, or of as many as divide the channels: the same for any batch."""

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__(math.gcd(32, channels), channels, eps=eps)


Norm = type[nn.BatchNorm2d] | type[GroupNorm]
NORMS: dict[str, Norm] = {"frozen": FrozenBatchNorm2d, "batch": nn.BatchNorm2d, "group": GroupNorm}


class ResNetBody(Staged, ResNet):
    """A torchvision ResNet without its classifier, with torchvision's parameter names."""

    mean, std = IMAGENET_MEAN, IMAGENET_STD
    conv1: nn.Module
    bn1: nn.Module
    relu: nn.Module
    maxpool: nn.Module
    layer1: nn.Module
    layer2: nn.Module
    layer3: nn.Module
    layer4: nn.Module

    def __init__(self, block: type[BasicBlock | Bottleneck], depths: list[int], norm: Norm) -> None:
        super().__init__(block, depths, norm_layer=norm)
        del self.avgpool, self.fc
        self.channels = [width * block.expansion for width in (128, 256, 512)]

    def forward(self, x: Tensor) -> list[Tensor]:
        c2 = self.layer1(self.maxpool(self.relu(self.bn1(self.conv1(x)))))
        c3 = self.layer2(c2)
        c4 = self.layer3(c3)
        return [c3, c4, self.layer4(c4)]

    def stages(self) -> list[list[nn.Module]]:
        """The modules of the stem and of the four stages, in order."""
        return [[self.conv1, self.bn1], [self.layer1], [self.layer2], [self.layer3], [self.layer4]]


@dataclass(frozen=True)
class BackboneSpec:
    """How a backbone is built and where its ImageNet weights come from."""

    build: Callable[[Norm], Staged]
    weights: Callable[[], dict[str, Tensor]]
    url: str


def _resnet(block: type[BasicBlock | Bottleneck], depths: list[int], weights: tv.WeightsEnum) -> BackboneSpec:
    return BackboneSpec(
        build=lambda norm: ResNetBody(block, depths, norm),
        weights=lambda: weights.get_state_dict(progress=False, check_hash=True, weights_only=True),
        url=weights.url,
    )


def backbone_spec(name: str) -> BackboneSpec:
    """What that name stands for: a key of BACKBONES, or `timm:` and a timm model's name."""
    if name.startswith("timm:"):
        model = name.removeprefix("timm:")
        return BackboneSpec(
            build=lambda norm: TimmBody(model, norm is FrozenBatchNorm2d),
            weights=lambda: timm_weights(model),
            url=timm_url(model),
        )
    if name not in BACKBONES:
        raise UserError(f"unknown backbone {name!r}", nearest(name, [*BACKBONES, "timm:NAME"]))
    return BACKBONES[name]


def build_backbone(name: str, norm: str) -> Staged:
    """The backbone of that name with random weights; `norm` is a key of NORMS."""
    if norm == "group" and name.startswith("timm:"):
        raise UserError("--norm group is not for timm's backbones, which have norms of their own", "leave it out")
    return backbone_spec(name).build(NORMS[norm])


def load_backbone(backbone: nn.Module, state: dict[str, Tensor]) -> list[str]:
    """Load weights by name, without the classifier; returns the names that the file lacks."""
    own = backbone.state_dict()
    found = {key: value for key, value in state.items() if key in own and own[key].shape == value.shape}
    missing = [key for key in own if key not in found and not key.endswith("num_batches_tracked")]
    if not missing:
        backbone.load_state_dict(found, strict=False)
    return missing


BACKBONES: dict[str, BackboneSpec] = {
    "r18": _resnet(BasicBlock, [2, 2, 2, 2], tv.ResNet18_Weights.IMAGENET1K_V1),
    "r34": _resnet(BasicBlock, [3, 4, 6, 3], tv.ResNet34_Weights.IMAGENET1K_V1),
    "r50": _resnet(Bottleneck, [3, 4, 6, 3], tv.ResNet50_Weights.IMAGENET1K_V1),
    "r101": _resnet(Bottleneck, [3, 4, 23, 3], tv.ResNet101_Weights.IMAGENET1K_V1),
    "r152": _resnet(Bottleneck, [3, 8, 36, 3], tv.ResNet152_Weights.IMAGENET1K_V1),
    "lite0": BackboneSpec(EfficientNetLite0, lite0_weights, LITE0_URL),
}
