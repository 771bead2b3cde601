"""Launch of a command as several worker processes, one per device, on this machine or on several."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from datetime import timedelta
from pathlib import Path
from urllib.parse import urlsplit

from torch.distributed import DistError, TCPStore  # type: ignore[attr-defined]  # public, but in no __all__

from cledet.console import warn
from cledet.distributed.devices import cores
from cledet.distributed.worker_process import WorkerProcess, intended_end, report, watch
from cledet.errors import Interrupted, ProcessFailed, UserError
from cledet.io.locks import temporary_folder
from cledet.signals import interrupts

PORT = 29500
"""Default port of --rdzv-endpoint."""
JOIN_TIMEOUT = timedelta(minutes=15)
"""How long machines wait for each other before each start of the workers."""
LEAVE_TIMEOUT = timedelta(seconds=60)
"""How long the machine of rank 0 waits for the others after its own workers have ended."""
OTHER_NODE = ("another node has ended the run", "its output tells the reason")


class Nodes:
    """The machines of a run, which agree on ranks and on the address of the workers' store before each start.

    torch's TCPStore on the machine of rank 0 connects them. A run on one machine is the case of one node.
    """

    def __init__(self, number: int, rank: int, endpoint: str) -> None:
        self.number, self.rank = number, rank
        self.host, self.port = ("localhost", 0) if number == 1 else parse_endpoint(endpoint)
        self.store = self._connect()
        self.worker_store: TCPStore | None = None

    def _connect(self) -> TCPStore:
        """Open the store once all machines are there. Raises UserError after JOIN_TIMEOUT."""
        while True:
            try:
                store = TCPStore(self.host, self.port, self.number, is_master=self.rank == 0, timeout=JOIN_TIMEOUT)
            except DistError as error:
                hint = "start the same command on each machine with its own --node-rank; rank 0 listens at the endpoint"
                message = f"the {self.number} nodes did not connect at {self.host}:{self.port}"
                raise UserError(f"{message}: {str(error).splitlines()[0]}", hint) from error
            with suppress(DistError):  # the store of an earlier launch, which is about to close
                if store.add(f"joined/{self.rank}", 1) == 1:
                    return store
            time.sleep(0.1)

    def agree(self, start: int, processes: int) -> list[dict[str, str]]:
        """Return the environment variables of this machine's workers, once all machines are ready for the start."""
        self.store.set(f"{start}/processes/{self.rank}", str(processes))
        keys = [f"{start}/processes/{node}" for node in range(self.number)]
        deadline = time.monotonic() + JOIN_TIMEOUT.total_seconds()
        while not self.store.check(keys):
            if self.failed() or time.monotonic() > deadline:
                raise UserError(*OTHER_NODE)
            time.sleep(0.1)
        counts = [int(self.store.get(key)) for key in keys]
        if self.rank == 0:  # a store per start, at a free port: keys of an earlier start would mislead the workers
            self.worker_store = TCPStore(self.host, 0, is_master=True, wait_for_workers=False)
            self.store.set(f"{start}/port", str(self.worker_store.port))
        shared = {
            "WORLD_SIZE": str(sum(counts)),
            "LOCAL_WORLD_SIZE": str(processes),
            "MASTER_ADDR": self.host,
            "MASTER_PORT": self.store.get(f"{start}/port").decode(),
            "TORCHELASTIC_USE_AGENT_STORE": "True",  # workers connect to the store instead of opening one
            "TORCHELASTIC_RESTART_COUNT": str(start),
            "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS") or str(max(1, cores() // processes)),
        }
        first = sum(counts[: self.rank])
        return [{**shared, "RANK": str(first + i), "LOCAL_RANK": str(i)} for i in range(processes)]

    def failed(self) -> bool:
        """Return whether the launcher of a machine has failed."""
        try:
            return self.number > 1 and self.store.check(["failed"])
        except DistError:  # the machine of rank 0 is gone
            return True

    def __enter__(self) -> Nodes:
        return self

    def __exit__(self, failure: object, *_: object) -> None:
        """Tell the other machines that this one has ended; rank 0 keeps the stores open until all have."""
        with suppress(DistError):
            if failure is not None:
                self.store.set("failed", "")
            self.store.set(f"ended/{self.rank}", "")
            if self.rank == 0:
                self.store.wait([f"ended/{node}" for node in range(self.number)], LEAVE_TIMEOUT)


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
    """Run the command in `processes` workers on this machine, one of `nnodes`, until all have succeeded.

    `entry` is MODULE:FUNCTION. The first worker's stderr is shown; all other output goes to files in `log_folder`.
    Raises the UserError or OutputClosed of a worker, Interrupted, KeyboardInterrupt if nothing was saved, or, after
    `max_restarts` restarts, ProcessFailed.
    """
    if log_folder is not None:
        log_folder.mkdir(parents=True, exist_ok=True)
    files = nullcontext(log_folder) if log_folder is not None else temporary_folder()
    with Nodes(nnodes, node_rank, rdzv_endpoint) as nodes, files as folder:
        for start in range(max_restarts + 1):
            failure = _run([entry, *arguments], processes, nodes, folder, start)
            if failure is None:
                return
            if start == max_restarts:
                raise failure
            warn(f"a process failed; start {start + 2} of at most {max_restarts + 1}", *str(failure).split("\n"))


def _run(command: Sequence[str], processes: int, nodes: Nodes, folder: Path, start: int) -> ProcessFailed | None:
    """Start the workers and wait for them; return why they failed. Raises what a restart would not change."""
    try:
        environments = nodes.agree(start, processes)
    except DistError as error:
        raise UserError(*OTHER_NODE) from error
    with interrupts(announce=False) as stop:
        workers = [WorkerProcess(command, environ, folder) for environ in environments]
        failures = watch(workers, stop, nodes.failed)
    records = [worker.record() for worker in workers]
    if stop.number is not None:
        saved = intended_end([record for record in records if "interrupted" in record])
        raise saved or (KeyboardInterrupt() if stop.number == signal.SIGINT else Interrupted(stop.number))
    if failures:
        if (end := intended_end(records)) is not None:
            raise end
        return report(failures, int(environments[0]["WORLD_SIZE"]), socket.gethostname())
    if any(worker.process.returncode for worker in workers):
        raise UserError(*OTHER_NODE)
    return None


def parse_endpoint(text: str) -> tuple[str, int]:
    """Split HOST or HOST:PORT; an IPv6 address is in brackets. Raises UserError for another form or unknown host."""
    try:
        host, port = urlsplit(f"//{text}").hostname, urlsplit(f"//{text}").port
    except ValueError:
        host, port = None, None
    if host is None or port == 0:
        raise UserError(f"--rdzv-endpoint {text} is not HOST or HOST:PORT", "name the machine of --node-rank 0")
    try:
        socket.getaddrinfo(host, port or PORT)
    except OSError as error:
        hint = "give the address of the machine of --node-rank 0"
        raise UserError(f"--rdzv-endpoint {text}: {host} is not known here ({error.strerror})", hint) from None
    return host, port or PORT
