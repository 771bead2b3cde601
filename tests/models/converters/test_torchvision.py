"""Torchvision's RetinaNets and FCOS load and compute the same outputs."""

from __future__ import annotations

import pytest
import torch
from torchvision.models.detection import fcos_resnet50_fpn, retinanet_resnet50_fpn, retinanet_resnet50_fpn_v2

from cledet.errors import UserError
from cledet.models.checkpoint import load_checkpoint
from cledet.models.converters.imported import COCO_IDS, COCO_NAMES
from cledet.models.converters.torchvision import from_torchvision, with_eps
from cledet.models.network import build_network
from cledet.models.nms import NMSOptions
from cledet.models.postprocess import detect

pytestmark = pytest.mark.slow


def ours_of(state):
    """Our network with those weights."""
    found = from_torchvision(state)
    network = build_network(found.architecture)
    network.load_state_dict(found.model)
    return network.eval()


BUILDERS = [retinanet_resnet50_fpn, retinanet_resnet50_fpn_v2, fcos_resnet50_fpn]


@pytest.fixture(scope="module", params=BUILDERS, ids=["v1", "v2", "fcos"])
def theirs(request):
    """Torchvision's network with random weights, made to find things; its norms are not the identity."""
    torch.manual_seed(0)
    same = {"detections_per_img": 100, "nms_thresh": 0.5, "score_thresh": 0.05}
    model = request.param(weights=None, weights_backbone=None, num_classes=91, **same)
    fcos = request.param is fcos_resnet50_fpn
    generator = torch.Generator().manual_seed(1)
    for name, value in model.state_dict().items():
        biased = fcos and "_head.conv." in name and name.endswith("bias")
        if (biased or "bn" in name or "downsample.1" in name or ".conv.0.1." in name) and value.ndim:
            noise = torch.rand(value.shape, generator=generator)
            value.copy_(0.5 + noise if name.endswith(("weight", "var")) else 0.1 * (noise - 0.5))
    head, model = model.head, model.eval()
    with torch.no_grad():
        x = torch.randn(1, 3, 128, 192, generator=generator)
        for name, last in (("cls_logits", head.classification_head.cls_logits),
                           ("bbox_regression", head.regression_head.bbox_reg)):  # fmt: skip
            torch.nn.init.normal_(last.weight, std=0.01, generator=generator)
            torch.nn.init.zeros_(last.bias)
            last.weight /= head(list(model.backbone(x).values()))[name].std()
        head.classification_head.cls_logits.bias.fill_(-3.0)
        head.regression_head.bbox_reg.weight *= 0.2
        if fcos:
            head.regression_head.bbox_reg.bias.fill_(2.0)  # strides to each side
    return model


@pytest.fixture(scope="module")
def ours(theirs):
    return ours_of(theirs.state_dict())


