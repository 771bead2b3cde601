"""Several processes of one command: started and watched over by torch elastic, on this machine or on several.

All end when one fails, and the user hears why once. Results are the launcher's to print: of the processes only the
first one's stderr is seen, the rest of what they write is in files.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import threading
import uuid
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from torch.distributed import DistError
from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.elastic.rendezvous import RendezvousError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from cledet.distributed.environment import group_environment, in_group
from cledet.distributed.failure_report import verdict
from cledet.distributed.rendezvous import BACKEND, no_meeting, nodes_of
from cledet.distributed.worker_logs import Starts
from cledet.errors import UserError

__all__ = ["group_environment", "in_group", "launch"]

REACHING = 300
"""Seconds in which the machine where nodes meet must answer."""
MEETING = 900
"""Seconds that nodes wait there for each other."""


def launch(
    arguments: Sequence[str],
    processes: int,
    *,
    nnodes: int = 1,
    node_rank: int = 0,
    rdzv_endpoint: str = "",
    max_restarts: int = 0,
    log_folder: Path | None = None,
    entry: str = "cledet.cli:app",
) -> None:
    """Run the command in so many processes on this machine, one of `nnodes`, and return when all have ended well.

    `entry` is MODULE:FUNCTION. Raises what ended the processes: UserError, Interrupted, KeyboardInterrupt before there
    was anything to save, or ProcessFailed, after `max_restarts` new starts.
    """
    nodes = nodes_of(nnodes, node_rank, rdzv_endpoint)
    command = ["-m", "cledet.distributed.worker", entry, *(word.replace("$", "$$") for word in arguments)]
    with _surroundings(log_folder) as folder:
        starts = Starts(folder, nodes, max_restarts)
        with starts:
            _run(_config(starts, processes), command, starts)


def _config(starts: Starts, processes: int) -> LaunchConfig:
    nodes = starts.nodes
    waits = {"read_timeout": REACHING, "join_timeout": MEETING}
    return LaunchConfig(
        min_nodes=nodes.number,
        max_nodes=nodes.number,
        nproc_per_node=processes,
        run_id="cledet" if nodes.number > 1 else uuid.uuid4().hex,
        rdzv_backend=BACKEND,
        rdzv_endpoint=nodes.place,
        rdzv_configs={"is_host": nodes.rank == 0, "wrap": starts.meet, **waits},
        max_restarts=starts.max_restarts,
        logs_specs=starts,
        local_addr=f"node-{nodes.rank:05d}",  # torch ranks nodes by their addresses; Starts gives out the true one
    )


def _run(config: LaunchConfig, command: Sequence[str], starts: Starts) -> None:
    try:
        elastic_launch(config, sys.executable)(*command)
    except ChildFailedError as failed:
        raise verdict(starts.failures(failed), starts.world, socket.gethostname()) from None
    except SignalException as stopped:
        raise starts.interruption(stopped.sigval) from None
    except (RendezvousError, DistError) as error:
        if not starts.count:
            raise no_meeting(error, starts.nodes) from error
        raise starts.interrupted() or UserError("another node has ended the run", "its output says why") from None


@contextmanager
def _surroundings(log_folder: Path | None) -> Iterator[Path]:
    """The folder of the processes' files, within which torch elastic is quiet; signal handlers come back afterwards."""
    with ExitStack() as stack:
        if log_folder is None:
            folder = Path(stack.enter_context(TemporaryDirectory(prefix="cledet-")))
        else:
            folder = log_folder
            folder.mkdir(parents=True, exist_ok=True)
            stack.callback(_tidy, folder)
        stack.enter_context(_own_store())
        stack.enter_context(_handlers_kept())
        stack.enter_context(_quiet())
        yield folder


def _tidy(folder: Path) -> None:
    """Keep only files in which something is written."""
    for path in folder.glob("rank*.*"):
        if path.suffix == ".json" or path.stat().st_size == 0:
            path.unlink()
    if not any(folder.iterdir()):
        folder.rmdir()


@contextmanager
def _own_store() -> Iterator[None]:
    """Let each start have a store of its own: in one that is shared it would read what the last one wrote."""
    key = "TORCH_DISABLE_SHARE_RDZV_TCP_STORE"
    before = os.environ.get(key)
    os.environ[key] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[key]
        else:
            os.environ[key] = before


@contextmanager
def _handlers_kept() -> Iterator[None]:
    """Put back the signal handlers that torch elastic replaces."""
    names = ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT")
    wanted = [getattr(signal, name) for name in names if hasattr(signal, name)]
    before = {number: signal.getsignal(number) for number in wanted}
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            for number, handler in before.items():
                signal.signal(number, handler)


@contextmanager
def _quiet() -> Iterator[None]:
    """Torch elastic's log is not for users, but for those who set LOGLEVEL."""
    logger = logging.getLogger("torch.distributed.elastic")
    before, silence = logger.propagate, logging.NullHandler()
    if "LOGLEVEL" not in os.environ:
        logger.propagate = False
        logger.addHandler(silence)
    try:
        yield
    finally:
        logger.propagate = before
        logger.removeHandler(silence)
