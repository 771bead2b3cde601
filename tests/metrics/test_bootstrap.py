"""A resample's AP is pycocotools' AP on images that are really copied."""

from __future__ import annotations

import contextlib
import io
from dataclasses import replace

import numpy as np
import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from cledet.data.index import DetectionIndex
from cledet.data.open import open_source
from cledet.evaluation.pycocotools_evaluator import coco_annotations
from cledet.metrics import bootstrap
from cledet.metrics.bootstrap import (
    AP_METRICS,
    ap_samples,
    interval,
    match,
    paired_differences,
    resamples,
    simultaneous,
    weighted_ap,
)
from cledet.metrics.coco import evaluate
from cledet.metrics.results_file import read_results
from cledet.models.nms import batched_nms


def plain_ap(index, results):
    """AP as anybody would get it from pycocotools; nan where there is no object."""
    truth = COCO()
    truth.dataset = coco_annotations(index)
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
        coco = COCOeval(truth, truth.loadRes(results), "bbox")
        coco.evaluate()
        coco.accumulate()
        coco.summarize()
    return coco.stats[0] if coco.stats[0] >= 0 else np.nan


def our_ap(index, results, weights=None):
    weights = np.ones(len(index), dtype=np.int32) if weights is None else weights
    return weighted_ap(match(index, results), weights[:, None].astype(np.int32))[0]


def make_index(boxes, images, category_ids=(1,), image_ids=None):
    """Boxes as rows (image position, label, ignore, x, y, w, h), grouped by image."""
    boxes = np.array(boxes, dtype=np.float64).reshape(-1, 7)
    counts = np.bincount(boxes[:, 0].astype(int), minlength=images)
    return DetectionIndex(
        name="made/val",
        classes=tuple(f"c{k}" for k in category_ids),
        category_ids=np.array(category_ids),
        paths=np.array([f"{i}.png" for i in range(images)]),
        image_ids=np.arange(images) + 1 if image_ids is None else np.array(image_ids),
        sizes=np.full((images, 2), 100, dtype=np.int32),
        starts=np.concatenate([[0], np.cumsum(counts)]),
        xywh=boxes[:, 3:],
        labels=boxes[:, 1].astype(int),
        ignore=boxes[:, 2] > 0,
        area=boxes[:, 5] * boxes[:, 6],
    )


def random_case(seed, images=6, tied=False):
    """Objects, crowds and detections of three classes, most of them near an object; ids in no order.

    With `tied`, detections of a class on different images share scores, never those on one image.
    """
    rng = np.random.default_rng(seed)
    boxes, found = [], []
    category_ids, image_ids = rng.permutation([3, 8, 5]), rng.permutation(np.arange(images) * 7 + 2)
    for i in range(images):
        for label in range(3):
            truths = [(*rng.uniform(0, 60, 2), *rng.uniform(10, 40, 2)) for _ in range(rng.integers(0, 4))]
            boxes += [(i, label, rng.random() < 0.2, *box) for box in truths]
            near = [np.add(truths[k % len(truths)], rng.normal(0, 2, 4)) for k in range(4 if truths else 0)]
            stray = [(*rng.uniform(0, 60, 2), *rng.uniform(10, 40, 2)) for _ in range(rng.integers(0, 3))]
            scores = rng.permutation(8) / 8 if tied else rng.random(8)
            found += [(image_ids[i], *box, s, category_ids[label]) for box, s in zip(near + stray, scores)]
    return make_index(boxes, images, category_ids, image_ids), np.array(found)


def copied(index, results, positions):
    """The images at these positions with new ids in this order, and their detections."""
    pieces = [results[results[:, 0] == index.image_ids[i]].copy() for i in positions]
    for new, piece in enumerate(pieces, 1):
        piece[:, 0] = new
    return replace(index.subset(positions), image_ids=np.arange(len(positions)) + 1), np.concatenate(pieces)


def suppressed(raw, iou):
    """Standard NMS, image by image and class by class."""
    kept = []
    for rows in (raw[raw[:, 0] == image] for image in np.unique(raw[:, 0])):
        found = torch.tensor(rows)
        boxes = torch.cat([found[:, 1:3], found[:, 1:3] + found[:, 3:5]], dim=1)
        kept.append(rows[batched_nms(boxes, found[:, 5], found[:, 6].long(), iou)[0].numpy()])
    return np.concatenate(kept)


