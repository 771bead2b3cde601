"""Compare the loader with torchvision's reference (PIL and transforms.v2): images per second on one core.

    python benchmarks/loader.py [--data coco2017_sub] [--images 96] [--batch 8] [--rounds 5] [--sizes 800 640]

Both decode the same photos, resize them, flip half of them, and pad them to batches; in a second row they also change
brightness, contrast, saturation and hue. Cledet's batches are uint8, normalized by the network on its device; the
reference's are normalized float32, as in `references/detection` and `GeneralizedRCNNTransform`. Rounds alternate, with
one thread each; results are medians.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import torch
from PIL import Image
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

from cledet.config.base import long_side
from cledet.data.augment import Augment
from cledet.data.dataset import DetectionDataset, collate
from cledet.data.index import DetectionIndex
from cledet.data.open import open_source

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
PHOTOS = Path(__file__).resolve().parents[2] / "shared" / "data" / "coco2017_sub"


def ours(index: DetectionIndex, short: int, photometric: float, batch: int) -> Callable[[int], None]:
    """Return a pass of `DetectionDataset` and `collate` over a number of images."""
    augment = Augment(flip=0.5, photometric=photometric)
    dataset = DetectionDataset(index, short=short, long=long_side(short), augment=augment)

    def run(images: int) -> None:
        for start in range(0, images, batch):
            collate([dataset[(0, i % len(index))] for i in range(start, start + batch)])

    return run


def theirs(index: DetectionIndex, short: int, photometric: float, batch: int) -> Callable[[int], None]:
    """Return a pass of PIL, transforms.v2 and padding over a number of images.

    The order is the fastest of those tried: colours on the PIL image before resizing, and the resize on uint8.
    """
    jitter = [v2.ColorJitter(0.125, 0.4, 0.5, 0.05)] if photometric else []
    transform = v2.Compose(
        [
            *jitter,
            v2.PILToTensor(),
            v2.RandomHorizontalFlip(0.5),
            v2.Resize([short], max_size=long_side(short), antialias=True),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(MEAN, STD),
        ]
    )

    def load(i: int) -> tuple[Tensor, dict[str, Tensor]]:
        image = Image.open(index.paths[i]).convert("RGB")
        boxes = tv_tensors.BoundingBoxes(index.boxes(i), format="XYXY", canvas_size=image.size[::-1])
        target = {"boxes": boxes, "labels": torch.from_numpy(index.labels[index.rows(i)])}
        return transform(image, target)

    def run(images: int) -> None:
        for start in range(0, images, batch):
            pad([load(i % len(index))[0] for i in range(start, start + batch)])

    return run


def pad(images: list[Tensor], multiple: int = 32) -> Tensor:
    """Pad float images [3, H, W] with zeros to a batch, as GeneralizedRCNNTransform does."""
    height, width = (math.ceil(max(image.shape[d] for image in images) / multiple) * multiple for d in (1, 2))
    batch = images[0].new_full((len(images), 3, height, width), 0)
    for padded, image in zip(batch, images):
        padded[:, : image.shape[1], : image.shape[2]].copy_(image)
    return batch


def race(runs: list[Callable[[int], None]], images: int, rounds: int) -> list[float]:
    """Run all in turn and return the median images per second of each."""
    speeds: list[list[float]] = [[] for _ in runs]
    for _ in range(rounds + 1):
        for run, measured in zip(runs, speeds):
            start = time.perf_counter()
            run(images)
            measured.append(images / (time.perf_counter() - start))
    return [statistics.median(measured[1:]) for measured in speeds]  # the first round warms up


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default=str(PHOTOS) if PHOTOS.is_dir() else "shapes")
    parser.add_argument("--split", default="train")
    parser.add_argument("--images", type=int, default=96)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--sizes", type=int, nargs="+", default=[800, 640])
    args = parser.parse_args()

    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    index = open_source(args.data).index(args.split)
    print(f"{index.name}: {args.images} images in batches of {args.batch}, one thread, medians of {args.rounds} rounds")
    for short in args.sizes:
        for photometric in (0.0, 1.0):
            runs = [make(index, short, photometric, args.batch) for make in (theirs, ours)]
            slow, fast = race(runs, args.images, args.rounds)
            title = f"{short}/{long_side(short)}, flip{' and colours' if photometric else ''}"
            print(f"{title:28} torchvision {slow:6.1f}/s   cledet {fast:6.1f}/s   {fast / slow:.2f} times as fast")


if __name__ == "__main__":
    main()
