"""Collective operations over the processes of a run; without a process group each returns its input.

The processes are started by `cledet.distributed.launch`, torchrun or SLURM. The main process, of rank 0, alone writes
files and prints.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from cledet.distributed.environment import group_environment

T = TypeVar("T")
TIMEOUT = timedelta(minutes=30)
"""How long processes wait for each other: the main process alone computes metrics and downloads."""


@contextmanager
def process_group() -> Iterator[None]:
    """Join the processes that were launched together for the block; NCCL carries GPU tensors, gloo all other data."""
    os.environ.update(group_environment())
    if dist.is_initialized() or int(os.environ.get("WORLD_SIZE", 1)) == 1:
        yield
        return
    dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo", timeout=TIMEOUT)
    try:
        yield
    finally:
        dist.destroy_process_group()


def rank() -> int:
    """Return the rank of this process."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """Return the number of processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


def is_main_process() -> bool:
    """Return whether this is the process that writes files and prints."""
    return rank() == 0


def all_reduce_sum(value: Tensor) -> Tensor:
    """Sum a tensor [...] over all processes; the input is not changed."""
    if world_size() == 1:
        return value
    value = value.detach().clone()
    dist.all_reduce(value)
    return value


def broadcast(value: T) -> T:
    """Send the main process's value to all processes."""
    values: list[Any] = [value]
    if world_size() > 1:
        dist.broadcast_object_list(values, src=0)
    return values[0]


def from_main(function: Callable[[], T]) -> T:
    """Call the function in the main process only, and return its value in all processes."""
    return broadcast(function() if is_main_process() else None)  # type: ignore[return-value]


def all_gather(value: T) -> list[T]:
    """Collect the values of all processes, in the order of ranks."""
    if world_size() == 1:
        return [value]
    values: list[Any] = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


def data_parallel(network: nn.Module, device: torch.device) -> nn.Module:
    """Wrap the network so that gradients are averaged over the processes; one process gets the network itself."""
    if world_size() == 1:
        return network
    if device.type == "cuda":
        torch.cuda.set_device(device)
    return DistributedDataParallel(network, device_ids=[device] if device.type == "cuda" else None)


def gradient_sync(network: nn.Module, now: bool) -> AbstractContextManager[None]:
    """Average gradients of a `data_parallel` network in this backward pass, or accumulate them locally."""
    return network.no_sync() if isinstance(network, DistributedDataParallel) and not now else nullcontext()


@contextmanager
def main_process_first() -> Iterator[None]:
    """Run the block in the main process first, so that the others reuse its downloads, or fail as it did."""
    if not is_main_process():
        dist.barrier()
    try:
        yield
    finally:
        if world_size() > 1 and is_main_process():
            dist.barrier()
