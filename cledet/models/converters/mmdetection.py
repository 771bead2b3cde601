"""MMDetection's RetinaNet, of version 2 or 3 (.pth).

Its files hold the configuration as text, which is searched, not run. Differences from ours: P6 from C5; no ReLU before
P7; anchors not rounded; in "caffe" style the stride is in a block's first 1x1 convolution and images are in BGR.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal

from torch import Tensor

from cledet.errors import UserError
from cledet.models.backbones.resnet import IMAGENET_MEAN, IMAGENET_STD, resnet_name
from cledet.models.converters.imported import CAFFE_MEAN, Imported, halved, imported, tensors_of, to_our_images
from cledet.models.network import Architecture

NAMES = (
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
    """Whether this holds weights of MMDetection's RetinaNet."""
    return "bbox_head.retina_cls.weight" in tensors_of(content.get("state_dict"))


def from_mmdetection(content: dict[str, Any]) -> Imported:
    """MMDetection's RetinaNet as ours."""
    text = config_of(content)
    renamed = {our_name(key): value for key, value in tensors_of(content["state_dict"]).items()}
    if len(renamed["head.regression.predict.weight"]) != 9 * 4:
        raise UserError("a RetinaNet of MMDetection with other than 9 anchors a position is not read")
    _check_coder(text)
    name = resnet_name({key.removeprefix("backbone."): value for key, value in renamed.items()}, is_caffe(text))
    bgr, mean, std = images_of(text)
    scale = re.search(r"octave_base_scale\s*=\s*(\d+)", text)
    guess = "" if text else "; the file holds no configuration, so that is a guess: the text would tell as meta.config"
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
    return imported(arch, halved(renamed), class_names(content), note)


def our_name(key: str) -> str:
    """MMDetection's parameter names -> ours."""
    for pattern, ours in NAMES:
        key = re.sub(pattern, ours, key)
    return key


def config_of(content: Mapping[str, Any]) -> str:
    """The text of the configuration, as versions 2 and 3 keep it; empty if there is none."""
    meta = content.get("meta") or {}
    return str(meta.get("config") or meta.get("cfg") or "") if isinstance(meta, dict) else ""


def is_caffe(text: str) -> bool:
    """Whether the backbone is of Caffe's style: the stride in a block's first 1x1 convolution."""
    return bool(re.search(r"style\s*=\s*['\"]caffe['\"]", text))


def images_of(text: str) -> tuple[bool, list[float], list[float]]:
    """Whether images are in BGR, and their mean and deviation in that order; without a word of it, RGB and ImageNet's.

    Version 2 takes RGB where it says nothing, version 3 (which has a data_preprocessor) BGR.
    """
    found = re.search(r"\b(?:bgr_)?to_rgb\s*=\s*(True|False)", text)
    bgr = found[1] == "False" if found else "data_preprocessor" in text
    mean, std = _numbers(text, "mean"), _numbers(text, "std")
    return bgr, mean or list(CAFFE_MEAN if bgr else IMAGENET_MEAN), std or list(IMAGENET_STD)


def _p6_from(renamed: dict[str, Tensor], text: str) -> Literal["p5", "c5"]:
    """What P6 is made of: what has as many channels as its convolution takes."""
    if "on_lateral" in text:
        raise UserError("a RetinaNet of MMDetection with P6 from the lateral maps is not read", "P5 and C5 are known")
    inputs = renamed["neck.extra_blocks.p6.weight"].shape[1] if "neck.extra_blocks.p6.weight" in renamed else 0
    return "c5" if inputs == renamed["neck.inner_blocks.2.0.weight"].shape[1] else "p5"


def _check_coder(text: str) -> None:
    """Raise UserError where the deltas are scaled, which ours are not."""
    means, stds = _numbers(text, "target_means") or [0.0], _numbers(text, "target_stds") or [1.0]
    if set(means) != {0.0} or set(stds) != {1.0}:
        raise UserError(f"a RetinaNet of MMDetection with target_stds {stds} is not read", "its deltas are scaled")


def _numbers(text: str, name: str) -> list[float]:
    """The first list of numbers that is given that name."""
    found = re.search(rf"\b{name}\s*=\s*[\[(]([^\])]*)[\])]", text)
    return [float(word) for word in found[1].split(",") if word.strip()] if found else []


def class_names(content: Mapping[str, Any]) -> tuple[str, ...]:
    """The names of the classes, where the file has them."""
    meta = content.get("meta") or {}
    of_data = meta.get("dataset_meta") or {}
    names = of_data.get("classes") or of_data.get("CLASSES") or meta.get("CLASSES") or ()
    return tuple(str(name) for name in names)
