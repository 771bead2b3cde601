"""Check and time cledet on a GPU in under ten minutes, and write one JSON file.

    python benchmarks/gpu.py [--out gpu.json]
    python benchmarks/gpu.py --device cpu --tiny       # a smoke run in a tiny setting, without a GPU

Runs tests/test_cuda.py, then inference, a training step, decoding, the focal loss and NMS against torchvision, and a
step in one and in several parts (`--accumulate`). The file is rewritten after each part, so a run that is cut short
leaves what it measured. torchvision's side runs on the same device.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from ratios import FOLDER, Row, machine, markdown, run
from train_step import random_batch

from cledet.config.train import TrainSettings
from cledet.models.network import Architecture, build_network
from cledet.training.init_model import build_criterion
from cledet.training.train_step import TrainStep

TINY_STEP = "--imgsz 64 --batch 2 --classes 3 --boxes 4 --rounds 1"


def rows(device: str, tiny: bool) -> list[Row]:
    """List the benchmarks with a torchvision side; the targets are those of the CPU."""
    step, photo = (TINY_STEP, "--imgsz 64 --rounds 1") if tiny else ("--imgsz 640 --batch 8 --rounds 7", "--rounds 15")
    boxes = "--boxes 100 --seconds 0.1" if tiny else "--seconds 1"
    small = "--rounds 1 --classes 3" if tiny else "--rounds 9"
    on = f"--device {device}"
    listed = [
        Row(what=f"photo to boxes, amp {amp}", script="inference.py", arguments=f"{on} {photo} --amp {amp}", target=aim)
        for amp, aim in (("off", 1.4), ("bf16", 3.0))
    ]
    listed += [
        Row(
            what=f"training step, r50, amp {amp}",
            script="train_step.py",
            arguments=f"{on} --backbone {'r18' if tiny else 'r50'} {step} --amp {amp}",
            target=1.25,
        )
        for amp in ("off", "bf16")
    ]
    listed.append(Row(what="focal loss", script="focal_loss.py", arguments=f"{on} {small}", target=2.5))
    listed += [
        Row(
            what=f"NMS, {method}, last of the sizes, scattered",
            script="nms.py",
            arguments=f"{on} {boxes} --methods {method}",
            target=4,
            at_most=True,
        )
        for method in ("standard", "cl-balanced", "soft", "soft-vote")
    ]
    return listed


def test_cuda(seconds: float) -> dict[str, Any]:
    """Run tests/test_cuda.py, which skips itself without a GPU."""
    words = [sys.executable, "-m", "pytest", "-q", "-rs", "tests/test_cuda.py", "-p", "no:cacheprovider"]
    try:
        done = subprocess.run(words, cwd=FOLDER.parent, capture_output=True, text=True, check=False, timeout=seconds)
    except subprocess.TimeoutExpired:
        return {"exit_code": None, "output": f"not finished in {seconds:.0f} s"}
    return {"exit_code": done.returncode, "output": (done.stdout + done.stderr)[-4000:]}


def accumulate(device: str, tiny: bool) -> list[dict[str, float]]:
    """Time a step of one batch in 1, 2 and 4 parts: median milliseconds, and on CUDA the peak memory in MiB."""
    side, size, rounds = (64, 4, 1) if tiny else (640, 16, 5)
    settings = TrainSettings(
        backbone="r18", backbone_weights="none", batch=size, imgsz=side, amp="off", ablation="iac,dc"
    )
    torch.manual_seed(0)
    network = build_network(Architecture(backbone="r18", classes=80, norm="frozen"))
    step = TrainStep(network, build_criterion(settings), settings, torch.device(device), 1000)
    found = []
    for parts in (1, 2, 4):
        batches, times = [random_batch(size // parts, side, 20, 80) for _ in range(parts)], []
        if device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        for _ in range(rounds + 1):
            start = time.perf_counter()
            step.compute_gradients(batches, 500)
            step.update(500)
            if device == "cuda":
                torch.cuda.synchronize()
            times.append(1000 * (time.perf_counter() - start))
        found.append({"parts": parts, "milliseconds": round(statistics.median(times[1:]), 1)})
        if device == "cuda":
            found[-1]["peak_mib"] = round(torch.cuda.max_memory_allocated() / 2**20)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--tiny", action="store_true", help="one round of small images, to try the script")
    parser.add_argument("--seconds", type=float, default=480, help="start no benchmark later than this")
    parser.add_argument("--out", type=Path, default=Path("gpu.json"))
    args = parser.parse_args()
    if args.device == "cuda" and not torch.cuda.is_available():
        sys.exit("no CUDA GPU here; --device cpu --tiny tries the script")
    start, report = time.perf_counter(), {"machine": machine(), "device": args.device, "tiny": args.tiny}

    def add(name: str, value: object) -> None:
        report[name] = value
        report["seconds"] = round(time.perf_counter() - start, 1)
        args.out.write_text(json.dumps(report, indent=2))

    add("test_cuda", test_cuda(args.seconds / 2))
    add("accumulate", accumulate(args.device, args.tiny))
    done: list[dict[str, Any]] = []
    for row in rows(args.device, args.tiny):
        if time.perf_counter() - start > args.seconds:
            break
        print(" ".join(row.command(False)), file=sys.stderr, flush=True)
        done.append(run(row, False))
        add("benchmarks", done)
    print(markdown(done))
    print(f"tests/test_cuda.py: exit code {report['test_cuda']['exit_code']}; report: {args.out}")
    sys.exit(report["test_cuda"]["exit_code"] != 0 or any(row["ratio"] is None for row in done))


if __name__ == "__main__":
    main()
