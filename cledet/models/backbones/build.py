"""Backbones by name: an image in, the feature maps C3, C4 and C5 (strides 8, 16, 32) out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

from cledet.errors import UserError, nearest
from cledet.models.backbones.deform_conv import fresh_names
from cledet.models.backbones.efficientnet_lite import LITE0_URL, EfficientNetLite0, lite0_weights
from cledet.models.backbones.norms import NORMS, FrozenBatchNorm2d, Norm
from cledet.models.backbones.resnet import PLAIN, RESNETS, Plan, ResNetBody, variants
from cledet.models.backbones.stages import Staged
from cledet.models.backbones.timm import TimmBody, timm_url, timm_weights


@dataclass(frozen=True)
class BackboneSpec:
    """How a backbone is built and where its ImageNet weights come from."""

    build: Callable[[Norm], Staged]
    url: str  # of a file of weights, or in words; empty if there are none
    weights: Callable[[], dict[str, Tensor]] | None = None  # for those that are not a file at the URL


def _resnet(plan: Plan) -> BackboneSpec:
    return BackboneSpec(build=lambda norm: ResNetBody(plan, norm), url=plan.url)


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


def known_backbones() -> dict[str, list[str]]:
    """The plain names that `backbone_spec` knows, each with the endings that it may have."""
    endings = {name: [one.removeprefix(name) for one in variants({name: plan})] for name, plan in PLAIN.items()}
    others = [*(name for name in BACKBONES if name not in RESNETS), "timm:NAME"]
    return {name: [end for end in ends if end] for name, ends in endings.items()} | {name: [] for name in others}


def build_backbone(name: str, norm: str) -> Staged:
    """The backbone of that name with random weights; `norm` is a key of NORMS."""
    if norm == "group" and name.startswith("timm:"):
        raise UserError("--norm group is not for timm's backbones, which have norms of their own", "leave it out")
    return backbone_spec(name).build(NORMS[norm])


def load_backbone(backbone: nn.Module, state: dict[str, Tensor]) -> list[str]:
    """Load weights by name, without the classifier; returns the names that the file lacks or has in another shape.

    Offsets of deformable convolutions may be missing: they stay zero, and the network is the plain one at first.
    """
    own, fresh = backbone.state_dict(), fresh_names(backbone)
    found = {key: value for key, value in state.items() if key in own and own[key].shape == value.shape}
    optional = {key for key in own if key.endswith("num_batches_tracked") or (key in fresh and key not in state)}
    missing = [key for key in own if key not in found and key not in optional]
    if not missing:
        backbone.load_state_dict(found, strict=False)
    return missing


BACKBONES: dict[str, BackboneSpec] = {
    **{name: _resnet(plan) for name, plan in RESNETS.items()},
    "lite0": BackboneSpec(EfficientNetLite0, LITE0_URL, lite0_weights),
}
