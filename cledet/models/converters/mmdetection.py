"""Converter of MMDetection's RetinaNet, version 2 or 3 (.pth).

The files hold the configuration as text, which is searched, never executed. Differences from ours: P6 comes from C5;
there is no ReLU before P7; anchors are not rounded; in "caffe" style the stride is in a block's first 1x1 convolution
and images are in BGR.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal

from torch import Tensor

from cledet.errors import UserError
from cledet.models.backbones.resnet import IMAGENET_MEAN, IMAGENET_STD
from cledet.models.converters.imported import (
    CAFFE_MEAN,
    ConvertedDetector,
    Names,
    backbone_of,
    build_detector,
    rename,
    tensors_of,
    to_our_images,
)
from cledet.models.network import Architecture

NAMES: Names = (
    (r"\.conv2_offset\.", ".conv2.offset."),  # of mmcv before 1.0
    (r"\.conv2\.conv_offset\.", ".conv2.offset."),
    (r"^neck\.lateral_convs\.(\d)\.conv\.", r"neck.inner_blocks.\1.0."),
    (r"^neck\.fpn_convs\.([012])\.conv\.", r"neck.layer_blocks.\1.0."),
    (r"^neck\.fpn_convs\.3\.conv\.", "neck.extra_blocks.p6."),
    (r"^neck\.fpn_convs\.4\.conv\.", "neck.extra_blocks.p7."),
    (r"^bbox_head\.retina_cls\.", "head.classification.predict."),
    (r"^bbox_head\.retina_reg\.", "head.regression.predict."),
    (r"^bbox_head\.cls_convs\.(\d)\.conv\.", lambda m: f"head.classification.convs.{2 * int(m[1])}."),
    (r"^bbox_head\.reg_convs\.(\d)\.conv\.", lambda m: f"head.regression.convs.{2 * int(m[1])}."),
)


def is_mmdetection(content: dict[str, Any]) -> bool:
    """Return True for the weights of MMDetection's RetinaNet."""
    return "bbox_head.retina_cls.weight" in tensors_of(content.get("state_dict"))


def from_mmdetection(content: dict[str, Any]) -> ConvertedDetector:
    """Convert MMDetection's RetinaNet."""
    text = config_of(content)
    renamed = {rename(key, NAMES): value for key, value in tensors_of(content["state_dict"]).items()}
    if len(renamed["head.regression.predict.weight"]) != 9 * 4:
        raise UserError("a RetinaNet of MMDetection without 9 anchors per position is not supported")
    _check_coder(text)
    name = backbone_of(renamed, is_caffe(text))
    bgr, mean, std = images_of(text)
    scale = re.search(r"octave_base_scale\s*=\s*(\d+)", text)
    guess = "" if text else "; assumed, because the file holds no configuration in meta.config"
    note = f"a RetinaNet of MMDetection ({name}, images in {'BGR' if bgr else 'RGB'}{guess})"
    arch = Architecture(
        backbone=name,
        classes=len(renamed["head.classification.predict.weight"]) // 9,
        fpn_channels=len(renamed["neck.inner_blocks.0.0.weight"]),
        anchor_scale=float(scale[1]) if scale else 4.0,
        p6_from=_p6_from(renamed, text),
        p7_relu=bool(re.search(r"relu_before_extra_convs\s*=\s*True", text)),
        anchors_rounded=False,
    )
    renamed["backbone.conv1.weight"] = to_our_images(renamed["backbone.conv1.weight"], bgr, mean, std)
    return build_detector(arch, renamed, class_names(content), note)


def config_of(content: Mapping[str, Any]) -> str:
    """Return the text of the configuration of version 2 or 3, empty if there is none."""
    meta = content.get("meta") or {}
    return str(meta.get("config") or meta.get("cfg") or "") if isinstance(meta, dict) else ""


def is_caffe(text: str) -> bool:
    """Return True for a backbone in Caffe's style, with the stride in a block's first 1x1 convolution."""
    return bool(re.search(r"style\s*=\s*['\"]caffe['\"]", text))


def images_of(text: str) -> tuple[bool, list[float], list[float]]:
    """Return the image format: True for BGR, and mean and deviation in that order, by default RGB and ImageNet's.

    The default of version 3, which has a data_preprocessor, is BGR.
    """
    setting = re.search(r"\b(?:bgr_)?to_rgb\s*=\s*(True|False)", text)
    bgr = setting[1] == "False" if setting else "data_preprocessor" in text
    mean, std = _numbers(text, "mean"), _numbers(text, "std")
    return bgr, mean or list(CAFFE_MEAN if bgr else IMAGENET_MEAN), std or list(IMAGENET_STD)


def _p6_from(renamed: dict[str, Tensor], text: str) -> Literal["p5", "c5"]:
    """Determine the source of P6 from the number of input channels of its convolution."""
    if "on_lateral" in text:
        hint = "only P6 from P5 or C5 is"
        raise UserError("a RetinaNet of MMDetection with P6 from the lateral maps is not supported", hint)
    inputs = renamed["neck.extra_blocks.p6.weight"].shape[1] if "neck.extra_blocks.p6.weight" in renamed else 0
    return "c5" if inputs == renamed["neck.inner_blocks.2.0.weight"].shape[1] else "p5"


def _check_coder(text: str) -> None:
    """Raise UserError if the deltas are scaled; ours are not."""
    means, stds = _numbers(text, "target_means") or [0.0], _numbers(text, "target_stds") or [1.0]
    if set(means) != {0.0} or set(stds) != {1.0}:
        raise UserError(f"a RetinaNet of MMDetection with target_stds {stds} is not supported", "its deltas are scaled")


def _numbers(text: str, name: str) -> list[float]:
    """Return the first list of numbers assigned to that name."""
    setting = re.search(rf"\b{name}\s*=\s*[\[(]([^\])]*)[\])]", text)
    return [float(word) for word in setting[1].split(",") if word.strip()] if setting else []


def class_names(content: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the class names, empty if the file has none."""
    meta = content.get("meta") or {}
    of_data = meta.get("dataset_meta") or {}
    names = of_data.get("classes") or of_data.get("CLASSES") or meta.get("CLASSES") or ()
    return tuple(str(name) for name in names)
