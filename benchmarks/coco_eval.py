"""COCO's metrics of a synthetic val2017: `cledet val --predictions` compared with pycocotools, in separate processes.

    python benchmarks/coco_eval.py [--images 5000] [--objects 36640] [--detections 500000] [--repeats 3]

Every process starts an interpreter and ends with the twelve metrics; cledet also writes its run folder with the
detections. Prints seconds and seconds of CPU (of the fastest repeat; pycocotools runs once), peak memory, the speed-up
over pycocotools, and whether the metrics are equal to the last digit. On a machine under load, compare the seconds of
CPU.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")

PYCOCOTOOLS = """
import json, sys
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
truth = COCO(sys.argv[1])
coco = COCOeval(truth, truth.loadRes(sys.argv[2]), "bbox")
coco.evaluate()
coco.accumulate()
coco.summarize()
json.dump(coco.stats.tolist(), open(sys.argv[3], "w"))
"""

OURS = """
from cledet.cli import main
main()
"""


def write_case(folder: Path, images: int, objects: int, detections: int) -> None:
    """Write annotations.json and results.json: 80 classes with holes in their ids, one object of 80 a crowd.

    Three detections of five are a shifted object, one of five of these of another class; the others lie anywhere.
    """
    rng = np.random.default_rng(0)
    ids = np.sort(rng.choice(600_000, images, replace=False))
    categories = np.sort(rng.choice(np.arange(1, 91), 80, replace=False))
    home = np.sort(rng.integers(0, images, objects))
    labels = np.minimum(rng.geometric(0.06, objects) - 1, 79)
    truth = _boxes(rng, objects)
    crowd = rng.random(objects) < 1 / 80
    polygon = rng.uniform(10, 400, 40).round(2).tolist()
    annotations = [
        {"segmentation": [polygon], "area": w * h * 0.6, "iscrowd": int(c), "image_id": int(i), "bbox": [x, y, w, h],
         "category_id": int(k), "id": n}
        for n, (i, k, c, (x, y, w, h)) in enumerate(zip(ids[home], categories[labels], crowd, truth.tolist()), 1)
    ]  # fmt: skip
    content = {
        "images": [{"id": int(i), "file_name": f"{i:012d}.jpg", "width": 640, "height": 480} for i in ids],
        "categories": [{"supercategory": "thing", "id": int(k), "name": f"class {k}"} for k in categories],
        "annotations": annotations,
    }
    (folder / "annotations.json").write_text(json.dumps(content))

    near = rng.random(detections) < 0.6
    source = rng.integers(0, objects, detections)
    moved = np.abs(truth[source] * rng.normal(1, 0.1, (detections, 4)))
    boxes = np.where(near[:, None], moved, _boxes(rng, detections))
    other = ~near | (rng.random(detections) < 0.2)
    labels = np.where(other, rng.integers(0, 80, detections), labels[source])
    place = np.where(near, home[source], rng.integers(0, images, detections))
    scores = np.where(near, rng.beta(2, 2, detections), rng.beta(1, 5, detections))
    rows = zip(ids[place].tolist(), categories[labels].tolist(), boxes.tolist(), scores.tolist())
    results = [dict(zip(("image_id", "category_id", "bbox", "score"), row)) for row in rows]
    (folder / "results.json").write_text(json.dumps(results))


def _boxes(rng: np.random.Generator, count: int) -> Any:
    """Draw boxes [count, 4] xywh with COCO's distribution of sizes, in pixels with two digits."""
    sides = np.exp(rng.normal(4, 1, (count, 2))).clip(2, 400)
    corners = rng.uniform(0, 1, (count, 2)) * (np.array([640, 480]) - sides).clip(1)
    return np.concatenate([corners, sides], axis=1).round(2)


def apart(work: Callable[..., None], *arguments: Any) -> None:
    """Call `work` in a separate process, because the peak memory of this one is inherited by its children."""
    process = multiprocessing.get_context("spawn").Process(target=work, args=arguments)
    process.start()
    process.join()
    if process.exitcode:
        raise SystemExit(f"{work.__name__} ended with {process.exitcode}")


class Cost(NamedTuple):
    """Resources of a process."""

    seconds: float
    cpu: float
    megabytes: float

    def __str__(self) -> str:
        return f"{self.seconds:7.2f} s {self.cpu:7.2f} s of CPU {self.megabytes:6.0f} MB"


def run(code: str, *arguments: str) -> Cost:
    """Run code in an interpreter and measure its resources."""
    start = time.perf_counter()
    null = os.open(os.devnull, os.O_WRONLY)
    actions = [(os.POSIX_SPAWN_DUP2, null, 1), (os.POSIX_SPAWN_DUP2, null, 2)]
    child = os.posix_spawn(sys.executable, [sys.executable, "-c", code, *arguments], os.environ, file_actions=actions)
    _, status, usage = os.wait4(child, 0)
    os.close(null)
    if status:
        raise SystemExit(f"a process ended with {os.waitstatus_to_exitcode(status)}: {code} {arguments}")
    return Cost(time.perf_counter() - start, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1e3)


WAYS = (
    ("cledet val --report false, first", ("--report", "false"), False),
    ("the same again", ("--report", "false"), True),
    ("cledet val, with its report", (), True),
)
"""Title, flags, and whether the run is repeated: annotations are cached from the second run on."""


def ours(folder: Path, number: int, repeats: int) -> tuple[Cost, list[float]]:
    """Measure `cledet val` in one of the WAYS; returns its resources and the twelve metrics."""
    _, flags, again = WAYS[number]
    command = ["val", "--predictions", str(folder / "results.json"), "--data", str(folder / "annotations.json"), *flags]
    taken = [
        run(OURS, *command, "--project", str(folder), "--name", f"{number}-{repeat}")
        for repeat in range(repeats if again else 1)
    ]
    metrics = json.loads((folder / "val" / f"{number}-0" / "metrics.json").read_text())
    return min(taken), [metrics[name] for name in METRICS]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=5_000)
    parser.add_argument("--objects", type=int, default=36_640)
    parser.add_argument("--detections", type=int, default=500_000)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["CLEDET_CACHE"] = str(folder / "cache")
        apart(write_case, folder, args.images, args.objects, args.detections)
        files = [str(folder / file) for file in ("annotations.json", "results.json", "stats.json")]
        print(f"load {os.getloadavg()[0]:.1f}")
        reference = run(PYCOCOTOOLS, *files)
        wanted = json.loads(Path(files[2]).read_text())
        print(f"{'pycocotools':<33} {reference}", flush=True)
        for number, (title, *_) in enumerate(WAYS):
            cost, found = ours(folder, number, args.repeats)
            equal = "equal" if found == wanted else f"DIFFERENT: {found} for {wanted}"
            ratios = f"{reference.seconds / cost.seconds:.1f} times as fast, by CPU {reference.cpu / cost.cpu:.1f}"
            print(f"{title:<33} {cost}  {ratios}, {equal}; load {os.getloadavg()[0]:.1f}", flush=True)


if __name__ == "__main__":
    main()
