"""Largest batch that fits into memory, measured by training steps in separate processes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from cledet.config.base import long_side
from cledet.config.train import TrainSettings
from cledet.console import say
from cledet.data.dataset import Batch, Sample, collate
from cledet.distributed.devices import out_of_memory
from cledet.errors import UserError
from cledet.models.network import Architecture, build_network
from cledet.training.init_model import build_criterion
from cledet.training.train_step import TrainStep

SHARE = 0.8
"""Share of the free memory that a run may use; the rest is for fragmentation and other programs."""
MAX_IMAGES = 128


def find_largest_batch(settings: TrainSettings, architecture: Architecture, boxes: int, device: torch.device) -> int:
    """Find the largest batch, a multiple of --accumulate, whose training steps fit into the memory of the device.

    `boxes` is the largest number of ground truths per image. Memory is linear in the number of images, so two
    measurements give the batch; on CUDA the result is tested as well. Raises UserError if one image does not fit.
    """
    free = SHARE * _free_memory(device)
    job = {"architecture": architecture.model_dump(), "boxes": boxes, "device": str(device)}
    job["settings"] = settings.model_dump(mode="json") | {"batch": 1, "accumulate": 1}
    one, two = _measure_peak(job, 1), _measure_peak(job, 2)
    if one is None or one > free:
        hint = "lower --imgsz, or choose a smaller backbone"
        raise UserError(f"not even one image fits into the memory of {device}", hint)
    part = 1 if two is None else min(1 + int((free - one) / max(two - one, 1)), MAX_IMAGES)
    while device.type == "cuda" and part > 1 and _measure_peak(job, part) is None:
        part = part * 3 // 4
    batch = part * settings.accumulate
    say(f"batch {batch}: {((two or one) - one) / 1e9:.2f} GB per image, {free / SHARE / 1e9:.1f} GB free")
    return batch


def _measure_peak(job: dict[str, Any], images: int) -> int | None:
    """Measure the peak memory in bytes of training steps in a new process; None if memory runs out."""
    command = [sys.executable, "-m", "cledet.training.auto_batch"]
    process = subprocess.run(command, input=json.dumps(job | {"images": images}), capture_output=True, text=True)
    if process.returncode in (-9, 137):  # killed by the system: out of memory
        return None
    if process.returncode:
        raise RuntimeError(f"the measurement of --batch auto failed:\n{process.stderr}")
    peak: int | None = json.loads(process.stdout.splitlines()[-1])
    return peak


def _free_memory(device: torch.device) -> int:
    """Return the free memory of the device in bytes."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        raise UserError(f"--batch auto cannot read the free memory of {device} here", "pass a number") from None
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))


def measure_steps(job: dict[str, Any]) -> int | None:
    """Return the peak memory in bytes of two training steps in this process; None if CUDA runs out of memory."""
    settings, device = TrainSettings(**job["settings"]), torch.device(job["device"])
    network = build_network(Architecture(**job["architecture"]))
    batch = build_largest_images(job["images"], settings.multi_scale[1] or settings.imgsz, job["boxes"])
    try:
        train_step = TrainStep(network, build_criterion(settings), settings, device, 10)
        for step in range(2):  # the optimizer's state exists from the second one on
            train_step.compute_gradients([batch], step)
            train_step.update(step)
    except RuntimeError as error:
        if not out_of_memory(error):
            raise
        return None
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device)
    import resource  # deferred: not on Windows, where _free_memory has refused to measure for the CPU

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def build_largest_images(images: int, short: int, boxes: int) -> Batch:
    """Build a batch of images of the largest padded size with `boxes` ground truths per image."""
    height, width = (-(-side // 32) * 32 for side in (short, long_side(short)))
    corner = torch.rand(boxes, 2) * torch.tensor([width, height]) * 0.8
    image = torch.randint(0, 255, (3, height, width), dtype=torch.uint8)
    truth = torch.cat([corner, corner + short / 8], -1), torch.zeros(boxes, dtype=torch.int64), torch.zeros(0, 4)
    sample = Sample(image, *truth, image_id=0, index=0, original_size=(height, width), dropped=0)
    return collate([sample] * images)


if __name__ == "__main__":
    print(json.dumps(measure_steps(json.load(sys.stdin))))
