"""`cledet predict` as a process: signals, closed pipes, full disks, and results that leave as they are found."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import av
import pytest
from clips import write_clip

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform == "win32", reason="signals of Unix")]
COMMAND = [sys.executable, "-m", "cledet", "predict"]


@pytest.fixture
def start(tiny_run, tmp_path):
    """Starts the command in an empty folder, with pipes; what still runs at the end is killed."""
    started = []

    def run(*args: object, **how: object) -> subprocess.Popen[bytes]:
        words = [*COMMAND, *map(str, args), "--weights", str(tiny_run), "--device", "cpu"]
        pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE) | how
        process = subprocess.Popen(words, cwd=tmp_path, env={**os.environ, "OMP_NUM_THREADS": "1"}, **pipes)
        started.append(process)
        return process

    yield run
    for process in started:
        process.kill()
        process.wait()


def test_an_image_is_piped_in_and_a_line_out(start, squares):
    process = start("-", "--json", "-", "--save", "none")
    out, err = process.communicate((squares / "val" / "1.png").read_bytes(), timeout=120)
    assert process.returncode == 0, err
    document = json.loads(out)
    assert (document["file"], document["width"], document["height"]) == ("-", 96, 80)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_keeps_what_was_found(start, squares, tmp_path, number, code):
    """Each path is answered at once, while the input stays open; a signal then ends the command."""
    process = start("-", "--json", "-")
    for i in (1, 2):
        process.stdin.write(f"{squares}/val/{i}.png\n".encode())
        process.stdin.flush()
        assert json.loads(process.stdout.readline())["file"] == f"{squares}/val/{i}.png"
    process.send_signal(number)
    _, err = process.communicate(timeout=120)
    assert process.returncode == code, err
    assert f"error: stopped by {number.name}" in err.decode()
    run = tmp_path / "runs" / "predict" / "stdin"
    assert sorted(path.name for path in run.iterdir()) == ["1.jpg", "2.jpg", "predictions.json"]
    assert len(json.loads((run / "predictions.json").read_text())) == 2


def test_a_kill_leaves_valid_files(start, squares, tmp_path):
    process = start("-", "--json", "-", "--save", "json,coco,csv", "--conf", 0)
    process.stdin.write(f"{squares}/val/1.png\n".encode())
    process.stdin.flush()
    process.stdout.readline()
    process.kill()
    process.communicate()
    run = tmp_path / "runs" / "predict" / "stdin"
    assert len(json.loads((run / "predictions.json").read_text())) == 1
    assert len(json.loads((run / "coco.json").read_text())) == 100
    assert len((run / "predictions.csv").read_text().splitlines()) == 101


def test_a_reader_that_has_seen_enough_ends_the_command(start, squares, tmp_path):
    files = [squares / "val" / f"{i % 4}.png" for i in range(200)]
    process = start(*files, "--json", "-", "--save", "json")
    process.stdin.close()
    process.stdout.readline()
    process.stdout.close()
    assert process.wait(120) == 141
    assert b"Traceback" not in process.stderr.read()
    documents = json.loads((tmp_path / "runs" / "predict" / "0" / "predictions.json").read_text())
    assert 1 <= len(documents) < 200


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_full_stdout_is_one_sentence(start, squares, tmp_path):
    with open("/dev/full", "wb") as full:
        process = start(squares / "val", "--json", "-", "--save", "json", stdout=full)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 2
    assert b"error: cannot write to stdout: No space left on device" in err
    documents = json.loads((tmp_path / "runs" / "predict" / "val" / "predictions.json").read_text())
    assert len(documents) >= 1


def test_a_signal_while_a_video_is_written(start, tmp_path):
    write_clip(tmp_path / "clip.mp4", 600)
    process = start("clip.mp4", "--json", "-", "--save", "video")
    for _ in range(30):
        process.stdout.readline()
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 143, err
    with av.open(str(tmp_path / "runs" / "predict" / "clip" / "clip.mp4")) as container:
        assert 30 <= sum(1 for _ in container.decode(video=0)) < 600
