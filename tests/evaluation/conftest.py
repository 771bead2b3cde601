"""Random splits with all that makes matching hard."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from cledet.data.index import DetectionIndex
from cledet.evaluation.results import Results


@pytest.fixture(scope="session")
def random_split() -> Callable[..., tuple[DetectionIndex, Results]]:
    """Makes a split and detections of it from a seed: crowds, equal boxes and scores, empty images, ids in disorder."""

    def make(seed: int, images: int = 12, classes: int = 3, crowds: float = 0.15) -> tuple[DetectionIndex, Results]:
        rng = np.random.default_rng(seed)
        counts = rng.integers(0, 7, images)
        total = int(counts.sum())
        xywh = np.column_stack([rng.integers(0, 60, (total, 2)), rng.integers(8, 41, (total, 2))]).astype(float)
        ids = rng.permutation(images) + 5
        index = DetectionIndex(
            name="made/val",
            classes=tuple(f"c{k}" for k in range(classes)),
            category_ids=rng.permutation(classes) + 1,
            paths=np.array([f"/nowhere/{i}.png" for i in range(images)]),
            image_ids=ids,
            sizes=np.full((images, 2), 100, dtype=np.int32),
            starts=np.concatenate([[0], np.cumsum(counts)]),
            xywh=xywh,
            labels=rng.integers(0, classes, total),
            ignore=rng.random(total) < crowds,
            area=xywh[:, 2] * xywh[:, 3] * rng.choice([1, 0.7], total),
        )
        near = rng.integers(0, total, 4 * total)
        boxes = xywh[near] + rng.integers(-5, 6, (len(near), 4))
        label = np.where(rng.random(len(near)) < 0.7, index.labels[near], rng.integers(0, classes, len(near)))
        image = np.where(rng.random(len(near)) < 0.85, index.image_of_boxes()[near], rng.integers(0, images, len(near)))
        score = rng.integers(1, 60, len(near)) / 60
        return index, np.column_stack([ids[image], boxes, score, index.category_ids[label]])

    return make
