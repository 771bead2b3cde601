"""Disks, data, memory, pipes and other processes that fail a command."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import shutil
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import kills
import numpy as np
from lab import Lab, Refused, Words, has_weights
from PIL import Image
from whole_files import assert_whole, temporary_files

COMMANDS: dict[str, Words] = {
    "train": lambda lab, project: lab.training(project),
    "val": kills.val,
    "predict": kills.predict,
    "export": kills.pack,
    "check": kills.check,
}
CLONE_NEWNS = 0x00020000
"""The flag of unshare(2) for mounts of a process alone."""


def full_disk(lab: Lab) -> None:
    """Let a disk of a random size become full, enlarge it, and call the command again."""
    command = lab.random.choice(list(COMMANDS))
    words = COMMANDS[command]
    with lab.disk("1g") as change:
        change(f"size={max(4096, int(lab.random.random() * lab.measure(words).size))}")
        project = lab.root / "disk" / "project"
        project.mkdir()
        lab.run(*words(lab, project), code=2, said="No space left on device")
        assert_whole(project)
        assert not temporary_files(project), temporary_files(project)
        change("size=1g")
        go_on(lab, command, project)


def read_only(lab: Lab) -> None:
    """Make the project read-only while a command runs, then writable, and call the command again."""
    command = lab.random.choice(list(COMMANDS))
    words = COMMANDS[command]
    while True:
        project = lab.project()
        process = lab.start(*words(lab, project))
        time.sleep(lab.moment(lab.measure(words).seconds))
        with lab.read_only(project):
            if process.wait() != 0:
                break  # else it had nothing more to write
    lab.judge(process, 2, "Read-only file system")
    assert_whole(project)
    go_on(lab, command, project)


def go_on(lab: Lab, command: str, project: Path) -> None:
    """Call a command again, or resume its run, which must end as the one that nothing interrupted."""
    run = project / "train" / "run"
    if command == "train" and has_weights(run):
        lab.finish(run)
    else:
        lab.run(*COMMANDS[command](lab, project))
    lab.assert_tidy()
    assert_whole(project)


def lose_image(lab: Lab) -> None:
    """Remove, cut or exchange an image while a command reads it; put it back, and call the command again."""
    data, project = lab.copy_of_data(), lab.project()
    command = lab.random.choice(("train", "train", "val", "predict"))
    words = {
        "train": lab.training(project, data=data, workers=lab.random.choice((0, 2))),
        "val": [*kills.val(lab, project), "--data", data],
        "predict": [*kills.predict(lab, project), data / "val"],
    }[command]
    image = lab.random.choice(sorted(data.glob("val/*.png" if command != "train" else "*/*.png")))
    content, longest = image.read_bytes(), lab.measure(COMMANDS[command]).seconds
    process = lab.start(*words)
    time.sleep(lab.random.uniform(0.1, 1) * longest)
    lab.random.choice((Path.unlink, _cut, _exchange))(image)
    code = process.wait()
    assert code in (0, 1 if command == "predict" else 2), f"{process} ended with {code}\n{process.text()}"
    assert "Traceback" not in process.text(), process.text()
    assert not code or str(image) in process.text(), process.text()
    assert_whole(project)
    image.write_bytes(content)
    if command == "train" and has_weights(run := project / "train" / "run"):
        lab.whole.assert_part(run)
        lab.finish(run)
    else:
        lab.run(*words)


def _cut(image: Path) -> None:
    image.write_bytes(image.read_bytes()[: image.stat().st_size // 2])


def _exchange(image: Path) -> None:
    Image.fromarray(np.zeros((30, 40, 3), np.uint8)).save(image)


def small_shared_memory(lab: Lab) -> None:
    """Give a run 64 kB of shared memory; it says so, and goes on without processes that load images."""
    run = lab.project() / "train" / "run"

    def shrink() -> None:
        ctypes.CDLL(None).unshare(CLONE_NEWNS)
        subprocess.run(["mount", "--make-rprivate", "/"], check=True)
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", "/dev/shm"], check=True)

    if subprocess.run(["unshare", "--mount", "true"], capture_output=True).returncode:
        raise Refused("no mount namespace can be made here")

    training = lab.training(run.parents[1], workers=lab.random.choice((1, 2)), imgsz=320)
    lab.run(*training, code=2, said="shared memory, /dev/shm, is too small", prepare=shrink)
    assert_whole(run)
    lab.run("train", "--resume", run, "--workers", 0, prepare=shrink)
    assert_whole(run)


def two_at_once(lab: Lab) -> None:
    """Start the same command twice in one project; or resume one run twice, of which one is refused or waits."""
    project, command = lab.project(), lab.random.choice(["resume", *COMMANDS, "tune"])
    if command == "resume":
        run = project / "train" / "run"
        process = lab.start(*lab.training(project))
        while not has_weights(run):
            assert process.poll() is None, process.text()
            time.sleep(0.005)
        process.kill()
        words = ["train", "--resume", run]
    elif command == "tune":
        shutil.rmtree(lab.root / "cache" / "candidates", ignore_errors=True)  # which both then write
        flags = ["--nms", "standard", "--bootstrap", 1, "--repeats", 1, "--device", "cpu", "--workers", 0]
        words = ["tune", "--weights", lab.whole.run, "--project", project, *flags]
    else:
        words = COMMANDS[command](lab, project)
    first = lab.start(*words)
    time.sleep(lab.moment(0.3))
    both = [first, lab.start(*words)]
    for process in both:
        process.wait()
        refused = command == "resume" and process.code == 2
        lab.judge(process, 2 if refused else 0, "another process trains" if refused else "")
    assert any(process.code == 0 for process in both)
    lab.assert_tidy()
    assert_whole(project)
    for run in project.glob("train/*"):
        lab.whole.assert_equal(run)


def closed_pipe(lab: Lab) -> None:
    """Close the pipe that a command writes to after a random number of bytes: stdout, stderr or both."""
    project, command = lab.project(), lab.random.choice(list(COMMANDS))
    reader, writer = os.pipe()
    null = os.open(os.devnull, os.O_WRONLY)
    streams = lab.random.choice([(writer, writer), (writer, null), (null, writer)])
    process = lab.start(*COMMANDS[command](lab, project), streams=streams, prepare=lambda: os.close(reader))
    os.close(writer)
    os.close(null)
    count = lab.random.choice([0, 1, 100, 1000])
    while count and (read := os.read(reader, count)):
        count -= len(read)
    os.close(reader)
    assert process.wait() in (0, 141), f"{process} ended with {process.code}"
    assert process.text() == ""
    assert_whole(project)
    if process.code:
        go_on(lab, command, project)


def start_methods(lab: Lab) -> None:
    """Train with processes that are started in each way: all load the same images."""
    for method in multiprocessing.get_all_start_methods():
        run = lab.project() / "train" / "run"
        words = lab.training(run.parents[1], workers=2)
        lab.run(*words, prepare=partial(_start_workers_by, method))
        lab.whole.assert_equal(run)


def _start_workers_by(method: str) -> None:
    """Choose how processes are started; those that import modules anew need not import the main one."""
    multiprocessing.set_start_method(method, force=True)
    del sys.modules["__main__"].__file__
