"""Locks between processes, and temporary folders of processes that were killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cledet.io.atomic import write_whole
from cledet.io.locks import CONTENT, PREFIX, hold_file, locked_folder, temporary_folder

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are looked at as on Linux")


@pytest.fixture
def fork():
    """Run functions in forked processes, which end with the test."""
    started = []

    def start(function):
        pid = os.fork()
        if pid == 0:
            try:
                function()
            finally:
                os._exit(0)
        started.append(pid)
        return pid

    yield start
    for pid in started:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def until_exists(path):
    while not path.exists():
        time.sleep(0.001)


def hold(folder, ready):
    with temporary_folder(folder) as held:
        (held / "file").write_text("half")
        ready.touch()
        time.sleep(60)


def test_a_temporary_folder_is_deleted_after_the_block(tmp_path):
    def fail():
        with temporary_folder(tmp_path) as folder:
            assert folder.parent.parent == tmp_path
            assert folder.stat().st_mode & 0o777 == 0o777 & ~umask()
            (folder / "file").touch()
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert list(tmp_path.iterdir()) == []


def umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_folders_of_killed_processes_are_deleted_and_no_others(tmp_path, fork):
    parent = tmp_path / "parent"
    parent.mkdir()
    mine = parent / f"{PREFIX}of-mine"
    (mine / "notes").mkdir(parents=True)
    running = fork(lambda: hold(parent, tmp_path / "running"))
    killed = fork(lambda: hold(parent, tmp_path / "killed"))
    for name in ("running", "killed"):
        until_exists(tmp_path / name)
    assert len(list(parent.glob(f"{PREFIX}*/{CONTENT}/file"))) == 2
    os.kill(killed, signal.SIGSTOP)
    with temporary_folder(parent):
        assert len(list(parent.glob(f"{PREFIX}*/{CONTENT}/file"))) == 2
    os.kill(killed, signal.SIGKILL)
    os.waitid(os.P_PID, killed, os.WEXITED | os.WNOWAIT)
    with temporary_folder(parent):
        (left,) = parent.glob(f"{PREFIX}*/{CONTENT}/file")
    assert mine.is_dir()
    assert left.read_text() == "half"
    assert running


def test_several_processes_write_the_same_file(tmp_path):
    """Each content is read whole at any time, and no writer takes the temporary file of another."""
    program = (
        "import sys; from pathlib import Path; from cledet.io.atomic import write_whole\n"
        "for _ in range(150): write_whole(Path('a'), sys.argv[1] * 300_000, sync=False)"
    )
    writers = [subprocess.Popen([sys.executable, "-c", program, letter], cwd=tmp_path) for letter in "xyz"]
    seen = set()
    until_exists(tmp_path / "a")
    while any(writer.poll() is None for writer in writers):
        text = (tmp_path / "a").read_text()
        assert len(text) == 300_000
        assert len(set(text)) == 1
        seen.add(text[0])
    assert [writer.returncode for writer in writers] == [0, 0, 0]
    assert len(seen) > 1
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_file_is_held_by_one_process_and_not_by_its_children(tmp_path, fork):
    path = tmp_path / "lock"

    def hold_and_fork():
        file = hold_file(path, 0)
        if os.fork() == 0:
            (tmp_path / "child").write_text(str(os.getpid()))
        (tmp_path / "ready").touch()
        time.sleep(60)
        file.close()

    holder = fork(hold_and_fork)
    until_exists(tmp_path / "ready")
    until_exists(tmp_path / "child")
    start = time.monotonic()
    assert hold_file(path, 0.3) is None
    assert time.monotonic() - start >= 0.3
    os.kill(holder, signal.SIGKILL)
    os.waitid(os.P_PID, holder, os.WEXITED | os.WNOWAIT)
    file = hold_file(path, 0)
    assert file is not None
    file.close()
    os.kill(int((tmp_path / "child").read_text()), signal.SIGKILL)


def test_filesystems_without_locks_work_as_before(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(95, "Operation not supported")

    for name in ("flock", "lockf"):
        monkeypatch.setattr(f"cledet.io.locks.fcntl.{name}", refuse)
    abandoned = tmp_path / f"{PREFIX}12345678"
    (abandoned / CONTENT).mkdir(parents=True)
    with temporary_folder(tmp_path) as folder, locked_folder(folder):
        write_whole(folder / "a", "text")
        assert (folder / "a").read_text() == "text"
    assert abandoned.is_dir()  # it may be in use
    file = hold_file(tmp_path / "lock", 0)
    assert file is not None
    file.close()
    monkeypatch.setattr("cledet.io.locks.fcntl", None)
    with temporary_folder(tmp_path) as folder, locked_folder(folder):
        assert Path(folder).is_dir()
