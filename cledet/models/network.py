"""The network: from images to raw outputs for every anchor."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator
from torch import Tensor, nn
from torch.nn.functional import logsigmoid
from torch.overrides import TorchFunctionMode

from cledet.config.types import AnchorRatios
from cledet.models.anchors import STRIDES, Anchors
from cledet.models.backbones.build import build_backbone
from cledet.models.backbones.norms import NORMS
from cledet.models.backbones.stages import Staged
from cledet.models.fpn import build_pyramid
from cledet.models.heads import HEADS
from cledet.ops.box_coder import CODERS


class Architecture(BaseModel):
    """Parameters that define the network, saved in checkpoints."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    backbone: str
    classes: int = Field(ge=1, le=100_000)
    fpn_channels: int = Field(256, ge=1, le=4096)
    anchor_scale: float = Field(4.0, gt=0, le=1000)
    anchors_from_image: bool = False
    norm: str = "frozen"
    p6_from: Literal["p5", "c5"] = "p5"  # this and the following: for weights of other projects
    p7_relu: bool = True
    tower_norm: Literal["none", "group", "group-bias"] = "none"
    anchors_rounded: bool = True
    head: str = "retinanet"
    anchor_ratios: AnchorRatios | None = None  # None: the head's own
    head_conv: Literal["depthwise"] | None = None  # None: standard; not saved then, so that cledet 0.1 reads the file

    @field_validator("head", "norm")
    @classmethod
    def _check_name(cls, name: str, field: ValidationInfo) -> str:
        if name not in (HEADS if field.field_name == "head" else NORMS):
            raise ValueError(f"unknown {field.field_name} {name!r}")
        return name

    @field_validator("anchor_ratios")
    @classmethod
    def _check_ratios(cls, ratios: tuple[float, ...] | None, field: ValidationInfo) -> tuple[float, ...] | None:
        """Replace the head's own ratios by None, so that equal architectures are equal objects."""
        own = HEADS[field.data["head"]].ratios if "head" in field.data else ()
        if ratios is not None and len(own) == 1 and ratios != own:
            raise ValueError(f"the head {field.data['head']} has one square at each point")
        return None if ratios == own else ratios

    @property
    def ratios(self) -> tuple[float, ...]:
        """Return the aspect ratios (height / width) of the anchors."""
        return self.anchor_ratios or HEADS[self.head].ratios


class RawOutputs(NamedTuple):
    """Outputs of the network for N images, A anchors and C classes."""

    logits: Tensor  # [N, A, C]
    deltas: Tensor  # [N, A, K] box codes relative to the anchors, decoded by `coder`
    anchors: Tensor  # [A, 4] pixels of the padded image
    strides: Tensor  # [A] pixels
    levels: list[int]  # number of anchors of each level, P3 to P7
    coder: str = "deltas"  # a key of CODERS
    per_position: int = 9  # anchors per position
    centerness: Tensor | None = None  # [N, A] logits of FCOS

    def boxes(self, image: Any = slice(None), anchor: Any = slice(None)) -> Tensor:
        """Decode boxes [..., 4] in pixels, as float32, of the indexed images and anchors; by default of all.

        The indices are slices, integers, or tensors of one shape.
        """
        code = self.deltas[image, anchor].float()
        return CODERS[self.coder](code, self.anchors[anchor], self.strides[anchor])

    def scored(self) -> RawOutputs:
        """Replace the logits by those of the scores: sqrt(class * centerness) with centerness, else unchanged."""
        if self.centerness is None:
            return self
        log_score = (logsigmoid(self.logits.float()) + logsigmoid(self.centerness.float())[..., None]) / 2
        return self._replace(logits=log_score - (-log_score.expm1()).log(), centerness=None)


class Network(nn.Module):
    """A module from RGB images [N, 3, H, W], 0 to 255, to raw outputs: `RetinaNet`, or an exported file."""

    canvas: tuple[int, int] | None = None
    """The only height and width that it takes; None: all multiples of 32."""


