"""AP without an image is pycocotools' AP on the other images."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from cledet.metrics import bootstrap
from cledet.metrics.bootstrap import match
from cledet.metrics.coco import evaluate
from cledet.metrics.influence import leave_one_out


def slowly(index, results):
    """AP of the split without each image in turn, by pycocotools."""
    found = []
    for i, image_id in enumerate(index.image_ids):
        others = index.subset(np.delete(np.arange(len(index)), i))
        ap = evaluate(others, results[results[:, 0] != image_id]).metrics["AP"]
        found.append(np.nan if ap is None else ap)
    return np.array(found)


@pytest.mark.parametrize("seed", range(5))
def test_it_is_pycocotools_on_the_other_images(scattered, seed):
    index, results = scattered(8, seed)
    without = leave_one_out(match(index, results), len(index))
    np.testing.assert_allclose(without, slowly(index, results), atol=1e-12)
    assert len(set(without.round(9))) > 3


def test_a_class_without_other_images_is_left_out(make_index):
    """Dogs are on the first image alone, and never found; of the cats one is."""
    index = make_index([(1, 0, 0, 10, 10)], [(0, 0, 0, 10, 10)], [(0, 0, 0, 10, 10)], image_ids=np.array([5, 3, 9]))
    results = np.array([[3, 0, 0, 10, 10, 0.9, index.category_ids[0]]])
    half = 51 / 101
    without = leave_one_out(match(index, results), 3)
    np.testing.assert_allclose(without, [half, 0, 1 / 2], atol=1e-12)
    np.testing.assert_allclose(without, slowly(index, results), atol=1e-12)


def test_nothing_is_left_of_one_image_and_nothing_found_scores_zero(scattered):
    index, results = scattered(4, 1)
    np.testing.assert_array_equal(leave_one_out(match(index, results[:0]), 4), np.zeros(4))
    one = index.subset([int(np.argmax(np.diff(index.starts)))])
    assert np.isnan(leave_one_out(match(one, results[results[:, 0] == one.image_ids[0]]), 1)).all()
    crowds = replace(index, ignore=np.ones_like(index.ignore))
    assert np.isnan(leave_one_out(match(crowds, results), 4)).all()


@pytest.mark.parametrize("cells", [1, 40])
def test_the_size_of_the_chunks_does_not_matter(scattered, monkeypatch, cells):
    index, results = scattered(6, 2)
    wanted, steps = leave_one_out(match(index, results), 6), []
    monkeypatch.setattr(bootstrap, "CELLS", cells)
    chunked = leave_one_out(match(index, results), 6, lambda: steps.append(1))
    np.testing.assert_allclose(chunked, wanted, rtol=1e-14)
    assert len(steps) == 2
