"""Judges one case: what it ended in, how long it took, and what it did that no file may make cledet do."""

from __future__ import annotations

import faulthandler
import os
import re
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib  # noqa: F401  it makes its folder when it is imported, which a case must not be blamed for
from commands import MEMORY, OUT
from mutations import SPECIAL
from targets import TARGETS, make

import cledet
from cledet.errors import Interrupted, UserError

SECONDS = 10
"""How long a case may take."""
PACKAGE = str(Path(cledet.__file__).parent)
STACKS = "stacks"
"""The file that a process writes where it is to when it is sent SIGUSR1."""
STARTS = (
    "subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.startfile", "pty.spawn",
    "socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto", "urllib.Request",
)  # fmt: skip
"""Audit events of a program that is started, or of the network."""
WRITES = {
    "os.mkdir": 1, "os.rename": 2, "os.remove": 1, "os.rmdir": 1, "os.symlink": 2, "os.link": 2, "os.truncate": 1,
    "os.chmod": 1, "os.chown": 1, "os.utime": 1, "os.mkfifo": 1, "shutil.rmtree": 1,
}  # fmt: skip
"""Audit events of what changes the disk, and how many of their arguments are paths."""


class Forbidden(BaseException):
    """What a case may not do; not an Exception, so that nothing takes it for a damaged file."""


@dataclass(frozen=True)
class Verdict:
    """How a case ended."""

    target: str
    number: int
    outcome: str
    """success, refused or failed."""
    site: str = ""
    """What was raised, and the innermost line of cledet; the same for all cases that one fault explains."""
    detail: str = ""
    """The sentence, or the traceback."""
    seconds: float = 0.0
    megabytes: int = 0
    """The most memory that the process has had so far."""


