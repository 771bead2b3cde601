"""Small good files of weights: cledet's own, and those of other projects, whose large tensors repeat one number."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import torch
from mutations import Files
from torch import Tensor

from cledet.models.checkpoint import Checkpoint
from cledet.models.network import Architecture, build_network

SMALL = {"retinanet": 8, "gfl": 32, "fcos": 32}
"""Heads, and channels that suffice for each."""


@cache
def content(head: str) -> dict[str, Any]:
    """A checkpoint of a network of 0.1 million weights."""
    torch.manual_seed(0)
    arch = Architecture(backbone="timm:test_efficientnet", classes=2, fpn_channels=SMALL[head], head=head)
    found = Checkpoint(
        architecture=arch, model=build_network(arch).state_dict(), classes=("cat", "dog"), category_ids=(3, 7),
        components=("iac", "clb"), imgsz=64, data="shapes", step=5, metrics={"AP": 0.5}, settings={"seed": 0},
    ).content()  # fmt: skip
    plain = {key: list(found[key]) for key in ("classes", "category_ids", "components")}
    return found | plain | {"model": dict(found["model"]), "written": "2026-01-01T00:00:00+0000"}


def checkpoint(rng: random.Random) -> Files:
    return {"best.pt": content(rng.choice(list(SMALL)))}


def safetensors(rng: random.Random) -> Files:
    whole = content(rng.choice(list(SMALL)))
    facts = ("architecture", "classes", "category_ids", "components", "imgsz", "step", "versions", "written")
    parts = {"cledet": whole["format"], "facts": {key: whole[key] for key in facts}, "model": whole["model"]}
    return {"model.safetensors": parts}


Rule = tuple[str, str | Callable[[re.Match[str]], str]]
PYRAMID: tuple[Rule, ...] = (
    (r"^neck\.inner_blocks\.(\d)\.0", r"neck.lateral_convs.\1.conv"),
    (r"^neck\.layer_blocks\.(\d)\.0", r"neck.fpn_convs.\1.conv"),
    (r"^neck\.extra_blocks\.p([67])", lambda m: f"neck.fpn_convs.{int(m[1]) - 3}.conv"),
    (r"^head\.classification\.convs", "bbox_head.cls_convs"),
    (r"^head\.regression\.convs", "bbox_head.reg_convs"),
)
RULES: dict[str, tuple[Rule, ...]] = {
    "torchvision": (
        (r"^backbone\.", "backbone.body."),
        (r"^neck\.", "backbone.fpn."),
        (r"(classification|regression)\.convs", r"\1_head.conv"),
        ("classification.predict", "classification_head.cls_logits"),
        ("regression.predict", "regression_head.bbox_reg"),
    ),
    "mmdetection": (
        *PYRAMID,
        (r"_convs\.(\d)\.(weight|bias)$", lambda m: f"_convs.{int(m[1]) // 2}.conv.{m[2]}"),
        ("head.classification.predict", "bbox_head.retina_cls"),
        ("head.regression.predict", "bbox_head.retina_reg"),
    ),
    "gfl": (
        *PYRAMID,
        (r"_convs\.(\d+)\.(weight|bias)$", lambda m: f"_convs.{int(m[1]) // 3}.{('conv', 'gn')[int(m[1]) % 3]}.{m[2]}"),
        ("head.classification.predict", "bbox_head.gfl_cls"),
        ("head.regression.predict", "bbox_head.gfl_reg"),
    ),
    "detectron2": (
        (r"^backbone\.layer(\d)", lambda m: f"backbone.bottom_up.res{int(m[1]) + 1}"),
        (r"^backbone\.conv1", "backbone.bottom_up.stem.conv1"),
        (r"^backbone\.bn1", "backbone.bottom_up.stem.conv1.norm"),
        (r"\.bn(\d)\.", r".conv\1.norm."),
        (r"\.downsample\.0", ".shortcut"),
        (r"\.downsample\.1", ".shortcut.norm"),
        (r"^neck\.inner_blocks\.(\d)\.0", lambda m: f"backbone.fpn_lateral{int(m[1]) + 3}"),
        (r"^neck\.layer_blocks\.(\d)\.0", lambda m: f"backbone.fpn_output{int(m[1]) + 3}"),
        (r"^neck\.extra_blocks", "backbone.top_block"),
        (r"^head\.classification\.convs", "head.cls_subnet"),
        (r"^head\.regression\.convs", "head.bbox_subnet"),
        ("head.classification.predict", "head.cls_score"),
        ("head.regression.predict", "head.bbox_pred"),
    ),
}
"""From our names to those of other projects."""


@cache
def foreign_state(project: str) -> dict[str, Tensor]:
    """A RetinaNet of ResNet-18 by another project's names."""
    gfl = project == "gfl"
    from_c5 = "c5" if project == "detectron2" else "p5"
    arch = Architecture(
        backbone="r18", classes=2, fpn_channels=256 if gfl else 8, p6_from=from_c5, head="gfl" if gfl else "retinanet"
    )
    with torch.device("meta"):
        own = build_network(arch).state_dict()
    state = {key: torch.zeros(value.shape, dtype=value.dtype) for key, value in own.items()}
    if gfl:
        del state["head.scales"]
        state |= {f"bbox_head.scales.{i}.scale": torch.tensor(1.0) for i in range(5)}
        state["bbox_head.integral.project"] = torch.linspace(0, 16, 17)
    for pattern, name in RULES[project]:
        state = {re.sub(pattern, name, key): value for key, value in state.items()}
    return state


def foreign(rng: random.Random) -> Files:
    project = rng.choice(list(RULES))
    state = dict(foreign_state(project))
    config = (
        "model = dict(backbone=dict(style='pytorch')) img_norm_cfg = dict(mean=[123.675, 116.28, 103.53], to_rgb=True)"
    )
    meta = {"config": config, "CLASSES": ["cat", "dog"], "epoch": 12}
    return {
        "model.pth": {"torchvision": state, "detectron2": {"model": state, "iteration": 9}}.get(
            project, {"state_dict": state, "meta": meta}
        )
    }


def arrays(rng: random.Random) -> Files:
    """Arrays or tensors by name, in any kind of file."""
    suffix = rng.choice((".pkl", ".pkl", ".pth", ".safetensors"))
    values = {
        f"layer{i}.{kind}": np.arange(12, dtype=kind).reshape(3, 4)
        for i, kind in enumerate(("float32", "int64", "float16", "uint8"))
    }
    if suffix != ".pkl":
        values = {key: torch.from_numpy(value) for key, value in values.items()}
    whole = {"model": values, "__author__": "nobody", "matching_heuristics": True, "facts": {}, "cledet": "1"}
    return {f"weights{suffix}": whole}
