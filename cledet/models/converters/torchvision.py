"""Converter of torchvision's RetinaNets, `retinanet_resnet50_fpn` and `retinanet_resnet50_fpn_v2`."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor

from cledet.errors import UserError
from cledet.models.backbones.resnet import resnet_name
from cledet.models.converters.imported import COCO_IDS, ConvertedDetector, build_detector, tensors_of
from cledet.models.network import Architecture

LOGITS = "head.classification_head.cls_logits.weight"


def is_torchvision(content: dict[str, Any]) -> bool:
    """Return True for the weights of torchvision's RetinaNet."""
    return LOGITS in tensors_of(content)


def from_torchvision(content: dict[str, Any]) -> ConvertedDetector:
    """Convert torchvision's RetinaNet.

    Of its 91 outputs per anchor (an untrained background, 80 classes, 10 unused ids) the 80 classes are kept. Version 2
    takes P6 from C5 and has group norms in its towers; the anchors are the same.
    """
    state = tensors_of(content)
    second = "head.regression_head.conv.0.1.weight" in state
    outputs = len(state[LOGITS]) // 9
    keep = torch.tensor(COCO_IDS) if outputs == 91 else torch.arange(outputs)
    note = f"a RetinaNet{' v2' if second else ''} of torchvision"
    renamed = {_our_name(key, second): value for key, value in state.items()}
    body = {key.removeprefix("backbone."): value for key, value in renamed.items()}
    arch = Architecture(
        backbone=resnet_name(body),
        classes=len(keep),
        fpn_channels=_width(renamed, note),
        anchors_from_image=True,
        p6_from="c5" if second else "p5",
        tower_norm="group" if second else "none",
    )
    for name in ("head.classification.predict.weight", "head.classification.predict.bias"):
        value = renamed[name]
        renamed[name] = value.reshape(9, outputs, *value.shape[1:])[:, keep].flatten(0, 1)
    return build_detector(arch, renamed, (), note)


def _width(renamed: dict[str, Tensor], note: str) -> int:
    first = renamed.get("neck.inner_blocks.0.0.weight")
    if first is None:
        raise UserError(f"{note}: it has no feature pyramid", "it is another network, or incomplete")
    return len(first)


def _our_name(key: str, normed: bool) -> str:
    """Translate a parameter name of torchvision to ours.

    The layers of a tower are numbered 0, 2, 4, 6 in old files and 0.0 to 3.0 in new ones.
    """
    key = key.replace("backbone.body.", "backbone.").replace("backbone.fpn.", "neck.")
    key = re.sub(r"^(neck\.(?:inner|layer)_blocks\.\d)\.(weight|bias)$", r"\1.0.\2", key)
    count = 3 if normed else 2  # convolution, optional norm, ReLU
    key = re.sub(r"_head\.conv\.(\d+)\.(\d)\.", lambda m: f"_head.convs.{count * int(m[1]) + int(m[2])}.", key)
    key = re.sub(r"_head\.conv\.(\d+)\.", r"_head.convs.\1.", key)
    key = key.replace("classification_head.cls_logits", "classification.predict")
    key = key.replace("regression_head.bbox_reg", "regression.predict")
    return key.replace("classification_head.", "classification.").replace("regression_head.", "regression.")
