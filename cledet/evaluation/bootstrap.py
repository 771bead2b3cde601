"""How far COCO's AP would move on other images of the same kind: a paired bootstrap over the images of a split.

A resample draws as many images as the split has, with replacement, and AP is computed on those; the spread of AP over
the resamples stands for its spread over splits of that size. Detectors, or ways to suppress duplicates, are compared
on the same resamples, so that what makes an image easy or hard for all of them cancels: look at
`interval(samples["a"] - samples["b"])`, not at whether the intervals of the two figures overlap.

An interval at level 0.95 that leaves out 0 says that the difference is hardly an accident of which images the split
holds. It says nothing about another training run (the weights are held fixed), nor about images of another kind; it is
too narrow where images are few or alike (frames of one film), and of twenty comparisons one leaves out 0 by chance.
AP itself tends to be higher on resamples than on the split (0.296 for 0.284 on 206 photos of COCO): report AP from
`evaluate`, and from here the interval of the difference.

Source: Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapters 6 and 13.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from cledet.data.index import Bools, DetectionIndex, Floats, Ints

if TYPE_CHECKING:
    from cledet.evaluation.results import Results

Weights = NDArray[np.int32]
"""[I, R] how often image i is in resample r."""

RECALLS = np.linspace(0, 1, 101)
CELLS = 2**20
"""Detections of a class times resamples worked on at once, at some 20 to 80 bytes each."""


class Matches(NamedTuple):
    """What pycocotools makes of one class: it does not depend on the resample, for matching is image by image."""

    objects: Ints
    """[I] ground truths of each image, ignored ones left out."""
    images: Ints
    """[D] the image position of every detection, highest score first."""
    matched: Bools
    """[T, D] matched to a ground truth, at each IoU threshold."""
    ignored: Bools
    """[T, D] matched to an ignored one: neither a true nor a false positive."""


def ap_samples(
    index: DetectionIndex, results: Mapping[str, Results], repeats: int = 1000, seed: int = 0
) -> dict[str, Floats]:
    """AP [repeats] of each named set of detections over resamples of the images, the same resamples for all.

    AP is that of `evaluate`: the mean over IoU 0.50:0.95, all areas, 100 detections an image, and the classes that have
    objects in the resample; nan in a resample without any object. Each sample is what pycocotools gives on images
    that are really copied, but where two detections of a class on one image score exactly the same: their copies
    have no order of their own, and stand together here. Raises ValueError for ids that the index does not have.
    """
    weights = resamples(len(index), repeats, seed)
    return {name: weighted_ap(match(index, found), weights) for name, found in results.items()}


def interval(differences: Floats, level: float = 0.95) -> tuple[float, float]:
    """The percentile interval of samples [R]: (1 - level) / 2 of them lie below it, and as many above.

    nan (resamples without any object) is left out; (nan, nan) where nothing is left. Raises ValueError unless
    0 < level < 1.
    """
    if not 0 < level < 1:
        raise ValueError(f"level must lie between 0 and 1, not {level}")
    known = differences[~np.isnan(differences)]
    if not len(known):
        return np.nan, np.nan
    low, high = np.quantile(known, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def resamples(images: int, repeats: int, seed: int) -> Weights:
    """Multiplicities [I, R] of images drawn with replacement, as many as there are, R = repeats times."""
    if not images:
        return np.zeros((0, repeats), dtype=np.int32)
    counts = np.random.default_rng(seed).multinomial(images, np.full(images, 1 / images), size=repeats)
    return np.ascontiguousarray(counts.T, dtype=np.int32)


def weighted_ap(classes: Sequence[Matches], weights: Weights) -> Floats:
    """AP [R] where image i stands weights[i, r] times in data set r; nan where that holds no object."""
    total, present = np.zeros((2, weights.shape[1]))
    for matches in classes:
        objects = matches.objects @ weights
        total += _class_ap(matches, weights, objects)
        present += objects > 0
    return np.divide(total, present, out=np.full(len(total), np.nan), where=present > 0)


def _class_ap(matches: Matches, weights: Weights, objects: Ints) -> Floats:
    """AP [R] of one class that has `objects` [R] objects; 0 where it has none."""
    ap = np.zeros(len(objects))
    step = max(1, CELLS // max(1, len(matches.images)))
    for first in range(0, len(ap), step):
        part = slice(first, first + step)
        copies = weights[matches.images, part]
        for matched, ignored in zip(matches.matched, matches.ignored):
            ap[part] += _area(copies[~ignored], matched[~ignored], objects[part])
    return ap / len(matches.matched)


def _area(copies: Weights, correct: Bools, objects: Ints) -> Floats:
    """Mean [R] of the interpolated precision at COCO's 101 recalls.

    copies [D, R] of the detections, highest score first, and which of them are correct [D]. Only at these can recall
    reach a threshold and precision peak, so the curve is followed along them alone.
    """
    found = copies[correct].cumsum(axis=0)
    precision = found / (copies.cumsum(axis=0)[correct] + np.spacing(1))
    envelope = np.maximum.accumulate(precision[::-1], axis=0)[::-1]
    reached = np.searchsorted(RECALLS, found / np.maximum(objects, 1), side="right")
    area: Floats = (envelope * np.diff(reached, axis=0, prepend=0)).sum(axis=0) / len(RECALLS)
    return area


def match(index: DetectionIndex, results: Results) -> list[Matches]:
    """Match the detections with the ground truths by pycocotools, for each class that has objects."""
    for what, column, known in (("image", 0, index.image_ids), ("category", 6, index.category_ids)):
        strange = np.setdiff1d(results[:, column], known)
        if len(strange):
            raise ValueError(f"detections name {what} ids that {index.name} does not have: {strange[:5].tolist()}")
    truth = index.to_coco()
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCOeval(_api(truth), _api({**truth, "annotations": _annotations(results)}), "bbox")
        coco.params.areaRng, coco.params.areaRngLbl, coco.params.maxDets = coco.params.areaRng[:1], ["all"], [100]
        coco.evaluate()
    position = {image: i for i, image in enumerate(index.image_ids.tolist())}
    by_class: dict[int, list[dict[str, Any]]] = {}
    for entry in filter(None, coco.evalImgs):
        by_class.setdefault(entry["category_id"], []).append(entry)
    classes = [_class_matches(entries, position) for entries in by_class.values()]
    return [matches for matches in classes if matches.objects.any()]


def _class_matches(entries: list[dict[str, Any]], position: dict[int, int]) -> Matches:
    """One class from pycocotools' results by image; detections in the order of its own `accumulate`."""
    images = np.array([position[entry["image_id"]] for entry in entries])
    objects = np.zeros(len(position), dtype=np.int64)
    objects[images] = [np.count_nonzero(entry["gtIgnore"] == 0) for entry in entries]
    order = np.argsort(-np.concatenate([entry["dtScores"] for entry in entries]), kind="mergesort")
    matched, ignored = (
        np.concatenate([entry[key] for entry in entries], axis=1)[:, order].astype(bool)
        for key in ("dtMatches", "dtIgnore")
    )
    detections = np.repeat(images, [len(entry["dtScores"]) for entry in entries])
    return Matches(objects, detections[order], matched, ignored)


def _annotations(results: Results) -> list[dict[str, Any]]:
    """Detections with the keys that `COCOeval` reads."""
    keys = ("image_id", "category_id", "bbox", "score", "area")
    rows = ((int(image), int(category), [x, y, w, h], s, w * h) for image, x, y, w, h, s, category in results.tolist())
    return [{"id": row, **dict(zip(keys, values))} for row, values in enumerate(rows, 1)]


def _api(dataset: dict[str, Any]) -> Any:
    api = COCO()
    api.dataset = dataset
    api.createIndex()
    return api
