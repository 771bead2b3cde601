"""Devices and precision of a command."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import NamedTuple

import torch

from cledet.distributed.environment import in_group
from cledet.distributed.gpus import cuda_gpus, idle_gpus, idlest
from cledet.errors import UserError

CPU_FEATURES = Path("/proc/cpuinfo")
CHOICES = "auto, cpu, mps, cuda, cuda:1, or 0,2 for two GPUs"


class Picked(NamedTuple):
    """Devices of a run, one per process, and the reason for the choice; empty if there was none to make."""

    devices: tuple[torch.device, ...]
    reason: str = ""


def pick_devices(wanted: str) -> Picked:
    """Select the training devices: `auto` (all idle CUDA GPUs, else MPS, else the CPU), or names as `0,2` or `cpu,cpu`.

    In processes started by a launcher, `auto` is every GPU, as the launcher has chosen their number.
    """
    if wanted != "auto":
        return Picked(_parse(wanted))
    if not torch.cuda.is_available():
        return Picked((_without_cuda(),))
    if in_group():
        return Picked(tuple(torch.device("cuda", i) for i in range(torch.cuda.device_count())))
    gpus, reason = idle_gpus(cuda_gpus())
    return Picked(tuple(torch.device("cuda", gpu.index) for gpu in gpus), reason)


def pick_device(wanted: str) -> torch.device:
    """Select one device: `auto` (the least busy CUDA GPU, else MPS, else the CPU), or a name."""
    if wanted == "auto":
        if not torch.cuda.is_available():
            return _without_cuda()
        return torch.device("cuda", idlest(cuda_gpus()).index if torch.cuda.device_count() > 1 else 0)
    device, *more = _parse(wanted)
    if more:
        raise UserError(f"--device {wanted}: only training uses several devices", f"name one, as --device {device}")
    return device


def own_device(devices: Sequence[torch.device]) -> torch.device:
    """Select the device of this process, number $LOCAL_RANK of $LOCAL_WORLD_SIZE on this machine.

    `cuda:0` alone stands for all visible GPUs, or for the only one that each process can see.
    """
    local_rank, size = int(os.environ.get("LOCAL_RANK", "0")), int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if size == 1 or devices[0].type == "cpu":
        return devices[0]
    if tuple(devices) == (torch.device("cuda", 0),):
        visible = torch.cuda.device_count()
        devices = [torch.device("cuda", i) for i in range(visible)] if visible > 1 else [devices[0]] * size
    if size > len(devices):
        raise UserError(f"{size} processes on this machine have {len(devices)} GPUs", "start as many as there are GPUs")
    return devices[local_rank]


def _without_cuda() -> torch.device:
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def _parse(wanted: str) -> tuple[torch.device, ...]:
    devices = tuple(_parse_one(name.strip(), wanted) for name in wanted.split(","))
    if len({device.type for device in devices}) > 1:
        raise UserError(f"--device {wanted} mixes kinds of devices", "name several of one kind")
    for i, device in enumerate(devices):
        if device.type != "cpu" and device in devices[:i]:
            raise UserError(f"--device {wanted} names {device} twice", "a process needs a GPU of its own")
    return devices


def _parse_one(name: str, wanted: str) -> torch.device:
    """Parse the name of an available device; a CUDA device gets its index."""
    try:
        device = torch.device(f"cuda:{name}" if name.isdecimal() else name)
    except RuntimeError:
        raise UserError(f"--device {wanted}: {name!r} names no device", CHOICES) from None
    if device.type not in ("cpu", "cuda", "mps"):
        raise UserError(f"--device {wanted}: {name} is not supported", CHOICES)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(f"--device {wanted}: this machine shows {torch.cuda.device_count()} CUDA GPUs", "try auto")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise UserError(f"--device {wanted}: this machine has no MPS device", "try auto")
    return torch.device("cuda", device.index or 0) if device.type == "cuda" else torch.device(device.type)


def describe(device: torch.device) -> str:
    """Format the device for messages: `cuda:0 (NVIDIA A100)`, `cpu (8 threads)`."""
    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    return f"cpu ({torch.get_num_threads()} threads)" if device.type == "cpu" else str(device)


def amp_dtype(device: torch.device, amp: str) -> torch.dtype | None:
    """Return the dtype of autocast, None for float32; `auto` is bf16 on devices with native support."""
    if amp == "auto":
        return torch.bfloat16 if _has_bf16(device) else None
    if amp == "fp16" and device.type != "cuda":
        raise UserError(f"--amp fp16 needs a CUDA GPU, not {device.type}", "use --amp bf16 or off")
    return {"off": None, "bf16": torch.bfloat16, "fp16": torch.float16}[amp]


def precision(dtype: torch.dtype | None) -> str:
    """Return the name of a dtype of autocast: float32 for None."""
    return str(dtype or torch.float32).removeprefix("torch.")


def _has_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type != "cpu" or not CPU_FEATURES.is_file():
        return False
    flags = CPU_FEATURES.read_text()
    return "avx512_bf16" in flags or "amx_bf16" in flags


def autocast(device: torch.device, dtype: torch.dtype | None) -> AbstractContextManager[None]:
    """Return torch's autocast context for the dtype, disabled for None."""
    return torch.autocast(device.type, dtype=dtype or torch.bfloat16, enabled=dtype is not None)


@contextmanager
def within_memory(device: torch.device, hint: str) -> Iterator[None]:
    """Turn an out-of-memory error in the block into a UserError with the hint."""
    try:
        yield
    except RuntimeError as error:
        if not out_of_memory(error):
            raise
        raise UserError(f"the memory of {describe(device)} is too small for this", hint) from None


def out_of_memory(error: RuntimeError) -> bool:
    """Return whether the message reports a lack of memory; torch's allocator and CUDA raise different types."""
    return "out of memory" in str(error)


def cpu_name() -> str:
    """Return the name of the processor."""
    lines = CPU_FEATURES.read_text().splitlines() if CPU_FEATURES.is_file() else []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or platform.machine()


def default_workers(wanted: int) -> int:
    """Limit the number of loader processes to the available CPU cores."""
    return min(wanted, cores())


def cores() -> int:
    """Return the number of CPU cores available to this process."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
