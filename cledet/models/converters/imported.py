"""What all origins share: an architecture and weights that fit it, and the arithmetic of what differs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torchvision.models._meta import _COCO_CATEGORIES

from cledet.errors import UserError
from cledet.models.backbones.deform_conv import MODULATED
from cledet.models.backbones.resnet import IMAGENET_MEAN, IMAGENET_STD
from cledet.models.network import Architecture, misfit, parameters_of

COCO_NAMES = tuple(name for name in _COCO_CATEGORIES if name not in ("__background__", "N/A"))
COCO_IDS = tuple(i for i, name in enumerate(_COCO_CATEGORIES) if name not in ("__background__", "N/A"))
"""COCO's 80 names and their category ids, 1 to 90 with holes."""
CAFFE_MEAN, CAFFE_STD = IMAGENET_MEAN[::-1], (1.0, 1.0, 1.0)
"""What images are normalised by, in the order BGR, for weights that began at MSRA."""


class Imported(NamedTuple):
    """A detector from elsewhere."""

    architecture: Architecture
    model: dict[str, Tensor]
    classes: tuple[str, ...]
    category_ids: tuple[int, ...]
    note: str  # what it was taken for, and what of that the file does not say


def imported(arch: Architecture, state: Mapping[str, Tensor], classes: Sequence[str], note: str) -> Imported:
    """A detector whose weights have our names already; raises UserError naming the first that does not fit.

    Without names of classes, 80 are COCO's.
    """
    own = parameters_of(arch)
    counts = {key: torch.zeros((), dtype=torch.int64) for key in own if key.endswith("num_batches_tracked")}
    model = counts | dict(state)
    if wrong := misfit(own, model):
        raise UserError(f"{note}: {wrong}", "it is another network, or not whole")
    names = tuple(classes) or (COCO_NAMES if arch.classes == len(COCO_NAMES) else ())
    names = names or tuple(f"class {i}" for i in range(arch.classes))
    if len(names) != arch.classes:
        raise UserError(f"{note}: it names {len(names)} classes and has outputs for {arch.classes}")
    ids = COCO_IDS if names == COCO_NAMES else tuple(range(arch.classes))
    return Imported(arch, model, names, ids, note)


def to_our_images(weight: Tensor, bgr: bool, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """A first convolution's weight [K, 3, 7, 7] for images in RGB by ImageNet's mean and deviation.

    `mean` and `std` are those that it was trained with, in its own order of channels. Only with ImageNet's mean is
    black, which convolutions pad with, the same colour; raises UserError for another.
    """
    if bgr:
        weight, mean, std = weight.flip(1), mean[::-1], std[::-1]
    if max(abs(a - b) for a, b in zip(mean, IMAGENET_MEAN)) > 0.01:
        raise UserError(f"weights for images less a mean of {', '.join(f'{m:g}' for m in mean)} (RGB) are not read")
    return weight * (torch.tensor(IMAGENET_STD) / torch.tensor(list(std))).view(1, 3, 1, 1)


def reorder_anchors(value: Tensor, order: Sequence[int]) -> Tensor:
    """The outputs of a last convolution [A * K, ...], weight or bias, with a position's anchors in another order."""
    return value.unflatten(0, (len(order), -1))[list(order)].flatten(0, 1)


def halved(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights with those of modulated deformable convolutions halved, whose samples ours weighs twice as much."""
    offsets = [key for key, value in state.items() if key.endswith("conv2.offset.weight") and len(value) == MODULATED]
    plain = {key.replace(".offset.", "."): state[key.replace(".offset.", ".")] / 2 for key in offsets}
    return {**state, **plain}


def tensors_of(value: Any) -> dict[str, Tensor]:
    """The tensors of a dictionary by name; none of anything else."""
    entries = value.items() if isinstance(value, dict) else ()
    return {key: item for key, item in entries if isinstance(key, str) and isinstance(item, Tensor)}
