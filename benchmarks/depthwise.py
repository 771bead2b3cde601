"""Time lite0's depthwise convolutions, forward and backward on a CPU, in bfloat16 and float32.

python benchmarks/depthwise.py
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F

SHAPES = [  # channels, height, width, kernel, stride: the trained stages at 320x448
    (144, 80, 112, 5, 2),
    (240, 40, 56, 5, 1),
    (240, 40, 56, 3, 2),
    (480, 20, 28, 3, 1),
    (672, 20, 28, 5, 1),
    (1152, 10, 14, 5, 1),
]
IMAGES, REPEATS = 8, 7


def milliseconds(function: Callable[[], object]) -> float:
    """Measure the median milliseconds of a call."""
    function()
    times = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        function()
        times.append(1e3 * (time.perf_counter() - start))
    return statistics.median(times)


def main() -> None:
    print(f"{torch.get_num_threads()} threads; forward and backward, ms, medians of {REPEATS}")
    totals = [0.0, 0.0]
    for channels, height, width, kernel, stride in SHAPES:
        x = torch.randn(IMAGES, channels, height, width, dtype=torch.bfloat16)
        x = x.contiguous(memory_format=torch.channels_last).requires_grad_()
        weight = torch.randn(channels, 1, kernel, kernel, requires_grad=True)

        def step(dtype: torch.dtype, x=x, weight=weight, kernel=kernel, stride=stride, channels=channels) -> None:
            y = F.conv2d(x.to(dtype), weight.to(dtype), None, stride, kernel // 2, groups=channels).bfloat16()
            torch.autograd.grad(y.sum(), (x, weight))

        narrow, wide = milliseconds(lambda s=step: s(torch.bfloat16)), milliseconds(lambda s=step: s(torch.float32))
        totals = [totals[0] + narrow, totals[1] + wide]
        shape = f"{channels}x{height}x{width} {kernel}x{kernel}/{stride}"
        print(f"{shape:>22}: bfloat16 {narrow:7.1f}  float32 {wide:7.1f}  ratio {narrow / wide:.2f}")
    print(f"{'together':>22}: bfloat16 {totals[0]:7.1f}  float32 {totals[1]:7.1f}  ratio {totals[0] / totals[1]:.2f}")


if __name__ == "__main__":
    main()
