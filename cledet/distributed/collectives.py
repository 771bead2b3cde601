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
def group() -> Iterator[None]:
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


def size() -> int:
    """How many processes there are."""
    return dist.get_world_size() if dist.is_initialized() else 1


def leads() -> bool:
    """Whether this is the process that writes files and speaks."""
    return rank() == 0


def total(value: Tensor) -> Tensor:
    """The sum of the processes' values [...], on each of them."""
    if size() == 1:
        return value
    value = value.detach().clone()
    dist.all_reduce(value)
    return value


def everywhere(condition: bool) -> bool:
    """Whether it holds in all processes."""
    return condition if size() == 1 else int(total(torch.tensor(int(condition)))) == size()


def shared(value: T) -> T:
    """The leader's value, in all processes."""
    if size() == 1:
        return value
    held: list[Any] = [value]
    dist.broadcast_object_list(held, src=0)
    return held[0]


def gathered(value: T) -> list[T]:
    """The values of all processes, in order, in each of them."""
    if size() == 1:
        return [value]
    values: list[Any] = [None] * size()
    dist.all_gather_object(values, value)
    return values


def parallel(network: nn.Module, device: torch.device) -> nn.Module:
    """The network with gradients averaged over the processes; alone, as it is."""
    if size() == 1:
        return network
    if device.type == "cuda":
        torch.cuda.set_device(device)
    return DistributedDataParallel(network, device_ids=[device] if device.type == "cuda" else None)


def synchronizing(network: nn.Module, now: bool) -> AbstractContextManager[None]:
    """Within it, gradients of a `parallel` network are averaged over the processes, or, if not now, kept for later."""
    if now or not isinstance(network, DistributedDataParallel):
        return nullcontext()
    return network.no_sync()


@contextmanager
def leader_first() -> Iterator[None]:
    """Within it the leader goes before the others, who then find what it downloaded, or fail as it did."""
    if size() > 1 and not leads():
        dist.barrier()
    try:
        yield
    finally:
        if size() > 1 and leads():
            dist.barrier()
