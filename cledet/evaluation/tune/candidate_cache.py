"""On-disk cache of the candidates of a network, so that later searches need no pass of the network."""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cledet.data.formats.paths import cache_folder
from cledet.data.index import DetectionIndex, Floats, Ints
from cledet.evaluation.candidates import Candidates
from cledet.io.atomic import write_file
from cledet.models.checkpoint import Checkpoint
from cledet.models.safetensors import digest

VERSION = 2
"""Incremented when the candidates of the same network and images, or the files, change."""
KEPT = 4
"""Number of sets of candidates in the cache; the least recently used is evicted."""


@dataclass(frozen=True)
class CachedCandidates:
    """The candidates of a split, which can be iterated repeatedly."""

    path: Path
    rows: NDArray[np.float32]
    """[N, 6] box, score and label of the candidates, image by image."""
    images: Floats
    """[I, 6] image id, number of candidates and scale of each image."""
    category_ids: Ints
    """[C] the data set's category id of each label."""

    def __len__(self) -> int:
        return len(self.images)

    def __iter__(self) -> Iterator[Candidates]:
        parts = torch.from_numpy(self.rows).split(self.images[:, 1].astype(int).tolist())
        for (image_id, _, *scale), rows in zip(self.images.tolist(), parts):
            boxes, scores, labels = rows[:, :4].contiguous(), rows[:, 4].contiguous(), rows[:, 5].long()
            yield Candidates(int(image_id), boxes, scores, labels, torch.tensor(scale), self.category_ids)


def origin(model: Checkpoint, index: DetectionIndex, **options: Any) -> dict[str, Any]:
    """Build the cache key of candidates: weights, image files, and options such as size and precision."""
    weights = digest(model.model, {"architecture": json.dumps(model.architecture.model_dump(), default=str)})
    images = hashlib.blake2b(digest_size=20)
    for path, image_id in zip(index.paths.tolist(), index.image_ids.tolist()):
        stat = os.stat(path)
        images.update(f"{path}\0{image_id}\0{stat.st_size}\0{stat.st_mtime_ns}\0".encode("utf-8", "surrogatepass"))
    classes = [list(pair) for pair in zip(index.classes, index.category_ids.tolist())]
    same = {"version": VERSION, "weights": weights, "images": images.hexdigest(), "classes": classes}
    return {**same, "data": index.name, "model_classes": list(model.classes), **options}


def cache_path(of: dict[str, Any]) -> Path:
    """Return the file of the cache for a key."""
    name = hashlib.blake2b(json.dumps(of, sort_keys=True).encode(), digest_size=16).hexdigest()
    return cache_folder() / "candidates" / f"{name}.npz"


def find(of: dict[str, Any]) -> CachedCandidates | None:
    """Read the candidates of a key; None if the cache does not hold them undamaged."""
    path = cache_path(of)
    try:
        with np.load(path) as file:
            found = CachedCandidates(path, **file)
        os.utime(path)
    except (OSError, ValueError, TypeError, EOFError, zipfile.BadZipFile):
        return None
    return found


def store(of: dict[str, Any], stream: Iterable[Candidates]) -> CachedCandidates:
    """Collect a stream of candidates and write them to the cache.

    An interrupted pass leaves nothing. Raises UserError if the cache cannot be written.
    """
    rows, images, category_ids = [np.zeros((0, 6), dtype=np.float32)], [], np.zeros(0, dtype=np.int64)
    for image in stream:
        own = torch.cat([image.boxes, image.scores[:, None], image.labels[:, None]], 1)
        rows.append(own.float().cpu().numpy())
        images.append([image.image_id, len(own), *image.scale.tolist()])
        category_ids = image.category_ids
    path, all_images = cache_path(of), np.array(images, dtype=np.float64).reshape(-1, 6)
    cached = CachedCandidates(path, np.concatenate(rows), all_images, category_ids)
    write_file(path, lambda file: np.savez(file, rows=cached.rows, images=all_images, category_ids=category_ids))
    for old in sorted(path.parent.glob("*.npz"), key=lambda path: path.stat().st_mtime, reverse=True)[KEPT:]:
        old.unlink(missing_ok=True)
    return cached
