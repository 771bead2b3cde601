"""Train the readings of docs/protocol.md over seeds, read their signatures, and compare them with training without.

    python benchmarks/readings.py train --seeds 0,1,2 [--readings none,zero-based] [--jobs 2] [--split val]
    python benchmarks/readings.py signatures --seeds 0,1,2 [--readings none,zero-based]
    python benchmarks/readings.py compare --seeds 0,1,2 [--readings zero-based] [--baseline none] [--split val]
    python benchmarks/readings.py nms --seeds 0,1,2 [--baseline none] [--split val]

`train` trains each reading with each seed by `--recipe` (shapes-lite0) and evaluates it with standard NMS, `--jobs` at
once with one thread each. Complete runs are skipped, interrupted ones are resumed. `signatures` prints means over the
last quarter of the epochs. `compare` compares the evaluations with those of `--baseline`, paired by seed: AP of all
classes, and on `shapes` also of the frequent ones, of `ring` and of `bar`. `nms` evaluates the models of `--baseline`
with CL-B, Soft-NMS and box voting, and compares CL-B with standard NMS, and the others with CL-B. Runs lie in
runs/readings/RECIPE of the current folder. `--data` and `--epochs` override the recipe's; use another folder for each:

    --recipe light --data ../shared/data/deeppcb --epochs 3

With `--finetune`, a reading does not start from ImageNet weights: it trains the detector of `none` with the same seed,
which must be complete, for a third of the epochs at half the learning rate. These runs lie in
runs/readings/RECIPE-finetune.
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
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cledet.config.loading import read_recipe

DC, BOTH = "--ablation dc --dc-balance batch", "--ablation iac,dc --dc-balance batch"
PRINTED, HARD = "--dc-form as-printed --center-unit", "--recall-target hard --recall-min-iou"
BEST = "--dc-form zero-based --recall-min-iou 0 --recall-target soft"
RELATIVE = "--recall-min-iou 0 --recall-relative 0.8"
READINGS = {
    "none": "--ablation none",
    "pixel": f"{DC} {PRINTED} pixel",
    "stride": f"{DC} {PRINTED} stride",
    "size": f"{DC} {PRINTED} size",
    "zero-based": f"{DC} --dc-form zero-based",
    "iou": f"{DC} --dc-form iou",
    "zero-based-class": f"{DC} --dc-form zero-based --dc-scope class",
    "iou-class": f"{DC} --dc-form iou --dc-scope class",
    "balanced": "--ablation dc --dc-form zero-based --dc-balance class",
    "printed": f"--ablation iac {HARD} 0",
    "floor": f"--ablation iac {HARD} 0.4",
    "relative": f"--ablation iac --recall-target hard {RELATIVE}",
    "relative-no-box": f"--ablation iac --recall-target hard {RELATIVE} --recall-box-loss false --normalizer matched",
    "relative-soft": f"--ablation iac {RELATIVE} --recall-target soft",
    "predicted": f"--ablation iac {HARD} 0 --recall-overlap predicted",
    "soft": "--ablation iac --recall-min-iou 0 --recall-target soft",
    "fade": f"--ablation iac {HARD} 0 --recall-fade true --normalizer matched",
    "both-floor": f"{BOTH} {PRINTED} size {HARD} 0.4",
    "both-printed": f"{BOTH} {PRINTED} pixel {HARD} 0",
    "both-best": f"{BOTH} {BEST}",
    "both-balanced": f"--ablation iac,dc --dc-balance class {BEST}",
    "both-fill": f"--ablation iac,dc --dc-balance class --recall-fill 9 {BEST}",
    "both-late": f"{BOTH} {BEST} --recall-start 0.75 --dc-start 0.75",
}
"""The flags of each reading of DC (Eq. 2), of IAC (Eq. 5-7), and of both."""
SIGNATURES = ("coefficient", "spread", "coefficient_iou", "matched_iou", "recalled_iou", "recalled_box",
              "compact_positives", "elongated_positives")  # fmt: skip
PARTS = {"frequent": "star,crescent,bar,elbow", "all": "", "ring": "ring", "bar": "bar"}
"""The classes of `shapes` on which runs are compared; the frequent ones are those of the protocol's primary metric."""
METHODS = ("cl-balanced", "soft", "soft-vote")
"""The NMS methods of the protocol's third question."""


def cledet(*arguments: str) -> None:
    """Run a command with one thread; its output is shown if it fails."""
    command = [sys.executable, "-m", "cledet", *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)}\n{done.stderr}")


def finished(run: Path) -> bool:
    """Return whether a training is complete."""
    status = run / "status"
    return status.exists() and status.read_text().strip() == "finished"


