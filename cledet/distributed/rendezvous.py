"""Where the launchers of a group's nodes meet, learn of each other's end, and meet again to start anew."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from torch.distributed import DistError
from torch.distributed.elastic.rendezvous import (
    RendezvousClosedError,
    RendezvousHandler,
    RendezvousInfo,
    RendezvousParameters,
    rendezvous_handler_registry,
)
from torch.distributed.elastic.rendezvous.c10d_rendezvous_backend import create_backend
from torch.distributed.elastic.rendezvous.dynamic_rendezvous import create_handler

from cledet.errors import UserError

BACKEND = "cledet"
PORT = 29500
"""Of --rdzv-endpoint, where none is given."""
GRACE = 10.0
"""Seconds in which the processes may end by themselves after another node's have."""
ENDED, LEFT = "ended", "left"
"""Keys of the store: that a node has ended before the run has, and how many have since."""


@dataclass(frozen=True)
class Nodes:
    """The machines of a run: how many, which of them this is, and where they meet. The first one is there."""

    number: int
    rank: int
    host: str
    port: int

    @property
    def place(self) -> str:
        """Of the meeting."""
        return f"{self.host}:{self.port}"


class Meeting(RendezvousHandler):
    """Torch's c10d rendezvous, whose nodes hear within seconds that one of them has ended before the run has.

    `before_again` is called before this node starts anew because a process of its own has failed; what it raises ends
    the run.
    """

    def __init__(self, inner: RendezvousHandler, nodes: Nodes, before_again: Callable[[], None]) -> None:
        self.inner, self.nodes, self.before_again = inner, nodes, before_again
        self.met: RendezvousInfo | None = None
        self.invited = False  # by a node that starts anew
        self.heard: float | None = None  # when another node ended

    def next_rendezvous(self) -> RendezvousInfo:
        """Wait for all nodes; raises RendezvousError if they do not come."""
        if self.met is not None and not self.invited:
            self.before_again()
        self.invited, self.heard = False, None
        self.met = self.inner.next_rendezvous()
        return self.met

    def num_nodes_waiting(self) -> int:
        """How many wait to start anew; torch asks ten times a second. Raises RendezvousClosedError if one has ended."""
        if self.met is not None and self.met.store.check([ENDED]):
            self.heard = self.heard or time.monotonic()
            if time.monotonic() - self.heard > GRACE:
                raise RendezvousClosedError
        waiting = self.inner.num_nodes_waiting()
        self.invited = waiting > 0
        return waiting

    def tell_end(self) -> None:
        """Let the other nodes know that this one ends, and the run with it; their store stays until they have left."""
        self.shutdown()
        if self.met is None:
            return
        with suppress(DistError):  # the node that keeps the store is gone
            self.met.store.set(ENDED, "1")
            left = self.met.store.add(LEFT, 1)
            patience = time.monotonic() + GRACE + 5
            while self.nodes.rank == 0 and left < self.nodes.number and time.monotonic() < patience:
                time.sleep(0.1)
                left = self.met.store.add(LEFT, 0)

    def get_backend(self) -> str:
        """The name that torch's log has for it."""
        return BACKEND

    def get_run_id(self) -> str:
        """As given to torch."""
        return self.inner.get_run_id()

    def is_closed(self) -> bool:
        """Whether there will be no other start."""
        return self.inner.is_closed()

    def set_closed(self) -> None:
        """Let there be no other start."""
        self.inner.set_closed()

    def shutdown(self) -> bool:
        """Let there be no other start, and stop the heartbeats."""
        return self.inner.shutdown()


def _meet(parameters: RendezvousParameters) -> RendezvousHandler:
    backend, store = create_backend(parameters)
    wrap: Callable[[RendezvousHandler], Meeting] = parameters.config["wrap"]
    return wrap(create_handler(store, backend, parameters))


rendezvous_handler_registry.register(BACKEND, _meet)


def nodes_of(number: int, rank: int, endpoint: str) -> Nodes:
    """The nodes by --nnodes, --node-rank and --rdzv-endpoint, a host that is known here; one node meets nobody."""
    if number == 1:
        return Nodes(1, 0, "localhost", 0)
    host, port = parse_endpoint(endpoint)
    try:
        socket.getaddrinfo(host.strip("[]"), port)
    except OSError as error:
        hint = "give the address of the machine of --node-rank 0"
        raise UserError(f"--rdzv-endpoint {endpoint}: {host} is not known here ({error.strerror})", hint) from None
    return Nodes(number, rank, host, port)


def parse_endpoint(text: str) -> tuple[str, int]:
    """`host` or `host:port` -> both; an IPv6 address is in brackets."""
    host, colon, port = text.rpartition(":")
    if not colon or text.endswith("]"):
        return text, PORT
    if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
        raise UserError(f"--rdzv-endpoint {text} is not HOST or HOST:PORT", "name the machine of --node-rank 0")
    return host, int(port)


def no_meeting(error: Exception, nodes: Nodes) -> UserError:
    """What the user is told when the nodes did not meet."""
    hint = "start the same command on each, with its own --node-rank; that of rank 0 listens there"
    detail = (str(error.__cause__ or error).splitlines() or [type(error).__name__])[0]
    return UserError(f"the {nodes.number} nodes did not meet at {nodes.place}: {detail}", hint)
