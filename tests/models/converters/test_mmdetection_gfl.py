"""GFL in MMDetection's naming: random weights of its keys and shapes, computed as its code computes, beside ours."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F
from torchvision.models import resnet50

from cledet.errors import UserError
from cledet.models.checkpoint import load_checkpoint
from cledet.models.converters.imported import COCO_IDS, COCO_NAMES
from cledet.models.converters.mmdetection_gfl import from_gfl
from cledet.models.network import build_network

STRIDES = (8, 16, 32, 64, 128)


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    """The parameters of MMDetection's gfl_r50_fpn, of three classes, as its modules name and shape them."""
    g = torch.Generator().manual_seed(0)

    def draw(*shape: int, std: float = 0.02) -> torch.Tensor:
        return torch.randn(*shape, generator=g) * std

    torch.manual_seed(0)
    found = {f"backbone.{k}": v.clone() for k, v in resnet50().state_dict().items() if not k.startswith("fc.")}
    for name in [key for key in found if key.endswith("running_mean")]:
        found[name] += draw(*found[name].shape, std=0.1)
    for i, channels in enumerate((512, 1024, 2048)):
        found[f"neck.lateral_convs.{i}.conv.weight"] = draw(256, channels, 1, 1, std=0.03)
        found[f"neck.lateral_convs.{i}.conv.bias"] = draw(256)
    for i in range(5):
        found[f"neck.fpn_convs.{i}.conv.weight"] = draw(256, 256, 3, 3)
        found[f"neck.fpn_convs.{i}.conv.bias"] = draw(256)
        found[f"bbox_head.scales.{i}.scale"] = torch.tensor(1 + 0.1 * i)
    for i in range(4):
        for tower in ("cls_convs", "reg_convs"):
            found[f"bbox_head.{tower}.{i}.conv.weight"] = draw(256, 256, 3, 3)
            found[f"bbox_head.{tower}.{i}.gn.weight"] = 1 + draw(256, std=0.1)
            found[f"bbox_head.{tower}.{i}.gn.bias"] = draw(256, std=0.1)
    for name, outputs in (("gfl_cls", 3), ("gfl_reg", 4 * 17)):
        found[f"bbox_head.{name}.weight"], found[f"bbox_head.{name}.bias"] = draw(outputs, 256, 3, 3), draw(outputs)
    return found | {"bbox_head.integral.project": torch.linspace(0, 16, 17)}


