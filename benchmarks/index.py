"""Measure time and memory of the index of a synthetic COCO file of train2017's size, read and from the cache.

    python benchmarks/index.py [--images 118287] [--boxes 860001]

Each measurement runs in its own process, and so do two spawned loader workers of the second. Memory is the increase in
private and in shared resident pages, and the process's peak.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import pickle
import resource
import tempfile
import time
from pathlib import Path

import numpy as np


def write_coco(file: Path, images: int, boxes: int) -> None:
    """Write a file with these numbers of entries, with polygons as long as COCO's (448 MB for train2017)."""
    rng = np.random.default_rng(0)
    image_rows = rng.integers(0, images, boxes).tolist()
    corners = rng.uniform(10, 400, (boxes, 4)).round(2).tolist()
    polygon = rng.uniform(10, 400, 40).round(2).tolist()
    with file.open("w") as out:
        out.write('{"info": {}, "licenses": [], "images": [')
        out.write(", ".join(json.dumps(_image(i)) for i in range(images)))
        out.write('], "annotations": [')
        for i, (image, box) in enumerate(zip(image_rows, corners)):
            annotation = {
                "segmentation": [polygon], "area": box[2] * box[3] / 2, "iscrowd": int(i % 80 == 0),
                "image_id": 3 * image, "bbox": box, "category_id": 1 + i % 80, "id": i + 1,
            }  # fmt: skip
            out.write((", " if i else "") + json.dumps(annotation))
        categories = [{"supercategory": "thing", "id": i, "name": f"class {i}"} for i in range(1, 81)]
        out.write(f'], "categories": {json.dumps(categories)}}}')


def _image(i: int) -> dict[str, object]:
    url = f"http://images.example.org/train2017/{3 * i:012d}.jpg"
    return {
        "license": 3, "file_name": f"{3 * i:012d}.jpg", "coco_url": url, "height": 480, "width": 640,
        "date_captured": "2013-11-14 11:18:45", "flickr_url": url, "id": 3 * i,
    }  # fmt: skip


def resident() -> dict[str, float]:
    """Return the private and the shared resident memory of this process in MB."""
    pages = [int(word) * os.sysconf("SC_PAGE_SIZE") / 1e6 for word in Path("/proc/self/statm").read_text().split()]
    return {"own": pages[1] - pages[2], "shared": pages[2]}


def measure(title: str, file: Path, workers: int) -> None:
    """Read the index in this process and print time and memory."""
    from cledet.data.open import open_source

    before, start = resident(), time.perf_counter()
    index = open_source(file).index("train")
    seconds, after = time.perf_counter() - start, resident()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    own, shared = (after[kind] - before[kind] for kind in ("own", "shared"))
    size = f"{len(index)} images, {index.num_boxes} boxes"
    print(f"{title:<12} {seconds:6.1f} s   +{own:5.0f} MB own, +{shared:4.0f} MB shared, peak {peak:5.0f} MB   {size}")
    context, sent = multiprocessing.get_context("spawn"), pickle.dumps(index)
    for _ in range(workers):
        process = context.Process(target=touch, args=(sent,))
        process.start()
        process.join()


def touch(sent: bytes) -> None:
    """Unpickle the index in a worker, read all columns and print the increase in memory."""
    import cledet.data.open  # noqa: F401  imported first, so that modules are not counted as memory of the index

    before = resident()
    index = pickle.loads(sent)
    assert sum(float(getattr(index, name).sum()) for name in ("xywh", "labels", "ignore", "area", "starts")) > 0
    own, shared = (resident()[kind] - before[kind] for kind in ("own", "shared"))
    print(f"{'  a worker':<12} {'':>8}   +{own:5.0f} MB own, +{shared:4.0f} MB shared, sent {len(sent)} bytes")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=118_287)
    parser.add_argument("--boxes", type=int, default=860_001)
    args = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["CLEDET_CACHE"] = f"{folder}/cache"
        file = Path(folder) / "instances_train.json"
        write_coco(file, args.images, args.boxes)
        for i in range(args.images):
            (file.parent / f"{3 * i:012d}.jpg").touch()
        print(f"{file.name}: {file.stat().st_size / 1e6:.0f} MB")
        for title, workers in (("read", 0), ("from cache", 2)):
            process = context.Process(target=measure, args=(title, file, workers))
            process.start()
            process.join()


if __name__ == "__main__":
    main()
