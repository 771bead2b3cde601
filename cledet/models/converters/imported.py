"""Parts shared by the converters: the converted detector, and conversions of weights."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torchvision.models._meta import _COCO_CATEGORIES

from cledet.errors import UserError
from cledet.models.backbones.deform_conv import MODULATED
from cledet.models.backbones.resnet import IMAGENET_MEAN, IMAGENET_STD, resnet_name
from cledet.models.network import Architecture, misfit, parameters_of

Names = Sequence[tuple[str, str | Callable[[re.Match[str]], str]]]
"""Regular expressions of another project's parameter names, and ours."""
COCO_NAMES = tuple(name for name in _COCO_CATEGORIES if name not in ("__background__", "N/A"))
COCO_IDS = tuple(i for i, name in enumerate(_COCO_CATEGORIES) if name not in ("__background__", "N/A"))
"""COCO's 80 names and their category ids, 1 to 90 with holes."""
CAFFE_MEAN, CAFFE_STD = IMAGENET_MEAN[::-1], (1.0, 1.0, 1.0)
"""Mean and deviation of images in BGR for weights pretrained by MSRA."""


class ConvertedDetector(NamedTuple):
    """A detector converted from another project's weights."""

    architecture: Architecture
    model: dict[str, Tensor]
    classes: tuple[str, ...]
    category_ids: tuple[int, ...]
    note: str  # description of the detector, with assumptions that the file does not state


def build_detector(
    arch: Architecture, state: Mapping[str, Tensor], classes: Sequence[str], note: str
) -> ConvertedDetector:
    """Build a detector from weights under our names, in which modulated deformable convolutions are halved here.

    Without class names, 80 classes are COCO's. Raises UserError with the first weight that does not fit.
    """
    own = parameters_of(arch)
    counts = {key: torch.zeros((), dtype=torch.int64) for key in own if key.endswith("num_batches_tracked")}
    model = counts | _halved(state)
    if wrong := misfit(own, model):
        raise UserError(f"{note}: {wrong}", "it is another network, or incomplete")
    names = tuple(classes) or (COCO_NAMES if arch.classes == len(COCO_NAMES) else ())
    names = names or tuple(f"class {i}" for i in range(arch.classes))
    if len(names) != arch.classes:
        raise UserError(f"{note}: it names {len(names)} classes and has outputs for {arch.classes}")
    ids = COCO_IDS if names == COCO_NAMES else tuple(range(arch.classes))
    return ConvertedDetector(arch, model, names, ids, note)


def to_our_images(weight: Tensor, bgr: bool, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Convert a first convolution's weight [K, 3, 7, 7] to RGB images with ImageNet's mean and deviation.

    `mean` and `std` are those of its training, in its order of channels. Raises UserError for a mean other than
    ImageNet's, because the padding would then stand for another colour.
    """
    if bgr:
        weight, mean, std = weight.flip(1), mean[::-1], std[::-1]
    if max(abs(a - b) for a, b in zip(mean, IMAGENET_MEAN)) > 0.01:
        values = ", ".join(f"{value:g}" for value in mean)
        raise UserError(f"weights trained with an image mean of {values} (RGB) are not supported")
    return weight * (torch.tensor(IMAGENET_STD) / torch.tensor(list(std))).view(1, 3, 1, 1)


def reorder_anchors(value: Tensor, order: Sequence[int]) -> Tensor:
    """Reorder the anchors of a position in a last convolution's weight or bias [A * K, ...]."""
    return value.unflatten(0, (len(order), -1))[list(order)].flatten(0, 1)


def _halved(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Halve the weights of modulated deformable convolutions, because ours multiply their samples by two."""
    offsets = [key for key, value in state.items() if key.endswith("conv2.offset.weight") and len(value) == MODULATED]
    plain = {key.replace(".offset.", "."): state[key.replace(".offset.", ".")] / 2 for key in offsets}
    return {**state, **plain}


def backbone_of(state: Mapping[str, Tensor], caffe: bool = False) -> str:
    """Return the name of the ResNet or ResNeXt in weights under our names; `caffe`: with MSRA's strides."""
    return resnet_name({key.removeprefix("backbone."): value for key, value in state.items()}, caffe)


def rename(key: str, names: Names) -> str:
    """Translate a parameter name by regular expressions, one after the other."""
    for pattern, ours in names:
        key = re.sub(pattern, ours, key)
    return key


def tensors_of(value: Any) -> dict[str, Tensor]:
    """Return the tensors of a dictionary by name; an empty dictionary for any other value."""
    entries = value.items() if isinstance(value, dict) else ()
    return {key: item for key, item in entries if isinstance(key, str) and isinstance(item, Tensor)}
