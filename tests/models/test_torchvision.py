"""Torchvision's RetinaNet loads, and computes the same here."""

from __future__ import annotations

import pytest
import torch
from torchvision.models.detection import retinanet_resnet50_fpn, retinanet_resnet50_fpn_v2

from cledet.engine.checkpoint import load_checkpoint
from cledet.errors import UserError
from cledet.models.decode import PostProcess
from cledet.models.weights import COCO_IDS, COCO_NAMES, from_torchvision


@pytest.fixture(scope="module")
def theirs():
    """Torchvision's network with random weights, made to find things; its batch norms are not the identity."""
    torch.manual_seed(0)
    model = retinanet_resnet50_fpn(weights=None, weights_backbone=None, num_classes=91, detections_per_img=100)
    generator = torch.Generator().manual_seed(1)
    for name, buffer in model.named_buffers():
        if "bn" in name or "downsample.1" in name:
            noise = torch.rand(buffer.shape, generator=generator)
            buffer.copy_(0.5 + noise if name.endswith(("weight", "var")) else 0.1 * (noise - 0.5))
    head = model.head.classification_head.cls_logits
    torch.nn.init.normal_(head.weight, std=0.008, generator=generator)
    torch.nn.init.normal_(model.head.regression_head.bbox_reg.weight, std=0.002, generator=generator)
    return model.eval()


@pytest.fixture(scope="module")
def ours(theirs):
    return from_torchvision(theirs.state_dict())[0].eval()


@torch.inference_mode()
def test_raw_outputs_agree(theirs, ours):
    x = torch.randn(2, 3, 128, 192, generator=torch.Generator().manual_seed(2))
    outputs = theirs.head(list(theirs.backbone(x).values()))
    raw = ours.raw(x)
    assert raw.logits.shape == (2, sum(raw.levels), 80)
    torch.testing.assert_close(raw.logits, outputs["cls_logits"][..., list(COCO_IDS)], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(raw.deltas, outputs["bbox_regression"], atol=1e-4, rtol=1e-4)


@torch.inference_mode()
@pytest.mark.parametrize("size", [(800, 832), (128, 256)])  # P6 and P7 of the first need torchvision's own steps
def test_final_detections_agree(theirs, ours, size):
    image = torch.rand(3, *size, generator=torch.Generator().manual_seed(3))
    theirs.transform.min_size, theirs.transform.max_size = (min(size),), 1333
    # the holes among torchvision's 91 classes have random weights here, so they must be kept from its results
    bias = theirs.head.classification_head.cls_logits.bias.view(9, 91)
    bias[:, [i for i in range(91) if i not in COCO_IDS]] = -1e4
    wanted = theirs([image])[0]
    found = PostProcess()(ours(image[None] * 255), torch.tensor([size]))[0]
    assert len(found.boxes) == len(wanted["boxes"]) == 100
    torch.testing.assert_close(found.scores, wanted["scores"], atol=1e-4, rtol=0)
    torch.testing.assert_close(found.boxes, wanted["boxes"], atol=1e-2, rtol=1e-4)
    assert [COCO_IDS[k] for k in found.labels] == wanted["labels"].tolist()


def test_a_torchvision_file_is_a_checkpoint(theirs, tmp_path):
    torch.save(theirs.state_dict(), tmp_path / "retinanet.pth")
    model = load_checkpoint(tmp_path / "retinanet.pth")
    assert model.classes == COCO_NAMES
    assert model.classes[0] == "person"
    assert model.category_ids[-1] == 90
    assert model.network().head.classification.outputs == 80


def test_files_of_before_torchvision_0_13_load_too(theirs, ours):
    """They number a tower's convolutions 0, 2, 4, 6 where newer ones say 0.0, 1.0, 2.0, 3.0."""
    old = {}
    for key, value in theirs.state_dict().items():
        for i in range(4):
            key = key.replace(f"_head.conv.{i}.0.", f"_head.conv.OLD{2 * i}.")
        old[key.replace("OLD", "")] = value
    network = from_torchvision(old)[0]
    assert all(torch.equal(a, b) for a, b in zip(network.state_dict().values(), ours.state_dict().values()))


def test_v2_is_refused_in_a_sentence():
    state = retinanet_resnet50_fpn_v2(weights=None, weights_backbone=None).state_dict()
    with pytest.raises(UserError, match="v2 is not supported"):
        from_torchvision(state)
