"""Views of an image, and the merging of their detections by every NMS method."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cledet.inference.views import SCALES, View, ViewOptions, unite
from cledet.models.nms import NMS, NMSOptions, apply_nms
from cledet.models.postprocess import Detected


def test_the_views_of_an_image():
    whole = View((0, 0, 300, 100), (100, 300))
    assert ViewOptions().views(100, 300) == [whole]
    assert ViewOptions(side=300).views(100, 300) == [whole]
    sliced = ViewOptions(side=200, overlap=0.25).views(100, 300)
    assert [view.window for view in sliced] == [whole.window, (0, 0, 200, 100), (100, 0, 300, 100)]
    augmented = ViewOptions(tta=True).views(100, 300)
    assert {(view.mirrored, view.scale) for view in augmented} == {(m, s) for m in (False, True) for s in SCALES}
    assert len(augmented) == 6
    assert len(ViewOptions(side=200, overlap=0.25, tta=True).views(100, 300)) == 18


@pytest.mark.parametrize("mirrored", [False, True])
def test_boxes_return_to_where_the_pixels_were(mirrored):
    """A bright patch is found at its place in the view, and its box in the view is its box in the image."""
    image = np.zeros((60, 90, 3), np.uint8)
    image[20:30, 50:65] = 255
    view = View((40, 10, 80, 50), (60, 90), mirrored)
    pixels = view.pixels(image)
    assert pixels.shape == (40, 40, 3)
    rows, columns = np.nonzero(pixels[..., 0])
    box = torch.tensor([[columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]]).float()
    assert view.to_image(box).tolist() == [[50, 20, 65, 30]]
    assert view.to_image(torch.zeros(0, 4)).shape == (0, 4)


def scattered(seed, count, classes=2):
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(count, 2, generator=generator) * 60
    size = 8 + torch.rand(count, 2, generator=generator) * 25
    labels = torch.randint(0, classes, (count,), generator=generator)
    return Detected(torch.cat([corner, corner + size], 1), torch.rand(count, generator=generator), labels)


@pytest.mark.parametrize("method", NMS)
def test_views_are_merged_by_every_method_as_one_image_with_all_candidates(method):
    """Reference: a loop over the boxes that moves each to the image, and NMS of the list."""
    views = [View((0, 0, 200, 120), (120, 200)), View((0, 0, 100, 100), (120, 200), True),
             View((100, 20, 200, 120), (120, 200))]  # fmt: skip
    found = [scattered(seed, 30) for seed in range(3)]
    rows = []
    for view, one in zip(views, found):
        left, top, right, bottom = view.window
        for box, score, label in zip(*(values.tolist() for values in one)):
            x1, y1, x2, y2 = box
            if view.mirrored:
                x1, x2 = (right - left) - x2, (right - left) - x1
            x1, y1, x2, y2 = x1 + left, y1 + top, x2 + left, y2 + top
            cut = (left > 0 and x1 <= left + 1) or (right < 200 and x2 >= right - 1)
            cut = cut or (top > 0 and y1 <= top + 1) or (bottom < 120 and y2 >= bottom - 1)
            rows.append(((x1, y1, x2, y2), score, label, cut))
    kept = []
    for (x1, y1, x2, y2), score, label, cut in rows:
        wholes = [box for box, _, other, part in rows if other == label and not part]
        shares = [max(0, min(x2, c) - max(x1, a)) * max(0, min(y2, d) - max(y1, b)) for a, b, c, d in wholes]
        if not (cut and max(shares) > 0.8 * (x2 - x1) * (y2 - y1)):
            kept.append(((x1, y1, x2, y2), score, label))
    boxes, scores, labels = (torch.tensor(values) for values in zip(*kept))
    options = NMSOptions(method=method, cl_score="max")
    wanted = apply_nms(boxes, scores, labels, options)
    united = unite(views, found)
    ours = apply_nms(*united, options)
    assert len(united.boxes) == len(kept)
    torch.testing.assert_close(ours.boxes, wanted.boxes)
    torch.testing.assert_close(ours.scores, wanted.scores)
    assert torch.equal(united.labels[ours.keep], labels[wanted.keep])
    assert len(ours.keep) > 10


def test_views_without_candidates():
    none = Detected(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64))
    views = ViewOptions(side=32).views(64, 64)
    assert [len(values) for values in unite(views, [none] * len(views))] == [0, 0, 0]
