"""Count how often the rarest classes are drawn with repeat-factor sampling, compared with uniform sampling.

    python benchmarks/rare_classes.py [--data ../shared/data/coco2017_sub] [--split train] [--threshold 0.1]

The share of an epoch's images with an object of the class: uniform, and the mean over 50 epochs that training draws.
"""

from __future__ import annotations

import argparse

import numpy as np

from cledet.data.class_balance import repeat_factors
from cledet.data.open import open_source
from cledet.data.sampler import EpochBatches, images_per_epoch

EPOCHS = 50
SHOWN = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="../shared/data/coco2017_sub")
    parser.add_argument("--split", default="train")
    parser.add_argument("--threshold", type=float, default=0.1)
    args = parser.parse_args()
    index = open_source(args.data).index(args.split)
    objects = ~index.ignore
    has = np.zeros((len(index), len(index.classes)))  # [I, C]
    has[index.image_of_boxes()[objects], index.labels[objects]] = 1
    repeats = repeat_factors(index, args.threshold)
    draws = count_draws(repeats)
    images = images_per_epoch(len(index), repeats)
    repeated = f"{int((repeats > 1).sum())} images repeated, {repeats.max():.2f} times at most"
    print(f"{index.name}: {len(index)} images; an epoch of {images}; {repeated}")
    counts = has.sum(axis=0)
    known = np.flatnonzero(counts)
    order = known[np.argsort(counts[known], kind="stable")]
    for label in [*order[:SHOWN], *order[-SHOWN:]]:
        share = counts[label] / len(index), draws @ has[:, label] / images
        print(
            f"{index.classes[label]:<15} {counts[label]:4.0f} images  {share[0]:6.1%} of the draws -> {share[1]:6.1%}"
        )


def count_draws(repeats: np.ndarray) -> np.ndarray:
    """Return the mean number of draws per epoch of each image [I]."""
    batches = EpochBatches(
        len(repeats), images_per_epoch(len(repeats), repeats), seed=0, total_steps=EPOCHS, repeats=repeats
    )
    positions = [key.position for keys in batches for key in keys]
    return np.bincount(positions, minlength=len(repeats)) / EPOCHS


if __name__ == "__main__":
    main()
