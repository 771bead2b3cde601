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
QUERY = "index,uuid,name,memory.total,memory.free,utilization.gpu"


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """A GPU with torch's index, or nvidia-smi's in its list; memory in MiB, `busy` in percent or None if unknown."""

    index: int
    free: int
    total: int
    busy: int | None = None
    uuid: str = ""
    name: str = ""

    @property
    def idle(self) -> bool:
        """True if memory and utilization, where known, are below the limits."""
        return self.free >= IDLE_MEMORY * self.total and (self.busy or 0) < IDLE_PERCENT

    def __str__(self) -> str:
        reasons = []
        if self.free < IDLE_MEMORY * self.total:
            reasons.append(f"{(self.total - self.free) / 1024:.1f} GiB in use")
        if self.busy is not None and self.busy >= IDLE_PERCENT:
            reasons.append(f"{self.busy} % busy")
        return f"{self.index}: {' and '.join(reasons) or 'idle'}"


def idle_gpus(gpus: Sequence[Gpu]) -> tuple[list[Gpu], str]:
    """Select the idle GPUs, or else the one with most free memory; also return the reason for the choice."""
    idle = [gpu for gpu in gpus if gpu.idle]
    rest = "; ".join(str(gpu) for gpu in gpus if not gpu.idle)
    if len(idle) == len(gpus):
        return idle, f"all {len(gpus)} GPUs are idle" if len(gpus) > 1 else ""
    if idle:
        verb = "is" if len(idle) == 1 else "are"
        numbers = ", ".join(str(gpu.index) for gpu in idle)
        return idle, f"{len(idle)} of {len(gpus)} GPUs {verb} idle: {numbers} ({rest})"
    if len(gpus) == 1:
        return list(gpus), f"the only GPU is not idle ({rest})"
    best = idlest(gpus)
    return [best], f"none of {len(gpus)} GPUs is idle ({rest}): {best.index} has the most memory free"


def idlest(gpus: Sequence[Gpu]) -> Gpu:
    """Select one GPU: idle before busy, then by free memory, then by index."""
    return max(gpus, key=lambda gpu: (gpu.idle, gpu.free, -gpu.index))


def cuda_gpus() -> list[Gpu]:
    """Measure the GPUs that torch can use.

    nvidia-smi comes first: CUDA needs a context on each GPU, which takes memory there, and does not report utilization.
    """
    count = torch.cuda.device_count()
    gpus = visible_gpus(parse_nvidia_smi(query_nvidia_smi()), os.environ)
    if gpus is not None and len(gpus) == count:
        return gpus
    mib = 1024**2
    memory = [torch.cuda.mem_get_info(i) for i in range(count)]
    return [Gpu(index=i, free=free // mib, total=total // mib) for i, (free, total) in enumerate(memory)]


def query_nvidia_smi() -> str:
    """Return nvidia-smi's table, one line per GPU; empty if it is not installed or fails."""
    command = ["nvidia-smi", f"--query-gpu={QUERY}", "--format=csv,noheader,nounits"]
    try:
        process = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return process.stdout


def parse_nvidia_smi(table: str) -> list[Gpu]:
    """Parse nvidia-smi's table; a GPU without memory metrics (`[N/A]`) is skipped."""
    gpus = []
    for row in csv.reader(table.splitlines(), skipinitialspace=True):
        if len(row) != len(QUERY.split(",")):
            continue
        index, uuid, name, total, free, busy = (cell.strip() for cell in row)
        if not (index.isdecimal() and total.isdecimal() and free.isdecimal()):
            continue
        percent = int(busy) if busy.isdecimal() else None
        gpus.append(Gpu(index=int(index), free=int(free), total=int(total), busy=percent, uuid=uuid, name=name))
    return gpus


def visible_gpus(listed: Sequence[Gpu], environ: Mapping[str, str]) -> list[Gpu] | None:
    """Renumber nvidia-smi's GPUs as CUDA does, by CUDA_VISIBLE_DEVICES; None if the order is unknown.

    CUDA sorts by speed and nvidia-smi by bus id. Both agree if all GPUs are of one model, or if CUDA_DEVICE_ORDER is
    PCI_BUS_ID.
    """
    same_model = len({gpu.name for gpu in listed}) == 1
    if not listed or not (same_model or environ.get("CUDA_DEVICE_ORDER") == "PCI_BUS_ID"):
        return None
    chosen = environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is None:
        return [replace(gpu, index=i) for i, gpu in enumerate(listed)]
    visible: list[Gpu] = []
    for word in chosen.split(","):
        matching = [gpu for gpu in listed if _is_named(gpu, word.strip())]
        if len(matching) != 1:
            break  # CUDA ignores everything after a wrong name
        visible.append(replace(matching[0], index=len(visible)))
    return visible


def _is_named(gpu: Gpu, word: str) -> bool:
    return gpu.uuid.startswith(word) if word.startswith("GPU-") else word == str(gpu.index)
