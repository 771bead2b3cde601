"""Feed cledet broken files, and print what each kind of them ended in.

    python tests/fuzz/run.py --cases 2000                 # spread over all targets
    python tests/fuzz/run.py --target coco --cases 500    # of one; --first 500 for the next, --jobs 2 for two processes
    python tests/fuzz/run.py --target coco --case 1234    # one case, with its traceback

Exit code 1 if a case failed.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import deque
from collections.abc import Iterator
from dataclasses import asdict
from multiprocessing.connection import Connection, Pipe, wait
from pathlib import Path
from typing import NoReturn

import torch
from commands import MEMORY
from judge import SECONDS, Judge, Verdict, site_of_hang
from targets import TARGETS, make

CHUNK = 200
"""Cases of one process, which is then replaced, so that what one leaves behind does not add up."""
Task = tuple[str, list[int]]


class Worker:
    """A process that judges some cases, one after the other."""

    def __init__(self, target: str, numbers: list[int]) -> None:
        self.target, self.numbers, self.last = target, numbers, time.monotonic()
        self.root = Path(tempfile.mkdtemp(prefix="cledet-fuzz-")).resolve()
        self.reports, end = Pipe(duplex=False)
        self.process = os.fork()
        if self.process == 0:
            self._work(end)
        end.close()

    def _work(self, end: Connection) -> NoReturn:
        """Be that process."""
        told, silence = os.dup(2), os.open(os.devnull, os.O_RDWR)
        for stream in range(3):
            os.dup2(silence, stream)
        try:
            judge = Judge(self.root)
            for number in self.numbers:
                end.send(judge(self.target, number))
        except BaseException:  # a fault of the fuzzer itself
            os.write(told, traceback.format_exc().encode(errors="replace"))
        finally:
            os._exit(0)

    def verdict(self, ready: bool) -> Verdict:
        """That of the next case; of a process that died or says nothing, which case it was."""
        number, self.last = self.numbers.pop(0), time.monotonic()
        try:
            if ready:
                return self.reports.recv()
            os.kill(self.process, signal.SIGUSR1)
            time.sleep(1)
            end = site_of_hang(self.root)
        except EOFError:
            code = os.waitstatus_to_exitcode(os.waitpid(self.process, 0)[1])
            self.process = 0
            end = f"died of {signal.Signals(-code).name}" if code < 0 else f"ended with {code}"
        return Verdict(self.target, number, "failed", end, seconds=float(SECONDS))

    def stop(self) -> None:
        """End it, and take away what it leaves."""
        if self.process:
            os.kill(self.process, signal.SIGKILL)
            os.waitpid(self.process, 0)
        shutil.rmtree(self.root, ignore_errors=True)
        self.reports.close()


def run(tasks: list[Task], jobs: int) -> Iterator[Verdict]:
    """The verdicts of all cases, from so many processes at a time; one that dies, hangs or grows is replaced."""
    waiting, workers = deque(tasks), list[Worker]()
    while waiting or workers:
        while waiting and len(workers) < jobs:
            workers.append(Worker(*waiting.popleft()))
        ready = wait([worker.reports for worker in workers], timeout=1)
        for worker in list(workers):
            if worker.reports in ready or time.monotonic() - worker.last > 2 * SECONDS:
                verdict = worker.verdict(worker.reports in ready)
                yield verdict
                if not worker.numbers or verdict.megabytes > MEMORY >> 20 or verdict.seconds >= SECONDS:
                    worker.stop()
                    workers.remove(worker)
                    waiting.extendleft([(worker.target, worker.numbers)] if worker.numbers else [])


def tasks(names: list[str], first: int, cases: int) -> list[Task]:
    """The cases of these targets in parts of CHUNK; of several targets, each has its share, and one at least."""
    whole = sum(TARGETS[name].share for name in names)
    counts = {name: max(1, round(cases * TARGETS[name].share / whole)) for name in names}
    return [
        (name, list(range(start, min(start + CHUNK, first + count))))
        for name, count in counts.items()
        for start in range(first, first + count, CHUNK)
    ]


def table(verdicts: list[Verdict]) -> str:
    """A line a target, and below it each fault once, with a case that has it."""
    lines = [f"{'target':<12}{'cases':>8}{'success':>9}{'refused':>9}{'failed':>8}{'slowest':>10}{'peak':>10}"]
    for name in dict.fromkeys(verdict.target for verdict in verdicts):
        own = [verdict for verdict in verdicts if verdict.target == name]
        counts = [sum(verdict.outcome == outcome for verdict in own) for outcome in ("success", "refused", "failed")]
        slowest, peak = max(verdict.seconds for verdict in own), max(verdict.megabytes for verdict in own)
        lines.append(f"{name:<12}{len(own):>8}{counts[0]:>9}{counts[1]:>9}{counts[2]:>8}{slowest:>8.2f} s{peak:>7} MB")
    for (name, site), number, count in faults(verdicts):
        lines.append(f"FAILED {name} {site} ({count} cases): python tests/fuzz/run.py --target {name} --case {number}")
    return "\n".join(lines)


def faults(verdicts: list[Verdict]) -> list[tuple[tuple[str, str], int, int]]:
    """Each target and site where cases failed, the first such case, and how many there are."""
    failed = [(verdict.target, verdict.site, verdict.number) for verdict in verdicts if verdict.outcome == "failed"]
    sites = dict.fromkeys((target, site) for target, site, _ in failed)
    numbers = {site: sorted(number for *where, number in failed if tuple(where) == site) for site in sites}
    return [(site, found[0], len(found)) for site, found in numbers.items()]


def main() -> int:
    """Run what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", choices=TARGETS, help="only this target")
    parser.add_argument("--cases", type=int, default=2000)
    parser.add_argument("--first", type=int, default=0, help="number of the first case of each target")
    parser.add_argument("--case", type=int, help="only this case of --target")
    parser.add_argument("--jobs", type=int, default=1, help="processes at a time")
    parser.add_argument("--json", type=Path, help="also write the failures and the counts to this file")
    options = parser.parse_args()
    torch.set_num_threads(1)  # cases run side by side
    names = [options.target] if options.target else list(TARGETS)
    for name in names:
        make(name, 0)  # so that data made once are made before processes part
    if options.case is not None:
        (verdict,) = run([(names[0], [options.case])], 1)
        print(json.dumps(asdict(verdict) | {"detail": None}, indent=2), verdict.detail, sep="\n")
        return int(verdict.outcome == "failed")
    verdicts = list(run(tasks(names, options.first, options.cases), options.jobs))
    print(table(verdicts))
    if options.json:
        options.json.write_text(json.dumps([asdict(verdict) for verdict in verdicts]))
    return int(any(verdict.outcome == "failed" for verdict in verdicts))


if __name__ == "__main__":
    sys.exit(main())