@torch.inference_mode()
def test_raw_outputs_agree(theirs, ours):
    x = torch.randn(2, 3, 128, 192, generator=torch.Generator().manual_seed(2))
    outputs = theirs.head(list(theirs.backbone(x).values()))
    raw = ours.raw(x)
    assert raw.logits.shape == (2, sum(raw.levels), 80)
    assert raw.logits.std() > 0.1  # random weights, but not without effect
    torch.testing.assert_close(raw.logits, outputs["cls_logits"][..., list(COCO_IDS)], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(raw.deltas, outputs["bbox_regression"], atol=1e-4, rtol=1e-4)
    if raw.centerness is not None:
        torch.testing.assert_close(raw.centerness[..., None], outputs["bbox_ctrness"], atol=1e-4, rtol=1e-4)


@torch.inference_mode()
@pytest.mark.parametrize("size", [(800, 832), (128, 256)])  # P6 and P7 of the first need torchvision's own steps
def test_final_detections_agree(theirs, ours, size):
    if size == (800, 832) and ours.head.classification.convs[0].bias is None:
        pytest.skip("version 2 has version 1's anchors, which the small image tests")
    image = torch.rand(3, *size, generator=torch.Generator().manual_seed(3))
    theirs.transform.min_size, theirs.transform.max_size = (min(size),), 1333
    # the holes among torchvision's 91 classes have random weights here, so they must be kept from its results
    bias = theirs.head.classification_head.cls_logits.bias.view(-1, 91)
    bias[:, [i for i in range(91) if i not in COCO_IDS]] = -1e4
    wanted = theirs([image])[0]
    found = detect(ours(image[None] * 255), torch.tensor([size]), NMSOptions())[0]
    assert len(found.boxes) == len(wanted["boxes"]) == 100
    torch.testing.assert_close(found.scores, wanted["scores"], atol=1e-4, rtol=0)
    torch.testing.assert_close(found.boxes, wanted["boxes"], atol=1e-2, rtol=1e-4)
    assert [COCO_IDS[k] for k in found.labels] == wanted["labels"].tolist()


def test_a_torchvision_file_is_a_checkpoint(theirs, tmp_path, capsys):
    torch.save(theirs.state_dict(), tmp_path / "retinanet.pth")
    model = load_checkpoint(tmp_path / "retinanet.pth")
    assert model.classes == COCO_NAMES
    assert model.classes[0] == "person"
    assert model.category_ids[-1] == 90
    assert model.network().head.classification.outputs == 80
    kind = "FCOS" if model.architecture.head == "fcos" else "RetinaNet"
    assert f"retinanet.pth is a {kind}" in capsys.readouterr().err
    model.save(tmp_path / "ours.pt")
    assert load_checkpoint(tmp_path / "ours.pt").architecture == model.architecture


def test_files_of_before_torchvision_0_13_load_too():
    """They number a tower's convolutions 0, 2, 4, 6 where newer ones say 0.0, 1.0 ..., the pyramid's 0 for 0.0."""
    state = retinanet_resnet50_fpn(weights=None, weights_backbone=None).state_dict()
    old = {}
    for key, value in state.items():
        for i in range(4):
            key = key.replace(f"_head.conv.{i}.0.", f"_head.conv.OLD{2 * i}.")
            key = key.replace(f"_blocks.{i}.0.", f"_blocks.{i}.")
        old[key.replace("OLD", "")] = value
    assert "backbone.fpn.inner_blocks.2.weight" in old
    found, wanted = from_torchvision(old).model, from_torchvision(state).model
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[key], value) for key, value in wanted.items())


@pytest.mark.parametrize(
    ("change", "sentence"),
    [(lambda s: s.pop("backbone.body.layer4.2.bn3.bias"), r"torchvision: it lacks backbone\.layer4\.2\.bn3\.bias"),
     (lambda s: s.update({"extra.weight": torch.zeros(1)}), r"torchvision: extra\.weight has no place in it"),
     (lambda s: s.pop("backbone.body.layer1.0.conv2.weight"), "this backbone is not a ResNet"),
     (lambda s: s.update({"backbone.fpn.extra_blocks.p6.weight": torch.zeros(256, 512, 3, 3)}),
      r"p6\.weight is \[256, 512, 3, 3\] where \[256, 256, 3, 3\] is needed")],
)  # fmt: skip
def test_what_is_another_network_is_one_sentence(change, sentence):
    with torch.device("meta"):
        state = retinanet_resnet50_fpn(weights=None, weights_backbone=None, num_classes=7).state_dict()
    change(state)
    with pytest.raises(UserError, match=sentence):
        from_torchvision(state)


def test_norms_of_an_eps_of_zero_compute_the_same_with_ours():
    generator = torch.Generator().manual_seed(0)
    norm = torch.nn.BatchNorm2d(8, eps=0.0).eval()
    norm.running_var.copy_(torch.rand(8, generator=generator) * 1e-4 + 1e-8)
    norm.weight.data.copy_(torch.rand(8, generator=generator))
    x = torch.randn(1, 8, 3, 3, generator=generator)
    ours = torch.nn.BatchNorm2d(8).eval()
    state = with_eps({f"n.{key}": value for key, value in norm.state_dict().items()})
    ours.load_state_dict({key.removeprefix("n."): value for key, value in state.items()})
    torch.testing.assert_close(ours(x), norm(x), rtol=1e-5, atol=1e-5)
