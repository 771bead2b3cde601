"""Count near-duplicates among the images of a data set and altered copies that are found, and time a comparison.

    python benchmarks/near_duplicates.py [--data ../shared/data/bccd]

About 100 images are copied in each way. The time is that of 20,000 synthetic thumbnails.
"""

from __future__ import annotations

import argparse
import io
import time
from collections.abc import Iterator

import numpy as np
from PIL import Image, ImageEnhance

from cledet.data.image_files import read_files
from cledet.data.images import read_image
from cledet.data.near_duplicates import (
    MAX_DISTANCE,
    are_near,
    difference_hashes,
    group_near_duplicates,
    hamming_distances,
    thumbnail,
)
from cledet.data.open import open_source


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="../shared/data/bccd")
    source = open_source(parser.parse_args().data)
    files, _ = read_files([source.index(split) for split in source.splits], threads=4)
    thumbnails = files.thumbnails[files.decoded]
    hashes = difference_hashes(thumbnails)
    close = np.argwhere(np.triu(hamming_distances(hashes, hashes) <= MAX_DISTANCE, 1))
    pairs = are_near(thumbnails[close[:, 0]], thumbnails[close[:, 1]]).sum()
    sizes = np.bincount(group_near_duplicates(thumbnails))
    print(f"{len(thumbnails)} images: {len(close)} pairs of close hashes, {pairs} pairs of near-duplicates")
    print(f"{(sizes > 1).sum()} groups of several images, the largest of {sizes.max()}")
    found: dict[str, list[bool]] = {}
    for path in files.paths[files.decoded][:: max(1, len(thumbnails) // 100)].tolist():
        image = read_image(path)
        for name, copy in copies(Image.fromarray(image)):
            groups = group_near_duplicates(np.stack([thumbnail(image), thumbnail(np.asarray(copy))]))
            found.setdefault(name, []).append(bool(groups[0] == groups[1]))
    for name, hits in found.items():
        print(f"{name}: {100 * np.mean(hits):.0f} % of {len(hits)} copies found")
    rng = np.random.default_rng(0)
    blobs = np.kron(rng.normal(128, 40, (20_000, 4, 6)), np.ones((1, 4, 3)))
    synthetic = (blobs + rng.normal(0, 12, blobs.shape)).clip(0, 255).astype(np.uint8)
    began = time.process_time()
    group_near_duplicates(synthetic)
    print(f"20,000 images compared in {time.process_time() - began:.1f} s of CPU time")


def copies(image: Image.Image) -> Iterator[tuple[str, Image.Image]]:
    """Yield altered copies of an image with their names."""
    (width, height), encoded = image.size, io.BytesIO()
    image.save(encoded, "JPEG", quality=50)
    yield "JPEG of quality 50", Image.open(encoded).convert("RGB")
    yield "half size", image.resize((width // 2, height // 2), Image.Resampling.BILINEAR)
    yield "contrast x 0.7", ImageEnhance.Contrast(image).enhance(0.7)
    yield "gray", image.convert("L").convert("RGB")
    yield "brightness x 1.3", ImageEnhance.Brightness(image).enhance(1.3)
    yield "2 % cut off at the left", image.crop((int(width * 0.02), 0, width, height))
    for share in (0.02, 0.05):
        x, y = int(width * share), int(height * share)
        yield f"{100 * share:.0f} % cut off at each side", image.crop((x, y, width - x, height - y))


if __name__ == "__main__":
    main()