def official(state: dict[str, torch.Tensor], x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Scores [A, C] and boxes [A, 4] of a normalised image [1, 3, H, W], as the published configuration has them."""
    body = resnet50()
    body.load_state_dict({k[9:]: v for k, v in state.items() if k.startswith("backbone.")}, strict=False)
    body.eval()
    x = body.layer1(body.maxpool(body.relu(body.bn1(body.conv1(x)))))
    maps = [x := layer(x) for layer in (body.layer2, body.layer3, body.layer4)]

    def conv(x: torch.Tensor, name: str, stride: int = 1) -> torch.Tensor:
        weight = state[f"{name}.weight"]
        return F.conv2d(x, weight, state.get(f"{name}.bias"), stride, weight.shape[-1] // 2)

    pyramid = [conv(m, f"neck.lateral_convs.{i}.conv") for i, m in enumerate(maps)]
    for i in (1, 0):
        pyramid[i] = pyramid[i] + F.interpolate(pyramid[i + 1], size=pyramid[i].shape[2:], mode="nearest")
    outs = [conv(p, f"neck.fpn_convs.{i}.conv") for i, p in enumerate(pyramid)]
    for i in (3, 4):
        outs.append(conv(outs[-1], f"neck.fpn_convs.{i}.conv", 2))
    scores, boxes = [], []
    for level, (x, stride) in enumerate(zip(outs, STRIDES)):
        ends = []
        for tower, last in (("cls_convs", "gfl_cls"), ("reg_convs", "gfl_reg")):
            y = x
            for i in range(4):
                name = f"bbox_head.{tower}.{i}"
                y = F.relu(
                    F.group_norm(conv(y, f"{name}.conv"), 32, state[f"{name}.gn.weight"], state[f"{name}.gn.bias"])
                )
            ends.append(conv(y, f"bbox_head.{last}")[0].permute(1, 2, 0))
        distances = (ends[1] * state[f"bbox_head.scales.{level}.scale"]).reshape(-1, 4, 17).softmax(-1)
        distances = distances @ state["bbox_head.integral.project"] * stride
        rows, columns = ends[0].shape[:2]
        point = torch.tensor([[c * stride, r * stride] for r in range(rows) for c in range(columns)])
        scores.append(ends[0].reshape(rows * columns, -1).sigmoid())
        boxes.append(torch.cat([point - distances[:, :2], point + distances[:, 2:]], 1))
    return torch.cat(scores), torch.cat(boxes)


@torch.inference_mode()
def test_scores_and_boxes_agree(state: dict[str, torch.Tensor]) -> None:
    found = from_gfl({"state_dict": state, "meta": {}})
    arch, network = found.architecture, build_network(found.architecture)
    network.load_state_dict(found.model)
    assert (arch.backbone, arch.classes, arch.head, arch.anchor_scale) == ("r50", 3, "gfl", 8.0)
    image = torch.rand(1, 3, 96, 160, generator=torch.Generator().manual_seed(1)) * 255
    mean, std = torch.tensor([123.675, 116.28, 103.53]), torch.tensor([58.395, 57.12, 57.375])
    scores, boxes = official(state, (image - mean.view(3, 1, 1)) / std.view(3, 1, 1))
    raw = network.eval()(image)
    assert raw.levels == [240, 60, 15, 6, 2]
    assert scores.std() > 0.01
    torch.testing.assert_close(raw.logits[0].sigmoid(), scores, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(raw.boxes()[0], boxes, atol=1e-2, rtol=1e-4)


def test_a_file_is_a_checkpoint(state: dict[str, torch.Tensor], tmp_path) -> None:
    meta = {"mmdet_version": "2.25", "config": "style='pytorch'", "CLASSES": ("a", "b", "c"), "epoch": 12}
    torch.save({"meta": meta, "state_dict": state, "optimizer": {}}, tmp_path / "gfl.pth")
    model = load_checkpoint(tmp_path / "gfl.pth")
    assert (model.classes, model.category_ids) == (("a", "b", "c"), (0, 1, 2))
    coco = dict(state)
    for part in ("weight", "bias"):
        coco[f"bbox_head.gfl_cls.{part}"] = torch.zeros(80, *state[f"bbox_head.gfl_cls.{part}"].shape[1:])
    torch.save({"state_dict": coco}, tmp_path / "coco.pth")
    model = load_checkpoint(tmp_path / "coco.pth")
    assert (model.classes, model.category_ids) == (COCO_NAMES, COCO_IDS)


@pytest.mark.parametrize(
    ("change", "config", "message"),
    [
        ({"bbox_head.integral.project": None, "bbox_head.distribution_project.project": torch.arange(17)}, "",
         "GFL's original code, whose points lie half a stride"),
        ({"bbox_head.integral.project": torch.arange(9)}, "", "distances up to 8"),
        ({"neck.lateral_convs.0.conv.weight": torch.zeros(128, 512, 1, 1)}, "", "does not have 256 channels"),
        ({}, "mean=[1.0, 2.0, 3.0], std=[1.0, 1.0, 1.0]", "with an image mean of"),
        ({"bbox_head.reg_conf.0.weight": torch.zeros(64, 20, 1, 1)}, "", "head.reg_conf.0.weight has no place"),
        ({"neck.fpn_convs.3.conv.weight": torch.zeros(256, 2048, 3, 3)}, "", "p6.weight is"),
        ({"backbone.layer1.0.conv1.weight": torch.zeros(128, 64, 1, 1)}, "", "layer1.0.conv1.weight is"),
        ({"backbone.layer1.0.conv3.weight": None}, "", "layer1.0.conv1.weight is .* another network"),
    ],
)  # fmt: skip
def test_networks_that_differ_are_refused(state: dict[str, torch.Tensor], change, config: str, message: str) -> None:
    changed = {key: value for key, value in (state | change).items() if value is not None}
    with pytest.raises(UserError, match=message):
        from_gfl({"state_dict": changed, "meta": {"config": config}})


class Opened:
    """An object in a file's meta."""


def test_objects_in_meta_are_refused_and_not_made(state: dict[str, torch.Tensor], tmp_path) -> None:
    torch.save({"meta": {"hook": Opened()}, "state_dict": {}}, tmp_path / "gfl.pth")
    with pytest.raises(UserError, match=r"contains code or objects .* the state_dict alone"):
        load_checkpoint(tmp_path / "gfl.pth")
