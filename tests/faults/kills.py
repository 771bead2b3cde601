"""SIGKILL: of a command, of a process that loads images, of one of several that train, and of their launcher."""

from __future__ import annotations

import os
import signal
import time
import zipfile
from pathlib import Path

from lab import CommandProcess, Lab, Words, has_weights, names_in_newest
from whole_files import assert_whole

from cledet.distributed.worker import SHUTDOWN


def kill_train(lab: Lab) -> None:
    """Kill a run after a random time, look at its files, and resume it next time; at its end compare it."""
    while True:
        lab.current = lab.current or lab.project(keep=True)
        run = lab.current / "train" / "run"
        words = lab.training(lab.current)
        if has_weights(run):
            words = ["train", "--resume", run, "--workers", lab.random.choice((0, 0, 0, 2))]
        process = lab.start(*words)
        killed = process.kill_after(lab.moment(0.7 * lab.whole.seconds))
        if killed:
            lab.look_after_kill(lab.current)
            lab.whole.assert_part(run)
            if not has_weights(run):
                lab.run("train", "--resume", run, code=2, said="there is no run to resume")
                lab.current = None
            return
        lab.judge(process)
        lab.whole.assert_equal(run)
        lab.current = None


def kill_command(lab: Lab, words: Words) -> None:
    """Kill a command after a random time; then it must do, when it is called again, what it does otherwise."""
    measured, before, project = lab.measure(words), contents(lab.whole.run), lab.project()
    while not lab.start(*words(lab, project)).kill_after(lab.moment(measured.seconds)):
        pass
    lab.look_after_kill(project)
    lab.run(*words(lab, project))
    lab.assert_tidy()
    assert_whole(project)
    assert names_in_newest(project) == measured.names
    assert contents(lab.whole.run) == before


def contents(folder: Path) -> dict[Path, bytes]:
    """The files of a folder."""
    return {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def val(lab: Lab, project: Path) -> list[object]:
    return ["val", "--weights", lab.whole.run, "--device", "cpu", "--project", project, "--name", "val", "--workers", 0]


def predict(lab: Lab, project: Path) -> list[object]:
    saved = "pictures,json,jsonl,coco,csv,txt,crops"
    flags = ["--weights", lab.whole.run, "--device", "cpu", "--project", project, "--save", saved, "--conf", 0]
    return ["predict", *(lab.data / "train" / f"{i % 6}.png" for i in range(20)), *flags]


def export(lab: Lab, project: Path) -> list[object]:
    return ["export", "--weights", lab.whole.run, "--project", project, "--name", "exported"]


def pack(lab: Lab, project: Path) -> list[object]:
    return [*export(lab, project), "--format", "safetensors"]


def check(lab: Lab, project: Path) -> list[object]:
    """The check of a zip file that is unpacked into the cache anew, with a page."""
    archive = lab.project() / "squares.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for path in sorted(lab.data.rglob("*.*")):
            file.write(path, path.relative_to(lab.data))
        file.writestr("new.txt", str(archive))
    return ["check", archive, "--html", project / "page.html"]


def kill_loader(lab: Lab) -> None:
    """Kill a process that loads images: the run saves its last step, says what happened, and goes on from there."""
    while True:
        run = lab.project() / "train" / "run"
        process = lab.start(*lab.training(run.parents[1], workers=2))
        time.sleep(lab.moment(lab.whole.seconds))
        if workers := process.children():
            os.kill(lab.random.choice(workers), signal.SIGKILL)
        if process.wait() == 1:
            break
        lab.judge(process)  # there was no such process, or it was not needed any more
    lab.judge(process, 1, "a worker that loads images failed: ")
    lab.whole.assert_part(run)
    lab.finish(run)


def kill_rank(lab: Lab) -> None:
    """Kill one of two processes that train; --max-restarts starts both again."""
    for _ in range(10):
        run, process, ranks = _start_ranks(lab, "--max-restarts", 1)
        os.kill(lab.random.choice(ranks), signal.SIGKILL)
        process.wait()
        text = lab.judge(process)
        lab.pair.assert_equal(run)
        if "start 2 of at most 2" in text:
            assert "was killed by SIGKILL" in text
            return
        # it was killed after its last step, and the run is complete
    raise AssertionError("no process was killed before its last step")


def kill_launcher(lab: Lab) -> None:
    """Kill the command that has started two processes, and resume the run at once: they have saved it and ended."""
    run, process, ranks = _start_ranks(lab)
    process.kill()
    lab.run("train", "--resume", run)
    lab.pair.assert_equal(run)
    deadline = time.monotonic() + 2 * SHUTDOWN  # they end after SHUTDOWN seconds at the latest
    while any(Path(f"/proc/{rank}").exists() for rank in ranks):
        assert time.monotonic() < deadline, "a process outlives its launcher"
        time.sleep(0.1)


def _start_ranks(lab: Lab, *flags: object) -> tuple[Path, CommandProcess, list[int]]:
    """Train with two processes; returns the run, the command and the two, after a random part of the time they take."""
    while True:
        run = lab.project() / "train" / "run"
        process = lab.start(*lab.training(run.parents[1], device="cpu,cpu"), *flags)
        time.sleep(lab.random.uniform(0.3, 0.9) * lab.pair.seconds)
        ranks = process.children()
        if len(ranks) == 2:
            return run, process, ranks
        process.wait()  # the moment came before the two had started, or after they had ended
        lab.judge(process)
