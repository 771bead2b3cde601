"""Time the decoding of raw outputs to candidates for NMS: cledet, and torchvision's RetinaNet on the same outputs.

    python benchmarks/decode.py [--classes 80] [--rounds 15] [--threads 1] [--dtype bfloat16]

An image of 640 x 640 pixels has 76,725 anchors, of which a trained detector gives a few a score. Both sides decode in
turn, and the ratio is that of the medians, of CPU time for one thread, else of wall time. torchvision's side is its
`postprocess_detections` without NMS.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torchvision.models.detection._utils import BoxCoder
from torchvision.ops import clip_boxes_to_image

from cledet.models.anchors import Anchors
from cledet.models.network import RawOutputs
from cledet.models.postprocess import candidates

STRIDES = (8, 16, 32, 64, 128)
SIDE, CONF, MOST = 640, 0.05, 1000


def outputs(classes: int, dtype: torch.dtype) -> RawOutputs:
    shapes = [(-(-SIDE // stride),) * 2 for stride in STRIDES]
    anchors, strides = Anchors(STRIDES)(shapes, (SIDE, SIDE))
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(1, len(anchors), classes, generator=generator) - 8
    objects = torch.randint(len(anchors), (2000,), generator=generator)
    logits[0, objects, objects % classes] += 8
    deltas = 0.3 * torch.randn(1, len(anchors), 4, generator=generator)
    return RawOutputs(logits.to(dtype), deltas, anchors, strides, [9 * h * w for h, w in shapes])


@torch.no_grad()
def theirs(raw: RawOutputs) -> tuple[Tensor, Tensor, Tensor]:
    coder, found, first = BoxCoder((1.0, 1.0, 1.0, 1.0)), [], 0
    for level in raw.levels:
        part = slice(first, first + level)
        scores = raw.logits[0, part].float().sigmoid().flatten()
        index = torch.where(scores > CONF)[0]
        scores, order = scores[index].topk(min(MOST, len(index)))
        index = index[order]
        anchor, label = index // raw.logits.shape[2], index % raw.logits.shape[2]
        boxes = coder.decode_single(raw.deltas[0, part][anchor], raw.anchors[part][anchor])
        found.append((clip_boxes_to_image(boxes, (SIDE, SIDE)), scores, label))
        first += level
    boxes, scores, labels = (torch.cat(parts) for parts in zip(*found))
    return boxes, scores, labels


def milliseconds(run: Callable[[], object]) -> float:
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    start = clock()
    run()
    return 1000 * (clock() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--classes", type=int, default=80)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    raw, sizes = outputs(args.classes, getattr(torch, args.dtype)), torch.tensor([[SIDE, SIDE]])
    sides = {"torchvision": lambda: theirs(raw), "cledet": lambda: candidates(raw, sizes, CONF)}
    times: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(args.rounds + 2):
        for name, run in sides.items():
            times[name].append(milliseconds(run))
    slow, fast = (statistics.median(values[2:]) for values in times.values())
    print(f"{args.classes} classes, {args.dtype}, {args.threads} threads, {len(theirs(raw)[0])} candidates")
    print(f"torchvision {slow:.1f} ms, cledet {fast:.1f} ms")
    print(f"torchvision / cledet: {slow / fast:.2f}")


if __name__ == "__main__":
    main()
