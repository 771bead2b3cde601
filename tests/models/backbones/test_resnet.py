"""Backbones by name: their shapes, and deformable convolutions that start as plain ones."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torchvision import models as tv
from torchvision.models.resnet import Bottleneck, ResNet

from cledet.errors import UserError
from cledet.models.backbones.build import BACKBONES, backbone_spec, build_backbone, known_backbones, load_backbone
from cledet.models.backbones.deform_conv import DeformConv2d
from cledet.models.backbones.resnet import PLAIN, RESNETS, resnet_name
from cledet.models.checkpoint import Checkpoint, load_checkpoint
from cledet.models.network import Architecture, build_network

EXTRA = ["r18-dcnv2", "r50-caffe", "x50-dcn-c4c5", "x101-32x4d-dcnv2-c4c5", "r50-caffe-dcnv2"]


@pytest.mark.parametrize("name", [*PLAIN, *(f"{name}-dcn" for name in PLAIN), *EXTRA, "lite0", "lite2"])
@pytest.mark.slow
def test_every_backbone_has_maps_of_strides_8_16_and_32(name):
    with torch.device("meta"):
        backbone = build_backbone(name, "frozen")
        maps = backbone.eval()(torch.zeros(1, 3, 64, 96))
    assert [m.shape for m in maps] == [(1, c, 64 // s, 96 // s) for c, s in zip(backbone.channels, (8, 16, 32))]


def test_names_and_suffixes_cover_all_backbones():
    known = known_backbones()
    assert {name + end for name, ends in known.items() for end in ("", *ends)} == {*BACKBONES, "timm:NAME"}
    assert known["r18"] == ["-dcn", "-dcn-c4c5", "-dcnv2", "-dcnv2-c4c5"]  # no -caffe: its blocks have no 1x1 layer
    assert known["r50"] == [*known["r18"], "-caffe", *(f"-caffe{end}" for end in known["r18"])]
    assert known["x101"] == known["x101-32x4d"] == known["r50"]
    assert known["lite0"] == known["lite2"] == known["timm:NAME"] == []


@pytest.mark.parametrize(
    ("name", "theirs"),
    [("r152", tv.resnet152), ("x50", tv.resnext50_32x4d), ("x101", tv.resnext101_32x8d),
     ("x101-64x4d", tv.resnext101_64x4d),
     ("x101-32x4d", lambda: ResNet(Bottleneck, [3, 4, 23, 3], groups=32, width_per_group=4))],
)  # fmt: skip
def test_names_and_shapes_of_weights_are_torchvisions(name, theirs):
    with torch.device("meta"):
        ours, theirs = build_backbone(name, "batch").state_dict(), theirs().state_dict()
    assert {k: v.shape for k, v in ours.items()} == {k: v.shape for k, v in theirs.items() if k[:3] != "fc."}


@pytest.mark.parametrize("name", RESNETS)
@pytest.mark.slow
def test_names_are_recognized_from_weights(name):
    with torch.device("meta"):
        state = backbone_spec(name).build(nn.BatchNorm2d).state_dict()
    assert resnet_name(state, caffe=RESNETS[name].caffe) == name


@pytest.mark.parametrize("name", ["r18-dcn", "r18-dcnv2", "x50-dcn-c4c5", "r50-caffe-dcnv2"])
@pytest.mark.slow
def test_a_deformable_network_starts_as_the_plain_one(name):
    """From the plain one's weights, with strides, groups and norms; which convolutions are deformable is counted."""
    torch.manual_seed(0)
    plain = build_backbone(name.partition("-dcn")[0], "batch").double().eval()  # float32 differs by processor
    deformable = build_backbone(name, "batch").double().eval()
    assert load_backbone(deformable, plain.state_dict()) == []
    x = torch.randn(2, 3, 64, 96, dtype=torch.float64)
    with torch.inference_mode():
        for a, b in zip(plain(x), deformable(x)):
            torch.testing.assert_close(a, b, atol=1e-9, rtol=1e-9)
        for module in deformable.modules():
            if isinstance(module, DeformConv2d):
                module.offset.bias[0] = 1.5
        assert not torch.allclose(plain(x)[2], deformable(x)[2], atol=1e-2)
    moved = {n[: len("layer2")] for n, m in deformable.named_modules() if isinstance(m, DeformConv2d)}
    assert moved == {"layer3", "layer4"} | ({"layer2"} if "c4c5" not in name else set())


