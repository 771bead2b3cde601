"""Timing of the stages of an evaluation."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch

DATA, NETWORK, POST, EVALUATION = "data", "network", "post-processing", "evaluation"
"""The stages: loading images, the network and decoding, NMS, computing metrics."""


class StageTimer:
    """Wall-clock seconds of each stage in order of first use, with the device synchronized at the end of each."""

    def __init__(self, device: torch.device | None = None) -> None:
        self.device = device or torch.device("cpu")
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Add the time spent in the context to a stage."""
        start = time.perf_counter()
        try:
            yield
        finally:
            synchronize(self.device)
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start

    def summary(self, images: int) -> str:
        """Format the seconds of each stage, with milliseconds per image for all but the evaluation."""
        parts = [
            f"{name} {seconds:.2f} s" + (f" ({1000 * seconds / images:.1f} ms/image)" if name != EVALUATION else "")
            for name, seconds in self.seconds.items()
        ]
        return ", ".join(parts)


def synchronize(device: torch.device) -> None:
    """Wait until the device has finished its work."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
