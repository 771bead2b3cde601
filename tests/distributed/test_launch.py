"""Real launches of small functions, `python -m cledet.distributed.worker launched:NAME` in each process."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest

from cledet.distributed.launch import Nodes, launch, parse_endpoint
from cledet.errors import Interrupted, ProcessFailed, UserError

pytestmark = pytest.mark.slow

LAUNCHED = '''
import os, signal, sys, time
from contextlib import contextmanager
from pathlib import Path
from cledet.errors import Interrupted, UserError

RANK, START = int(os.environ["RANK"]), int(os.environ["TORCHELASTIC_RESTART_COUNT"])
FOLDER = Path(__file__).parent

def note(text):
    with open(FOLDER / f"noted{RANK}", "a") as file:
        file.write(f"{text}\\n")

def wait():
    note(os.getpid())
    time.sleep(120)

@contextmanager
def group():
    """The sum of rank + 1 over the processes, as a function."""
    import torch, torch.distributed as dist
    def summed():
        value = torch.tensor([RANK + 1])
        dist.all_reduce(value)
        return int(value)
    dist.init_process_group("gloo")
    try:
        yield summed
    finally:
        dist.destroy_process_group()

def works():
    with group() as summed:
        note(f"{summed()} {os.environ['OMP_NUM_THREADS']} {sys.argv[1:]}")
    print("a result")

def fails():
    if RANK == 1:
        raise ValueError("the cause")
    wait()

def loses_a_peer():
    with group() as summed:
        summed()
        if RANK == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        summed()

def errs():
    note(START)
    if RANK == 1:
        raise UserError("no file x", "look")
    time.sleep(120)

def saves():
    def save(number, frame):
        note("saved")
        raise Interrupted(number, Path("runs/x"))
    signal.signal(signal.SIGTERM, save)
    note("ready")
    time.sleep(120)

def fails_once():
    with group() as summed:
        value = summed()
        if START == 0 and RANK == int(sys.argv[1]):
            raise ValueError("the cause")
        if START == 0:
            summed()
    note(f"{START} {value} {sys.argv[2:]}")
'''


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder on the path with the functions above, where they note things."""
    (tmp_path / "launched.py").write_text(textwrap.dedent(LAUNCHED))
    path = os.pathsep.join(filter(None, (str(tmp_path), os.environ.get("PYTHONPATH"))))
    monkeypatch.setenv("PYTHONPATH", path)
    monkeypatch.setenv("PYTHONUNBUFFERED", "1")
    return tmp_path


def noted(folder, rank):
    path = folder / f"noted{rank}"
    return path.read_text().splitlines() if path.is_file() else []


def until(condition):
    for _ in range(600):
        if condition():
            return
        time.sleep(0.1)
    raise TimeoutError


