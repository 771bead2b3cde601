"""Weights from elsewhere: torchvision's RetinaNet, and ImageNet backbones."""

from __future__ import annotations

import pickle
import re
from pathlib import Path
from typing import Any
from urllib.error import URLError

import torch
from torch import Tensor
from torchvision.models._meta import _COCO_CATEGORIES

from cledet.errors import UserError
from cledet.models.backbones import backbone_spec, load_backbone
from cledet.models.network import Architecture, RetinaNet, build_network
from cledet.models.storage import read_weights

COCO_NAMES = tuple(name for name in _COCO_CATEGORIES if name not in ("__background__", "N/A"))
COCO_IDS = tuple(i for i, name in enumerate(_COCO_CATEGORIES) if name not in ("__background__", "N/A"))
"""COCO's 80 names and their category ids, 1 to 90 with holes."""


def load_imagenet(network: RetinaNet, backbone: str, source: str) -> None:
    """Give the backbone its ImageNet weights (`auto`) or those in a file."""
    state = read_weights(Path(source)) if source != "auto" else _published(backbone)
    missing = load_backbone(network.backbone, state)
    if missing:
        raise UserError(f"{source} holds no weights of {backbone}: it lacks {missing[0]} and {len(missing) - 1} more")


def _published(backbone: str) -> dict[str, Tensor]:
    spec = backbone_spec(backbone)
    try:
        return spec.weights()
    except (URLError, OSError, RuntimeError, pickle.UnpicklingError) as error:
        folder, reason = Path(torch.hub.get_dir()) / "checkpoints", str(error).partition("\n")[0]
        raise UserError(
            f"the ImageNet weights of {backbone} could not be fetched from {spec.url}: {reason}",
            f"put that file into {folder}, or pass --backbone-weights FILE, or --backbone-weights none to start afresh",
        ) from None


def is_torchvision(state: dict[str, Any]) -> bool:
    """Whether these are weights of torchvision's RetinaNet."""
    return "head.classification_head.cls_logits.weight" in state


def from_torchvision(state: dict[str, Tensor]) -> tuple[RetinaNet, Architecture]:
    """Torchvision's `retinanet_resnet50_fpn` as our network.

    Its 91 outputs an anchor (a background that is never trained, 80 classes, 10 holes) become the 80 classes.
    """
    if "head.regression_head.conv.0.1.weight" in state:
        raise UserError("torchvision's RetinaNet v2 is not supported", "use retinanet_resnet50_fpn")
    outputs = len(state["head.classification_head.cls_logits.weight"]) // 9
    keep = torch.tensor(COCO_IDS) if outputs == 91 else torch.arange(outputs)
    arch = Architecture(backbone=_resnet_of(state), classes=len(keep), anchors_from_image=True)
    renamed = {_our_name(key): value for key, value in state.items()}
    for name in ("head.classification.predict.weight", "head.classification.predict.bias"):
        value = renamed[name]
        renamed[name] = value.reshape(9, outputs, *value.shape[1:])[:, keep].flatten(0, 1)
    network = build_network(arch)
    missing, unexpected = network.load_state_dict(renamed, strict=False)
    wrong = [key for key in missing if not key.endswith("num_batches_tracked")] + unexpected
    if wrong:
        raise UserError(f"these are not the weights of a torchvision RetinaNet: {wrong[0]} does not fit")
    return network, arch


def _resnet_of(state: dict[str, Tensor]) -> str:
    """r50, r101 or r152 by the blocks of the third stage."""
    blocks = {int(m[1]) for key in state if (m := re.match(r"backbone\.body\.layer3\.(\d+)\.", key))}
    names = {6: "r50", 23: "r101", 36: "r152"}
    if len(blocks) not in names:
        raise UserError(f"a torchvision RetinaNet with {len(blocks)} blocks in layer3 is not supported")
    return names[len(blocks)]


def _our_name(key: str) -> str:
    """Torchvision's parameter names -> ours; old files number a tower's layers 0, 2, 4, 6, newer ones 0.0 to 3.0."""
    key = key.replace("backbone.body.", "backbone.").replace("backbone.fpn.", "neck.")
    key = re.sub(r"_head\.conv\.(\d+)\.0\.", lambda m: f"_head.convs.{2 * int(m[1])}.", key)
    key = re.sub(r"_head\.conv\.(\d+)\.", r"_head.convs.\1.", key)
    key = key.replace("classification_head.cls_logits", "classification.predict")
    key = key.replace("regression_head.bbox_reg", "regression.predict")
    return key.replace("classification_head.", "classification.").replace("regression_head.", "regression.")
