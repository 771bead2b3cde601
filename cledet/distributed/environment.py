"""Detection of a distributed launch (torchrun, SLURM or cledet) from environment variables, without torch."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

from cledet.errors import UserError

Environment = Mapping[str, str]
SPECIAL_STEPS = 0xFFFFFFF0
"""First of SLURM's reserved step ids, such as those of batch scripts and interactive shells."""


def in_group(nnodes: int = 1, environ: Environment = os.environ) -> bool:
    """Return whether a launcher started this process as one of several.

    With `--nnodes` above 1, the tasks of SLURM launch processes themselves.
    """
    return _from_torch(environ) or (nnodes == 1 and _from_slurm(environ))


def rank(environ: Environment = os.environ) -> int:
    """Return the rank of this process."""
    if _from_torch(environ):
        return _number(environ, "RANK")
    return _number(environ, "SLURM_PROCID") if _from_slurm(environ) else 0


def group_environment(environ: Environment = os.environ) -> dict[str, str]:
    """Return the variables that torch's `env://` needs and that are not set, derived from SLURM's."""
    if not in_group(environ=environ):
        return {}
    if _from_torch(environ):
        missing = [key for key in ("MASTER_ADDR", "MASTER_PORT") if key not in environ]
        if missing and _number(environ, "WORLD_SIZE") > 1:
            raise UserError(f"RANK and WORLD_SIZE are set, but {missing[0]} is not", "set it, or unset them")
        wanted = {"LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}
    else:
        wanted = _slurm_environment(environ)
    return {key: value for key, value in wanted.items() if key not in environ}


def _from_torch(environ: Environment) -> bool:
    """Return whether torchrun or cledet started this process: both set LOCAL_RANK, also for a single process."""
    processes = _number(environ, "WORLD_SIZE")
    return 0 <= _number(environ, "RANK") < processes and ("LOCAL_RANK" in environ or processes > 1)


def _from_slurm(environ: Environment) -> bool:
    """Return whether this is one of several tasks of an `srun`, and not a batch script or shell with such variables."""
    tasks = _number(environ, "SLURM_STEP_NUM_TASKS")  # a batch script has SLURM_NTASKS only: what its job may start
    shell = "SLURM_PTY_PORT" in environ or not 0 <= _number(environ, "SLURM_STEP_ID") < SPECIAL_STEPS
    return tasks > 1 and 0 <= _number(environ, "SLURM_PROCID") < tasks and not shell


def _slurm_environment(environ: Environment) -> dict[str, str]:
    nodes = environ.get("SLURM_STEP_NODELIST") or environ.get("SLURM_JOB_NODELIST", "")
    alone = environ.get("SLURM_STEP_NUM_NODES") == "1"
    if not nodes and not alone:
        raise UserError("SLURM does not report the nodes of this step", "set MASTER_ADDR to the first one's name")
    seed = _number(environ, "SLURM_JOB_ID") + _number(environ, "SLURM_STEP_ID")
    return {
        "RANK": environ["SLURM_PROCID"],
        "WORLD_SIZE": environ["SLURM_STEP_NUM_TASKS"],
        "LOCAL_RANK": environ.get("SLURM_LOCALID", "0"),
        "LOCAL_WORLD_SIZE": str(_local_tasks(environ)),
        "MASTER_ADDR": "127.0.0.1" if alone else first_host(nodes),
        "MASTER_PORT": str(12_000 + seed % 20_000),  # below the range of ephemeral ports
    }


def first_host(nodes: str) -> str:
    """Return the first host of SLURM's list: `gpu[01-04,7],login` -> `gpu01`."""
    first = re.match(r"(?:[^,\[]|\[[^\]]*\])*", nodes)
    assert first is not None  # the pattern also matches an empty string
    return re.sub(r"\[([^],-]+)[^]]*\]", r"\1", first.group())


def _local_tasks(environ: Environment) -> int:
    """Return the number of tasks on this node from a list like `2(x3),1`."""
    listed = environ.get("SLURM_STEP_TASKS_PER_NODE") or environ.get("SLURM_TASKS_PER_NODE", "1")
    counts: list[int] = []
    for count, times in re.findall(r"(\d+)(?:\(x(\d+)\))?", listed):
        counts += [int(count)] * int(times or 1)
    return counts[min(max(_number(environ, "SLURM_NODEID"), 0), len(counts) - 1)] if counts else 1


def _number(environ: Environment, key: str) -> int:
    """Return the value of the variable; -1 if it is not set or not a number."""
    text = environ.get(key, "")
    return int(text) if text.isdecimal() else -1
