"""NMS methods beside `torchvision.ops.batched_nms`: median milliseconds and their ratio.

    python benchmarks/nms.py [--device cuda] [--classes 80]

Two kinds of boxes: "objects", what a detector gives (twelve boxes about each object, of one class), and "scattered",
of random class and place, which hardly overlap.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial

import torch
import torchvision
from torch import Tensor

from cledet.ops.nms import NMS, batched_nms


def boxes_about_objects(n: int, classes: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Boxes [n, 4], scores [n] and labels [n]: twelve boxes about each of n / 12 objects in 640 x 640 pixels."""
    objects = max(1, n // 12)
    of = torch.randint(objects, (n,), generator=generator)
    center = torch.rand(objects, 2, generator=generator)[of] * 640
    side = torch.rand(objects, 2, generator=generator)[of] * 120 + 10
    center = center + side * 0.1 * torch.randn(n, 2, generator=generator)
    side = side * (1 + 0.15 * torch.randn(n, 2, generator=generator)).clamp(min=0.3)
    labels = torch.randint(classes, (objects,), generator=generator)[of]
    return torch.cat([center - side / 2, center + side / 2], 1), torch.rand(n, generator=generator), labels


def scattered_boxes(n: int, classes: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Boxes [n, 4], scores [n] and labels [n] without anything in common."""
    boxes, scores, _ = boxes_about_objects(n, classes, generator)
    return boxes, scores, torch.randint(classes, (n,), generator=generator)


def median_ms(call: Callable[[], object], seconds: float, device: str) -> float:
    """Median time of a call in milliseconds, of as many as fit, at least three."""
    times: list[float] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times) < 5:
        start = time.perf_counter()
        call()
        if device == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return 1000 * statistics.median(times[2:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--classes", type=int, default=80)
    parser.add_argument("--seconds", type=float, default=0.5, help="for each figure")
    args = parser.parse_args()

    print(f"{'boxes':>6} {'kind':<10} {'method':<12} {'kept':>6} {'ms':>8} {'ratio':>6}   {args.device}")
    for n in (1000, 5000, 10000):
        for kind, make in (("objects", boxes_about_objects), ("scattered", scattered_boxes)):
            sample = make(n, args.classes, torch.Generator().manual_seed(n))
            compare(n, kind, [part.to(args.device) for part in sample], args.seconds)


def compare(n: int, kind: str, sample: list[Tensor], seconds: float) -> None:
    """Print a row for torchvision and one for each method."""
    device = sample[0].device.type
    base = median_ms(lambda: torchvision.ops.batched_nms(*sample, 0.5), seconds, device)
    print(f"{n:>6} {kind:<10} {'torchvision':<12} {'':>6} {base:8.2f} {1:6.2f}")
    for method in NMS:
        call = partial(batched_nms, *sample, 0.5, method=method)
        took = median_ms(call, seconds, device)
        print(f"{'':>6} {'':<10} {method:<12} {len(call()[0]):>6} {took:8.2f} {took / base:6.2f}")


if __name__ == "__main__":
    main()
