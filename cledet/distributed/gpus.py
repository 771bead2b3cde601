"""Which CUDA GPUs are idle: what nvidia-smi or CUDA say of them, and what is made of it."""

from __future__ import annotations

import csv
import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch

IDLE_MEMORY = 0.8
"""An idle GPU has at least this part of its memory free."""
IDLE_PERCENT = 10
"""An idle GPU computes in less than so many percent of the time."""
QUERY = "index,uuid,name,memory.total,memory.free,utilization.gpu"


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """A GPU by torch's number, or, as nvidia-smi lists it, by its own; memory in MiB, `busy` in percent or unknown."""

    index: int
    free: int
    total: int
    busy: int | None = None
    uuid: str = ""
    name: str = ""

    @property
    def idle(self) -> bool:
        """Whether hardly anything is on it, so far as is known."""
        return self.free >= IDLE_MEMORY * self.total and (self.busy or 0) < IDLE_PERCENT

    def __str__(self) -> str:
        reasons = []
        if self.free < IDLE_MEMORY * self.total:
            reasons.append(f"{(self.total - self.free) / 1024:.1f} GiB in use")
        if self.busy is not None and self.busy >= IDLE_PERCENT:
            reasons.append(f"{self.busy} % busy")
        return f"{self.index}: {' and '.join(reasons) or 'idle'}"


def idle_gpus(gpus: Sequence[Gpu]) -> tuple[list[Gpu], str]:
    """Those that are idle, else the one with most free memory; and why, in a sentence if there is anything to say."""
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
    """An idle one before others, then the one with most free memory, then the first."""
    return max(gpus, key=lambda gpu: (gpu.idle, gpu.free, -gpu.index))


def cuda_gpus() -> list[Gpu]:
    """What is known of the GPUs that torch sees.

    nvidia-smi is asked first: CUDA's own figures need a context on each GPU, which takes memory there, and do not
    tell who computes.
    """
    count = torch.cuda.device_count()
    gpus = visible_gpus(parse_smi(ask_smi()), os.environ)
    if gpus is not None and len(gpus) == count:
        return gpus
    mib = 1024**2
    memory = [torch.cuda.mem_get_info(i) for i in range(count)]
    return [Gpu(index=i, free=free // mib, total=total // mib) for i, (free, total) in enumerate(memory)]


def ask_smi() -> str:
    """nvidia-smi's table, a line a GPU; empty where there is none or it does not answer."""
    command = ["nvidia-smi", f"--query-gpu={QUERY}", "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return answer.stdout


def parse_smi(table: str) -> list[Gpu]:
    """The GPUs of nvidia-smi's table; one whose memory is not told (`[N/A]`) is left out."""
    found = []
    for row in csv.reader(table.splitlines(), skipinitialspace=True):
        if len(row) != len(QUERY.split(",")):
            continue
        index, uuid, name, total, free, busy = (cell.strip() for cell in row)
        if not (index.isdecimal() and total.isdecimal() and free.isdecimal()):
            continue
        percent = int(busy) if busy.isdecimal() else None
        found.append(Gpu(index=int(index), free=int(free), total=int(total), busy=percent, uuid=uuid, name=name))
    return found


def visible_gpus(listed: Sequence[Gpu], environ: Mapping[str, str]) -> list[Gpu] | None:
    """nvidia-smi's GPUs as CUDA numbers them, by CUDA_VISIBLE_DEVICES; None if that cannot be known.

    CUDA's default order is by speed, nvidia-smi's by bus: they agree where all GPUs are of a kind, or CUDA_DEVICE_ORDER
    is PCI_BUS_ID.
    """
    alike = len({gpu.name for gpu in listed}) == 1
    if not listed or not (alike or environ.get("CUDA_DEVICE_ORDER") == "PCI_BUS_ID"):
        return None
    chosen = environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is None:
        return [replace(gpu, index=i) for i, gpu in enumerate(listed)]
    seen: list[Gpu] = []
    for word in chosen.split(","):
        matching = [gpu for gpu in listed if _is_named(gpu, word.strip())]
        if len(matching) != 1:
            break  # as CUDA does: what follows a wrong name is not seen
        seen.append(replace(matching[0], index=len(seen)))
    return seen


def _is_named(gpu: Gpu, word: str) -> bool:
    return gpu.uuid.startswith(word) if word.startswith("GPU-") else word == str(gpu.index)
