"""Time `cledet.ops.focal_loss` and `torchvision.ops.sigmoid_focal_loss`, forward and backward.

    python benchmarks/focal_loss.py [--device cuda] [--rows 64000] [--dtype bfloat16]

torchvision's loss takes a one-hot target and returns a loss per entry; building the target and summing are included.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
import torchvision
from torch import Tensor

from cledet.ops import focal_loss


def ours(logits: Tensor, labels: Tensor) -> Tensor:
    return focal_loss(logits, labels).sum()


def theirs(logits: Tensor, labels: Tensor) -> Tensor:
    target = torch.zeros_like(logits)
    rows = (labels >= 0).nonzero().squeeze(-1)
    target[rows, labels[rows]] = 1
    logits, target = logits[labels != -2], target[labels != -2]
    return torchvision.ops.sigmoid_focal_loss(logits.float(), target.float(), reduction="sum")


def measure(
    loss: Callable[[Tensor, Tensor], Tensor], logits: Tensor, labels: Tensor, rounds: int
) -> tuple[float, float]:
    """Measure the median milliseconds of a forward and backward pass, and the peak memory in MiB (CUDA only)."""
    times = []
    cuda = logits.is_cuda
    if cuda:
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
    for _ in range(rounds + 2):
        logits.grad = None
        start = time.perf_counter()
        loss(logits, labels).backward()
        if cuda:
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    memory = (torch.cuda.max_memory_allocated() - before) / 2**20 if cuda else float("nan")
    return 1000 * statistics.median(times[2:]), memory


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--rows", type=int, default=64000, help="anchors; a batch of 16 images has 16 * 20000")
    parser.add_argument("--classes", type=int, default=80)
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16", "float16"])
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()

    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(args.rows, args.classes, generator=generator) - 4
    labels = torch.randint(args.classes, (args.rows,), generator=generator)
    chance = torch.rand(args.rows, generator=generator)
    labels = labels.where(chance < 0.01, -1).where(chance < 0.98, -2)
    logits = logits.to(args.device, getattr(torch, args.dtype)).requires_grad_()
    labels = labels.to(args.device)

    (slow, slow_memory), (fast, fast_memory) = (measure(loss, logits, labels, args.rounds) for loss in (theirs, ours))
    print(f"[{args.rows}, {args.classes}] {args.dtype} on {args.device}, forward and backward")
    print(f"torchvision {slow:8.2f} ms {slow_memory:8.0f} MiB")
    print(f"cledet      {fast:8.2f} ms {fast_memory:8.0f} MiB")
    print(f"torchvision / cledet: {slow / fast:.2f}")


if __name__ == "__main__":
    main()
