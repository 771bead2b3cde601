"""Time detectors side by side on the CPU: the network on one image, and the gradients of a training step.

    python benchmarks/latency.py lite0 lite2 [--size 320 448] [--classes 3] [--channels 64] [--batch 4]
    python benchmarks/latency.py lite0 lite0:0.33,1,3 lite0:0.25,0.5,1,2,4      # a backbone, and --anchor-ratios

The detectors take turns, and the CPU time of one thread is measured, so that other work on the machine matters little.
Medians per image, with the ratio to the first detector. Weights are random; the first two stages are frozen, as by
default.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch

from cledet.models.assignment import Targets
from cledet.models.criterion import Criterion
from cledet.models.flops import costs
from cledet.models.network import Architecture, RetinaNet, build_network

COLUMNS = "detector | anchors per position | parameters (M) | multiply-adds (G) | forward (ms) | training (ms)"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="+", metavar="BACKBONE[:RATIOS]")
    parser.add_argument("--size", type=int, nargs=2, default=(320, 448), metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--classes", type=int, default=3)
    parser.add_argument("--channels", type=int, default=64)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=15)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    images = torch.randint(0, 256, (args.batch, 3, *args.size), dtype=torch.uint8)
    corners = torch.rand(args.batch, 20, 2) * 0.8 * min(args.size)
    boxes = torch.cat([corners, corners + torch.rand(args.batch, 20, 2) * 60 + 10], 2)
    targets = Targets(boxes, torch.randint(args.classes, (args.batch, 20)), torch.zeros(args.batch, 0, 4))
    archs = [architecture(name, args.classes, args.channels) for name in args.names]
    print(f"images of {args.size[0]}x{args.size[1]}, one thread, float32\n")
    print(f"| {COLUMNS} |\n{'|---' * 6}|")
    networks = [build_network(arch) for arch in archs]
    forward = take_turns([lambda n=n: predict(n, images[:1]) for n in networks], args.repeats)
    step = take_turns([lambda n=n: gradients(n, images, targets) for n in networks], args.repeats)
    for i, (name, arch, network) in enumerate(zip(args.names, archs, networks)):
        cost = costs(arch, tuple(args.size))
        cells = [str(network.anchors.per_position), f"{cost.parameters / 1e6:.2f}", f"{cost.multiply_adds / 1e9:.2f}"]
        for times, count in ((forward, 1), (step, args.batch)):
            cells.append(f"{1e3 * times[i] / count:.1f} ({times[i] / times[0]:.2f})")
        print(f"| `{name}` | {' | '.join(cells)} |")


def architecture(name: str, classes: int, channels: int) -> Architecture:
    """Build the architecture of `BACKBONE[:RATIOS]`."""
    backbone, _, ratios = name.partition(":")
    return Architecture(backbone=backbone, classes=classes, fpn_channels=channels, anchor_ratios=ratios or None)


def take_turns(calls: list[Callable[[], object]], repeats: int) -> list[float]:
    """Measure the median CPU seconds of each call, called in turns after one unmeasured turn."""
    times: list[list[float]] = [[] for _ in calls]
    for turn in range(repeats + 1):
        for call, seconds in zip(calls, times):
            start = time.process_time()
            call()
            if turn:
                seconds.append(time.process_time() - start)
    return [statistics.median(seconds) for seconds in times]


@torch.inference_mode()
def predict(network: RetinaNet, images: torch.Tensor) -> object:
    return network.eval()(images)


def gradients(network: RetinaNet, images: torch.Tensor, targets: Targets) -> None:
    network.backbone.freeze(2)
    losses = Criterion(iac=None, dc=False)(network.train()(images), targets)
    (losses.classification + losses.regression).backward()


if __name__ == "__main__":
    main()