@dataclass(frozen=True)
class Experiment:
    """Trainings by one recipe on one data set, evaluated on one split."""

    recipe: str
    epochs: int
    data: str | None
    finetune: bool
    split: str

    @property
    def project(self) -> Path:
        """The folder of all its runs."""
        return Path("runs", "readings", f"{self.recipe}-finetune" if self.finetune else self.recipe)

    def trained(self, reading: str, seed: int) -> Path:
        """Return the folder of a training."""
        return self.project / "train" / f"{reading}-seed{seed}"

    def last_weights(self, reading: str, seed: int) -> Path:
        return self.trained(reading, seed) / "weights" / "last.pt"

    def evaluated(self, reading: str, seed: int, nms: str) -> Path:
        """Return the folder of an evaluation."""
        name = f"{reading}-seed{seed}-{self.split}"
        return self.project / "val" / (name if nms == "standard" else f"{nms}-{name}")

    def train(self, reading: str, seed: int) -> str:
        """Train one reading with one seed and evaluate it, as far as that is not done."""
        folder = self.trained(reading, seed)
        if not folder.exists():
            flags = [*READINGS[reading].split(), "--seed", str(seed), *self.schedule(seed)]
            flags += ["--project", str(self.project), "--name", folder.name, "--device", "cpu", "--workers", "0"]
            cledet("train", "--recipe", self.recipe, *(["--data", self.data] if self.data else []), *flags)
        elif not finished(folder):
            cledet("train", "--resume", str(folder))
        if not finished(folder):
            sys.exit(f"{folder} is not complete")
        return self.evaluate(reading, seed, "standard")

    def schedule(self, seed: int) -> list[str]:
        """Return the epochs and, in fine-tuning, the learning rate and the weights to start from."""
        epochs = max(1, self.epochs // 3) if self.finetune else self.epochs
        flags = ["--epochs", str(epochs), "--val-every", str(epochs)]
        if self.finetune:
            shared = replace(self, finetune=False)
            if not finished(shared.trained("none", seed)):
                sys.exit(f"{shared.trained('none', seed)} is not complete: train the reading none first")
            start = shared.last_weights("none", seed)
            flags += ["--lr", str(read_recipe(self.recipe)["lr"] / 2), "--weights", str(start)]
        return flags

    def evaluate(self, reading: str, seed: int, nms: str) -> str:
        """Evaluate the last weights of a run by one NMS method, if that is not done."""
        folder = self.evaluated(reading, seed, nms)
        if not (folder / "detections.json").exists():
            flags = ["--split", self.split, "--nms", nms, "--project", str(self.project), "--name", folder.name]
            weights = str(self.last_weights(reading, seed))
            cledet("val", "--weights", weights, *flags, "--amp", "off", "--device", "cpu", "--workers", "0")
        return str(folder)

    def signatures(self, readings: list[str], seeds: list[int]) -> None:
        """Print the means of the signatures over the last quarter of the epochs and over the seeds that have one."""
        print("| reading | " + " | ".join(SIGNATURES) + " |")
        print("|---" * (len(SIGNATURES) + 1) + "|")
        for reading in readings:
            runs = [last_quarter(self.trained(reading, seed)) for seed in seeds]
            known = [[run[name] for run in runs if name in run] for name in SIGNATURES]
            cells = (f"{statistics.mean(values):.3f}" if values else "" for values in known)
            print(f"| {reading} | " + " | ".join(cells) + " |")

    def compare(self, name: str, sides: list[list[Path]]) -> None:
        """Compare sides of evaluations with the first, paired by seed."""
        command = [sys.executable, "-m", "cledet", "compare", *(str(run) for side in sides for run in side)]
        for part, classes in PARTS.items() if self.data is None else [("all", "")]:
            flags = ["--per-side", str(len(sides[0])), "--project", str(self.project), "--name", f"{name}-{part}"]
            done = subprocess.run([*command, *flags, *(["--classes", classes] if classes else [])], check=False)
            if done.returncode:
                sys.exit(done.returncode)


def last_quarter(folder: Path) -> dict[str, float]:
    """Return the means of the signatures over the last quarter of the epochs in results.csv, where there are any."""
    rows = list(csv.DictReader((folder / "results.csv").open()))
    rows = rows[-max(1, len(rows) // 4) :]
    means = {}
    for name in SIGNATURES:
        values = [float(row[name]) for row in rows if row[name]]
        if values:
            means[name] = statistics.mean(values)
    return means


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=["train", "signatures", "compare", "nms"])
    parser.add_argument("--readings", default=",".join(READINGS))
    parser.add_argument("--seeds", required=True)
    parser.add_argument("--baseline", default="none")
    parser.add_argument("--recipe", default="shapes-lite0")
    parser.add_argument("--data")
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--finetune", action="store_true")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--split", default="val")
    args = parser.parse_args()
    readings, seeds = args.readings.split(","), [int(seed) for seed in args.seeds.split(",")]
    if unknown := {*readings, args.baseline} - READINGS.keys():
        parser.error(f"unknown: {', '.join(sorted(unknown))}; readings are {', '.join(READINGS)}")
    epochs = args.epochs or read_recipe(args.recipe)["epochs"]
    experiment = Experiment(args.recipe, epochs, args.data, args.finetune, args.split)

    def folders(reading: str, nms: str = "standard") -> list[Path]:
        return [experiment.evaluated(reading, seed, nms) for seed in seeds]

    def each(work: Callable[..., str], jobs: list[tuple[Any, ...]]) -> None:
        with ThreadPoolExecutor(args.jobs) as pool:
            for line in pool.map(lambda job: work(*job), jobs):
                print(line, flush=True)

    if args.action == "train":
        each(experiment.train, [(reading, seed) for seed in seeds for reading in readings])
    elif args.action == "signatures":
        experiment.signatures(readings, seeds)
    elif args.action == "compare":
        sides = [args.baseline, *(reading for reading in readings if reading != args.baseline)]
        experiment.compare("-".join(sides), [folders(side) for side in sides])
    else:
        each(experiment.evaluate, [(args.baseline, seed, nms) for seed in seeds for nms in ("standard", *METHODS)])
        clb, soft, vote = (folders(args.baseline, nms) for nms in METHODS)
        experiment.compare(f"{args.baseline}-cl-balanced", [folders(args.baseline), clb])
        experiment.compare(f"{args.baseline}-soft", [clb, soft, vote])


if __name__ == "__main__":
    main()
