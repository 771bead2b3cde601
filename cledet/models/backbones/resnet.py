"""ResNets and ResNeXts with torchvision's parameter names, optionally with deformable convolutions.

A name is `r50`, `x101-32x4d` ..., then `-caffe` for the older order of strides, then `-dcn` or `-dcnv2`, then `-c4c5`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from torch import Tensor, nn
from torchvision import models as tv
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

from cledet.errors import UserError
from cledet.models.backbones.deform_conv import VERSIONS, DeformConv2d
from cledet.models.backbones.norms import Norm
from cledet.models.backbones.stages import Staged

IMAGENET_MEAN, IMAGENET_STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
DEFORMABLE = {"": (2, 3, 4), "-c4c5": (3, 4)}
"""Layers with deformable 3x3 convolutions, by the suffix after `-dcn` in a name (layer2 computes C3)."""


@dataclass(frozen=True)
class Plan:
    """Parameters of a ResNet."""

    block: type[BasicBlock | Bottleneck]
    depths: tuple[int, int, int, int]
    url: str
    groups: int = 1
    width: int = 64  # width_per_group of torchvision
    caffe: bool = False  # stride in a block's first 1x1 convolution, not in its 3x3
    deformable: tuple[int, ...] = ()  # layers with deformable convolutions
    modulated: bool = False  # version 2 of these


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

    def __init__(self, plan: Plan, norm: Norm) -> None:
        super().__init__(plan.block, list(plan.depths), groups=plan.groups, width_per_group=plan.width, norm_layer=norm)
        del self.avgpool, self.fc
        self.channels = [width * plan.block.expansion for width in (128, 256, 512)]
        if plan.caffe:
            for block in (self.layer2[0], self.layer3[0], self.layer4[0]):  # type: ignore[index]
                block.conv1.stride, block.conv2.stride = block.conv2.stride, block.conv1.stride
        for number in plan.deformable:
            for block in getattr(self, f"layer{number}"):
                block.conv2 = DeformConv2d(block.conv2, plan.modulated)

    def forward(self, x: Tensor) -> list[Tensor]:
        c2 = self.layer1(self.maxpool(self.relu(self.bn1(self.conv1(x)))))
        c3 = self.layer2(c2)
        c4 = self.layer3(c3)
        return [c3, c4, self.layer4(c4)]

    def stages(self) -> list[list[nn.Module]]:
        """Return the modules of the stem and of the four stages, in order."""
        return [[self.conv1, self.bn1], [self.layer1], [self.layer2], [self.layer3], [self.layer4]]


def resnet_name(state: Mapping[str, Tensor], caffe: bool = False) -> str:
    """Find the name of the ResNet with these weights, under torchvision's names. Raises UserError if unknown."""
    depths = tuple(len({key.split(".")[1] for key in state if key.startswith(f"layer{i}.")}) for i in (1, 2, 3, 4))
    weight = state.get("layer1.0.conv2.weight")
    if weight is None or 0 in depths:
        raise UserError("this backbone is not a ResNet", "r18 to r152, x50 and x101 are supported")
    block = Bottleneck if "layer1.0.conv3.weight" in state else BasicBlock
    groups = weight.shape[0] // weight.shape[1]
    shape_of = (block, depths, groups, weight.shape[0] // groups if groups > 1 else 64)
    for name, plan in PLAIN.items():
        if (plan.block, plan.depths, plan.groups, plan.width) == shape_of:
            return name + ("-caffe" if caffe and block is Bottleneck else "") + _deformable(state)
    shape = f"{'-'.join(map(str, depths))} blocks, {groups} groups of {weight.shape[0] // groups} channels"
    raise UserError(f"a ResNet of {shape} is not supported", f"{', '.join(PLAIN)} are")


def _deformable(state: Mapping[str, Tensor]) -> str:
    """Return the suffix of the name for the deformable convolutions and their version."""
    offsets = {i: state[key] for i in (1, 2, 3, 4) if (key := f"layer{i}.0.conv2.offset.weight") in state}
    if not offsets:
        return ""
    counts = {len(weight) for weight in offsets.values()}
    stages = next((end for end, layers in DEFORMABLE.items() if layers == tuple(offsets)), None)
    if stages is None or len(counts) > 1 or not counts <= set(VERSIONS):
        layers = ", ".join(f"layer{i} ({len(weight)} channels of offsets)" for i, weight in offsets.items())
        raise UserError(f"deformable convolutions in {layers} are not supported", "c3-c5 and c4-c5 with one group are")
    return f"-dcn{VERSIONS[counts.pop()]}{stages}"


def _plan(block: type[BasicBlock | Bottleneck], depths: tuple[int, int, int, int], weights: tv.WeightsEnum) -> Plan:
    return Plan(block, depths, weights.url)


def _resnext(depths: tuple[int, int, int, int], groups: int, width: int, url: str) -> Plan:
    return Plan(Bottleneck, depths, url, groups, width)


def variants(plain: Mapping[str, Plan]) -> dict[str, Plan]:
    """Return the plans of all variants by name."""
    plans: dict[str, Plan] = {}
    for name, plan in plain.items():
        bases = {name: plan}
        if plan.block is Bottleneck:
            bases[f"{name}-caffe"] = replace(plan, caffe=True, url="")  # no published weights
        for base, one in bases.items():
            plans[base] = one
            for version in VERSIONS.values():
                for end, layers in DEFORMABLE.items():
                    plans[f"{base}-dcn{version}{end}"] = replace(one, deformable=layers, modulated=version == "v2")
    return plans


PLAIN: dict[str, Plan] = {
    "r18": _plan(BasicBlock, (2, 2, 2, 2), tv.ResNet18_Weights.IMAGENET1K_V1),
    "r34": _plan(BasicBlock, (3, 4, 6, 3), tv.ResNet34_Weights.IMAGENET1K_V1),
    "r50": _plan(Bottleneck, (3, 4, 6, 3), tv.ResNet50_Weights.IMAGENET1K_V1),
    "r101": _plan(Bottleneck, (3, 4, 23, 3), tv.ResNet101_Weights.IMAGENET1K_V1),
    "r152": _plan(Bottleneck, (3, 8, 36, 3), tv.ResNet152_Weights.IMAGENET1K_V1),
    "x50": _resnext((3, 4, 6, 3), 32, 4, tv.ResNeXt50_32X4D_Weights.IMAGENET1K_V1.url),
    "x101": _resnext((3, 4, 23, 3), 32, 8, tv.ResNeXt101_32X8D_Weights.IMAGENET1K_V1.url),
    "x101-32x4d": _resnext(
        (3, 4, 23, 3),
        32,
        4,  # not in torchvision; timm's resnext101_32x4d.gluon_in1k, with torchvision's parameter names
        "https://github.com/rwightman/pytorch-pretrained-gluonresnet/releases/download/v0.1/"
        "gluon_resnext101_32x4d-b253c8c4.pth",
    ),
    "x101-64x4d": _resnext((3, 4, 23, 3), 64, 4, tv.ResNeXt101_64X4D_Weights.IMAGENET1K_V1.url),
}
RESNETS = variants(PLAIN)
