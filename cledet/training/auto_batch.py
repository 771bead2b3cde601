"""How large a batch fits into memory: tried in processes of their own, with as much on each image as the data have."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from cledet.config.base import long_side
from cledet.config.train import TrainSettings
from cledet.console import say
from cledet.data.dataset import Batch
from cledet.distributed.devices import out_of_memory
from cledet.errors import UserError
from cledet.models.network import Architecture, build_network
from cledet.training.init_model import build_criterion
from cledet.training.train_step import TrainStep

SHARE = 0.8
"""How much of the free memory a run may take: allocators waste some, and other programs want some."""
MOST = 128


def largest_batch(settings: TrainSettings, architecture: Architecture, boxes: int, device: torch.device) -> int:
    """The largest batch, a multiple of --accumulate, whose training steps fit on the device.

    boxes: the most ground truths on an image. Memory grows by as much with each image, so two tries tell the rest; on
    CUDA what that promises is tried too. Raises UserError if not even one image fits.
    """
    free = SHARE * _free(device)
    job = {"architecture": architecture.model_dump(), "boxes": boxes, "device": str(device)}
    job["settings"] = settings.model_dump(mode="json") | {"batch": 1, "accumulate": 1}
    one, two = _peak(job, 1), _peak(job, 2)
    if one is None or one > free:
        raise UserError(f"not even one image fits into the memory of {device}", "lower --imgsz, or take a smaller net")
    part = 1 if two is None else 1 + int((free - one) / max(two - one, 1))
    part = min(part, MOST)
    while device.type == "cuda" and part > 1 and _peak(job, part) is None:
        part = part * 3 // 4
    batch = part * settings.accumulate
    say(f"batch {batch}: an image takes {((two or one) - one) / 1e9:.2f} GB of the {free / SHARE / 1e9:.1f} GB free")
    return batch


def _peak(job: dict[str, Any], images: int) -> int | None:
    """Bytes that a training step of so many images takes at most, in a process of its own; None if too many."""
    command = [sys.executable, "-m", "cledet.training.auto_batch"]
    done = subprocess.run(command, input=json.dumps(job | {"images": images}), capture_output=True, text=True)
    if done.returncode in (-9, 137):  # killed by the system for want of memory
        return None
    if done.returncode:
        raise RuntimeError(f"the probe of --batch auto failed:\n{done.stderr}")
    peak = json.loads(done.stdout.splitlines()[-1])
    return None if peak is None else int(peak)


def _free(device: torch.device) -> int:
    """Bytes of memory that are free on the device."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        raise UserError(f"--batch auto cannot tell the free memory of {device} here", "give a number") from None
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))


def step_peak(job: dict[str, Any]) -> int | None:
    """Bytes that this process has held at most after two training steps of the job; None if CUDA had too few."""
    settings, device = TrainSettings(**job["settings"]), torch.device(job["device"])
    network = build_network(Architecture(**job["architecture"]))
    batch = worst_batch(job["images"], settings.imgsz, job["boxes"])
    try:
        train_step = TrainStep(network, build_criterion(settings), settings, device, 10)
        for step in range(2):  # the second has the optimizer's state beside it
            train_step.gradients([batch], step)
            train_step.update(step)
    except RuntimeError as error:
        if not out_of_memory(error):
            raise
        return None
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def worst_batch(images: int, short: int, boxes: int) -> Batch:
    """Images of the largest padded size, each with so many boxes."""
    height, width = (-(-side // 32) * 32 for side in (short, long_side(short)))
    corner = torch.rand(images, boxes, 2) * torch.tensor([width, height]) * 0.8
    size = torch.tensor([[height, width]] * images)
    return Batch(
        images=torch.randint(0, 255, (images, 3, height, width), dtype=torch.uint8),
        sizes=size,
        original_sizes=size,
        boxes=torch.cat([corner, corner + short / 8], -1),
        labels=torch.zeros(images, boxes, dtype=torch.int64),
        counts=torch.full((images,), boxes),
        ignored=torch.zeros(images, 0, 4),
        image_ids=torch.arange(images),
        indices=torch.arange(images),
        dropped=torch.zeros(images, dtype=torch.int64),
    )


if __name__ == "__main__":
    print(json.dumps(step_peak(json.load(sys.stdin))))
