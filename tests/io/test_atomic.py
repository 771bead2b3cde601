"""Atomic writes: files are intact after a kill at any system call and on a full disk."""

from __future__ import annotations

import builtins
import contextlib
import errno
import io
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest

from cledet.errors import UserError
from cledet.io.atomic import is_there, previous, write_file, write_whole
from cledet.models.checkpoint import load_checkpoint
from cledet.training.history import plot_history
from cledet.visualization.draw import write_picture

CALLS = ("open", "fsync", "link", "unlink", "replace", "close")
"""What writing asks of the system."""


class Killed(BaseException):
    """The process is gone: from here on, it asks nothing more of the system."""


@contextlib.contextmanager
def dies_at(monkeypatch, number):
    """Let the `number`th call to the system be the last; yields how many there were."""
    count = [0]

    def counted(function):
        def call(*args, **kwargs):
            count[0] += 1
            if count[0] > number:
                raise Killed
            return function(*args, **kwargs)

        return call

    with monkeypatch.context() as patch:
        for name in CALLS:
            patch.setattr(os, name, counted(getattr(os, name)))
        patch.setattr(io, "open", counted(builtins.open))
        with contextlib.suppress(Killed):
            yield count


def save_twice(small, path):
    path.parent.mkdir()
    for step in (1, 2):
        small(step).save(path)


def names(folder):
    return sorted(entry.name for entry in folder.iterdir())


@pytest.mark.parametrize("links", [True, False], ids=["links", "no-links"])
def test_killed_anywhere_a_checkpoint_is_left(small, tmp_path, monkeypatch, capsys, links):
    if not links:
        monkeypatch.setattr(os, "link", no_links)
    ended, seen = False, set()
    for number in range(40):
        path = tmp_path / str(number) / "last.pt"
        save_twice(small, path)
        with dies_at(monkeypatch, number) as count:
            small(3).save(path)
        ended = count[0] <= number
        if links:
            assert path.is_file()
        before = load_checkpoint(previous(path)).step if previous(path).exists() else None
        seen.add((load_checkpoint(path).step, before))
        small(4).save(path)  # what was left does not stand in the way
        assert names(path.parent) == ["last.previous.pt", "last.pt"]
        assert load_checkpoint(path).step == 4
        if ended:
            break
    assert ended
    assert seen == {(2, 1), (2, None), (2, 2), (3, 2)}
    assert ("last.pt is missing" in capsys.readouterr().err) == (not links)


def no_links(*_, **__):
    raise PermissionError(errno.EPERM, "Operation not permitted")


KILLS = """
import os, random, signal, sys, time
from pathlib import Path
import torch
from cledet.models.checkpoint import Checkpoint, load_checkpoint
from cledet.io.provenance import versions
from cledet.models.network import Architecture

torch.set_num_threads(1)
path, step, parts = Path(sys.argv[1]), 0, 0
versions()
for i in range(300):
    child = os.fork()
    if not child:
        while True:
            step += 1
            weights = {"w": torch.full((50_000,), float(step))}
            Checkpoint(architecture=Architecture(backbone="r18", classes=1), model=weights, classes=("x",),
                       category_ids=(1,), step=step).save(path)
    while not path.is_file():
        time.sleep(0.001)
    time.sleep(random.Random(i).uniform(0, 0.1))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    parts += len(list(path.parent.glob("*.part")))
    found = load_checkpoint(path)
    assert found.step >= step, (found.step, step)
    assert bool((found.model["w"] == found.step).all())
    step = found.step
    if step >= 10 and parts >= 5:  # some were killed while they wrote
        break
print(step, parts)
"""


@pytest.mark.slow
def test_killed_for_real_a_checkpoint_is_left(tmp_path):
    process = subprocess.run(
        [sys.executable, "-c", KILLS, str(tmp_path / "last.pt")],
        capture_output=True, text=True, timeout=120, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert process.returncode == 0, process.stderr
    assert process.stderr == ""  # no file was damaged, none missing
    step, parts = map(int, process.stdout.split())
    assert step >= 10
    assert parts >= 5


def test_a_temporary_file_of_a_killed_process_is_no_checkpoint(small, tmp_path):
    path = tmp_path / "last.pt"
    (tmp_path / "last.pt.part").write_bytes(b"half")
    assert not is_there(path)
    with pytest.raises(UserError, match="there are no weights"):
        load_checkpoint(path)
    small(1).save(path)
    os.link(path, tmp_path / "other.pt.part")  # whoever writes other.pt must not write into last.pt
    small(2).save(tmp_path / "other.pt")
    assert load_checkpoint(path).step == 1
    assert names(tmp_path) == ["last.pt", "other.pt"]


def test_a_text_is_replaced_without_a_copy(tmp_path):
    for text in ("old", "new ±"):
        write_whole(tmp_path / "a.csv", text)
    assert (tmp_path / "a.csv").read_bytes() == "new ±".encode()
    assert names(tmp_path) == ["a.csv"]


def test_everything_is_synced_before_it_is_renamed(tmp_path, monkeypatch):
    done = []
    for name in ("fsync", "replace"):
        real = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *args, real=real, name=name: [done.append(name), real(*args)][1])
    write_whole(tmp_path / "a.csv", "text")
    assert done == ["fsync", "replace", "fsync"]  # the file; its name; the folder
    write_whole(tmp_path / "a.jpg", b"picture", sync=False)
    assert done[3:] == ["replace"]


