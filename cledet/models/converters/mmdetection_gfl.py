"""Converter of MMDetection's GFL, version 2 or 3 (.pth).

Our GFL computes the same: points on multiples of the stride, P6 and P7 from P5 without ReLU, distances over 0 to 16
strides. `cledet.models.converters.mmdetection` converts the parts that RetinaNet has too.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from cledet.errors import UserError
from cledet.models.converters import mmdetection
from cledet.models.converters.imported import (
    ConvertedDetector,
    Names,
    backbone_of,
    build_detector,
    rename,
    tensors_of,
    to_our_images,
)
from cledet.models.converters.mmdetection import class_names, config_of, images_of, is_caffe
from cledet.models.heads import BINS
from cledet.models.network import Architecture

WIDTH = 256
"""Channels of the pyramid and the head; with others, MMDetection's group norms differ from ours."""
NAMES: Names = (
    (r"^bbox_head\.", "head."),
    (r"^head\.cls_convs\.", "head.classification.convs."),
    (r"^head\.reg_convs\.", "head.regression.convs."),
    (r"^(head\..*convs)\.(\d)\.conv\.", lambda m: f"{m[1]}.{3 * int(m[2])}."),
    (r"^(head\..*convs)\.(\d)\.gn\.", lambda m: f"{m[1]}.{3 * int(m[2]) + 1}."),
    (r"^head\.gfl_cls\.", "head.classification.predict."),
    (r"^head\.gfl_reg\.", "head.regression.predict."),
    *mmdetection.NAMES,
)


def is_gfl(content: dict[str, Any]) -> bool:
    """Return True for the weights of MMDetection's GFL, or of GFL's original code."""
    return "bbox_head.gfl_cls.weight" in _weights(content)


def from_gfl(content: dict[str, Any]) -> ConvertedDetector:
    """Convert MMDetection's GFL. Raises UserError where the two differ."""
    state, text = _weights(content), config_of(content)
    _refuse_others(state)
    renamed = {rename(key, NAMES): value for key, value in state.items()}
    scales = [renamed.pop(f"head.scales.{i}.scale").reshape(()) for i in range(5)]
    renamed["head.scales"] = torch.stack(scales)
    del renamed["head.integral.project"]
    name = backbone_of(renamed, is_caffe(text))
    bgr, mean, std = images_of(text)
    renamed["backbone.conv1.weight"] = to_our_images(renamed["backbone.conv1.weight"], bgr, mean, std)
    classes = len(renamed["head.classification.predict.weight"])
    arch = Architecture(backbone=name, classes=classes, anchor_scale=8.0, head="gfl")
    guess = "" if text else "; assumed, because the file holds no configuration"
    note = f"a GFL of MMDetection ({name}, images in {'BGR' if bgr else 'RGB'}{guess})"
    return build_detector(arch, renamed, class_names(content), note)


def _weights(content: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the tensors of a file with a state_dict, or of a state_dict alone."""
    return tensors_of(content.get("state_dict", content))


def _refuse_others(state: Mapping[str, Tensor]) -> None:
    """Raise UserError for a GFL that our network cannot represent."""
    if "bbox_head.integral.project" not in state:
        message = "these weights are of GFL's original code, whose points lie half a stride from MMDetection 2's"
        raise UserError(message, "take the weights of MMDetection 2 or 3")
    if len(state["bbox_head.integral.project"]) != BINS + 1:
        raise UserError(f"a GFL with distances up to {len(state['bbox_head.integral.project']) - 1} is not supported")
    if len(state.get("neck.lateral_convs.0.conv.weight", ())) != WIDTH:
        raise UserError(f"a GFL whose pyramid does not have {WIDTH} channels is not supported")
