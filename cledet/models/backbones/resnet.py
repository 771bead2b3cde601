"""ResNets and ResNeXts with torchvision's parameter names, also with deformable convolutions, and how they are named.

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
"""What follows `-dcn` in a name -> the layers whose 3x3 convolutions are deformable (layer2 makes C3)."""


@dataclass(frozen=True)
class Plan:
    """What a ResNet is built of."""

    block: type[BasicBlock | Bottleneck]
    depths: tuple[int, int, int, int]
    url: str
    groups: int = 1
    width: int = 64  # channels of a group in layer1, times 64
    caffe: bool = False  # stride in a block's first 1x1 convolution, not in its 3x3
    deformable: tuple[int, ...] = ()  # layers
    modulated: bool = False  # version 2


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
        """The modules of the stem and of the four stages, in order."""
        return [[self.conv1, self.bn1], [self.layer1], [self.layer2], [self.layer3], [self.layer4]]


def resnet_name(state: Mapping[str, Tensor], caffe: bool = False) -> str:
    """The name of the ResNet that has these weights, under torchvision's names; raises UserError for one unknown."""
    depths = tuple(len({key.split(".")[1] for key in state if key.startswith(f"layer{i}.")}) for i in (1, 2, 3, 4))
    weight = state.get("layer1.0.conv2.weight")
    if weight is None or 0 in depths:
        raise UserError("this backbone is no ResNet", "r18 to r152, x50 and x101 are read")
    block = Bottleneck if "layer1.0.conv3.weight" in state else BasicBlock
    groups = weight.shape[0] // weight.shape[1]
    wanted = (block, depths, groups, weight.shape[0] // groups if groups > 1 else 64)
    for name, plan in PLAIN.items():
        if (plan.block, plan.depths, plan.groups, plan.width) == wanted:
            return name + ("-caffe" if caffe and block is Bottleneck else "") + _deformable(state)
    shape = f"{'-'.join(map(str, depths))} blocks, {groups} groups of {weight.shape[0] // groups} channels"
    raise UserError(f"a ResNet of {shape} is not among those known", f"known are {', '.join(PLAIN)}")


def _deformable(state: Mapping[str, Tensor]) -> str:
    """The end of the name: which convolutions are deformable, and of which version."""
    found = {i: state[key] for i in (1, 2, 3, 4) if (key := f"layer{i}.0.conv2.offset.weight") in state}
    if not found:
        return ""
    counts = {len(weight) for weight in found.values()}
    stages = next((end for end, layers in DEFORMABLE.items() if layers == tuple(found)), None)
    if stages is None or len(counts) > 1 or not counts <= set(VERSIONS):
        layers = ", ".join(f"layer{i} ({len(weight)} channels of offsets)" for i, weight in found.items())
        raise UserError(f"deformable convolutions in {layers} are not read", "c3-c5 and c4-c5 with one group are")
    return f"-dcn{VERSIONS[counts.pop()]}{stages}"


def _plan(block: type[BasicBlock | Bottleneck], depths: tuple[int, int, int, int], weights: tv.WeightsEnum) -> Plan:
    return Plan(block, depths, weights.url)


def _resnext(depths: tuple[int, int, int, int], groups: int, width: int, url: str) -> Plan:
    return Plan(Bottleneck, depths, url, groups, width)


def variants(plain: Mapping[str, Plan]) -> dict[str, Plan]:
    """Every plan under every name that it may have."""
    found: dict[str, Plan] = {}
    for name, plan in plain.items():
        bases = {name: plan}
        if plan.block is Bottleneck:
            bases[f"{name}-caffe"] = replace(plan, caffe=True, url="")  # no published weights
        for base, one in bases.items():
            found[base] = one
            for version in VERSIONS.values():
                for end, layers in DEFORMABLE.items():
                    found[f"{base}-dcn{version}{end}"] = replace(one, deformable=layers, modulated=version == "v2")
    return found


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
        4,  # torchvision has none; timm names these resnext101_32x4d.gluon_in1k, with torchvision's parameter names
        "https://github.com/rwightman/pytorch-pretrained-gluonresnet/releases/download/v0.1/"
        "gluon_resnext101_32x4d-b253c8c4.pth",
    ),
    "x101-64x4d": _resnext((3, 4, 23, 3), 64, 4, tv.ResNeXt101_64X4D_Weights.IMAGENET1K_V1.url),
}
RESNETS = variants(PLAIN)