@pytest.mark.slow
def test_with_every_image_once_it_is_pycocotools_ap_on_a_real_detector(shared_data):
    folder = shared_data / "coco2017_sub"
    index = open_source(folder).index("val", need_images=False)
    results = suppressed(read_results(folder / "detections" / "yolox_nano_raw.json", index), 0.65)
    assert index.ignore.any()
    assert our_ap(index, results) == pytest.approx(plain_ap(index, results), abs=1e-12)


def test_with_every_image_once_it_is_pycocotools_ap_on_the_coco_apis_example(shared_data):
    folder = shared_data / "coco_val2014_100"
    index = open_source(folder / "instances_val2014_100.json").index("val", need_images=False)
    results = read_results(folder / "instances_val2014_fakebbox100_results.json", index)
    assert our_ap(index, results) == pytest.approx(plain_ap(index, results), abs=1e-12)
    assert round(our_ap(index, results), 3) == 0.505  # published


@pytest.mark.parametrize("seed", range(20))
def test_with_every_image_once_it_is_pycocotools_ap_with_crowds_and_ties(seed):
    index, results = random_case(seed, images=1 + seed % 6)
    results[:, 5] = results[:, 5].round(1)
    np.testing.assert_allclose(our_ap(index, results), plain_ap(index, results), atol=1e-12)


@pytest.mark.parametrize("seed", range(20))
def test_a_resample_is_pycocotools_ap_on_copied_images(seed):
    """In any order of the copies."""
    index, results = random_case(seed)
    weights = resamples(6, 1, seed)[:, 0]
    positions = np.random.default_rng(seed).permutation(np.repeat(np.arange(6), weights))
    assert len(set(positions)) < 6
    wanted = plain_ap(*copied(index, results, positions))
    assert our_ap(index, results, weights) == pytest.approx(wanted, abs=1e-12)


@pytest.mark.parametrize("seed", range(20))
def test_equal_scores_on_different_images_keep_the_order_of_the_image_ids(seed):
    index, results = random_case(seed, tied=True)
    weights = resamples(6, 1, seed)[:, 0]
    by_id = np.argsort(index.image_ids)
    wanted = plain_ap(*copied(index, results, np.repeat(by_id, weights[by_id])))
    assert our_ap(index, results, weights) == pytest.approx(wanted, abs=1e-12)


def test_only_the_best_100_detections_of_an_image_count():
    """The object is found by the last of 101 detections, then by the last of 100."""
    index = make_index([(0, 0, 0, 0, 0, 10, 10)], images=1)
    misses = [(1, 50, 50, 10, 10, 0.9, 1)] * 100
    hit = (1, 0, 0, 10, 10, 0.1, 1)
    assert our_ap(index, np.array([*misses, hit])) == 0
    assert our_ap(index, np.array([*misses[1:], hit])) == pytest.approx(0.01)


def test_the_other_metrics_equal_pycocotools(shared_data):
    """On crowds and all sizes of objects."""
    folder = shared_data / "coco_val2014_100"
    index = open_source(folder / "instances_val2014_100.json").index("val", need_images=False)
    results = read_results(folder / "instances_val2014_fakebbox100_results.json", index)
    metrics = evaluate(index, results).metrics
    once = np.ones((len(index), 1), dtype=np.int32)
    assert AP_METRICS == ("AP", "AP50", "AP75", "APs", "APm", "APl")
    for figure in AP_METRICS:
        assert weighted_ap(match(index, results, figure), once)[0] == pytest.approx(metrics[figure], abs=1e-12)


def test_by_hand():
    """Image 0: an object found. Image 1: one missed, with a false alarm of a lower score; one of class 2, found."""
    index = make_index([(0, 0, 0, 0, 0, 10, 10), (1, 0, 0, 0, 0, 10, 10), (1, 1, 0, 20, 20, 10, 10)], 2, (1, 2))
    results = np.array([(1, 0, 0, 10, 10, 0.9, 1), (2, 50, 50, 10, 10, 0.8, 1), (2, 20, 20, 10, 10, 0.7, 2)])
    weights = np.array([[1, 2, 0, 0], [1, 0, 2, 0]], dtype=np.int32)
    half = 51 / 101  # precision 1 at the recalls 0, 0.01, ... 0.5
    expected = [(half + 1) / 2, 1, (0 + 1) / 2, np.nan]  # class 2 has no object in the second, nothing has in the last
    np.testing.assert_allclose(weighted_ap(match(index, results), weights), expected, atol=1e-12)


