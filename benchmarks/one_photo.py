"""Time predictions of single photos: many calls against one call, and the whole command against its imports.

    python benchmarks/one_photo.py calls [--imgsz 640] [--rounds 7] [--threads 2]
    python benchmarks/one_photo.py command [--imgsz 640] [--rounds 7]

`calls`: `Detector.predict` of one photo, 20 times, and one call of 20 photos. `command`: `cledet predict photo.jpg` and
`python -c "import torch, torchvision"`. The sides take turns, and the ratio is that of the medians, of wall time and of
CPU time. The weights are a random ResNet-18 of 20 classes.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from cledet import Detector
from cledet.models.checkpoint import Checkpoint
from cledet.models.network import Architecture, build_network

PHOTOS = 20
Times = tuple[float, float]
"""Wall and CPU seconds."""


def prepare(folder: Path) -> tuple[Path, Path]:
    """Write random weights and a photo of 640 x 480 pixels."""
    torch.manual_seed(0)
    architecture = Architecture(backbone="r18", classes=20)
    network = build_network(architecture)
    torch.nn.init.constant_(network.head.classification.predict.bias, -3.2)
    names = tuple(f"class {i}" for i in range(20))
    weights, photo = folder / "r18.pt", folder / "photo.jpg"
    Checkpoint(
        architecture=architecture, model=network.state_dict(), classes=names, category_ids=tuple(range(20))
    ).save(weights)
    coarse = np.random.default_rng(0).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    Image.fromarray(np.kron(coarse, np.ones((40, 40, 1), dtype=np.uint8))).save(photo)
    return weights, photo


def timed(run: Callable[[], object]) -> Times:
    start, used = time.perf_counter(), cpu_seconds()
    run()
    return time.perf_counter() - start, cpu_seconds() - used


def cpu_seconds() -> float:
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def calls(weights: Path, photo: Path, imgsz: int) -> tuple[Callable[[], object], Callable[[], object]]:
    detector, image = Detector(weights), np.asarray(Image.open(photo))

    def one_call() -> None:
        for _ in detector.predict([image] * PHOTOS, imgsz=imgsz, conf=0.05, device="cpu"):
            pass

    def many_calls() -> None:
        for _ in range(PHOTOS):
            for _ in detector.predict(image, imgsz=imgsz, conf=0.05, device="cpu"):
                pass

    return many_calls, one_call


def command(weights: Path, photo: Path, imgsz: int) -> tuple[Callable[[], object], Callable[[], object]]:
    python = [sys.executable, "-m", "cledet", "predict", str(photo), "--weights", str(weights)]
    predict = [*python, "--imgsz", str(imgsz), "--project", str(weights.parent / "runs"), "--device", "cpu"]
    imports = [sys.executable, "-c", "import torch, torchvision"]
    return tuple(lambda words=words: subprocess.run(words, check=True, capture_output=True)  # type: ignore[return-value]
                 for words in (predict, imports))  # fmt: skip


SIDES = {
    "calls": (calls, f"{PHOTOS} calls", "one call", "calls/one-call"),
    "command": (command, "cledet predict", "import torch, torchvision", "command/imports"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=SIDES)
    parser.add_argument("--imgsz", type=int, default=640)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    build, *names, _ = SIDES[args.what]
    with tempfile.TemporaryDirectory() as folder, redirect_stderr(StringIO()):
        sides = build(*prepare(Path(folder)), args.imgsz)
        times: list[list[Times]] = [[], []]
        for _ in range(args.rounds + 1):
            for side, done in zip(sides, times):
                done.append(timed(side))
    medians = [[statistics.median(column) for column in zip(*done[1:])] for done in times]
    for name, (wall, cpu) in zip(names, medians):
        print(f"{name:28} {wall:8.2f} s wall, {cpu:8.2f} s CPU")
    wall, cpu = (ours / base for ours, base in zip(*medians))
    left, right = SIDES[args.what][3].split("/")
    print(f"{left} / {right}: {wall:.2f} wall, {cpu:.2f} CPU")


if __name__ == "__main__":
    main()
