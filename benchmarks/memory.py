"""Measure the memory of a training process and its loader workers after each epoch, and its growth.

    python benchmarks/memory.py [--epochs 10] [--workers 2]
    python benchmarks/memory.py --val [--workers 2]

Trains a small network on shapes; prints MB after each epoch, and the growth from the third epoch to the last.
With --val: the peak of `cledet val` on 400 and on 1,600 images, and the growth in bytes per detection.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path


def log_memory(event: str, facts: dict[str, object]) -> None:
    """Append the memory of all processes to memory.txt after an epoch; a callback of the run."""
    if event == "epoch":
        pids = [os.getpid(), *children(os.getpid())]
        memory = [resident(pid) for pid in pids]
        print(f"{facts['epoch']} {' '.join(f'{value:.1f}' for value in memory)}", file=open("memory.txt", "a"))  # noqa: SIM115


def resident(pid: int) -> float:
    """Return the private memory of a process in MB."""
    rows = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(row.split()[1]) for row in rows if row.startswith(("Private_Clean", "Private_Dirty"))) / 1000


def children(pid: int) -> list[int]:
    """Return the ids of a process's children."""
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def peak(command: list[str], folder: Path) -> float:
    """Run a command, which must succeed, and return its peak memory in MB."""
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    assert status == 0, command
    return usage.ru_maxrss / 1000


def linked(folder: Path, drawn: Path, times: int) -> Path:
    """Create a data set that repeats the images of another, hard-linked under distinct names and ids."""
    source = json.loads((drawn / "annotations" / "instances_val.json").read_text())
    images, annotations = [], []
    (folder / "val").mkdir(parents=True)
    for turn in range(times):
        shift = turn * 1_000_000
        for image in source["images"]:
            name = f"{turn}-{image['file_name']}"
            os.link(drawn / "val" / image["file_name"], folder / "val" / name)
            images.append({**image, "id": image["id"] + shift, "file_name": name})
        for box in source["annotations"]:
            annotations.append({**box, "id": box["id"] + shift, "image_id": box["image_id"] + shift})
    (folder / "annotations").mkdir()
    content = {**source, "images": images, "annotations": annotations}
    (folder / "annotations" / "instances_val.json").write_text(json.dumps(content))
    return folder


def validation(folder: Path, workers: int) -> None:
    """Print the peak memory of `cledet val` with 100 detections per image, on 400 and on 1,600 images."""
    from cledet.data.shapes.dataset import draw_shapes

    cledet = [sys.executable, "-m", "cledet"]
    draw_shapes(folder / "drawn", counts={"train": 8, "val": 400})
    small = ["--recipe", "shapes-quick", "--imgsz", "96", "--iters", "1", "--batch", "8", "--val-split", "none"]
    subprocess.run([*cledet, "train", *small, "--name", "run"], cwd=folder, check=True, capture_output=True)
    peaks = []
    for times in (1, 4):
        data = linked(folder / f"set{times}", folder / "drawn", times)
        chosen = ["--weights", "runs/train/run", "--data", str(data), "--conf", "0", "--workers", str(workers)]
        peaks.append(peak([*cledet, "val", *chosen], folder))
        print(f"{400 * times:5d} images, {40_000 * times:7,d} detections: {peaks[-1]:8.1f} MB peak")
    print(f"growth: {1e6 * (peaks[1] - peaks[0]) / 120_000:.0f} bytes per detection")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--val", action="store_true", help="measure validation")
    args = parser.parse_args()
    if args.val:
        with tempfile.TemporaryDirectory() as folder:
            validation(Path(folder), args.workers)
        return
    scripts = Path(__file__).resolve().parent
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable, "-m", "cledet", "train", "--recipe", "shapes-quick", "--imgsz", "96", "--batch", "8",
            "--val-every", "1", "--epochs", str(args.epochs), "--workers", str(args.workers), "--project", folder,
            "--callback", "memory:log_memory",
        ]  # fmt: skip
        paths = os.pathsep.join([str(scripts), str(scripts.parent)])
        subprocess.run(command, cwd=folder, env={**os.environ, "PYTHONPATH": paths}, check=True, capture_output=True)
        rows = [list(map(float, row.split())) for row in (Path(folder) / "memory.txt").read_text().splitlines()]
    print("epoch   main process   workers (MB, private)")
    for epoch, process, *workers in rows:
        print(f"{epoch:5.0f}   {process:12.1f}   {' '.join(f'{value:8.1f}' for value in workers)}")
    print(
        "growth from the third epoch on:", *(f"{last - third:+.1f}" for third, last in zip(rows[2][1:], rows[-1][1:]))
    )


if __name__ == "__main__":
    main()
