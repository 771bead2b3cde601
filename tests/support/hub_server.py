"""A small Hugging Face Hub on this machine: repositories of files, in memory."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import pytest

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class HubState:
    """What the Hub holds, and what was asked of it."""

    repos: dict[tuple[str, str], dict[str, bytes]] = field(default_factory=dict)
    """(OWNER/REPO, revision) -> files."""
    asked: list[str] = field(default_factory=list)
    writable: bool = True
    url: str = ""


class Handler(BaseHTTPRequestHandler):
    """Answers the requests of huggingface_hub that reading and writing files needs."""

    def do_GET(self) -> None:
        state: HubState = self.server.state
        path = urlsplit(self.path).path
        state.asked.append(f"{self.command} {path}")
        if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/(.+))?", path):
            files = self._files(state, match[1], match[2] or "main")
            if files is not None:
                siblings = [{"rfilename": name, "size": len(content)} for name, content in files.items()]
                card = {"license": "apache-2.0"} if "README.md" in files else None
                self._json({"id": match[1], "sha": COMMIT, "siblings": siblings, "cardData": card})
        elif match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            files = self._files(state, match[1], "main" if match[2] == COMMIT else match[2])
            if files is not None and match[3] in files:
                content = files[match[3]]
                etag = hashlib.sha256(content).hexdigest()
                self._send(200, content, {"X-Repo-Commit": COMMIT, "ETag": f'"{etag}"'})
            elif files is not None:
                self._send(404, b"", {"X-Error-Code": "EntryNotFound"})
        else:
            self._send(404)

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_POST(self) -> None:
        state: HubState = self.server.state
        path = urlsplit(self.path).path
        state.asked.append(f"POST {path}")
        body = self.rfile.read(int(self.headers.get("Content-Length", 0))) or self._chunks()
        if not state.writable:
            self._send(403)
        elif path == "/api/repos/create":
            given = json.loads(body)
            name = f"{given['organization']}/{given['name']}" if given.get("organization") else given["name"]
            state.repos.setdefault((name, "main"), {})
            self._json({"url": f"{state.url}/{name}"})
        elif path == "/api/validate-yaml":
            self._json({"errors": [], "warnings": []})
        elif match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/preupload/main", path):
            modes = [
                {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
                for file in json.loads(body)["files"]
            ]
            self._json({"files": modes})
        elif match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/commit/main", path):
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    content = base64.b64decode(line["value"]["content"])
                    state.repos[(match[1], "main")][line["value"]["path"]] = content
            self._json({"success": True, "commitOid": COMMIT, "commitUrl": f"{state.url}/{match[1]}/commit/{COMMIT}"})
        else:
            self._send(404)

    def _files(self, state: HubState, repo: str, revision: str) -> dict[str, bytes] | None:
        """The files of a repository; None, after an error was sent, if it has none."""
        if (repo, revision) in state.repos:
            return state.repos[(repo, revision)]
        known = any(name == repo for name, _ in state.repos)
        self._send(404, b"", {"X-Error-Code": "RevisionNotFound" if known else "RepoNotFound"})
        return None

    def _chunks(self) -> bytes:
        """The body of a request in chunks."""
        if self.headers.get("Transfer-Encoding", "") != "chunked":
            return b""
        parts = []
        while size := int(self.rfile.readline().strip() or b"0", 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _json(self, content: object) -> None:
        self._send(200, json.dumps(content).encode(), {"Content-Type": "application/json"})

    def _send(self, status: int, content: bytes = b"", headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[HubState]:
    """An empty Hub on loopback, with an empty cache and without a login."""
    constants = pytest.importorskip("huggingface_hub").constants
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub-cache"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("HF_TOKEN", raising=False)
    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    http.daemon_threads = True
    http.state = HubState(url=f"http://127.0.0.1:{http.server_port}")
    monkeypatch.setenv("HF_ENDPOINT", http.state.url)
    threading.Thread(target=http.serve_forever, args=(0.02,), daemon=True).start()
    yield http.state
    http.shutdown()
    http.server_close()
