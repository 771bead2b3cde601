"""Count the objects that would have no positive anchor if anchors inside crowds were never positive.

    python benchmarks/crowds.py [--data ../shared/data/coco2017_sub]

Only images with ignored regions are counted, at 800 pixels.
"""

from __future__ import annotations

import argparse

import torch

from cledet.data.dataset import DetectionDataset
from cledet.data.open import open_source
from cledet.models.anchors import Anchors
from cledet.models.network import STRIDES
from cledet.ops.assigners.max_iou import assign_max_iou
from cledet.ops.boxes import area, box_intersection


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="../shared/data/coco2017_sub")
    source = open_source(parser.parse_args().data)
    for split in source.splits:
        index = source.index(split)
        dataset = DetectionDataset(index, short=800, long=1333)
        crowded = [i for i in range(len(index)) if index.ignore[index.rows(i)].any()]
        counts = torch.zeros(3, dtype=torch.int64)
        for i in crowded:
            sample = dataset[i]
            counts += torch.tensor(count(sample.boxes, sample.ignored, tuple(sample.image.shape[1:])))
        objects, without, fewer = counts.tolist()
        print(f"{index.name}: {len(crowded)} images with {objects} objects: {without} would have none, {fewer} fewer")


def count(boxes: torch.Tensor, ignored: torch.Tensor, size: tuple[int, int]) -> tuple[int, int, int]:
    """Count objects, and those that would lose all, or any, of their positive anchors to ignored regions."""
    height, width = (-(-side // 32) * 32 for side in size)
    shapes = [(-(-height // stride), -(-width // stride)) for stride in STRIDES]
    anchors, _ = Anchors(STRIDES)(shapes, (height, width))
    assigned = assign_max_iou(anchors, boxes)
    inside = (box_intersection(ignored, anchors) > 0.5 * area(anchors)).any(0)
    had = torch.bincount(assigned[assigned >= 0], minlength=len(boxes))
    left = torch.bincount(assigned[(assigned >= 0) & ~inside], minlength=len(boxes))
    return len(boxes), int(((left == 0) & (had > 0)).sum()), int((left < had).sum())


if __name__ == "__main__":
    main()
