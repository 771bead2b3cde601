"""The place of the experiments: small data, a trained run, and the record of a run that nothing interrupted."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

sys.path.append(str(Path(__file__).parents[1] / "support"))  # as pyproject.toml does for pytest

from command_process import CommandProcess
from squares import make_squares
from whole_files import assert_whole, digest, rows_of, temporary_files

from cledet.io.weight_files import read_file
from cledet.models.checkpoint import Checkpoint
from cledet.training.run import LAST

NETWORK = "timm:test_efficientnet"
"""The smallest network, of 0.1 million weights."""
SETTINGS = {
    "backbone": NETWORK, "backbone-weights": "none", "fpn-channels": 16, "imgsz": 64, "batch": 2, "iters": 9,
    "lr": 0.01, "warmup": 2, "device": "cpu", "amp": "off", "save-steps": 1, "ema": 0.9, "optimizer": "adamw",
    "schedule": "cosine", "name": "run", "workers": 0,
}  # fmt: skip
"""Flags of a run of nine steps and three epochs, each of which is evaluated."""
ERROR = "error: "


Words = Callable[["Lab", Path], list[object]]
"""Makes the words of a command that writes into a project."""


class Refused(Exception):
    """A fault that cannot be injected on this machine."""


class Measured(NamedTuple):
    """Duration of a command, bytes of its files, and the names in its run folder."""

    seconds: float
    size: int
    names: set[str]


class Lab:
    """A folder with all that commands read and write."""

    def __init__(self, root: Path) -> None:
        self.root, self.random, self._logs = root, random.Random(0), 0
        for name in ("cache", "tmp", "projects", "kept", "logs"):
            (root / name).mkdir()
        os.environ |= {"CLEDET_CACHE": str(root / "cache"), "TMPDIR": str(root / "tmp"), "OMP_NUM_THREADS": "1"}
        tempfile.tempdir = str(root / "tmp")
        self.data = root / "squares"
        self.data.mkdir()
        make_squares(self.data)
        self._measured: dict[Words, Measured] = {}
        self.current: Path | None = None
        """Project of the run that is killed again and again."""
        self.writing = 0
        """Kills that left a temporary file, and so came while a file was written."""

    def project(self, keep: bool = False) -> Path:
        """A new project folder, which `clean` deletes unless it is kept."""
        return Path(tempfile.mkdtemp(dir=self.root / ("kept" if keep else "projects")))

    def clean(self) -> None:
        """Delete the projects of a try."""
        shutil.rmtree(self.root / "projects")
        (self.root / "projects").mkdir()

    def training(self, project: Path, **changes: object) -> list[object]:
        """The words that start the run of SETTINGS."""
        settings = {**SETTINGS, "data": self.data, "project": project} | changes
        return ["train", *(word for name, value in settings.items() for word in (f"--{name}", value))]

    def start(self, *words: object, **how: object) -> CommandProcess:
        """Start a command."""
        self._logs += 1
        return CommandProcess(words, self.root / "logs" / f"{self._logs}.txt", **how)  # type: ignore[arg-type]

    def run(self, *words: object, code: int = 0, said: str = "", **how: object) -> str:
        """Run a command, which must end with this code and say this; return its output.

        Errors are one sentence, and no command shows a traceback.
        """
        process = self.start(*words, **how)
        process.wait()
        return self.judge(process, code, said)

    def judge(self, process: CommandProcess, code: int = 0, said: str = "") -> str:
        """Check how a command has ended; return its output."""
        text, about = process.text(), f"{process} ended with {process.code}\n{process.text()}"
        assert process.code == code, about
        assert "Traceback" not in text, about
        assert said in text, about
        if code in (1, 2):
            assert sum(line.startswith(ERROR) for line in text.splitlines()) == 1, about
        return text

    def measure(self, words: Words) -> Measured:
        """What a command takes and writes if nothing stops it."""
        if words not in self._measured:
            project, start = self.project(), time.monotonic()
            self.run(*words(self, project))
            size = sum(file.stat().st_size for file in project.rglob("*") if file.is_file())
            self._measured[words] = Measured(time.monotonic() - start, size, names_in_newest(project))
        return self._measured[words]

    @cached_property
    def whole(self) -> Whole:
        """A run that nothing interrupts, and what it saves."""
        project = self.project(keep=True)
        record, save = project / "record.jsonl", Checkpoint.save

        def recorded(model: Checkpoint, path: Path) -> None:
            with record.open("a") as file:
                file.write(json.dumps([path.name, digest(model.content())]) + "\n")
            save(model, path)

        start = time.monotonic()
        self.run(*self.training(project), prepare=lambda: setattr(Checkpoint, "save", recorded))
        return Whole(project / "train" / "run", record, time.monotonic() - start)

    @cached_property
    def pair(self) -> Whole:
        """A run of two processes that nothing interrupts."""
        project, start = self.project(keep=True), time.monotonic()
        self.run(*self.training(project, device="cpu,cpu"))
        return Whole(project / "train" / "run", None, time.monotonic() - start)

    def moment(self, longest: float) -> float:
        """A random time in seconds."""
        return self.random.uniform(0, longest)

    def finish(self, run: Path) -> None:
        """Resume a run, which must end as the one that nothing interrupted."""
        self.run("train", "--resume", run, "--workers", 0)
        self.whole.assert_equal(run)

    def look_after_kill(self, folder: Path) -> None:
        """Check that a killed command has left whole files, and temporary ones."""
        assert_whole(folder)
        left = [path for place in (folder, self.root / "tmp", self.root / "cache") for path in temporary_files(place)]
        self.writing += bool(left)

    def assert_tidy(self) -> None:
        """Check that the last command has left no temporary files, nor those of an earlier one that was killed."""
        left = [path for folder in ("tmp", "cache") for path in temporary_files(self.root / folder)]
        assert not left, f"left behind: {left}"

    @contextmanager
    def disk(self, size: str) -> Iterator[Callable[[str], None]]:
        """A disk in memory of a size as 300k in the place of a new folder `disk`; yields the change of its options."""
        folder = self.root / "disk"
        folder.mkdir()
        try:
            _mount("-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder)
            try:
                yield lambda options: _mount("-o", f"remount,{options}", folder)
            finally:
                subprocess.run(["umount", "--lazy", folder], check=True)
        finally:
            folder.rmdir()

    @contextmanager
    def read_only(self, folder: Path) -> Iterator[None]:
        """Let a folder be read-only in the block, also if files in it are open."""
        aside = self.root / "aside"
        aside.mkdir(exist_ok=True)
        _mount("--bind", folder, aside)
        try:
            _mount("-o", "remount,bind,ro", aside)  # before a command can open files there
            _mount("--bind", aside, folder)
            try:
                yield
            finally:
                subprocess.run(["umount", "--lazy", folder], check=True)
        finally:
            subprocess.run(["umount", "--lazy", aside], check=True)

    def copy_of_data(self) -> Path:
        """A copy of the data set that may be damaged."""
        return Path(shutil.copytree(self.data, self.project() / "data"))


class Whole:
    """A run that nothing has interrupted, with the digests of everything that it saved if there is a record of them."""

    def __init__(self, run: Path, record: Path | None, seconds: float) -> None:
        self.run, self.seconds, self.rows = run, seconds, rows_of(run / "results.csv")
        saved = [json.loads(line) for line in record.read_text().splitlines()] if record else []
        self.saved = {name: {one for other, one in saved if other == name} for name in ("last.pt", "best.pt")}
        assert record is None or len(self.saved["last.pt"]) > 9
        assert_whole(run)

    def assert_part(self, run: Path) -> None:
        """Check that all files of a run are whole, and that its checkpoints and rows are those of this run."""
        assert_whole(run)
        for file in (run / "weights").glob("*.pt"):
            kind = f"{file.name.partition('.')[0]}.pt"
            assert digest(read_file(file)) in self.saved[kind], f"{file} is in no state of the uninterrupted run"
        rows = rows_of(run / "results.csv")
        assert rows == self.rows[: len(rows)], f"{rows} is not the start of {self.rows}"

    def assert_equal(self, run: Path) -> None:
        """Check that a finished run equals this one: weights, optimizer, moving average, metrics and files."""
        assert_whole(run)
        for name in ("last.pt", "best.pt"):
            own, other = (digest(read_file(folder / "weights" / name)) for folder in (run, self.run))
            assert own == other, f"{run / 'weights' / name} differs from that of the uninterrupted run"
        assert rows_of(run / "results.csv") == self.rows
        assert (run / "status").read_text() == "finished\n"
        assert (run / "val.jpg").is_file(), "val.jpg is missing"
        assert not temporary_files(run), temporary_files(run)


def names_in_newest(project: Path) -> set[str]:
    """The names of all files in the newest run folder."""
    newest = max(project.glob("*/*/"), key=lambda folder: folder.stat().st_ctime_ns, default=project)
    return {str(file.relative_to(newest)) for file in newest.rglob("*") if file.is_file()}


def has_weights(run: Path) -> bool:
    """Whether a run can be resumed."""
    return (run / LAST).is_file()


def _mount(*words: object) -> None:
    done = subprocess.run(["mount", *map(str, words)], capture_output=True, text=True)
    if done.returncode:
        raise Refused(f"nothing can be mounted here: {done.stderr.strip()}")
