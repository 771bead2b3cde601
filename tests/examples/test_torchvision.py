"""DC, IAC and CL-B inside torchvision's RetinaNet do what they should, and nothing else."""

from __future__ import annotations

import pytest
import torch
from scripts import load_script
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.models.detection.retinanet import RetinaNet, RetinaNetHead
from torchvision.ops import batched_nms, box_iou
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

CLASSES = 3


@pytest.mark.parametrize("name", ["torchvision_dc", "torchvision_iac"])
def test_a_training_step_is_the_same_at_first(name, capsys):
    """The losses of an untrained network are those of torchvision, for DC and for IAC."""
    load_script(name)["main"]()
    printed = eval(capsys.readouterr().out)
    torch.manual_seed(0)
    model = RetinaNet(backbone(), num_classes=91, min_size=256)
    targets = [{"boxes": torch.tensor([[40.0, 60, 160, 200]]), "labels": torch.tensor([17])}]
    losses = model([torch.rand(3, 256, 320)], targets)
    assert printed == pytest.approx({name: loss.item() for name, loss in losses.items()}, abs=1e-3)


def backbone():
    pyramid = {"returned_layers": [2, 3, 4], "extra_blocks": LastLevelP6P7(256, 256)}
    return resnet_fpn_backbone(backbone_name="resnet18", weights=None, **pyramid)


def test_dc_weights_the_gradient_of_positive_anchors():
    """A perfect box has Eq. 2's coefficient 2, one far off 1; with equal losses, Eq. 3 makes that 4/3 and 2/3."""
    anchors = [torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 10], [50, 50, 60, 60]])] * 2
    deltas = torch.tensor([[0.0, 0, 0, 0], [9, 0, 0, 0], [0, 0, 0, 0]]).expand(2, -1, -1)
    matched = [torch.tensor([0, 0, -1]), torch.tensor([-1, -1, -2])]
    labelled = {"boxes": torch.tensor([[0.0, 0, 10, 10]]), "labels": torch.tensor([1])}
    empty = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
    values, gradients = [], []
    for head in (RetinaNetHead(8, 1, CLASSES), load_script("torchvision_dc")["DCHead"](8, 1, CLASSES)):
        logits = torch.zeros(2, 3, CLASSES, requires_grad=True)
        outputs = {"cls_logits": logits, "bbox_regression": deltas}
        losses = head.compute_loss([labelled, empty], outputs, anchors, matched)
        losses["classification"].backward()
        values.append([losses[name].item() for name in ("classification", "bbox_regression")])
        gradients.append(logits.grad)
    assert values[1] == pytest.approx(values[0])
    plain, weighted = gradients
    torch.testing.assert_close(weighted[0], plain[0] * torch.tensor([[4 / 3], [2 / 3], [1]]), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(weighted[1], plain[1])


@pytest.fixture
def matches(monkeypatch):
    """Make the assignment of each anchor by a network, which is passed to the head's loss."""

    def assign(network, *arguments):
        monkeypatch.setattr(network.head, "compute_loss", lambda targets, outputs, anchors, matched: matched)
        return network.compute_loss(*arguments)

    return assign


def test_iac_recalls_confident_anchors_only(matches):
    """With low probabilities the assignment is that of torchvision's Matcher."""
    corner, side = torch.rand(2, 400, 2, generator=torch.Generator().manual_seed(0)) * 60
    anchors = [torch.cat([corner, corner + side + 8], 1)] * 2
    targets = [
        {"boxes": torch.tensor([[5.0, 5, 45, 45], [30, 20, 90, 60]]), "labels": torch.tensor([2, 0])},
        {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)},
    ]
    network = load_script("torchvision_iac")["IACRetinaNet"](backbone(), CLASSES)
    low = matches(network, targets, {"cls_logits": torch.full((2, 400, CLASSES), -4.0)}, anchors)
    plain = matches(RetinaNet(backbone(), CLASSES), targets, {}, anchors)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(low, plain))
    confident = torch.full((2, 400, CLASSES), -4.0)
    confident[:, :, 2] = 4
    first, second = matches(network, targets, {"cls_logits": confident}, anchors)
    iou, gt = box_iou(targets[0]["boxes"], anchors[0]).max(0)
    recalled = (first >= 0) & (low[0] < 0)
    assert recalled.sum() > 5
    assert torch.equal(recalled, (low[0] == -2) & (gt == 0))  # of class 2, with an IoU of 0.4 to 0.5
    assert ((iou > 0.4) & (iou < 0.5))[recalled].all()
    assert (second == -1).all()


def test_clb_gets_all_boxes_of_torchvision():
    """Standard NMS on these boxes is torchvision's own; CL-B keeps as many, and other ones."""
    script, image = load_script("torchvision_clb"), [torch.rand(3, 96, 96, generator=torch.Generator().manual_seed(0))]
    plain = RetinaNet(backbone(), CLASSES, min_size=96, score_thresh=0.005).eval()
    whole = RetinaNet(backbone(), CLASSES, min_size=96, score_thresh=0.005, **script["KEEP_ALL"]).eval()
    whole.load_state_dict(plain.state_dict())
    with torch.inference_mode():
        (theirs,), (boxes,), (ours,) = plain(image), whole(image), script["with_clb"](whole, image)
    keep = batched_nms(boxes["boxes"], boxes["scores"], boxes["labels"], 0.5)[:300]
    assert torch.equal(boxes["boxes"][keep], theirs["boxes"])
    assert len(boxes["boxes"]) > 2 * len(keep)
    assert len(ours["boxes"]) == len(ours["scores"]) == len(ours["labels"]) == len(keep)
    assert (ours["scores"].diff() <= 0).all()
    assert not torch.equal(ours["boxes"], theirs["boxes"])
