"""Weights of GFL in MMDetection's naming, of its versions 2 and 3, as our network.

The two compute the same: points on multiples of the stride, P6 and P7 from P5 without ReLU, a ResNet with its stride in
the 3x3 convolutions, RGB less ImageNet's mean over its deviation, distances over 0 to 16 strides.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from cledet.errors import UserError
from cledet.models.heads import BINS
from cledet.models.network import Architecture, RetinaNet, build_network

RESNETS = {(2, 64): "r18", (6, 64): "r34", (6, 256): "r50", (23, 256): "r101", (36, 256): "r152"}
"""By the blocks of layer3 and the channels of layer1."""
WIDTH = 256
"""Channels of the pyramid and the head; of others MMDetection norms in groups of another size."""


def is_gfl(content: Mapping[str, Any]) -> bool:
    """Whether a file's content has a GFL head as MMDetection names it."""
    return "bbox_head.gfl_cls.weight" in _state(content)


def from_gfl(content: Mapping[str, Any]) -> tuple[RetinaNet, Architecture]:
    """The content of MMDetection's .pth file as our network. Raises UserError where the two would differ."""
    state = _state(content)
    _refuse_others(state, _config(content))
    arch = Architecture(
        backbone=_resnet_of(state), classes=len(state["bbox_head.gfl_cls.weight"]), anchor_scale=8.0, head="gfl"
    )
    renamed = {_our_name(key): value for key, value in state.items()}
    renamed["head.scales"] = torch.stack([renamed.pop(f"head.scales.{i}").reshape(()) for i in range(5)])
    del renamed["head.integral.project"]
    network = build_network(arch)
    own = network.state_dict()
    wrong = [key for key in own.keys() ^ renamed.keys() if not key.endswith("num_batches_tracked")]
    wrong += [key for key in own.keys() & renamed.keys() if own[key].shape != renamed[key].shape]
    if wrong:
        raise UserError(f"these weights are not of a GFL with {arch.backbone}: {min(wrong)} does not fit")
    network.load_state_dict(renamed, strict=False)
    return network, arch


def class_names(content: Mapping[str, Any]) -> tuple[str, ...]:
    """The names of the classes that the file tells; none if it does not."""
    meta = content.get("meta", {})
    told = meta.get("dataset_meta") or meta
    return tuple(str(name) for name in told.get("classes") or told.get("CLASSES") or ())


def _state(content: Mapping[str, Any]) -> dict[str, Any]:
    state = content.get("state_dict", content)
    return state if isinstance(state, dict) else {}


def _config(content: Mapping[str, Any]) -> str:
    """The text of the configuration, as versions 2 and 3 keep it."""
    meta = content.get("meta", {})
    return str(meta.get("config") or meta.get("cfg") or "") if isinstance(meta, dict) else ""


def _refuse_others(state: Mapping[str, Tensor], config: str) -> None:
    """Raise UserError for a GFL that our network does not compute."""
    if "bbox_head.integral.project" not in state:
        message = "these weights are of GFL's first code, whose points lie half a stride from MMDetection 2's"
        raise UserError(message, "take the weights of MMDetection 2 or 3")
    if len(state["bbox_head.integral.project"]) != BINS + 1:
        raise UserError(f"a GFL with distances up to {len(state['bbox_head.integral.project']) - 1} is not supported")
    if len(state.get("neck.lateral_convs.0.conv.weight", ())) != WIDTH:
        raise UserError(f"a GFL whose pyramid has not {WIDTH} channels is not supported")
    if "caffe" in config:
        raise UserError("a GFL with a backbone of Caffe's style is not supported: its stride and colours are others")


def _resnet_of(state: Mapping[str, Tensor]) -> str:
    blocks = {int(m[1]) for key in state if (m := re.match(r"backbone\.layer3\.(\d+)\.", key))}
    ends = [len(v) for key, v in state.items() if re.fullmatch(r"backbone\.layer1\.0\.conv\d\.weight", key)]
    kind = (len(blocks), max(ends, default=0))
    if kind not in RESNETS:
        raise UserError(f"a GFL whose backbone has {kind[0]} blocks in layer3 is not supported")
    return RESNETS[kind]


def _our_name(key: str) -> str:
    """MMDetection's parameter names -> ours."""
    key = key.replace("bbox_head.", "head.").replace("head.cls_convs.", "head.classification.convs.")
    key = key.replace("head.reg_convs.", "head.regression.convs.")
    key = re.sub(r"convs\.(\d)\.conv\.", lambda m: f"convs.{3 * int(m[1])}.", key) if key.startswith("head.") else key
    key = re.sub(r"convs\.(\d)\.gn\.", lambda m: f"convs.{3 * int(m[1]) + 1}.", key)
    key = key.replace("gfl_cls.", "classification.predict.").replace("gfl_reg.", "regression.predict.")
    key = re.sub(r"neck\.lateral_convs\.(\d)\.conv\.", r"neck.inner_blocks.\1.0.", key)
    key = re.sub(r"neck\.fpn_convs\.([34])\.conv\.", lambda m: f"neck.extra_blocks.p{int(m[1]) + 3}.", key)
    key = re.sub(r"neck\.fpn_convs\.(\d)\.conv\.", r"neck.layer_blocks.\1.0.", key)
    return re.sub(r"head\.scales\.(\d)\.scale", r"head.scales.\1", key)
