"""Converter of Detectron2's RetinaNet, from its model zoo (.pkl) or its trainer (.pth).

The files hold no configuration. Where the weights leave it open, the published models' configuration is assumed and
logged. Differences from ours: P6 comes from C5; the anchors of a position are ordered size by size, not ratio by ratio,
and not rounded; images are in BGR; backbones pretrained by MSRA have the stride in a block's first 1x1 convolution.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from cledet.errors import UserError
from cledet.models.backbones.resnet import IMAGENET_STD
from cledet.models.converters.imported import (
    CAFFE_MEAN,
    CAFFE_STD,
    ConvertedDetector,
    Names,
    backbone_of,
    build_detector,
    rename,
    reorder_anchors,
    tensors_of,
    to_our_images,
)
from cledet.models.network import Architecture

ORDER = (0, 3, 6, 1, 4, 7, 2, 5, 8)
"""Index of our anchor i among Detectron2's anchors of a position, which go through the ratios of each size."""
STATE = ("pixel_mean", "pixel_std", "anchor_generator.")
"""Prefixes of names that are not weights."""
NAMES: Names = (
    (r"^backbone\.bottom_up\.stem\.conv1\.norm\.", "backbone.bn1."),
    (r"^backbone\.bottom_up\.stem\.conv1\.", "backbone.conv1."),
    (r"^backbone\.bottom_up\.res(\d)\.", lambda m: f"backbone.layer{int(m[1]) - 1}."),
    (r"\.conv(\d)\.norm\.", r".bn\1."),
    (r"\.conv2_offset\.", ".conv2.offset."),
    (r"\.shortcut\.norm\.", ".downsample.1."),
    (r"\.shortcut\.", ".downsample.0."),
    (r"^backbone\.fpn_lateral(\d)\.", lambda m: f"neck.inner_blocks.{int(m[1]) - 3}.0."),
    (r"^backbone\.fpn_output(\d)\.", lambda m: f"neck.layer_blocks.{int(m[1]) - 3}.0."),
    (r"^backbone\.top_block\.", "neck.extra_blocks."),
    (r"^head\.cls_subnet\.", "head.classification.convs."),
    (r"^head\.bbox_subnet\.", "head.regression.convs."),
    (r"^head\.cls_score\.", "head.classification.predict."),
    (r"^head\.bbox_pred\.", "head.regression.predict."),
)


def is_detectron2(content: dict[str, Any]) -> bool:
    """Return True for the weights of Detectron2's RetinaNet."""
    return {"head.cls_score.weight", "backbone.fpn_lateral3.weight"} <= tensors_of(content.get("model")).keys()


def from_detectron2(content: dict[str, Any]) -> ConvertedDetector:
    """Convert Detectron2's RetinaNet."""
    state = tensors_of(content["model"])
    renamed = {rename(key, NAMES): value for key, value in state.items() if not key.startswith(STATE)}
    if len(renamed["head.regression.predict.weight"]) != 9 * 4:
        raise UserError("a RetinaNet of Detectron2 without 9 anchors per position is not supported")
    bgr, mean, std, caffe, guess = _images(state, backbone_of(renamed))
    name = backbone_of(renamed, caffe)
    note = f"a RetinaNet of Detectron2 ({name}, images in {'BGR' if bgr else 'RGB'}{guess})"
    arch = Architecture(
        backbone=name,
        classes=len(renamed["head.classification.predict.weight"]) // 9,
        fpn_channels=len(renamed["neck.inner_blocks.0.0.weight"]),
        p6_from="c5",
        anchors_rounded=False,
    )
    renamed["backbone.conv1.weight"] = to_our_images(renamed["backbone.conv1.weight"], bgr, mean, std)
    for key in renamed:
        if ".predict." in key:
            renamed[key] = reorder_anchors(renamed[key], ORDER)
    return build_detector(arch, renamed, (), note)


def _images(state: dict[str, Tensor], name: str) -> tuple[bool, list[float], list[float], bool, str]:
    """Return the image format: True for BGR, mean, deviation, True for MSRA's strides, and a note on assumptions.

    A deviation of 1 indicates weights of MSRA, which published no ResNeXt; torchvision's weights have ImageNet's.
    """
    if "pixel_mean" in state and "pixel_std" in state:
        mean, std = state["pixel_mean"].flatten().tolist(), state["pixel_std"].flatten().tolist()
        return mean[0] < mean[2], mean, std, max(std) == 1 and not name.startswith("x"), ""
    guess = "; assumed as in the published models, because the file has no pixel_mean and pixel_std"
    if name.startswith("x"):
        return True, list(CAFFE_MEAN), list(IMAGENET_STD[::-1]), False, guess
    return True, list(CAFFE_MEAN), list(CAFFE_STD), True, guess