def gone(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().split(") ")[1][0] == "Z"
    except FileNotFoundError:
        return True


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def test_processes_work_together_and_write_into_files(folder, monkeypatch, capfd):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr("cledet.distributed.launch.cores", lambda: 7)
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    launch(["a b", "$$x"], 2, entry="launched:works", log_folder=folder / "logs")
    assert noted(folder, 0) == noted(folder, 1) == ["3 3 ['a b', '$$x']"]
    assert capfd.readouterr().out == ""
    assert [(folder / "logs" / f"rank{rank}.out").read_text() for rank in (0, 1)] == ["a result\n"] * 2
    assert not list((folder / "logs").glob("*.json"))
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == handlers


def test_a_worker_that_fails_ends_all_and_is_reported_once(folder, capfd):
    with pytest.raises(ProcessFailed, match=r"rank 1 of 2 on .* failed:\nTraceback[\s\S]*in fails[\s\S]*the cause$"):
        launch([], 2, entry="launched:fails")
    assert all(gone(pid) for pid in noted(folder, 0))
    assert capfd.readouterr() == ("", "")


def test_a_killed_worker_is_the_cause_and_not_its_peer(folder):
    with pytest.raises(ProcessFailed, match=r"rank 1 of 2 on .* was killed by SIGKILL"):
        launch([], 2, entry="launched:loses_a_peer")


def test_a_user_error_is_not_restarted(folder):
    with pytest.raises(UserError) as caught:
        launch([], 2, entry="launched:errs", max_restarts=3)
    assert (caught.value.message, caught.value.hint) == ("no file x", "look")
    assert noted(folder, 1) == ["0"]


def test_a_signal_lets_processes_save(folder):
    def interrupt():
        until(lambda: noted(folder, 0) and noted(folder, 1))
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(Interrupted, match="stopped by SIGTERM; go on with: cledet train --resume runs/x"):
        launch([], 2, entry="launched:saves", max_restarts=1)
    thread.join()
    assert noted(folder, 0) == noted(folder, 1) == ["ready", "saved"]


def test_a_restart_after_a_failure(folder, capfd):
    launch(["1"], 2, entry="launched:fails_once", max_restarts=1)
    assert noted(folder, 0) == noted(folder, 1) == ["1 3 []"]
    said = capfd.readouterr().err
    assert re.match(r"warning: a process failed; start 2 of at most 2\nrank 1 of 2 on .* failed:\nTraceback", said)
    assert said.count("ValueError: the cause") == 1


@pytest.fixture
def other_node(folder):
    """Start a launcher of node 1 in a new process; its result is the last line of its stdout."""
    code = (
        "import sys; from cledet.distributed import launch\n"
        "try: launch.launch(sys.argv[4:], 1, nnodes=2, node_rank=1, rdzv_endpoint=sys.argv[1], entry=sys.argv[2],"
        " max_restarts=int(sys.argv[3])); print('well')\n"
        "except Exception as error: print(type(error).__name__, str(error).splitlines()[0])"
    )
    started = []

    def start(*arguments):
        started.append(subprocess.Popen([sys.executable, "-c", code, *arguments], stdout=subprocess.PIPE, text=True))
        return lambda: started[-1].communicate(timeout=60)[0].splitlines()[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()


def test_two_nodes_have_their_given_ranks_and_restart_together(folder, other_node):
    """The process of the first node fails, and that of the second loses its connection."""
    endpoint = f"127.0.0.1:{free_port()}"
    ended = other_node(endpoint, "launched:fails_once", "1", "0", "there")
    launch(["0", "here"], 1, nnodes=2, node_rank=0, rdzv_endpoint=endpoint, entry="launched:fails_once", max_restarts=1)
    assert ended() == "well"
    assert (noted(folder, 0), noted(folder, 1)) == (["1 3 ['here']"], ["1 3 ['there']"])


def test_a_node_ends_when_another_has_failed(folder, other_node):
    endpoint = f"127.0.0.1:{free_port()}"
    ended = other_node(endpoint, "launched:errs", "0")
    with pytest.raises(UserError, match="another node has ended the run"):
        launch([], 1, nnodes=2, node_rank=0, rdzv_endpoint=endpoint, entry="launched:errs")
    assert ended() == "UserError no file x (look)"


def test_a_launch_does_not_join_the_store_of_an_earlier_one():
    """The second node starts its next launch while the first one still keeps the store of the last."""
    endpoint = f"127.0.0.1:{free_port()}"
    with ThreadPoolExecutor() as pool:
        joined = pool.submit(Nodes, 2, 1, endpoint)
        first = Nodes(2, 0, endpoint)
        joined.result(30)
        again = pool.submit(Nodes, 2, 1, endpoint)
        time.sleep(0.5)
        assert not again.done()
        del first
        first = Nodes(2, 0, endpoint)
        agreed = pool.submit(again.result(30).agree, 0, 3)
        assert [environ["RANK"] for environ in first.agree(0, 2)] == ["0", "1"]
        assert [environ["RANK"] for environ in agreed.result(30)] == ["2", "3", "4"]
        assert {environ["WORLD_SIZE"] for environ in agreed.result()} == {"5"}


def test_nodes_that_do_not_connect(folder, monkeypatch):
    monkeypatch.setattr("cledet.distributed.launch.JOIN_TIMEOUT", timedelta(seconds=1))
    with pytest.raises(UserError, match="the 2 nodes did not connect at localhost"):
        launch([], 1, nnodes=2, rdzv_endpoint=f"localhost:{free_port()}", entry="launched:works")
    with pytest.raises(UserError, match=r"nowhere.invalid is not known here"):
        launch([], 1, nnodes=2, rdzv_endpoint="nowhere.invalid", entry="launched:works")


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="processes are watched in /proc")
def test_processes_do_not_outlive_their_launcher(folder):
    code = "from cledet.distributed.launch import launch; launch([], 2, entry='launched:wait')"
    with subprocess.Popen([sys.executable, "-c", code]) as launcher:
        until(lambda: noted(folder, 0) and noted(folder, 1))
        launcher.kill()
    until(lambda: gone(noted(folder, 0)[0]) and gone(noted(folder, 1)[0]))


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("localhost", ("localhost", 29500)),
        ("localhost:5", ("localhost", 5)),
        ("10.0.0.1:80", ("10.0.0.1", 80)),
        ("[::1]", ("::1", 29500)),
        ("[::1]:7", ("::1", 7)),
    ],
)
def test_endpoints(text, place):
    assert parse_endpoint(text) == place


@pytest.mark.parametrize("text", [":5", "a:b", "a:0", "a:65536"])
def test_wrong_endpoints(text):
    with pytest.raises(UserError, match="is not HOST or HOST:PORT"):
        parse_endpoint(text)
