"""Count the anchors that IAC recalls with a trained model, with their IoU and relative size per class.

    python benchmarks/recalled.py runs/train/bccd/iac-seed0 [--recall-min-iou 0] [--every 6]

Every sixth image of the training split is used.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from cledet.components.iac import IACOptions
from cledet.config.base import long_side
from cledet.data.dataset import DetectionDataset
from cledet.data.loader import eval_loader
from cledet.data.open import open_source
from cledet.evaluation.splits import load_index
from cledet.models.assignment import Targets
from cledet.models.checkpoint import load_checkpoint
from cledet.models.criterion import Criterion
from cledet.ops.assigners.max_iou import match
from cledet.ops.boxes import area


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", type=Path)
    parser.add_argument("--recall-min-iou", type=float, default=0.0)
    parser.add_argument("--every", type=int, default=6)
    args = parser.parse_args()

    model = load_checkpoint(args.weights)
    network = model.network().eval()
    index = load_index(open_source(model.data), str(model.settings["split"]))
    index = index.subset(range(0, len(index), args.every))
    dataset = DetectionDataset(index, short=model.imgsz, long=long_side(model.imgsz))
    criterion = Criterion(iac=IACOptions(min_iou=args.recall_min_iou), dc=False)
    anchors: dict[tuple[str, str], list[torch.Tensor]] = {}
    for batch in eval_loader(dataset, batch=4, workers=0):
        raw = network(batch.images)
        assignment = criterion.assign(raw, Targets(batch.boxes, batch.labels, batch.ignored))
        iou = match(raw.anchors, batch.boxes).iou
        matched = (assignment.gt >= 0) & ~assignment.recalled
        for kind, chosen in (("matched", matched), ("recalled", assignment.recalled)):
            image, anchor = chosen.nonzero(as_tuple=True)
            gt = assignment.gt[image, anchor]
            side = (area(raw.anchors[anchor]) / area(batch.boxes[image, gt])).sqrt()
            rows = torch.stack([batch.labels[image, gt].float(), iou[image, anchor], side], 1)
            for label, name in enumerate(index.classes):
                anchors.setdefault((kind, name), []).append(rows[rows[:, 0] == label, 1:])
    print(f"{'anchors':<10} {'class':<16} {'count':>7} {'mean IoU':>9} {'median side / object side':>26}")
    for (kind, name), parts in anchors.items():
        values = torch.cat(parts)
        columns = f"{values[:, 0].mean():9.2f} {values[:, 1].median():26.2f}" if len(values) else ""
        print(f"{kind:<10} {name:<16} {len(values):>7} {columns}")


if __name__ == "__main__":
    main()