@pytest.mark.parametrize("number", [errno.EINVAL, errno.EIO])
def test_an_unsupported_sync_is_no_error_and_a_broken_disk_is(tmp_path, monkeypatch, number):
    real = os.fsync

    def fsync(handle):
        if os.path.isdir(f"/proc/self/fd/{handle}"):
            raise OSError(number, os.strerror(number))
        real(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(UserError, match="Input/output error") if number == errno.EIO else contextlib.nullcontext():
        write_whole(tmp_path / "a.csv", "text")


def fill(folder, leave):
    """Take all room of a disk but `leave` bytes."""
    (folder / "filler").write_bytes(b"")
    free = shutil.disk_usage(folder).free
    (folder / "filler").write_bytes(bytes(max(0, free - leave)))


def test_a_full_disk_leaves_all_files_as_they_were(small, disk):
    folder = disk("1m")
    run = folder / "run"
    path = run / "weights" / "last.pt"
    for step in (1, 2):
        small(step).save(path)
    write_whole(run / "results.csv", "epoch\n1\n")
    before = {file: file.read_bytes() for file in run.rglob("*") if file.is_file()}
    size = 200_000
    big = small(3, size // 4)
    refused = 0
    for leave in range(0, size, 4096):  # wherever torch, Python's buffer or the close of the file meets the end
        fill(folder, leave)
        with pytest.raises(UserError) as error:
            big.save(path)
        hint = f"(free some space and go on with: cledet train --resume {run})"
        assert str(error.value) == f"{path} could not be written: No space left on device {hint}"
        refused += 1
        assert {file: file.read_bytes() for file in run.rglob("*") if file.is_file()} == before
    assert refused > 20
    fill(folder, 0)
    with pytest.raises(UserError, match=r"results\.csv could not be written: No space left on device"):
        write_whole(run / "results.csv", "epoch\n1\n2\n" * 5000)
    assert {file: file.read_bytes() for file in run.rglob("*") if file.is_file()} == before
    (folder / "filler").unlink()
    big.save(path)
    assert (load_checkpoint(path).step, load_checkpoint(previous(path)).step) == (3, 2)


def test_a_full_disk_is_an_error_for_pictures_too(disk):
    folder = disk("1m")
    fill(folder, 4096)
    with pytest.raises(UserError, match=r"results\.png could not be written: No space left on device"):
        plot_history([{"epoch": "1", "loss_cls": "1.5"}], folder / "results.png")
    with pytest.raises(UserError, match=r"a\.jpg could not be written: No space left on device"):
        write_picture(folder / "a.jpg", np.random.default_rng(0).integers(0, 255, (200, 200, 3), dtype=np.uint8))
    assert names(folder) == ["filler"]


def test_without_a_run_the_error_does_not_suggest_resume(tmp_path, monkeypatch):
    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(UserError, match=r"a\.json could not be written: .* \(free some space\)"):
        write_file(tmp_path / "a.json", full)
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "last.previous.pt").touch()
    with pytest.raises(UserError, match=rf"free some space and go on with: cledet train --resume {tmp_path}\)"):
        write_file(tmp_path / "a.json", full)


def test_a_file_in_place_of_a_folder_is_an_error(small, tmp_path):
    (tmp_path / "weights").touch()
    with pytest.raises(UserError, match=r"last\.pt could not be written: (File exists|Not a directory)"):
        small(1).save(tmp_path / "weights" / "last.pt")


def test_the_longest_name_and_one_that_is_not_utf8_are_written(tmp_path):
    longest = tmp_path / ("x" * 251 + ".jpg")
    for _ in range(2):
        write_file(longest, lambda file: file.write(b"a"))
    write_whole(tmp_path / "a.csv", "caf\udce9.jpg \u732b\n")
    assert (tmp_path / "a.csv").read_bytes() == b"caf\\udce9.jpg \xe7\x8c\xab\n"
    with pytest.raises(UserError, match="File name too long"):
        write_whole(tmp_path / ("x" * 256), "")
    assert {path.name for path in tmp_path.iterdir()} == {longest.name, "a.csv"}
