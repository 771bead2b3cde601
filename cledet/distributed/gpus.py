"""Idle CUDA GPUs, from the metrics of nvidia-smi or CUDA."""

from __future__ import annotations

import csv
import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch

IDLE_MEMORY = 0.8
"""Minimum share of free memory of an idle GPU."""
IDLE_PERCENT = 10
"""Utilization in percent below which a GPU is idle."""
QUERY = "index,name,memory.total,memory.free,utilization.gpu"


@dataclass(frozen=True)
class Gpu:
    """A GPU with torch's index, or nvidia-smi's in its list; memory in MiB, `busy` in percent, 0 if unknown."""

    index: int
    free: int
    total: int
    busy: int = 0
    name: str = ""

    @property
    def idle(self) -> bool:
        """True if memory and utilization are below the limits."""
        return self.free >= IDLE_MEMORY * self.total and self.busy < IDLE_PERCENT

    def __str__(self) -> str:
        return f"{self.index}: {(self.total - self.free) / 1024:.1f} GiB in use, {self.busy} % busy"


def idle_gpus(gpus: Sequence[Gpu]) -> tuple[list[Gpu], str]:
    """Select the idle GPUs, or else the one with most free memory; also return the reason for the choice."""
    chosen = [gpu for gpu in gpus if gpu.idle]
    reason = f"{len(chosen)} of {len(gpus)} GPUs are idle: " + ", ".join(str(gpu.index) for gpu in chosen)
    if not chosen:
        chosen = [idlest(gpus)]
        reason += f"{chosen[0].index} has the most memory free"
    rest = "; ".join(str(gpu) for gpu in gpus if not gpu.idle)
    return chosen, f"{reason} ({rest})" if rest else reason


def idlest(gpus: Sequence[Gpu]) -> Gpu:
    """Select one GPU: idle before busy, then by free memory, then by index."""
    return max(gpus, key=lambda gpu: (gpu.idle, gpu.free, -gpu.index))


def cuda_gpus() -> list[Gpu]:
    """Measure the GPUs that torch can use.

    nvidia-smi comes first: CUDA needs a context on each GPU, which takes memory there, and does not report utilization.
    """
    count = torch.cuda.device_count()
    gpus = visible_gpus(parse_nvidia_smi(query_nvidia_smi()), os.environ)
    if len(gpus) == count:
        return gpus
    mib = 1024**2
    memory = [torch.cuda.mem_get_info(i) for i in range(count)]
    return [Gpu(index=i, free=free // mib, total=total // mib) for i, (free, total) in enumerate(memory)]


def query_nvidia_smi() -> str:
    """Return nvidia-smi's table, one line per GPU; empty if it is not installed or fails."""
    command = ["nvidia-smi", f"--query-gpu={QUERY}", "--format=csv,noheader,nounits"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return ""


def parse_nvidia_smi(table: str) -> list[Gpu]:
    """Parse nvidia-smi's table; a GPU without memory metrics (`[N/A]`) is skipped."""
    gpus = []
    for row in csv.reader(table.splitlines(), skipinitialspace=True):
        if len(row) == len(QUERY.split(",")) and row[2].isdecimal() and row[3].isdecimal():
            index, name, total, free, busy = row
            gpus.append(Gpu(int(index), int(free), int(total), int(busy) if busy.isdecimal() else 0, name))
    return gpus


def visible_gpus(listed: Sequence[Gpu], environ: Mapping[str, str]) -> list[Gpu]:
    """Renumber nvidia-smi's GPUs as CUDA does, by the numbers in CUDA_VISIBLE_DEVICES; none if the order is unknown.

    CUDA sorts by speed and nvidia-smi by bus id. Both agree if all GPUs are of one model, or if CUDA_DEVICE_ORDER is
    PCI_BUS_ID.
    """
    if len({gpu.name for gpu in listed}) > 1 and environ.get("CUDA_DEVICE_ORDER") != "PCI_BUS_ID":
        return []
    by_index = {str(gpu.index): gpu for gpu in listed}
    words = environ.get("CUDA_VISIBLE_DEVICES", ",".join(by_index)).split(",")
    visible = [by_index[word.strip()] for word in words if word.strip() in by_index]
    return [replace(gpu, index=i) for i, gpu in enumerate(visible)]
