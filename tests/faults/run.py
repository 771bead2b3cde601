"""Kill cledet, and take from it what it needs; print a table of the faults and of the tries that were survived.

    python tests/faults/run.py                           # every fault, as often as docs/robustness.md says
    python tests/faults/run.py --fault kill-train        # one fault; the option may be repeated
    python tests/faults/run.py --fault kill-train:1000 --seed 7

Exit code 1 if a try failed. Disks are mounted, for which the user must be root; what cannot be mounted is not tried.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import cv2
import kills
import matplotlib.figure  # noqa: F401  here, so that no command imports it
import surroundings
import timm  # noqa: F401
import torch
from lab import Lab, Refused

import cledet.evaluation.report.write_report
import cledet.export.exporter
import cledet.training.run  # noqa: F401


class Fault(NamedTuple):
    """A fault, what is done to inject it once, and how often."""

    text: str
    try_once: Callable[[Lab], None]
    tries: int


class Outcome(NamedTuple):
    """How the tries of a fault ended."""

    fault: str
    tries: int
    survived: int
    seconds: float
    writing: int
    failures: list[str]


def try_fault(lab: Lab, name: str, tries: int, seed: int) -> Outcome:
    """Inject a fault so many times; each try has random numbers of its own."""
    failures, start, done, lab.writing = [], time.monotonic(), 0, 0
    for number in range(tries):
        lab.random = random.Random(f"{name} {seed} {number}")
        try:
            FAULTS[name].try_once(lab)
        except Refused as error:
            print(f"{name}: {error}", file=sys.stderr)
            break
        except (AssertionError, TimeoutError, OSError) as error:
            lab.current = None
            failures.append(f"try {number}: {''.join(traceback.format_exception(error, limit=-3))}")
        else:
            lab.clean()
        done += 1
    return Outcome(name, done, done - len(failures), time.monotonic() - start, lab.writing, failures)


def table(outcomes: list[Outcome]) -> str:
    """The outcomes in Markdown."""
    lines = ["| fault | tries | survived | repeat |", "|---|---|---|---|"]
    for one in outcomes:
        again = f"`--fault {one.fault}:{one.tries}`"
        lines.append(f"| {FAULTS[one.fault].text} | {one.tries} | {one.survived} | {again} |")
    return "\n".join(lines)


def _chosen(text: str) -> tuple[str, int]:
    name, _, tries = text.partition(":")
    if name not in FAULTS:
        raise argparse.ArgumentTypeError(f"there is no fault {name!r}")
    return name, int(tries or FAULTS[name].tries)


def main() -> int:
    """Run what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fault", type=_chosen, action="append", metavar="NAME[:TRIES]", help=", ".join(FAULTS))
    parser.add_argument("--seed", type=int, default=0, help="seed of the random moments and sizes")
    parser.add_argument("--json", type=Path, help="also write the outcomes to this file")
    options = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    root, outcomes = Path(tempfile.mkdtemp(prefix="cledet-faults-")).resolve(), []
    lab = Lab(root)
    try:
        for name, tries in options.fault or [(name, fault.tries) for name, fault in FAULTS.items()]:
            outcomes.append(one := try_fault(lab, name, tries, options.seed))
            writing = f", {one.writing} while a file was written" if one.writing else ""
            line = f"{name}: {one.survived} of {one.tries} survived{writing}, {one.seconds:.0f} s"
            print(line, *one.failures, sep="\n", file=sys.stderr, flush=True)
    finally:
        if not any(one.failures for one in outcomes):
            shutil.rmtree(root)
    print(table(outcomes))
    if options.json:
        options.json.write_text(json.dumps([one._asdict() for one in outcomes]))
    return int(any(one.failures for one in outcomes))


FAULTS = {
    "kill-train": Fault("SIGKILL of `train`", kills.kill_train, 100),
    "kill-val": Fault("SIGKILL of `val`", partial(kills.kill_command, words=kills.val), 10),
    "kill-predict": Fault("SIGKILL of `predict`", partial(kills.kill_command, words=kills.predict), 10),
    "kill-export": Fault("SIGKILL of `export --format safetensors`", partial(kills.kill_command, words=kills.pack), 10),
    "kill-export-onnx": Fault("SIGKILL of `export`", partial(kills.kill_command, words=kills.export), 2),
    "kill-check": Fault("SIGKILL of `check` of a zip file", partial(kills.kill_command, words=kills.check), 10),
    "kill-loader": Fault("SIGKILL of a process that loads images", kills.kill_loader, 5),
    "kill-rank": Fault("SIGKILL of one of two processes that train (gloo)", kills.kill_rank, 2),
    "kill-launcher": Fault("SIGKILL of the launcher of two processes", kills.kill_launcher, 2),
    "full-disk": Fault("A full disk", surroundings.full_disk, 10),
    "read-only": Fault("A project that becomes read-only", surroundings.read_only, 10),
    "lose-image": Fault("An image that vanishes or changes", surroundings.lose_image, 10),
    "small-shared-memory": Fault("64 kB of `/dev/shm`", surroundings.small_shared_memory, 2),
    "two-at-once": Fault("The same command twice at once in one project", surroundings.two_at_once, 10),
    "closed-pipe": Fault("A closed pipe", surroundings.closed_pipe, 10),
    "start-methods": Fault("Workers by fork, spawn and forkserver", surroundings.start_methods, 1),
}

if __name__ == "__main__":
    sys.exit(main())
