"""Memory over ten epochs: what the training process and its loader workers hold after each, and how much that grows.

    python benchmarks/memory.py [--epochs 10] [--workers 2]

Trains a small network on shapes; prints MB after each epoch, and the growth from the third epoch to the last.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path


def hear(event: str, facts: dict[str, object]) -> None:
    """The callback of the run: print what is held after an epoch."""
    if event == "epoch":
        pids = [os.getpid(), *children(os.getpid())]
        held = [resident(pid) for pid in pids]
        print(f"{facts['epoch']} {' '.join(f'{value:.1f}' for value in held)}", file=open("memory.txt", "a"))  # noqa: SIM115


def resident(pid: int) -> float:
    """MB that a process holds for itself: its private pages."""
    rows = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(row.split()[1]) for row in rows if row.startswith(("Private_Clean", "Private_Dirty"))) / 1000


def children(pid: int) -> list[int]:
    """The processes that it started."""
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--workers", type=int, default=2)
    args = parser.parse_args()
    here = Path(__file__).resolve().parent
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable, "-m", "cledet", "train", "--recipe", "shapes-quick", "--imgsz", "96", "--batch", "8",
            "--val-every", "1", "--epochs", str(args.epochs), "--workers", str(args.workers), "--project", folder,
            "--callback", "memory:hear",
        ]  # fmt: skip
        paths = os.pathsep.join([str(here), str(here.parent)])
        subprocess.run(command, cwd=folder, env={**os.environ, "PYTHONPATH": paths}, check=True, capture_output=True)
        rows = [list(map(float, row.split())) for row in (Path(folder) / "memory.txt").read_text().splitlines()]
    print("epoch   main process   workers (MB of their own)")
    for epoch, process, *workers in rows:
        print(f"{epoch:5.0f}   {process:12.1f}   {' '.join(f'{value:8.1f}' for value in workers)}")
    print(
        "growth from the third epoch on:", *(f"{last - third:+.1f}" for third, last in zip(rows[2][1:], rows[-1][1:]))
    )


if __name__ == "__main__":
    main()
