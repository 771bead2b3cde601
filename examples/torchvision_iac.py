"""Train torchvision's RetinaNet with IoU-classification-aware assignment (IAC), Eq. 5 to 7.

    python torchvision_iac.py

torchvision's Matcher sees IoUs only, and IAC needs the predicted probabilities too. So IAC replaces the method that
calls the Matcher. Early in training no probability is high, and the losses are those of torchvision.
"""

import torch
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.models.detection.retinanet import RetinaNet
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from cledet.components import assign_iac


class IACRetinaNet(RetinaNet):
    """A RetinaNet in which an anchor that already classifies an object may be assigned to it at a lower IoU."""

    def compute_loss(self, targets, head_outputs, anchors):
        probabilities = head_outputs["cls_logits"].sigmoid()
        matched = [  # index of a ground truth, -1 for background, -2 for ignored: the codes of torchvision's Matcher
            assign_iac(boxes, target["boxes"], target["labels"], prob, recall_min_iou=0.4)  # 0 as the paper prints it
            for boxes, target, prob in zip(anchors, targets, probabilities)
        ]
        return self.head.compute_loss(targets, head_outputs, anchors, matched)


def main() -> None:
    """Take one training step on a made-up image."""
    torch.manual_seed(0)
    pyramid = {"returned_layers": [2, 3, 4], "extra_blocks": LastLevelP6P7(256, 256)}
    backbone = resnet_fpn_backbone(backbone_name="resnet18", weights=None, **pyramid)
    model = IACRetinaNet(backbone, num_classes=91, min_size=256)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.001)
    images = [torch.rand(3, 256, 320)]
    targets = [{"boxes": torch.tensor([[40.0, 60, 160, 200]]), "labels": torch.tensor([17])}]
    losses = model(images, targets)
    sum(losses.values()).backward()
    optimizer.step()
    print({name: round(loss.item(), 3) for name, loss in losses.items()})


if __name__ == "__main__":
    main()
