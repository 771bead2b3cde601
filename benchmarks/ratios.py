"""Benchmarks of a table: their commands, the ratios that they print, and the load of the machine meanwhile."""

from __future__ import annotations

import os
import platform
import re
import resource
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

FOLDER = Path(__file__).resolve().parent
RATIO = re.compile(r"^(\S+ / \S+): ([\d.]+)(?: wall, ([\d.]+) CPU)?", re.MULTILINE)
"""The line of a benchmark that hands over its ratio: `torchvision / cledet: 1.28`, or `...: 1.28 wall, 1.30 CPU`."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """A benchmark with the ratio to reach: at least `target` times as fast, or at most as long (`at_most`)."""

    what: str
    script: str
    arguments: str = ""
    quick: str = ""
    """Arguments that shorten it."""
    target: float
    at_most: bool = False

    def command(self, quick: bool) -> list[str]:
        """Return the script and its arguments."""
        return [self.script, *self.arguments.split(), *(self.quick.split() if quick else [])]


def run(row: Row, quick: bool, environment: dict[str, str] | None = None) -> dict[str, Any]:
    """Run a benchmark in a process of its own, and return its command, ratio, output and the machine's load."""
    command = row.command(quick)
    start, busy, own = time.perf_counter(), _busy(), _own()
    done = subprocess.run(
        [sys.executable, *command], cwd=FOLDER, env=environment, capture_output=True, text=True, check=False
    )
    seconds = time.perf_counter() - start
    found = RATIO.findall(done.stdout) if done.returncode == 0 else []
    foreign = None if busy is None else (_busy() - busy - (_own() - own)) / seconds / (os.cpu_count() or 1)  # type: ignore[operator]
    return {
        "what": row.what,
        "command": f"python benchmarks/{' '.join(command)}",
        "ratio": float(found[-1][1]) if found else None,
        "cpu_ratio": float(found[-1][2]) if found and found[-1][2] else None,
        "meaning": found[-1][0] if found else None,
        "target": row.target,
        "at_most": row.at_most,
        "other_load": None if foreign is None else round(max(0.0, foreign), 2),
        "seconds": round(seconds, 1),
        "output": done.stdout if done.returncode == 0 else done.stdout + done.stderr,
    }


def machine() -> dict[str, Any]:
    """Describe the machine: processor, cores, bfloat16, GPU, load averages and versions."""
    info = Path("/proc/cpuinfo")
    text = info.read_text() if info.is_file() else ""
    names = re.findall(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return {
        "processor": names[0] if names else platform.processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "bf16_units": "avx512_bf16" in text or "amx_bf16" in text,
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "load": [round(value, 2) for value in os.getloadavg()],
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def markdown(rows: list[dict[str, Any]]) -> str:
    """Format the rows as one table."""
    lines = ["| what | ratio | target | other load | command |", "|---|---|---|---|---|"]
    for row in rows:
        in_cpu_time = "" if row["cpu_ratio"] is None else f"; CPU time {row['cpu_ratio']:.2f}"
        ratio = "failed" if row["ratio"] is None else f"{row['ratio']:.2f} ({row['meaning']}{in_cpu_time})"
        target = f"{'at most' if row['at_most'] else 'at least'} {row['target']:g}"
        load = "unknown" if row["other_load"] is None else f"{100 * row['other_load']:.0f} %"
        lines.append(f"| {row['what']} | {ratio} | {target} | {load} | `{row['command']}` |")
    return "\n".join(lines)


def _busy() -> float | None:
    """Return the seconds of CPU time that all cores have worked, None where /proc does not tell."""
    stat = Path("/proc/stat")
    if not stat.is_file():
        return None
    user, nice, system, *_ = (int(value) for value in stat.read_text().split("\n", 1)[0].split()[1:])
    return (user + nice + system) / os.sysconf("SC_CLK_TCK")


def _own() -> float:
    """Return the seconds of CPU time of the processes that were run."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
