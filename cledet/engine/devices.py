"""Which device a command runs on, and in which precision."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager
from pathlib import Path

import torch

from cledet.errors import UserError


def pick_device(wanted: str) -> torch.device:
    """`auto` (a CUDA GPU, else MPS, else the CPU), `cpu`, `cuda`, `cuda:1`, `1` or `mps` -> a device that is there."""
    if wanted == "auto":
        return _best_device()
    name = f"cuda:{wanted}" if wanted.isdigit() else wanted
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"--device {wanted} names no single device", "auto, cpu, cuda, cuda:1, 1 or mps") from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(f"--device {wanted}: this machine shows {torch.cuda.device_count()} CUDA GPUs", "try auto")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise UserError("--device mps: this machine has no MPS device", "try auto")
    if device.type not in ("cpu", "cuda", "mps"):
        raise UserError(f"--device {wanted} is not supported", "auto, cpu, cuda, cuda:1, 1 or mps")
    return device


def _best_device() -> torch.device:
    if torch.cuda.is_available():
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def describe(device: torch.device) -> str:
    """The device in words: `cuda:0 (NVIDIA A100)`, `cpu (8 threads)`."""
    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    return f"cpu ({torch.get_num_threads()} threads)" if device.type == "cpu" else str(device)


def amp_dtype(device: torch.device, amp: str) -> torch.dtype | None:
    """The precision of autocast, or None for plain float32; `auto` is bf16 where the device computes it natively."""
    if amp == "auto":
        return torch.bfloat16 if _has_bf16(device) else None
    if amp == "fp16" and device.type != "cuda":
        raise UserError(f"--amp fp16 needs a CUDA GPU, not {device.type}", "use --amp bf16 or off")
    return {"off": None, "bf16": torch.bfloat16, "fp16": torch.float16}[amp]


def _has_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type != "cpu":
        return False
    try:
        with open("/proc/cpuinfo") as file:
            flags = next((line for line in file if line.startswith("flags")), "")
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags


def autocast(device: torch.device, dtype: torch.dtype | None) -> AbstractContextManager[None]:
    """Mixed precision of that dtype; nothing for None."""
    return torch.autocast(device.type, dtype=dtype or torch.bfloat16, enabled=dtype is not None)


def default_workers(wanted: int) -> int:
    """Loader processes: no more than the CPUs that this process may use."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(wanted, allowed)


def memory_used(device: torch.device) -> int:
    """Bytes of the device's memory that this process holds; on a CPU those of its own, 0 where that is not known."""
    if device.type == "cuda":
        return torch.cuda.memory_reserved(device)
    if device.type == "mps":
        return torch.mps.driver_allocated_memory()
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")
