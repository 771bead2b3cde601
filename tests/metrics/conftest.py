"""Random splits with hard cases of matching, and their matching by pycocotools."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from cledet.data.index import DetectionIndex
from cledet.evaluation.pycocotools_evaluator import coco_annotations
from cledet.metrics.results_file import DetectionRows


@pytest.fixture(scope="session")
def random_split() -> Callable[..., tuple[DetectionIndex, DetectionRows]]:
    """Makes a split and detections of it from a seed: crowds, equal boxes and scores, empty images, ids in disorder."""

    def make(
        seed: int, images: int = 12, classes: int = 3, crowds: float = 0.15
    ) -> tuple[DetectionIndex, DetectionRows]:
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


@pytest.fixture(scope="session")
def coco_matches() -> Callable[..., dict[int, tuple[np.ndarray, ...]]]:
    """pycocotools' own notes by label, of each class with objects: image ids [D], correct and ignored [T, D]."""

    def matches(index: DetectionIndex, results: DetectionRows, area: str = "all", most: int = 100):
        truth, found = COCO(), COCO()
        truth.dataset = coco_annotations(index)
        keys = ("image_id", "category_id", "bbox", "score", "area")
        rows = ((int(i), int(k), [x, y, w, h], score, w * h) for i, x, y, w, h, score, k in results.tolist())
        annotations = [{"id": n, **dict(zip(keys, row))} for n, row in enumerate(rows, 1)]
        found.dataset = truth.dataset | {"annotations": annotations}
        with contextlib.redirect_stdout(io.StringIO()):
            truth.createIndex()
            found.createIndex()
            coco = COCOeval(truth, found, "bbox")
            coco.params.areaRng = [coco.params.areaRng[coco.params.areaRngLbl.index(area)]]
            coco.params.maxDets = [most]
            coco.evaluate()
        notes = {}
        for label, category in enumerate(index.category_ids):
            own = [note for note in coco.evalImgs if note is not None and note["category_id"] == category]
            if not own or not any(np.equal(note["gtIgnore"], 0).any() for note in own):
                continue
            order = np.argsort(-np.concatenate([note["dtScores"] for note in own]), kind="mergesort")
            images = np.repeat([note["image_id"] for note in own], [len(note["dtScores"]) for note in own])
            matched, ignored = (
                np.concatenate([note[key] for note in own], axis=1)[:, order].astype(bool)
                for key in ("dtMatches", "dtIgnore")
            )
            notes[label] = images[order], matched & ~ignored, ignored
        return notes

    return matches
