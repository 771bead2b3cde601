"""Time the NMS methods and `torchvision.ops.batched_nms`: median milliseconds and their ratio.

    python benchmarks/nms.py [--device cuda] [--classes 80] [--threads 1] [--boxes 1000] [--methods soft,soft-vote]

There are two kinds of boxes: "objects" resembles a detector's output (twelve boxes of one class about each object), and
"scattered" has random classes and positions, which hardly overlap. Calls run in inference mode. Each call gets other
boxes, so that branches are not predicted, and methods alternate, so that other load affects both. One thread of a CPU
is measured in CPU time, anything else in wall time.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial
from itertools import cycle, islice

import torch
import torchvision
from torch import Tensor

from cledet.models.nms import NMS, suppress

SAMPLES = 40
"""Number of images whose boxes the calls cycle through."""


def boxes_about_objects(n: int, classes: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Draw boxes [n, 4], scores [n] and labels [n]: twelve boxes about each of n / 12 objects in 640 x 640 pixels."""
    objects = max(1, n // 12)
    index = torch.randint(objects, (n,), generator=generator)
    center = torch.rand(objects, 2, generator=generator)[index] * 640
    side = torch.rand(objects, 2, generator=generator)[index] * 120 + 10
    center = center + side * 0.1 * torch.randn(n, 2, generator=generator)
    side = side * (1 + 0.15 * torch.randn(n, 2, generator=generator)).clamp(min=0.3)
    labels = torch.randint(classes, (objects,), generator=generator)[index]
    return torch.cat([center - side / 2, center + side / 2], 1), torch.rand(n, generator=generator), labels


def scattered_boxes(n: int, classes: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Draw boxes [n, 4], scores [n] and labels [n] of random class and position."""
    boxes, scores, _ = boxes_about_objects(n, classes, generator)
    return boxes, scores, torch.randint(classes, (n,), generator=generator)


KINDS = {"objects": boxes_about_objects, "scattered": scattered_boxes}


def median_ms(
    calls: list[Callable[..., object]], samples: list[list[Tensor]], seconds: float, device: str
) -> list[float]:
    """Measure the median milliseconds of each call on the samples, within `seconds` per call, at least five times.

    The calls run on different samples, so that no boxes are in the cache.
    """
    clock = time.process_time if device == "cpu" and torch.get_num_threads() == 1 else time.perf_counter
    times: list[list[float]] = [[] for _ in calls]
    turns = [islice(cycle(samples), i * len(samples) // len(calls), None) for i in range(len(calls))]
    end = time.perf_counter() + seconds * len(calls)
    while time.perf_counter() < end or len(times[0]) < 7:
        for call, turn, durations in zip(calls, turns, times):
            sample = next(turn)
            start = clock()
            call(*sample)
            if device == "cuda":
                torch.cuda.synchronize()
            durations.append(clock() - start)
    return [1000 * statistics.median(durations[2:]) for durations in times]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--classes", type=int, default=80)
    parser.add_argument("--boxes", type=int, nargs="+", default=[1000, 5000, 10000])
    parser.add_argument("--kind", choices=KINDS, help="by default both")
    parser.add_argument("--methods", default=",".join(NMS))
    parser.add_argument("--threads", type=int, help="CPU threads; by default torch's choice")
    parser.add_argument("--seconds", type=float, default=0.5, help="time per measurement")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)

    print(f"{'boxes':>6} {'kind':<10} {'method':<12} {'kept':>6} {'ms':>8} {'ratio':>6}   {args.device}")
    for n in args.boxes:
        for kind in [args.kind] if args.kind else KINDS:
            generator = torch.Generator().manual_seed(n)
            draws = [KINDS[kind](n, args.classes, generator) for _ in range(SAMPLES)]
            samples = [[part.to(args.device) for part in draw] for draw in draws]
            with torch.inference_mode():
                ratio = compare(n, kind, samples, args.methods.split(","), args.seconds)
    print(f"cledet / torchvision: {ratio:.2f} (last row)")


def compare(n: int, kind: str, samples: list[list[Tensor]], methods: list[str], seconds: float) -> float:
    """Print a row for torchvision and one per method, timed in alternation with it, and return the last ratio."""
    device = samples[0][0].device.type
    base = partial(torchvision.ops.batched_nms, iou_threshold=0.5)
    kept = statistics.mean(len(base(*sample)) for sample in samples)
    base_ms = median_ms([base], samples, seconds, device)[0]
    print(f"{n:>6} {kind:<10} {'torchvision':<12} {kept:6.0f} {base_ms:8.2f} {1:6.2f}")
    for method in methods:
        call = partial(suppress, iou_threshold=0.5, method=method)
        kept = statistics.mean(len(call(*sample).keep) for sample in samples)
        base_ms, ms = median_ms([base, call], samples, seconds, device)
        print(f"{'':>6} {'':<10} {method:<12} {kept:6.0f} {ms:8.2f} {ms / base_ms:6.2f}", flush=True)
    return ms / base_ms


if __name__ == "__main__":
    main()
