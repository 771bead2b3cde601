"""Print the share of objects that anchors cover: by default, and as `--anchor-scale auto` and `--anchor-ratios auto`.

    python benchmarks/anchors.py [--data ../shared/data/bccd 320 416 480] [--data shapes 160] [--data bars 160 320]

`bars` is the embedded set, drawn anew with longer bars: aspect ratios of 2.5 to 8, and 70 % of them within 7 degrees of
the axes. Shares are those of the training split's objects whose best anchor has an IoU of 0.5 (0.4) or more.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np

from cledet.config.types import format_numbers
from cledet.data.open import open_source
from cledet.data.shapes import drawing
from cledet.data.shapes.dataset import COUNTS, draw_shapes
from cledet.data_check.anchor_coverage import AnchorSettings, best_iou, choose_anchors, measure_coverage
from cledet.data_check.statistics import Objects
from cledet.models.anchors import RATIOS
from cledet.training.auto_anchors import training_objects

SHARED = "../shared/data"
SETS = [
    [f"{SHARED}/bccd", "320", "416", "480"],
    [f"{SHARED}/deeppcb", "320", "416", "512"],
    ["shapes", "160", "320"],
    ["bars", "160", "320"],
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", action="append", metavar=("DATA", "IMGSZ"))
    print("| data | imgsz | anchors | IoU >= 0.5 | IoU >= 0.4 |\n|---|---|---|---|---|")
    for data, *sizes in parser.parse_args().data or SETS:
        objects = read_objects(data)
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


def read_objects(data: str) -> Objects:
    """Read the objects of the training split, or draw those of `bars`."""
    if data != "bars":
        return training_objects(open_source(data).index("train", need_images=False, allow_errors=True))
    drawing.SHAPES["bar"] = long_bar
    with tempfile.TemporaryDirectory() as folder:
        draw_shapes(Path(folder) / "bars", COUNTS)
        return training_objects(open_source(f"{folder}/bars").index("train"))


def long_bar(diameter: float, rng: np.random.Generator) -> drawing.Mask:
    """Draw a bar of an aspect ratio of 2.5 to 8, mostly near the axes."""
    length = max(diameter, 40.0)
    half = np.array([length, length / rng.uniform(2.5, 8)]) / 2
    off = rng.uniform(-7, 7) if rng.random() < 0.7 else rng.uniform(7, 83)
    angle = np.deg2rad(off) + np.pi / 2 * rng.integers(4)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    return drawing._polygon(half * np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) @ turn, length)


if __name__ == "__main__":
    main()
