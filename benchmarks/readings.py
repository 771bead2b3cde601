"""Train the readings of docs/protocol.md over seeds, read their signatures, and compare them with training without.

    python benchmarks/readings.py train --seeds 0,1,2 [--readings none,zero-based] [--jobs 2] [--split val]
    python benchmarks/readings.py signatures --seeds 0,1,2 [--readings none,zero-based]
    python benchmarks/readings.py compare --seeds 0,1,2 [--readings none,zero-based] [--split val]

`train` trains each reading with each seed by `--recipe` (shapes-lite0) and evaluates it with standard NMS, `--jobs` at
once with one thread each. Complete runs are skipped, interrupted ones are resumed. `signatures` prints means over the
last quarter of the epochs. `compare` compares the evaluations with those of `none`, paired by seed, on the
frequent classes, on all, and on `ring` and `bar`. Runs lie in runs/readings/RECIPE.
"""

from __future__ import annotations

import argparse
import csv
import os
import statistics
import subprocess
import sys
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


def run(recipe: str, reading: str, seed: int, split: str) -> str:
    """Train one reading with one seed and evaluate it, as far as that is not done."""
    name, project = run_name(reading, seed), PROJECT / recipe
    folder, evaluated = project / "train" / name, project / "val" / f"{name}-{split}"
    status = folder / "status"
    if not status.exists():
        flags = [*READINGS[reading].split(), "--seed", str(seed), "--project", str(project), "--name", name]
        cledet("train", "--recipe", recipe, *flags, "--device", "cpu", "--workers", "0")
    elif status.read_text().strip() != "finished":
        cledet("train", "--resume", str(folder))
    if not (evaluated / "detections.json").exists():
        last = str(folder / "weights" / "last.pt")
        flags = ["--split", split, "--nms", "standard", "--project", str(project), "--name", evaluated.name]
        cledet("val", "--weights", last, *flags, "--amp", "off", "--device", "cpu", "--workers", "0")
    return str(evaluated)


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


def compare(recipe: str, readings: list[str], seeds: list[int], split: str) -> None:
    """Compare the readings with `none`, paired by seed, on the frequent classes, all, `ring` and `bar`."""
    project = PROJECT / recipe
    sides = ["none", *(reading for reading in readings if reading != "none")]
    runs = [str(project / "val" / f"{run_name(side, seed)}-{split}") for side in sides for seed in seeds]
    command = [sys.executable, "-m", "cledet", "compare", *runs, "--per-side", str(len(seeds))]
    for name, classes in {"frequent": FREQUENT, "all": None, "ring": "ring", "bar": "bar"}.items():
        flags = ["--project", str(project), "--name", "-".join([*sides, name])]
        done = subprocess.run([*command, *flags, *(["--classes", classes] if classes else [])], check=False)
        if done.returncode:
            sys.exit(done.returncode)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=["train", "signatures", "compare"])
    parser.add_argument("--readings", default=",".join(READINGS))
    parser.add_argument("--seeds", required=True)
    parser.add_argument("--recipe", default="shapes-lite0")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--split", default="val")
    args = parser.parse_args()
    readings, seeds = args.readings.split(","), [int(seed) for seed in args.seeds.split(",")]
    if args.action == "train":
        jobs = [(args.recipe, reading, seed, args.split) for seed in seeds for reading in readings]
        with ThreadPoolExecutor(args.jobs) as pool:
            for line in pool.map(lambda job: run(*job), jobs):
                print(line, flush=True)
    elif args.action == "signatures":
        print_signatures(args.recipe, readings, seeds)
    else:
        compare(args.recipe, readings, seeds, args.split)


if __name__ == "__main__":
    main()
