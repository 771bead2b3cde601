"""The processes of a run, and what they tell each other; a process alone is a group of one, and says nothing.

They are started by `cledet.distributed.launch`, torchrun or SLURM. Process 0 leads: it alone writes files and speaks.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from cledet.distributed.environment import group_environment

T = TypeVar("T")
PATIENCE = timedelta(minutes=30)
"""How long processes wait for one: the leader alone scores what was found, and downloads."""


@contextmanager
def process_group() -> Iterator[None]:
    """Within it, a process that was started as one of several is joined with the others.

    What is on a GPU goes over NCCL, all else over gloo.
    """
    os.environ.update(group_environment())
    if dist.is_initialized() or int(os.environ.get("WORLD_SIZE", 1)) == 1:
        yield
        return
    dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo", timeout=PATIENCE)
    try:
        yield
    finally:
        dist.destroy_process_group()


def rank() -> int:
    """This process's number, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def local_rank() -> int:
    """Its number among those of this machine."""
    return int(os.environ.get("LOCAL_RANK", 0))


def world_size() -> int:
    """How many processes there are."""
    return dist.get_world_size() if dist.is_initialized() else 1


def is_main_process() -> bool:
    """Whether this is the process that writes files and speaks."""
    return rank() == 0


def all_reduce_sum(value: Tensor) -> Tensor:
    """The sum of the processes' values [...], on each of them."""
    if world_size() == 1:
        return value
    value = value.detach().clone()
    dist.all_reduce(value)
    return value


def all_true(condition: bool) -> bool:
    """Whether it holds in all processes."""
    return condition if world_size() == 1 else int(all_reduce_sum(torch.tensor(int(condition)))) == world_size()


def broadcast(value: T) -> T:
    """The leader's value, in all processes."""
    if world_size() == 1:
        return value
    held: list[Any] = [value]
    dist.broadcast_object_list(held, src=0)
    return held[0]


def all_gather(value: T) -> list[T]:
    """The values of all processes, in order, in each of them."""
    if world_size() == 1:
        return [value]
    values: list[Any] = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


def data_parallel(network: nn.Module, device: torch.device) -> nn.Module:
    """The network with gradients averaged over the processes; alone, as it is."""
    if world_size() == 1:
        return network
    if device.type == "cuda":
        torch.cuda.set_device(device)
    return DistributedDataParallel(network, device_ids=[device] if device.type == "cuda" else None)


def gradient_sync(network: nn.Module, now: bool) -> AbstractContextManager[None]:
    """Average gradients of a `data_parallel` network over the processes, or keep them for later."""
    if now or not isinstance(network, DistributedDataParallel):
        return nullcontext()
    return network.no_sync()


@contextmanager
def main_process_first() -> Iterator[None]:
    """Within it the leader goes before the others, who then find what it downloaded, or fail as it did."""
    if world_size() > 1 and not is_main_process():
        dist.barrier()
    try:
        yield
    finally:
        if world_size() > 1 and is_main_process():
            dist.barrier()
