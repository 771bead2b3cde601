"""Stand-ins for pycocotools: are their figures equal to the last digit, how long do they take, how much do they hold?

    pip install ultrafast-pycocotools hotcoco faster-coco-eval
    python benchmarks/evaluators.py [--cases 300] [--repeats 3]

Equality is that of the twelve figures and of all of precision, recall and scores, on random cases with crowds, ties in
score, boxes without area, empty images, ids with holes, and of some images more than 100 detections of a class. Time
and memory are those of a whole process, files read and figures printed, on the made-up val2017 of coco_eval.py.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import importlib.util
import io
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from coco_eval import PYCOCOTOOLS, Cost, apart, run, write_case

EVALUATORS = {
    "ultrafast-pycocotools": ("ultrafast_pycocotools", "COCO", "COCOeval"),
    "hotcoco": ("hotcoco", "COCO", "COCOeval"),
    "faster-coco-eval": ("faster_coco_eval", "COCO", "COCOeval_faster"),
}

Case = tuple[dict[str, Any], list[dict[str, Any]]]


def random_case(seed: int) -> Case:
    """A small annotation file and results for it."""
    rng = np.random.default_rng(seed)
    image_ids = rng.choice(10**6, rng.integers(1, 6), replace=False).tolist()
    category_ids = rng.choice(100, rng.integers(1, 4), replace=False).tolist()
    annotations, results = [], []
    crowded, grid = rng.random() < 0.3, (2, 10, 1000)[rng.integers(3)]
    for image in image_ids:
        for category in category_ids:
            for _ in range(rng.integers(0, 5)):
                box = _box(rng)
                annotations.append(
                    {"id": len(annotations) + 1, "image_id": image, "category_id": category, "bbox": box,
                     "area": box[2] * box[3] * rng.uniform(0.4, 1), "iscrowd": int(rng.random() < 0.2)}
                )  # fmt: skip
                moved = [(np.array(box) * rng.normal(1, 0.05, 4)).round(1).tolist() for _ in range(rng.integers(0, 4))]
                results += [(image, category, one if rng.random() < 0.8 else box) for one in moved]
            strays = rng.integers(0, 3) + 105 * (crowded and category == category_ids[0])
            results += [(image, category, _box(rng)) for _ in range(strays)]
    images = [{"id": i, "file_name": f"{i}.jpg", "width": 200, "height": 200} for i in image_ids]
    categories = [{"id": i, "name": f"class {i}"} for i in category_ids]
    keys = ("image_id", "category_id", "bbox", "score")
    scored = [
        dict(zip(keys, (*results[i], int(rng.integers(0, grid + 1)) / grid))) for i in rng.permutation(len(results))
    ]
    return {"images": images, "categories": categories, "annotations": annotations}, scored


def _box(rng: np.random.Generator) -> list[float]:
    sides = np.exp(rng.uniform(1, 5, 2)) * (rng.random(2) > 0.03)
    return [*rng.integers(0, 60, 2).tolist(), *sides.round(1).tolist()]


def figures(names: tuple[str, str, str], truth: Path, results: Path) -> list[Any]:
    """The twelve figures, precision, recall and scores."""
    module = importlib.import_module(names[0])
    with contextlib.redirect_stdout(io.StringIO()):
        api = getattr(module, names[1])(str(truth))
        coco = getattr(module, names[2])(api, api.loadRes(str(results)), "bbox")
        coco.evaluate()
        coco.accumulate()
        coco.summarize()
    return [np.asarray(coco.stats)[:12], *(np.asarray(coco.eval[key]) for key in ("precision", "recall", "scores"))]


def equal(evaluator: tuple[str, str, str], folder: Path, cases: int) -> str:
    """On how many cases all is equal, and the largest difference."""
    from pycocotools import coco, cocoeval

    reference = type("reference", (), {"COCO": coco.COCO, "COCOeval": cocoeval.COCOeval})
    sys.modules["reference"] = reference  # type: ignore[assignment]
    truth, results = folder / "truth.json", folder / "few.json"
    same = count = 0
    worst = 0.0
    for content, found in map(random_case, range(cases)):
        if not content["annotations"] or not found:
            continue
        truth.write_text(json.dumps(content))
        results.write_text(json.dumps(found))
        wanted = figures(("reference", "COCO", "COCOeval"), truth, results)
        pairs = list(zip(wanted, figures(evaluator, truth, results)))
        worst = max(worst, *(float(np.abs(a - b.reshape(a.shape)).max()) for a, b in pairs))
        same += all(np.array_equal(a, b.reshape(a.shape)) for a, b in pairs)
        count += 1
    return f"equal on {same} of {count} cases, at most {worst:.1e} apart"


def timed(evaluator: tuple[str, str, str], files: list[str], repeats: int) -> Cost:
    """The fastest run."""
    module, api, evaluate = evaluator
    code = PYCOCOTOOLS.replace("from pycocotools.coco import COCO", f"from {module} import {api} as COCO")
    code = code.replace("from pycocotools.cocoeval import COCOeval", f"from {module} import {evaluate} as COCOeval")
    code = code.replace("coco.stats.tolist()", "[float(figure) for figure in coco.stats]")
    return min(run(code, *files) for _ in range(repeats))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=300)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        apart(write_case, folder, 5_000, 36_640, 500_000)
        files = [str(folder / file) for file in ("annotations.json", "results.json", "stats.json")]
        for title, evaluator in EVALUATORS.items():
            if importlib.util.find_spec(evaluator[0]) is None:
                print(f"{title:<22} is not installed")
                continue
            cost = timed(evaluator, files, args.repeats)
            print(f"{title:<22} {cost}; load {os.getloadavg()[0]:.1f}", flush=True)
        for title, evaluator in EVALUATORS.items():  # after all are timed, for this process grows
            if importlib.util.find_spec(evaluator[0]) is not None:
                print(f"{title:<22} {equal(evaluator, folder, args.cases)}", flush=True)


if __name__ == "__main__":
    main()