def test_a_resample_draws_as_many_images_with_replacement():
    counts = resamples(4, 20_000, 0)
    assert counts.shape == (4, 20_000)
    assert (counts.sum(axis=0) == 4).all()
    np.testing.assert_allclose(counts.mean(axis=1), 1, atol=0.03)
    np.testing.assert_allclose((counts == 0).mean(axis=1), 0.75**4, atol=0.015)


def test_all_sets_of_detections_use_the_same_resamples():
    index, results = random_case(1)
    fewer = results[::2]
    both = ap_samples(index, {"all": results, "half": fewer, "again": results}, repeats=30, seed=5)
    assert both["all"].shape == (30,)
    np.testing.assert_array_equal(both["all"], both["again"])
    np.testing.assert_array_equal(both["half"], ap_samples(index, {"half": fewer}, 30, 5)["half"])
    assert (both["all"] != ap_samples(index, {"all": results}, 30, 6)["all"]).any()
    for sample, weights in zip(both["half"], resamples(6, 30, 5).T):
        assert sample == pytest.approx(our_ap(index, fewer, weights), abs=1e-12)


@pytest.mark.parametrize("cells", [1, 50, 100_000])
def test_the_size_of_the_chunks_does_not_matter(monkeypatch, cells):
    index, results = random_case(2)
    wanted = ap_samples(index, {"a": results}, 23)["a"]
    monkeypatch.setattr(bootstrap, "CELLS", cells)
    np.testing.assert_array_equal(ap_samples(index, {"a": results}, 23)["a"], wanted)


def test_one_image_has_constant_ap():
    index, results = random_case(3, images=1)
    np.testing.assert_allclose(ap_samples(index, {"a": results}, 5)["a"], plain_ap(index, results), atol=1e-12)


def test_no_detections_score_zero():
    index, _ = random_case(4)
    np.testing.assert_array_equal(ap_samples(index, {"a": np.zeros((0, 7))}, 5)["a"], np.zeros(5))


def test_without_objects_ap_is_nan():
    index, results = random_case(4)
    crowds = replace(index, ignore=np.ones_like(index.ignore))
    for nothing in (crowds, make_index([], 6, index.category_ids, index.image_ids)):
        samples = ap_samples(nothing, {"a": results, "none": results[:0]}, 5)
        assert np.isnan(samples["a"]).all()
        assert np.isnan(samples["none"]).all()
    assert ap_samples(make_index([], 0), {"a": results[:0]}, 3)["a"].shape == (3,)


def test_detections_of_another_split_are_refused_and_of_other_classes_left_out():
    index, results = random_case(5)
    strange = results.copy()
    strange[0, 0] = 999
    with pytest.raises(ValueError, match=r"image ids that made/val does not have: \[999"):
        ap_samples(index, {"a": strange})
    other = np.concatenate([results, [[index.image_ids[0], 0, 0, 1, 1, 0.5, 4]]])
    np.testing.assert_array_equal(ap_samples(index, {"a": other}, 5)["a"], ap_samples(index, {"a": results}, 5)["a"])


def test_the_interval_cuts_the_same_share_off_both_ends():
    samples = np.random.default_rng(0).permutation(np.arange(101.0))
    assert interval(samples) == pytest.approx((2.5, 97.5))
    assert interval(samples, 0.5) == pytest.approx((25, 75))
    assert interval(np.append(samples, [np.nan, np.nan])) == interval(samples)
    assert interval(np.array([0.25])) == (0.25, 0.25)
    assert np.isnan(interval(np.array([np.nan]))).all()
    assert np.isnan(interval(np.array([]))).all()
    for level in (0, 1, 95):
        with pytest.raises(ValueError, match="level"):
            interval(samples, level)


def test_images_with_objects_that_count(make_index):
    index = make_index([(0, 0, 0, 9, 9), (1, 0, 0, 9, 9)], [(0, 0, 0, 40, 40)], ignore=[0])
    np.testing.assert_array_equal(bootstrap.images_with_objects(index), [[False, True], [True, False]])
    np.testing.assert_array_equal(bootstrap.images_with_objects(index, "AP50"), [[False, True], [True, False]])
    np.testing.assert_array_equal(bootstrap.images_with_objects(index, "APs"), [[False, False], [True, False]])
    np.testing.assert_array_equal(bootstrap.images_with_objects(index, "APm"), [[False, True], [False, False]])


