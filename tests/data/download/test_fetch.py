"""Fetching one archive from a server that breaks off, forgets, changes, stalls and lies."""

from __future__ import annotations

import hashlib
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from cledet.data.download import fetch as module
from cledet.data.download.archives import Archive
from cledet.data.download.fetch import fetch, format_bytes, partial_file, verify
from cledet.errors import UserError

CONTENT = np.random.default_rng(0).bytes(300_000)
OTHER = np.random.default_rng(1).bytes(300_000)


class Log:
    """Keeps what is shown; stops like Ctrl-C once so many bytes are there."""

    def __init__(self, stop: int | None = None) -> None:
        self.titles: list[str] = []
        self.notes: list[str] = []
        self.done: list[int] = []
        self._stop = stop

    @contextmanager
    def __call__(self, title: str, total: int) -> Iterator[Log]:
        self.titles.append(title)
        yield self

    def set(self, done: int, total: int) -> None:
        self.done.append(done)
        if self._stop is not None and done >= self._stop:
            raise KeyboardInterrupt

    def note(self, text: str) -> None:
        self.notes.append(text)


def archive_of(server, content=CONTENT, **changes) -> Archive:
    fields = {"url": f"{server.url}/a/b.zip", "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    return Archive(**fields | changes)


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How long it would have waited between attempts."""
    waited: list[float] = []
    monkeypatch.setattr(module, "sleep", waited.append)
    return waited


def get(archive: Archive, folder: Path, log: Log | None = None) -> Path:
    return fetch(archive, folder, folder / "own.zip", log or Log())


def stopped(server, folder: Path, content=CONTENT) -> int:
    """Fetch until Ctrl-C comes amid the file; returns how much is there."""
    server.files["b.zip"], server.pause = content, 0.001
    with pytest.raises(KeyboardInterrupt):
        get(archive_of(server, content), folder, Log(stop=100_000))
    server.pause = 0
    server.asked.clear()
    return partial_file(archive_of(server, content), folder).stat().st_size


def test_a_whole_archive(server, tmp_path):
    server.files["b.zip"] = CONTENT
    log = Log()
    file = get(archive_of(server), tmp_path, log)
    assert file == tmp_path / "b.zip"
    assert file.read_bytes() == CONTENT
    assert server.asked[0].agent == "cledet"
    assert server.ranges_asked == [None]
    assert log.titles == ["fetching b.zip, 300.0 kB", "checking b.zip"]
    assert log.done[-1] == 300_000
    assert log.notes == []


def test_an_existing_archive_is_verified_and_not_requested(server, tmp_path):
    (tmp_path / "b.zip").write_bytes(CONTENT)
    assert get(archive_of(server), tmp_path).read_bytes() == CONTENT
    assert server.asked == []


def test_an_md5_digest_is_accepted(server, tmp_path):
    server.files["b.zip"] = CONTENT
    md5 = hashlib.md5(CONTENT).hexdigest()
    assert get(archive_of(server, sha256=None, md5=md5), tmp_path).read_bytes() == CONTENT
    with pytest.raises(UserError, match=r"b\.zip has 300,000 bytes, expected 299,999$"):
        verify(archive_of(server, CONTENT[:-1]), tmp_path / "b.zip", Log())
    with pytest.raises(UserError, match=f"has the md5 {md5}, expected {'0' * 32}"):
        verify(archive_of(server, sha256=None, md5="0" * 32), tmp_path / "b.zip", Log())


def test_a_broken_connection_is_resumed(server, tmp_path, pauses):
    server.files["b.zip"], server.cuts = CONTENT, [50_000, 70_000]
    log = Log()
    assert get(archive_of(server), tmp_path, log).read_bytes() == CONTENT
    assert server.ranges_asked == [None, "bytes=50000-", "bytes=120000-"]
    assert [asked.sent for asked in server.asked] == [50_000, 70_000, 180_000]
    assert pauses == [1, 1]
    assert log.notes == [f"the connection ended early; resuming at {n} kB in 1 s" for n in ("50.0", "120.0")]


def test_an_interrupted_fetch_requests_only_the_missing_bytes(server, tmp_path):
    have = stopped(server, tmp_path)
    assert 100_000 <= have < 300_000
    log = Log()
    assert get(archive_of(server), tmp_path, log).read_bytes() == CONTENT
    assert server.ranges_asked == [f"bytes={have}-"]
    assert server.sent == 300_000 - have
    assert log.done[0] == have


def test_a_complete_partial_file_is_only_verified(server, tmp_path):
    stopped(server, tmp_path)
    with partial_file(archive_of(server), tmp_path).open("r+b") as file:
        file.write(CONTENT)
    assert get(archive_of(server), tmp_path).read_bytes() == CONTENT
    assert server.asked == []


def test_a_server_without_range_requests_sends_the_whole_file_again(server, tmp_path, pauses):
    server.files["b.zip"], server.cuts, server.ranges = CONTENT, [50_000], False
    log = Log()
    assert get(archive_of(server), tmp_path, log).read_bytes() == CONTENT
    assert [asked.sent for asked in server.asked] == [50_000, 300_000]
    assert log.notes[-1] == "the server sends b.zip from the start"


def test_a_file_that_changed_on_the_server_is_refused_by_its_digest_and_fetched_again(server, tmp_path):
    """The beginning is of one file and the rest of another, of the same size."""
    have = stopped(server, tmp_path)
    server.files["b.zip"] = OTHER
    with pytest.raises(UserError, match="has the sha256"):
        get(archive_of(server), tmp_path)
    server.files["b.zip"] = CONTENT
    assert get(archive_of(server), tmp_path).read_bytes() == CONTENT
    assert server.ranges_asked == [f"bytes={have}-", None]


def test_a_partial_file_of_another_digest_is_not_continued(server, tmp_path):
    stopped(server, tmp_path, OTHER)
    server.files["b.zip"] = CONTENT
    assert get(archive_of(server), tmp_path).read_bytes() == CONTENT
    assert server.ranges_asked == [None]


def test_a_partial_file_is_continued_from_another_url_of_the_same_digest(server, tmp_path):
    have = stopped(server, tmp_path)
    assert get(archive_of(server, url=f"{server.url}/mirror/b.zip"), tmp_path).read_bytes() == CONTENT
    assert server.ranges_asked == [f"bytes={have}-"]


def test_a_response_with_another_range_is_not_appended(server, tmp_path, pauses):
    have = stopped(server, tmp_path)
    server.shift = 1
    with pytest.raises(UserError, match=f"asked for bytes from {have}, offered from {have + 1}"):
        get(archive_of(server), tmp_path)
    assert partial_file(archive_of(server), tmp_path).stat().st_size == have


def test_a_partial_file_longer_than_the_servers_is_discarded(server, tmp_path, pauses):
    stopped(server, tmp_path)
    server.refusals = [416]
    assert get(archive_of(server), tmp_path).read_bytes() == CONTENT
    assert [asked.status for asked in server.asked] == [416, 200]


def test_a_wrong_file_is_moved_away_and_the_next_attempt_starts_over(server, tmp_path):
    server.files["b.zip"] = OTHER
    found, expected = hashlib.sha256(OTHER).hexdigest(), hashlib.sha256(CONTENT).hexdigest()
    with pytest.raises(
        UserError, match=rf"b\.zip\.\w{{8}}\.part has the sha256 {found}, expected {expected}, from http"
    ) as caught:
        get(archive_of(server), tmp_path)
    assert str(tmp_path / "b.zip.wrong") in caught.value.hint
    assert (tmp_path / "b.zip.wrong").read_bytes() == OTHER
    assert not (tmp_path / "b.zip").exists()
    server.files["b.zip"] = CONTENT
    assert get(archive_of(server), tmp_path).read_bytes() == CONTENT
    assert server.ranges_asked == [None, None]


def test_another_size_is_an_error_before_any_data(server, tmp_path):
    server.files["b.zip"] = CONTENT[:-1]
    with pytest.raises(UserError, match=r"now has 299,999 bytes, expected 300,000"):
        get(archive_of(server), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_no_more_is_written_than_there_should_be(server, tmp_path):
    server.files["b.zip"], server.length = CONTENT + b"more", False
    with pytest.raises(UserError, match="has more bytes than the 300,000 expected"):
        get(archive_of(server), tmp_path)
    assert partial_file(archive_of(server), tmp_path).stat().st_size <= 300_000


def test_a_missing_file_is_requested_once(server, tmp_path, pauses):
    with pytest.raises(UserError, match=r"/a/b\.zip could not be fetched: the server answered 404") as caught:
        get(archive_of(server), tmp_path)
    assert caught.value.hint == f"try again later, or download it yourself and save it as {tmp_path / 'own.zip'}"
    assert len(server.asked) == 1
    assert pauses == []


def test_a_busy_server_is_asked_again(server, tmp_path, pauses):
    server.files["b.zip"], server.refusals = CONTENT, [503, 429]
    assert get(archive_of(server), tmp_path).read_bytes() == CONTENT
    assert pauses == [2, 4]


def test_attempts_come_to_an_end(server, tmp_path, pauses):
    server.files["b.zip"], server.cuts = CONTENT, [1000] + [0] * 99
    with pytest.raises(UserError, match="the connection ended early") as caught:
        get(archive_of(server), tmp_path)
    assert len(server.asked) == 1 + module.ATTEMPTS
    assert pauses == [1, 2, 4, 8, 16]
    assert caught.value.hint.startswith("1.0 kB are kept")


def test_a_stalled_connection_times_out_and_is_resumed(server, tmp_path, pauses, monkeypatch):
    monkeypatch.setattr(module, "TIMEOUT", 0.2)
    server.files["b.zip"], server.stalls = CONTENT, [50_000]
    log = Log()
    assert get(archive_of(server), tmp_path, log).read_bytes() == CONTENT
    assert server.ranges_asked == [None, "bytes=50000-"]
    assert log.notes[0].startswith("the connection broke: timed out")


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_without_a_network_the_error_is_immediate(server, tmp_path, pauses):
    archive = archive_of(server, url=f"http://127.0.0.1:{closed_port()}/b.zip")
    with pytest.raises(UserError, match=rf"^{archive.url} could not be fetched: no connection: .*refused") as caught:
        get(archive, tmp_path)
    assert str(tmp_path / "own.zip") in caught.value.hint
    assert pauses == []
    assert list(tmp_path.iterdir()) == []


def test_a_network_that_fails_during_the_download_is_retried(server, tmp_path, pauses, monkeypatch):
    server.files["b.zip"], server.cuts = CONTENT, [50_000]
    opened, calls = module.urlopen, []

    def urlopen(request, timeout):
        calls.append(request)
        return opened(f"http://127.0.0.1:{closed_port()}" if len(calls) == 2 else request, timeout=timeout)

    monkeypatch.setattr(module, "urlopen", urlopen)
    assert get(archive_of(server), tmp_path).read_bytes() == CONTENT
    assert server.ranges_asked == [None, "bytes=50000-"]
    assert pauses == [1, 2]


def test_a_full_disk_is_not_a_broken_connection(server, tmp_path, pauses):
    stopped(server, tmp_path)
    part = partial_file(archive_of(server), tmp_path)
    part.unlink()
    part.symlink_to("/dev/full")
    with pytest.raises(UserError, match=r"b\.zip\.\w{8}\.part could not be written: No space left"):
        get(archive_of(server), tmp_path)
    assert pauses == []


def test_proxies_of_the_environment_are_used(server, tmp_path, monkeypatch):
    server.files["b.zip"] = CONTENT
    monkeypatch.setenv("http_proxy", server.url)
    assert get(archive_of(server, url="http://nowhere.invalid/b.zip"), tmp_path).read_bytes() == CONTENT
    assert server.asked[0].path == "http://nowhere.invalid/b.zip"


@pytest.mark.parametrize(
    ("size", "words"),
    [(0, "0 bytes"), (999, "999 bytes"), (1000, "1.0 kB"), (252_907_541, "252.9 MB"), (19_336_861_798, "19.3 GB")],
)
def test_format_bytes(size, words):
    assert format_bytes(size) == words
