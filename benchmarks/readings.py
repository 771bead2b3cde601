"""Train the readings of docs/protocol.md over seeds, read their signatures, and compare them with training without.

    python benchmarks/readings.py train --seeds 0,1,2 [--readings none,zero-based] [--jobs 2] [--split val]
    python benchmarks/readings.py signatures --seeds 0,1,2 [--readings none,zero-based]
    python benchmarks/readings.py compare --seeds 0,1,2 [--readings none,zero-based] [--split val]
    python benchmarks/readings.py nms --seeds 0,1,2 [--split val]

`train` trains each reading with each seed by `--recipe` (shapes-lite0) and evaluates it with standard NMS, `--jobs` at
once with one thread each. Complete runs are skipped, interrupted ones are resumed. `signatures` prints means over the
last quarter of the epochs. `compare` compares the evaluations with those of `none`, paired by seed, on the
frequent classes, on all, and on `ring` and `bar`. `nms` evaluates the models of `none` with CL-B, Soft-NMS and box
voting, and compares CL-B with standard NMS, and the others with CL-B. Runs lie in runs/readings/RECIPE.
"""

from __future__ import annotations

import argparse
import csv
import os
import statistics
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

RELATIVE = "--recall-min-iou 0 --recall-relative 0.8"
READINGS = {
    "none": "--ablation none",
    "pixel": "--ablation dc --center-unit pixel",
    "stride": "--ablation dc --center-unit stride",
    "size": "--ablation dc --center-unit size",
    "zero-based": "--ablation dc --dc-form zero-based",
    "iou": "--ablation dc --dc-form iou",
    "zero-based-class": "--ablation dc --dc-form zero-based --dc-scope class",
    "iou-class": "--ablation dc --dc-form iou --dc-scope class",
    "printed": "--ablation iac --recall-min-iou 0",
    "floor": "--ablation iac --recall-min-iou 0.4",
    "relative": f"--ablation iac {RELATIVE}",
    "relative-no-box": f"--ablation iac {RELATIVE} --recall-box-loss false --normalizer matched",
    "relative-soft": f"--ablation iac {RELATIVE} --recall-target soft",
    "predicted": "--ablation iac --recall-min-iou 0 --recall-overlap predicted",
    "soft": "--ablation iac --recall-min-iou 0 --recall-target soft",
    "fade": "--ablation iac --recall-min-iou 0 --recall-fade true --normalizer matched",
}
"""The flags of each reading of DC (Eq. 2) and of IAC (Eq. 5-7)."""
SIGNATURES = ("coefficient", "spread", "coefficient_iou", "matched_iou", "recalled_iou", "recalled_box",
              "compact_positives", "elongated_positives")  # fmt: skip
FREQUENT = "star,crescent,bar,elbow"
"""The classes of the protocol's primary metric."""
METHODS = ("cl-balanced", "soft", "soft-vote")
"""The NMS methods of the protocol's third question."""
PROJECT = Path("runs", "readings")


def run_name(reading: str, seed: int) -> str:
    return f"{reading}-seed{seed}"


def cledet(*arguments: str) -> None:
    """Run a command with one thread; its output is shown if it fails."""
    command = [sys.executable, "-m", "cledet", *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)}\n{done.stderr}")


def train(recipe: str, reading: str, seed: int, split: str) -> str:
    """Train one reading with one seed and evaluate it, as far as that is not done."""
    name, project = run_name(reading, seed), PROJECT / recipe
    folder = project / "train" / name
    status = folder / "status"
    if not status.exists():
        flags = [*READINGS[reading].split(), "--seed", str(seed), "--project", str(project), "--name", name]
        cledet("train", "--recipe", recipe, *flags, "--device", "cpu", "--workers", "0")
    elif status.read_text().strip() != "finished":
        cledet("train", "--resume", str(folder))
    return evaluate(recipe, reading, seed, split, "standard")


