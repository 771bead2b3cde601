"""Detect with torchvision's RetinaNet and CL-B NMS, Eq. 8 and 9.

    python torchvision_clb.py photo.jpg       # downloads torchvision's weights at the first call

CL-B selects a box from each cluster, so it needs all boxes: torchvision's own NMS suppresses none at a threshold of 1.
The same keywords work for torchvision's `fcos_resnet50_fpn` and `ssd300_vgg16`.
"""

import sys

import torch
from torchvision.io import ImageReadMode, decode_image
from torchvision.models.detection import RetinaNet_ResNet50_FPN_Weights, retinanet_resnet50_fpn

from cledet.components import cl_balanced_nms

KEEP_ALL = {"nms_thresh": 1.0, "detections_per_img": 100_000}
"""Keywords of torchvision's models that disable their own NMS."""


def with_clb(model, images, iou=0.5, most=300):
    """Yield the detections on each image: of each cluster, the box with the highest sum of score and position."""
    for found in model(images):
        keep, scores = cl_balanced_nms(found["boxes"], found["scores"], found["labels"], iou)
        yield {"boxes": found["boxes"][keep][:most], "labels": found["labels"][keep][:most], "scores": scores[:most]}


def main() -> None:
    """Print the detections on a photo."""
    weights = RetinaNet_ResNet50_FPN_Weights.DEFAULT
    model = retinanet_resnet50_fpn(weights=weights, **KEEP_ALL).eval()
    photo = decode_image(sys.argv[1], ImageReadMode.RGB) / 255
    with torch.inference_mode():
        (found,) = with_clb(model, [photo])
    for box, label, score in zip(found["boxes"], found["labels"], found["scores"]):
        if score >= 0.3:
            print(weights.meta["categories"][label], round(score.item(), 2), [round(v) for v in box.tolist()])


if __name__ == "__main__":
    main()
