"""Train torchvision's RetinaNet with the dynamic coefficient loss (DC), Eq. 2 to 4.

    python torchvision_dc.py

torchvision computes the losses in the head, so DC takes a head of its own. DC changes the gradient of the
classification loss, not its value: the printed losses are those of torchvision. Eq. 3 is applied per image, because
torchvision divides the loss of each image by its own number of positive anchors.
"""

import torch
from torch.nn.functional import one_hot
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.models.detection.retinanet import RetinaNet, RetinaNetHead
from torchvision.ops import sigmoid_focal_loss
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from cledet.components import dynamic_coefficient, normalize_coefficient
from cledet.ops import decode


class DCHead(RetinaNetHead):
    """RetinaNet's head, in which accurate positive anchors have a larger classification loss."""

    def compute_loss(self, targets, head_outputs, anchors, matched_idxs):
        losses = super().compute_loss(targets, head_outputs, anchors, matched_idxs)
        logits, deltas = head_outputs["cls_logits"], head_outputs["bbox_regression"]
        extra = sum(map(extra_loss, targets, logits, deltas, anchors, matched_idxs)) / len(targets)
        return losses | {"classification": losses["classification"] + extra}


def extra_loss(target, logits, deltas, anchors, matched):
    """Compute the term that DC adds to the classification loss of one image: its value is 0, its gradient is not."""
    positive = matched >= 0
    gt = matched[positive]
    focal = sigmoid_focal_loss(logits[positive], one_hot(target["labels"][gt], logits.shape[1]).float()).sum(1)
    boxes, truth = decode(deltas[positive], anchors[positive]), target["boxes"][gt]
    size = (truth[:, 2:] - truth[:, :2]).prod(1).sqrt()  # unit of the distance in Eq. 2; the paper names none
    coefficient = dynamic_coefficient(boxes, truth, unit=size)  # Eq. 2: predicted boxes and their ground truths
    weight = normalize_coefficient(coefficient, focal)  # Eq. 3: keeps the sum of the losses
    return ((weight - 1) * focal).sum() / max(1, len(gt))  # Eq. 4 has weight * focal, and torchvision 1 * focal


def main() -> None:
    """Take one training step on a made-up image."""
    torch.manual_seed(0)
    pyramid = {"returned_layers": [2, 3, 4], "extra_blocks": LastLevelP6P7(256, 256)}
    backbone = resnet_fpn_backbone(backbone_name="resnet18", weights=None, **pyramid)
    model = RetinaNet(backbone, num_classes=91, head=DCHead(256, num_anchors=9, num_classes=91), min_size=256)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.001)
    images = [torch.rand(3, 256, 320)]
    targets = [{"boxes": torch.tensor([[40.0, 60, 160, 200]]), "labels": torch.tensor([17])}]
    losses = model(images, targets)
    sum(losses.values()).backward()
    optimizer.step()
    print({name: round(loss.item(), 3) for name, loss in losses.items()})


if __name__ == "__main__":
    main()
