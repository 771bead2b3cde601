"""Print the share of objects that anchors cover: by default, and as `--anchor-scale auto` and `--anchor-ratios auto`.

    python benchmarks/anchors.py [--data ../shared/data/bccd 320 416 480] [--data shapes 160]

Shares are those of the training split's objects whose best anchor has an IoU of 0.5 (0.4) or more.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from cledet.config.types import format_numbers
from cledet.data.open import open_source
from cledet.data_check.anchor_coverage import AnchorSettings, best_iou, choose_anchors, measure_coverage
from cledet.data_check.statistics import Objects
from cledet.models.anchors import RATIOS
from cledet.training.auto_anchors import training_objects

SHARED = "../shared/data"
SETS = [
    [f"{SHARED}/bccd", "320", "416", "480"],
    [f"{SHARED}/deeppcb", "320", "416", "512"],
    ["shapes", "160", "320"],
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", action="append", metavar=("DATA", "IMGSZ"))
    print("| data | imgsz | anchors | IoU >= 0.5 | IoU >= 0.4 |\n|---|---|---|---|---|")
    for data, *sizes in parser.parse_args().data or SETS:
        objects = training_objects(open_source(data).index("train", need_images=False, allow_errors=True))
        for size in map(int, sizes):
            for name, one in chosen(objects, size).items():
                coverage = measure_coverage(objects.resized(size), best_iou(objects.resized(size), *one[1:3]))
                settings = f"{name}: {one.anchor_scale:g}; {format_numbers(one.anchor_ratios)}"
                shares = f"{100 * (coverage.reached or 0):.1f} | {100 * (coverage.nearly or 0):.1f}"
                print(f"| `{Path(data).name}` | {size} | {settings} | {shares} |", flush=True)


def chosen(objects: Objects, imgsz: int) -> dict[str, AnchorSettings]:
    """Return the default settings, the chosen scale, and scale and ratios chosen together."""
    default = AnchorSettings(imgsz, 4.0, RATIOS, 0.0)
    scale = choose_anchors(objects, imgsz, 4.0, RATIOS, ratio_sets=())
    both = choose_anchors(objects, imgsz, 4.0, RATIOS)
    return {"default": default, "scale auto": scale or default, "both auto": both or default}


if __name__ == "__main__":
    main()