@pytest.mark.parametrize("modulated", [False, True])
def test_offsets_move_the_samples_as_published(modulated):
    """One 3x3 convolution of stride 2 and two groups, sample by sample, with bilinear interpolation by grid_sample."""
    torch.manual_seed(0)
    layer = DeformConv2d(nn.Conv2d(4, 6, 3, 2, 1, groups=2, bias=False), modulated)
    nn.init.normal_(layer.offset.weight, std=0.2)
    x = torch.randn(1, 4, 9, 11)
    moves = layer.offset(x)
    rows, columns = torch.meshgrid(torch.arange(0, 9, 2.0), torch.arange(0, 11, 2.0), indexing="ij")
    padded = nn.functional.pad(x, (3, 3, 3, 3))  # zeros outside, as far as interpolation reaches
    wanted = torch.zeros(1, 6, 5, 6)
    for tap in range(9):
        y = rows + tap // 3 - 1 + moves[0, 2 * tap]
        z = columns + tap % 3 - 1 + moves[0, 2 * tap + 1]
        grid = torch.stack([(z + 3) / (16 / 2) - 1, (y + 3) / (14 / 2) - 1], -1)[None]
        sample = nn.functional.grid_sample(padded, grid, align_corners=True)
        if modulated:
            sample = sample * 2 * moves[:, 18 + tap].sigmoid()
        kernel = layer.weight[:, :, tap // 3, tap % 3, None, None]
        wanted += nn.functional.conv2d(sample, kernel, groups=2)
    torch.testing.assert_close(layer(x), wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dtype", [None, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("name", ["r18-dcn", "x50-dcnv2-c4c5"])
@pytest.mark.slow
def test_a_step_trains_every_part(name, dtype):
    torch.manual_seed(0)
    network = build_network(Architecture(backbone=name, classes=2, fpn_channels=16, norm="batch")).train()
    network.backbone.freeze(2)
    images = torch.randint(0, 256, (2, 3, 96, 96))  # of a P6 of 1x1 torch 2.14's bfloat16 gradients are not numbers
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype is not None):
        raw = network(images)
    assert raw.logits.dtype == (dtype or torch.float32)
    (raw.logits.float().square().sum() + raw.deltas.float().square().sum()).backward()
    for key, parameter in network.named_parameters():
        fixed = key.startswith(("backbone.conv1", "backbone.bn1", "backbone.layer1"))
        assert (parameter.grad is None) == fixed, key
        assert fixed or parameter.grad.isfinite().all(), key
        if ".offset.weight" in key and "layer3.0" in key:
            assert parameter.grad.abs().max() > 0, key


def test_a_checkpoint_builds_its_network(tmp_path):
    arch = Architecture(backbone="r18-dcnv2-c4c5", classes=2, fpn_channels=8)
    network = build_network(arch).eval()
    for module in network.modules():
        if isinstance(module, DeformConv2d):
            nn.init.normal_(module.offset.weight, std=0.1)
    Checkpoint(architecture=arch, model=network.state_dict(), classes=("a", "b"), category_ids=(1, 2)).save(
        tmp_path / "a.pt"
    )
    again = load_checkpoint(tmp_path / "a.pt").network().eval()
    x = torch.rand(1, 3, 64, 64) * 255
    with torch.inference_mode():
        assert torch.equal(network(x).logits, again(x).logits)


def test_weights_of_the_other_version_do_not_load():
    first, second = (build_backbone(name, "batch") for name in ("r18-dcn", "r18-dcnv2"))
    missing = load_backbone(second, first.state_dict())
    assert "layer2.0.conv2.offset.weight" in missing


def test_unknown_names_and_weights_are_errors():
    with pytest.raises(UserError, match=r"unknown backbone 'r50-dnc' \(did you mean r50-dcn\?\)"):
        build_backbone("r50-dnc", "frozen")
    with torch.device("meta"):
        state = build_backbone("r50-dcn", "batch").state_dict()
    three = {key: value for key, value in state.items() if ".offset." not in key or key.startswith("layer3")}
    with pytest.raises(UserError, match=r"deformable convolutions in layer3 \(18 channels of offsets\) are not"):
        resnet_name(three)
    with pytest.raises(UserError, match="a ResNet of 3-4-6-2 blocks, 1 groups of 64 channels is not supported"):
        resnet_name({key: value for key, value in state.items() if not key.startswith("layer4.2")})


def test_every_name_is_in_the_table_and_only_caffe_lacks_weights():
    assert len(BACKBONES) == 9 * 5 + 7 * 5 + 2
    assert {name for name, spec in BACKBONES.items() if not spec.url} == {n for n in BACKBONES if "caffe" in n}
    assert BACKBONES["x101-32x4d"].url.endswith("gluon_resnext101_32x4d-b253c8c4.pth")