def evaluated(recipe: str, reading: str, seed: int, split: str, nms: str) -> Path:
    """Return the folder of an evaluation."""
    name = f"{run_name(reading, seed)}-{split}"
    return PROJECT / recipe / "val" / (name if nms == "standard" else f"{nms}-{name}")


def evaluate(recipe: str, reading: str, seed: int, split: str, nms: str) -> str:
    """Evaluate the last weights of a run by one NMS method, if that is not done."""
    folder = evaluated(recipe, reading, seed, split, nms)
    if not (folder / "detections.json").exists():
        last = str(PROJECT / recipe / "train" / run_name(reading, seed) / "weights" / "last.pt")
        flags = ["--split", split, "--nms", nms, "--project", str(PROJECT / recipe), "--name", folder.name]
        cledet("val", "--weights", last, *flags, "--amp", "off", "--device", "cpu", "--workers", "0")
    return str(folder)


def last_quarter(folder: Path) -> dict[str, float]:
    """Return the mean of each column of results.csv over the last quarter of the epochs."""
    rows = list(csv.DictReader((folder / "results.csv").open()))
    rows = rows[-max(1, len(rows) // 4) :]
    means = {}
    for name in SIGNATURES:
        values = [float(row[name]) for row in rows if row[name]]
        means[name] = statistics.mean(values) if values else float("nan")
    return means


def print_signatures(recipe: str, readings: list[str], seeds: list[int]) -> None:
    print("| reading | " + " | ".join(SIGNATURES) + " |")
    print("|---" * (len(SIGNATURES) + 1) + "|")
    for reading in readings:
        runs = [last_quarter(PROJECT / recipe / "train" / run_name(reading, seed)) for seed in seeds]
        means = [statistics.mean(run[name] for run in runs) for name in SIGNATURES]
        print(f"| {reading} | " + " | ".join("" if value != value else f"{value:.3f}" for value in means) + " |")


def compare(recipe: str, name: str, sides: list[list[Path]]) -> None:
    """Compare sides of evaluations with the first, paired by seed: on the frequent classes, all, `ring` and `bar`."""
    command = [sys.executable, "-m", "cledet", "compare", *(str(run) for side in sides for run in side)]
    for part, classes in {"frequent": FREQUENT, "all": None, "ring": "ring", "bar": "bar"}.items():
        flags = ["--per-side", str(len(sides[0])), "--project", str(PROJECT / recipe), "--name", f"{name}-{part}"]
        done = subprocess.run([*command, *flags, *(["--classes", classes] if classes else [])], check=False)
        if done.returncode:
            sys.exit(done.returncode)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=["train", "signatures", "compare", "nms"])
    parser.add_argument("--readings", default=",".join(READINGS))
    parser.add_argument("--seeds", required=True)
    parser.add_argument("--recipe", default="shapes-lite0")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--split", default="val")
    args = parser.parse_args()
    readings, seeds = args.readings.split(","), [int(seed) for seed in args.seeds.split(",")]

    def folders(reading: str, nms: str = "standard") -> list[Path]:
        return [evaluated(args.recipe, reading, seed, args.split, nms) for seed in seeds]

    def each(work: Callable[..., str], jobs: list[tuple[str | int, ...]]) -> None:
        with ThreadPoolExecutor(args.jobs) as pool:
            for line in pool.map(lambda job: work(args.recipe, *job), jobs):
                print(line, flush=True)

    if args.action == "train":
        each(train, [(reading, seed, args.split) for seed in seeds for reading in readings])
    elif args.action == "signatures":
        print_signatures(args.recipe, readings, seeds)
    elif args.action == "compare":
        sides = ["none", *(reading for reading in readings if reading != "none")]
        compare(args.recipe, "-".join(sides), [folders(side) for side in sides])
    else:
        each(evaluate, [("none", seed, args.split, nms) for seed in seeds for nms in ("standard", *METHODS)])
        clb, soft, vote = (folders("none", nms) for nms in METHODS)
        compare(args.recipe, "cl-balanced", [folders("none"), clb])
        compare(args.recipe, "soft", [clb, soft, vote])


if __name__ == "__main__":
    main()
