"""Run the benchmarks behind the table of docs/performance.md one after the other, and print that table.

    python benchmarks/all.py [--quick] [--only nms] [--json FILE]

Each benchmark runs in a process of its own and prints its ratio; `other load` is the share of the machine's CPU time
that other processes took meanwhile. --quick takes fewer rounds: under 15 minutes on two quiet cores.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from ratios import Row, machine, markdown, run

PHOTO = "--rounds 3"
ROWS = (
    Row(what="ResNet-50, 640 px, photo to boxes, float32", script="inference.py", quick=PHOTO, target=1.4),
    Row(what="the same, bf16", script="inference.py", arguments="--amp bf16", quick=PHOTO, target=3.0),
    Row(what="decoding, 80 classes", script="decode.py", quick="--rounds 5", target=1.55),
    Row(what="decoding, 1,000 classes", script="decode.py", arguments="--classes 1000", quick="--rounds 3", target=6.5),
    Row(what="step, r18, 256 px, batch 8, float32", script="train_step.py", quick="--rounds 3", target=1.2),
    Row(what="the same, bf16", script="train_step.py", arguments="--amp bf16", quick="--rounds 3", target=1.2),
    Row(
        what="step, r50, 320 px, batch 4, float32",
        script="train_step.py",
        arguments="--backbone r50 --imgsz 320 --batch 4",
        quick="--rounds 3",
        target=1.25,
    ),
    Row(
        what="the same, bf16",
        script="train_step.py",
        arguments="--backbone r50 --imgsz 320 --batch 4 --amp bf16",
        quick="--rounds 3",
        target=1.25,
    ),
    Row(what="focal loss, 64,000 x 80, both passes", script="focal_loss.py", quick="--rounds 5", target=2.5),
    *(
        Row(
            what=f"{method}, 1,000 boxes",
            script="nms.py",
            arguments=f"--boxes 1000 --kind objects --methods {method} --threads 1",
            quick="--seconds 2",
            target=4,
            at_most=True,
        )
        for method in ("soft", "soft-vote")
    ),
    Row(
        what="20 calls of `Detector.predict` against one of 20 photos",
        script="one_photo.py",
        arguments="calls",
        quick="--rounds 3 --imgsz 320",
        target=1.05,
        at_most=True,
    ),
    Row(
        what="`cledet predict` of one photo against importing torch and torchvision",
        script="one_photo.py",
        arguments="command",
        quick="--rounds 3",
        target=1.05,
        at_most=True,
    ),
)
"""The issue's targets; that of decoding is torchvision's time over 10 and 60 ms."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer rounds")
    parser.add_argument("--only", default="", help="run the rows of whose command this is a part")
    parser.add_argument("--json", type=Path, help="also write machine, rows and outputs")
    args = parser.parse_args()
    start, rows = machine(), []
    for row in ROWS:
        command = " ".join(row.command(args.quick))
        if args.only not in command:
            continue
        print(command, file=sys.stderr, flush=True)
        rows.append(run(row, args.quick))
        print(rows[-1]["output"], file=sys.stderr, flush=True)
        if args.json:
            args.json.write_text(json.dumps({"machine": start, "rows": rows}, indent=2))
    print(", ".join(f"{name} {value}" for name, value in start.items()), "\n", sep="\n")
    print(markdown(rows))
    sys.exit(any(row["ratio"] is None for row in rows))


if __name__ == "__main__":
    main()