def test_simultaneous_intervals_by_hand():
    """Four resamples of differences that deviate by 1 and the root of 5."""
    samples = np.array([[1.0, -1.0, 1.0, -1.0], [3.0, -1.0, -3.0, 1.0]]) + 7
    deviation = np.array([1, np.sqrt(5)])
    farthest = [3 / np.sqrt(5), 1, 3 / np.sqrt(5), 1]
    low, high = simultaneous(np.array([0.5, 0.25]), samples, level=0.5)
    np.testing.assert_allclose(low, [0.5, 0.25] - np.median(farthest) * deviation)
    np.testing.assert_allclose(high, [0.5, 0.25] + np.median(farthest) * deviation)


def test_correlated_differences_count_as_one():
    """And one that never moves does not count, however many there are."""
    one = np.random.default_rng(0).normal(size=(1, 2000))
    alone = simultaneous(np.array([0.3]), one)
    low, high = simultaneous(np.array([0.3, 0.6, -3, 0]), np.concatenate([one, 2 * one, -10 * one, 0 * one]))
    assert alone == pytest.approx((0.3 - 1.96, 0.3 + 1.96), abs=0.15)
    np.testing.assert_allclose((low[:1], high[:1]), alone)
    np.testing.assert_allclose(high - [0.3, 0.6, -3, 0], (alone[1][0] - 0.3) * np.array([1, 2, 10, 0]))
    np.testing.assert_allclose(low + high, [0.6, 1.2, -6, 0], atol=1e-9)


def test_the_largest_of_many_random_differences_rarely_excludes_zero():
    """Of 400 worlds of 20 differences that are 0 in truth, some 5 % hold one whose interval leaves 0 out."""
    rng = np.random.default_rng(1)
    found, apart = 0, 0
    for _ in range(400):
        truth = rng.normal(size=(20, 1))
        samples = truth + rng.normal(size=(20, 200))
        low, high = simultaneous(truth[:, 0], samples)
        found += bool(((low > 0) | (high < 0)).any())
        apart += any(lowest > 0 or highest < 0 for lowest, highest in map(interval, samples))
    assert found < 0.1 * 400 < apart


def test_simultaneous_intervals_without_samples():
    nan = np.full((2, 3), np.nan)
    assert np.isnan(simultaneous(np.zeros(2), nan)).all()
    with_one = np.concatenate([nan, [[1.0], [5.0]]], axis=1)
    assert [ends.tolist() for ends in simultaneous(np.array([0.5, 2]), with_one)] == [[0.5, 2], [0.5, 2]]
    assert [len(ends) for ends in simultaneous(np.zeros(0), np.zeros((0, 5)))] == [0, 0]


def test_paired_differences_by_hand():
    """Percentile intervals of the differences; the baseline moves with the samples and so cancels."""
    moved = np.arange(101.0) / 100 - 0.25
    baseline = np.random.default_rng(0).normal(size=101)
    one, undefined = paired_differences([0.75, None], 0.5, np.stack([baseline + moved, baseline]), baseline)
    assert one == pytest.approx((0.25, -0.225, 0.725, None))
    assert one.conclusion == "within the noise"
    assert undefined == (None, None, None, None)
    assert undefined.conclusion == "nothing to measure"
    assert paired_differences([0.5], None, moved[None], moved)[0] == (None, None, None, None)


def test_paired_differences_hold_jointly_over_those_that_have_an_interval():
    samples = np.random.default_rng(0).normal([[0.5], [0], [-9]], size=(3, 50))
    baseline = np.random.default_rng(1).normal(size=(3, 50))
    found = paired_differences([0.7, 0.1, 0.2], [0.2, 0.1, 0.9], samples, baseline, [10, 9, 30], joint=True)
    low, high = simultaneous(np.array([0.7 - 0.2, 0.2 - 0.9]), (samples - baseline)[[0, 2]])
    assert found == [(0.7 - 0.2, low[0], high[0], 10), (0, None, None, 9), (0.2 - 0.9, low[1], high[1], 30)]
    assert found[1].conclusion == "too few images"