class RetinaNet(Network):
    """Backbone, feature pyramid and a head of `HEADS` (Lin et al., Focal Loss for Dense Object Detection, 2017)."""

    mean: Tensor
    std: Tensor

    def __init__(self, backbone: Staged, neck: nn.Module, head: nn.Module, anchors: Anchors, coder: str) -> None:
        super().__init__()
        self.coder = coder
        self.backbone, self.neck, self.head, self.anchors = backbone, neck, head, anchors
        self.register_buffer("mean", torch.tensor(backbone.mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(backbone.std).view(3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> RawOutputs:
        """Compute raw outputs of RGB images [N, 3, H, W], 0 to 255, any dtype, with sides that are multiples of 32."""
        return self.raw((images.float() - self.mean) / self.std)

    def raw(self, x: Tensor) -> RawOutputs:
        """Compute raw outputs of normalized images."""
        features = self.pyramid(x.contiguous(memory_format=torch.channels_last))
        logits, deltas, *centerness = self.head(features)
        shapes = [(f.shape[-2], f.shape[-1]) for f in features]
        anchors, strides = self.anchors(shapes, (x.shape[-2], x.shape[-1]))
        count = self.anchors.per_position
        levels = [rows * columns * count for rows, columns in shapes]
        return RawOutputs(logits, deltas, anchors, strides, levels, self.coder, count, *centerness)

    def pyramid(self, x: Tensor) -> list[Tensor]:
        """Compute feature maps P3 to P7 of normalized images."""
        maps = OrderedDict(zip("012", self.backbone(x)))
        return list(self.neck(maps).values())


def parameters_of(arch: Architecture) -> dict[str, Tensor]:
    """Parameters and buffers of that architecture by name, without memory."""
    with torch.device("meta"):
        return build_network(arch).state_dict()


RANDOM = {Tensor.uniform_, Tensor.normal_, nn.init.uniform_, nn.init.normal_, nn.init.kaiming_uniform_}
"""The functions of torch that draw the initial weights of this package's modules; the first argument is filled."""


class Uninitialized(TorchFunctionMode):
    """Leave new parameters as the memory is, for networks whose weights are loaded next: saves the random numbers."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Return the tensor that is to be filled with random numbers, and call any other function."""
        given = kwargs or {}
        return next(iter((*args, *given.values()))) if func in RANDOM else func(*args, **given)


def misfit(own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> str:
    """Say in which tensor a state first differs from a network's own, by name, shape or kind; empty if in none."""
    for name, wanted in own.items():
        value = state.get(name)
        if value is None:
            return f"it lacks {name}"
        if value.shape != wanted.shape:
            return f"{name} is {list(value.shape)} where {list(wanted.shape)} is needed"
        if value.is_floating_point() != wanted.is_floating_point() or value.is_complex() or value.is_quantized:
            return f"{name} holds {value.dtype} where {wanted.dtype} is needed".replace("torch.", "")
    strange = next((name for name in state if name not in own), None)
    return "" if strange is None else f"{strange} has no place in it"


def build_anchors(arch: Architecture) -> Anchors:
    """Build the anchors of an architecture."""
    rounded, octaves = arch.anchors_rounded, HEADS[arch.head].octaves
    return Anchors(STRIDES, arch.anchor_scale, arch.anchors_from_image, rounded, octaves, arch.ratios)


def build_network(arch: Architecture) -> RetinaNet:
    """Build the network of an architecture with random weights."""
    backbone = build_backbone(arch.backbone, arch.norm)
    width, spec = arch.fpn_channels, HEADS[arch.head]
    neck = build_pyramid(backbone.channels, width, arch.p6_from, arch.p7_relu and spec.relu_before_p7)
    anchors = build_anchors(arch)
    norm = spec.norm if arch.tower_norm == "none" else arch.tower_norm
    head = spec.build(width, anchors.per_position, arch.classes, norm, arch.head_conv == "depthwise")
    return RetinaNet(backbone, neck, head, anchors, spec.coder).to(memory_format=torch.channels_last)
