"""The cost of an image is the gain of pycocotools' AP when its detections are replaced by its objects."""

from __future__ import annotations

import numpy as np
import pytest

from cledet.metrics.coco import evaluate
from cledet.metrics.influence import hardest_images
from cledet.metrics.matching import THRESHOLDS, overlaps


def costs(index, results, most=100, **more):
    o = overlaps(index, results)
    return hardest_images(o, [o.match(t) for t in THRESHOLDS], most, **more)


def replaced(index, results, image):
    """The detections with those of an image replaced by its objects, before all others."""
    rows = index.rows(image)
    real = np.flatnonzero(~index.ignore[rows]) + rows.start
    ideal = [[index.image_ids[image], *index.xywh[gt], 2.0, index.category_ids[index.labels[gt]]] for gt in real]
    return np.concatenate([results[results[:, 0] != index.image_ids[image]], np.reshape(ideal, (-1, 7))])


@pytest.mark.parametrize("seed", range(3))
def test_as_pycocotools(random_split, seed):
    index, results = random_split(seed)
    base = evaluate(index, results).metrics["AP"]
    real = {i: evaluate(index, replaced(index, results, i)).metrics["AP"] - base for i in range(len(index))}
    found = costs(index, results)
    assert len(found) > 5
    for one in found:
        assert one.ap == pytest.approx(real[one.image], abs=1e-12)
    assert {i for i, ap in real.items() if ap > 1e-9} <= {one.image for one in found}
    assert [one.ap for one in found] == sorted((one.ap for one in found), reverse=True)


def test_the_estimate_finds_the_hardest_images(random_split):
    """Of 60 images the 15 that are looked at exactly hold the 5 worst."""
    index, results = random_split(7, images=60)
    assert costs(index, results, 5, shortlist=15) == costs(index, results, 5, shortlist=60)


@pytest.mark.parametrize("cells", [1, 250])
def test_the_chunk_size_does_not_matter(random_split, monkeypatch, cells):
    index, results = random_split(5, images=30)
    whole = costs(index, results)
    monkeypatch.setattr("cledet.metrics.influence.CELLS", cells)
    chunked = costs(index, results)
    assert [one.image for one in chunked] == [one.image for one in whole]
    assert [one.ap for one in chunked] == pytest.approx([one.ap for one in whole], rel=1e-12)


def test_false_positives_on_an_image_without_objects_cost(make_index):
    """An image without objects, whose detections stand before the only right one; a perfect image costs nothing."""
    index = make_index([(0, 0, 0, 20, 20)], [])
    found = costs(index, np.array([[0, 0, 0, 20, 20, 0.5, 1], [1, 0, 0, 20, 20, 0.9, 1]]))
    assert found[0].ap == pytest.approx(0.5)  # precision 1/2 becomes 1: by the image's own objects first, or by none
    assert {one.image for one in found} == {0, 1}
    assert costs(index, np.array([[0, 0, 0, 20, 20, 0.5, 1]])) == []