class Judge:
    """A folder of its own, a home, a fake Ghostscript, and an audit hook that cannot be taken off again."""

    def __init__(self, root: Path) -> None:
        self.root, self.case, self.armed, self.seen = root, root / "case", False, ""
        for name in ("case", "tmp", "home", "bin", "outside"):
            (root / name).mkdir()
        (root / "outside" / "x").write_text("to be left alone")
        (root / "bin" / "gs").write_text(f"#!/bin/sh\ntouch {root}/outside/started\n")
        (root / "bin" / "gs").chmod(0o755)
        os.environ |= {"HOME": f"{root}/home", "CLEDET_CACHE": f"{root}/home/cache", "TMPDIR": f"{root}/tmp"}
        os.environ["PATH"] = f"{root}/bin:{os.environ['PATH']}"
        tempfile.tempdir = f"{root}/tmp"
        sys.dont_write_bytecode = True
        space = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (space + 4 * MEMORY, -1))  # for the machine's sake
        signal.signal(signal.SIGALRM, self._ring)
        faulthandler.register(signal.SIGUSR1, (root / STACKS).open("w"))
        sys.addaudithook(self._watch)

    def __call__(self, target: str, number: int) -> Verdict:
        """Judge one case."""
        files, rng = make(target, number)
        self._lay_out(files)
        before, self.seen, detail, site = self._listing(), "", "", ""
        start = time.perf_counter()
        try:
            signal.setitimer(signal.ITIMER_REAL, SECONDS)
            self.armed = True
            TARGETS[target].use(self.case, rng)
            outcome = "success"
        except (UserError, Interrupted) as error:
            outcome, detail = "refused", str(error)
        except BaseException as error:
            outcome, site = "failed", site_of(error)
            if (self.root / STACKS).stat().st_size:  # it was a process of the case's own that was too slow
                site = site_of_hang(self.root)
            signal.setitimer(signal.ITIMER_REAL, 3)  # should the words of the error be endless
            with suppress(Forbidden):
                detail = "".join(traceback.format_exception(error, limit=-30))
        finally:
            self.armed = False
            signal.setitimer(signal.ITIMER_REAL, 0)
        seconds, megabytes = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
        changed = sorted({name for name, _ in before.items() ^ self._listing().items()})
        troubles = (
            self.seen and outcome != "failed" and self.seen,
            changed and f"changed {', '.join(map(repr, changed[:3]))}",
            megabytes > MEMORY >> 20 and "too much memory",
            seconds > SECONDS and outcome != "failed" and "too slow",
        )
        for trouble in filter(None, troubles):
            outcome, site = "failed", f"{trouble}: {site or outcome}"
        return Verdict(target, number, outcome, site, detail, seconds, megabytes)

    def _lay_out(self, files: dict[str, Any]) -> None:
        os.chdir(self.root)
        shutil.rmtree(self.case)
        for name, data in files.items():
            path = self.case / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(data, bytes):
                path.write_bytes(data)
            else:
                SPECIAL[data](path)
        (self.case / OUT).mkdir(parents=True)
        os.chdir(self.case)

    def _listing(self) -> dict[str, Any]:
        """What lies in the folder, but for what may be written: sizes and times of files, names of folders."""
        found = {}
        for folder, names, files in os.walk(self.root):
            if folder == str(self.case):
                names.remove(OUT) if OUT in names else None
            for name in files:
                stat = os.lstat(os.path.join(folder, name))
                found[os.path.relpath(os.path.join(folder, name), self.root)] = (
                    stat.st_size,
                    stat.st_mtime_ns,
                    stat.st_mode,
                )
            found |= {os.path.relpath(os.path.join(folder, name), self.root): None for name in names}
        found.pop(STACKS)
        return found

    def _ring(self, *_: Any) -> None:
        raise Forbidden("too slow")

    def _watch(self, event: str, args: tuple[Any, ...]) -> None:
        if not self.armed:
            return
        if event in STARTS:
            self._forbid(f"{event} {args[:2]!r:.200}")
        if event == "open" and isinstance(args[0], str | bytes) and isinstance(args[2], int) and args[2] & 0o1103:
            self._check(event, args[0])
        for path in args[: WRITES.get(event, 0)]:
            self._check(event, path)

    def _check(self, event: str, path: Any) -> None:
        """A path that is written to must be in the case's folder, or in the one for temporary files."""
        where = os.path.realpath(os.fsdecode(path)) if isinstance(path, str | bytes | os.PathLike) else str(self.case)
        if not where.startswith((f"{self.case}", f"{self.root}/tmp", "/dev/null", "/dev/shm")):
            self._forbid(f"{event} {where!r}")

    def _forbid(self, what: str) -> None:
        self.seen = self.seen or what
        raise Forbidden(what)


def site_of(error: BaseException) -> str:
    """What was raised, and the innermost line of cledet that it went through."""
    lines = [(f.filename, f.lineno or 0, f.name) for f in traceback.extract_tb(error.__traceback__)]
    kind = type(error).__name__
    if kind == "CommandFailed":
        lines = [
            (file, int(line), name) for file, line, name in re.findall(r'File "(.*)", line (\d+), in (\w+)', str(error))
        ]
        last = [
            line for line in str(error).splitlines() if re.match(r"[\w.]+(Error|Exception|Forbidden|Warning)\b", line)
        ]
        kind = f"command: {last[-1].partition(':')[0].rpartition('.')[2] if last else str(error).partition(chr(10))[0]}"
    if isinstance(error, Forbidden):
        kind = str(error).partition(" '/")[0][:80]
    return f"{kind} in {_innermost(lines)}"


def site_of_hang(root: Path) -> str:
    """Where the process that judges in `root` is, by its own account."""
    found = re.findall(r'File "(.*)", line (\d+) in (\w+)', (root / STACKS).read_text())
    return f"hangs in {_innermost([(file, int(line), name) for file, line, name in reversed(found)])}"


def _innermost(lines: list[tuple[str, int, str]]) -> str:
    inside = [line for line in lines if line[0].startswith(PACKAGE)]
    file, line, name = (inside or lines or [("?", 0, "?")])[-1]
    return f"{os.path.relpath(file, PACKAGE) if inside else os.path.basename(file)}:{line} {name}"
