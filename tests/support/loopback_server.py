"""A web server on this machine that can be as bad as the real ones."""

from __future__ import annotations

import re
import threading
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest


@dataclass
class Asked:
    """One request, and what was sent in answer."""

    path: str
    range: str | None
    agent: str
    status: int = 0
    sent: int = 0


@dataclass
class Server:
    """What is served, how badly, and what was asked for."""

    files: dict[str, bytes] = field(default_factory=dict)
    ranges: bool = True
    length: bool = True
    """Whether answers say how long they are."""
    shift: int = 0
    """How much further on than asked for an answer starts."""
    refusals: list[int] = field(default_factory=list)
    """The next requests are answered with these codes."""
    cuts: list[int] = field(default_factory=list)
    """The next answers end after so many bytes."""
    stalls: list[int] = field(default_factory=list)
    """The next answers stand still for two seconds after so many bytes, and then end."""
    pause: float = 0.0
    """Seconds between pieces of 16 kB."""
    asked: list[Asked] = field(default_factory=list)
    url: str = ""

    @property
    def ranges_asked(self) -> list[str | None]:
        return [asked.range for asked in self.asked]

    @property
    def sent(self) -> int:
        return sum(asked.sent for asked in self.asked)


class Handler(BaseHTTPRequestHandler):
    """Answers GET as its server's `state` says."""

    def do_GET(self) -> None:
        state: Server = self.server.state
        headers = self.headers
        asked = Asked(self.path, headers.get("Range"), headers.get("User-Agent", ""))
        state.asked.append(asked)
        content = state.files.get(self.path.rpartition("/")[2])
        refusal = state.refusals.pop(0) if state.refusals else 404 if content is None else 0
        start = self._start(state, asked)
        if not refusal and start is not None and start >= len(content):
            refusal = 416
        if refusal:
            asked.status = refusal
            self.send_error(refusal)
            return
        asked.status = 200 if start is None else 206
        self.send_response(asked.status)
        if start is not None:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        if state.length:
            self.send_header("Content-Length", str(len(content) - (start or 0)))
        self.end_headers()
        self._send(content[start or 0 :], state, asked)

    def _start(self, state: Server, asked: Asked) -> int | None:
        """The first byte to be sent, None for the whole file."""
        if not (asked.range and state.ranges):
            return None
        return int(re.fullmatch(r"bytes=(\d+)-", asked.range)[1]) + state.shift

    def _send(self, content: bytes, state: Server, asked: Asked) -> None:
        cut = state.cuts.pop(0) if state.cuts else None
        stall = state.stalls.pop(0) if state.stalls else None
        content = content[: min(n for n in (cut, stall, len(content)) if n is not None)]
        try:
            for i in range(0, len(content), 1 << 14):
                piece = content[i : i + (1 << 14)]
                asked.sent += len(piece)  # before the client can have it, and look here
                self.wfile.write(piece)
                time.sleep(state.pause)
            if stall is not None:
                time.sleep(2)
        except OSError:  # the client has gone
            asked.sent -= len(piece)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A server of no files yet; environment variables for proxies are taken away."""
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setattr(urllib.request, "_opener", None)  # it has read the environment when it was made
    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    http.daemon_threads = True
    http.state = Server(url=f"http://127.0.0.1:{http.server_port}")
    threading.Thread(target=http.serve_forever, args=(0.02,), daemon=True).start()
    yield http.state
    http.shutdown()
    http.server_close()
