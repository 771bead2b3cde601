"""Converter of torchvision's RetinaNets, `retinanet_resnet50_fpn` and its v2, and of its FCOS, `fcos_resnet50_fpn`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from cledet.errors import UserError
from cledet.models.anchors import STRIDES
from cledet.models.converters.imported import COCO_IDS, ConvertedDetector, backbone_of, build_detector, tensors_of
from cledet.models.network import Architecture

LOGITS = "head.classification_head.cls_logits.weight"
NORM_EPS = 1e-5
"""What batch norms of ours add to the variance."""


def is_torchvision(content: dict[str, Any]) -> bool:
    """Return True for the weights of torchvision's RetinaNet or FCOS."""
    return LOGITS in tensors_of(content)


def from_torchvision(content: dict[str, Any]) -> ConvertedDetector:
    """Convert torchvision's RetinaNet or FCOS.

    Of 91 outputs per anchor (an untrained background, 80 classes, 10 unused ids) the 80 classes are kept. Version 2 of
    RetinaNet takes P6 from C5 and has group norms in its towers. FCOS has them beside the biases, and no scales of the
    levels: ours are 1. The steps of its anchors are those of RetinaNet.
    """
    state = tensors_of(content)
    fcos, second = "head.regression_head.bbox_ctrness.weight" in state, "head.regression_head.conv.0.1.weight" in state
    anchors = 1 if fcos else 9
    outputs = len(state[LOGITS]) // anchors
    keep = torch.tensor(COCO_IDS) if outputs == 91 else torch.arange(outputs)
    note = "a FCOS of torchvision" if fcos else f"a RetinaNet{' v2' if second else ''} of torchvision"
    renamed = {_our_name(key, second): value for key, value in state.items()}
    if "neck.inner_blocks.0.0.weight" not in renamed:
        raise UserError(f"{note}: it has no feature pyramid", "it is another network, or incomplete")
    arch = Architecture(
        backbone=backbone_of(renamed),
        classes=len(keep),
        fpn_channels=len(renamed["neck.inner_blocks.0.0.weight"]),
        anchor_scale=8.0 if fcos else 4.0,
        anchors_from_image=True,
        p6_from="c5" if second else "p5",
        tower_norm="group-bias" if fcos else "group" if second else "none",
        head="fcos" if fcos else "retinanet",
    )
    for kind in ("weight", "bias"):
        name = f"head.classification.predict.{kind}"
        renamed[name] = renamed[name].unflatten(0, (anchors, outputs))[:, keep].flatten(0, 1)
        if fcos:
            sides = f"head.regression.predict.{kind}"
            renamed[sides] = torch.cat([renamed[sides], renamed.pop(f"head.regression.bbox_ctrness.{kind}")])
    if fcos:
        renamed["head.scales"] = torch.ones(len(STRIDES))
    return build_detector(arch, renamed, (), note)


def with_eps(model: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rescale batch norms for our eps that were trained with 0, as those of torchvision's published version 1."""
    scales = {
        name.replace("running_var", "weight"): ((variance + NORM_EPS) / variance).sqrt()
        for name, variance in model.items()
        if name.endswith("running_var")
    }
    return {name: value * scales[name] if name in scales else value for name, value in model.items()}


def _our_name(key: str, second: bool) -> str:
    """Translate a parameter name of torchvision to ours.

    The layers of a RetinaNet's tower are numbered 0, 2, 4, 6 in old files and 0.0 to 3.0 in new ones.
    """
    key = key.replace("backbone.body.", "backbone.").replace("backbone.fpn.", "neck.")
    key = re.sub(r"^(neck\.(?:inner|layer)_blocks\.\d)\.(weight|bias)$", r"\1.0.\2", key)
    count = 3 if second else 2  # convolution, optional norm, ReLU
    key = re.sub(r"_head\.conv\.(\d+)\.(\d)\.", lambda m: f"_head.convs.{count * int(m[1]) + int(m[2])}.", key)
    key = re.sub(r"_head\.conv\.(\d+)\.", r"_head.convs.\1.", key)
    key = key.replace("classification_head.cls_logits", "classification.predict")
    key = key.replace("regression_head.bbox_reg", "regression.predict")
    return key.replace("classification_head.", "classification.").replace("regression_head.", "regression.")
