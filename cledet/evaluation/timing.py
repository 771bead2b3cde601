"""Where a validation's time goes."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch

T = TypeVar("T")


class Stages:
    """Wall-clock seconds of each stage, in the order in which they first came up; what a device does counts as done
    when it is."""

    def __init__(self, device: torch.device | None = None) -> None:
        self.device = device or torch.device("cpu")
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Within it, time is counted as that stage's."""
        start = time.perf_counter()
        try:
            yield
        finally:
            finish(self.device)
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start

    def waiting(self, name: str, values: Iterable[T]) -> Iterator[T]:
        """The values; what they take to come is counted as that stage's."""
        iterator, end = iter(values), object()
        while True:
            with self(name):
                value = next(iterator, end)
            if value is end:
                return
            yield value  # type: ignore[misc]  # not the end

    def sentence(self, images: int) -> str:
        """Seconds of each stage, and of those that go image by image milliseconds of one."""
        parts = [
            f"{name} {seconds:.2f} s" + (f" ({1000 * seconds / images:.1f} ms an image)" if name != EVALUATION else "")
            for name, seconds in self.seconds.items()
        ]
        return ", ".join(parts)


def finish(device: torch.device) -> None:
    """Wait until the device has done what it was told."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


DATA, NETWORK, POST, EVALUATION = "data", "network", "post-processing", "evaluation"
"""The stages: waiting for images, the network and decoding, NMS, figures."""
