"""The best IoU of every object against all anchors of a real network, and what is suggested."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from cledet.data.dataset import pad_images
from cledet.data.open import open_source
from cledet.data_check.anchor_coverage import Coverage, Suggestion, best_iou, covered_share, measure_coverage, suggest
from cledet.data_check.statistics import Objects, objects_of
from cledet.models.anchors import STRIDES, Anchors
from cledet.models.network import Architecture, build_network
from cledet.ops.assigners.max_iou import assign_max_iou
from cledet.ops.boxes import box_iou


def objects(boxes: list | np.ndarray, size: tuple[int, int]) -> Objects:
    boxes = np.asarray(boxes, dtype=np.float32).reshape(-1, 4)
    return Objects(np.arange(len(boxes)), boxes, np.tile(np.array(size, dtype=np.int32), (len(boxes), 1)))


@cache
def map_shapes(size: tuple[int, int]) -> list[tuple[int, int]]:
    """The shapes of a real network's maps for an image of this width and height."""
    network = build_network(Architecture(backbone="r18", classes=1, fpn_channels=16, norm="batch"))
    image = torch.zeros(3, size[1], size[0], dtype=torch.uint8)
    with torch.no_grad():
        return [(m.shape[-2], m.shape[-1]) for m in network.eval().pyramid(pad_images([image]).float())]


def all_anchors(size: tuple[int, int], scale: float) -> torch.Tensor:
    """The anchors of the network for an image of this width and height."""
    return Anchors(STRIDES, scale)(map_shapes(size), (0, 0))[0]


def difficult_boxes(size: tuple[int, int], seed: int) -> np.ndarray:
    """Boxes of all sizes anywhere: at all four borders, whole pixels, on the grid, one pixel, the whole image."""
    rng = np.random.default_rng(seed)
    corners = rng.uniform(0, 1, (300, 2, 2)) ** rng.choice([1, 3], (300, 1, 1)) * np.array(size)
    boxes = np.concatenate([corners.min(1), corners.max(1)], axis=1)
    boxes[:60] = boxes[:60].round()
    boxes[60:90] = (boxes[60:90] / 8).round() * 8
    boxes[90:110, 0] = 0
    boxes[110:130, 1] = 0
    boxes[130:150, 2] = size[0]
    boxes[150:170, 3] = size[1]
    boxes[170:190, 2:] = boxes[170:190, :2] + rng.uniform(0.1, 3, (20, 2))
    boxes[190] = (0, 0, *size)
    boxes[191] = (size[0] - 1, size[1] - 1, *size)
    boxes = np.clip(boxes, 0, [*size, *size]).astype(np.float32)
    return boxes[(boxes[:, 2:] > boxes[:, :2]).all(axis=1)]


@pytest.mark.parametrize("scale", [1.0, 2.5, 4.0, 0.2])
@pytest.mark.parametrize("size", [(33, 65), (640, 480), (333, 801), (20, 300), (530, 330)])
def test_best_iou_equals_that_of_all_anchors_exactly(size: tuple[int, int], scale: float) -> None:
    boxes = difficult_boxes(size, seed=size[0])
    brute = box_iou(torch.from_numpy(boxes), all_anchors(size, scale)).amax(-1)
    found = best_iou(objects(boxes, size), scale)
    assert len(found) > 250
    assert torch.equal(found, brute)


def test_objects_of_images_of_many_sizes_at_once() -> None:
    sizes = [(64, 64), (200, 100), (97, 301)]
    parts = [objects(difficult_boxes(size, seed=i)[:50], size) for i, size in enumerate(sizes)]
    together = Objects(*(np.concatenate(columns) for columns in zip(*parts)))
    expected = torch.cat(
        [box_iou(torch.from_numpy(p.boxes), all_anchors(s, 4.0)).amax(-1) for p, s in zip(parts, sizes)]
    )
    assert torch.equal(best_iou(together, 4.0), expected)


def test_real_boxes_at_training_size(shared_data: Path) -> None:
    """The doctor's share is that of the objects which get an anchor by IoU in training."""
    index = open_source(shared_data / "coco2017_sub").index("val").subset(range(0, 206, 25))
    resized = objects_of(index, index.sizes).resized(320)
    iou = best_iou(resized, 4.0)
    checked = 0
    for size in np.unique(resized.sizes, axis=0):
        mine = (resized.sizes == size).all(axis=1)
        anchors = all_anchors((int(size[0]), int(size[1])), 4.0)
        assert torch.equal(iou[mine], box_iou(torch.from_numpy(resized.boxes[mine]), anchors).amax(-1))
        for box, best in zip(torch.from_numpy(resized.boxes[mine]), iou[mine]):
            assert (box_iou(box[None], anchors)[0, assign_max_iou(anchors, box[None]) == 0] >= 0.5).any() == (
                best >= 0.5
            )
            checked += 1
    assert checked == len(iou) > 30


def test_shares_by_hand() -> None:
    boxes = [(0, 0, 10, 10), (0, 0, 20, 20), (0, 0, 40, 40), (0, 0, 200, 200)]  # 100, 400, 1600, 40000
    iou = torch.tensor([0.3, 0.5, 0.45, 0.9])
    assert measure_coverage(objects(boxes, (640, 640)), iou) == Coverage(4, 0.5, 0.5, 0.0, 1.0, 0.75)
    assert measure_coverage(objects([], (1, 1)), torch.zeros(0)) == Coverage(0, None, None, None, None, None)


def test_small_objects_get_a_smaller_scale() -> None:
    rng = np.random.default_rng(0)
    corners = rng.uniform(0, 780, (400, 2))
    tiny = objects(np.concatenate([corners, corners + rng.uniform(15, 20, (400, 2))], axis=1), (800, 800))
    assert covered_share(tiny, 800, 4.0) < 0.05
    better = suggest(tiny, 800, 4.0)
    assert better is not None
    assert (better.imgsz, better.reached) == (800, covered_share(tiny, 800, better.anchor_scale))
    assert better.anchor_scale < 2.5
    assert better.reached > 0.95
    assert suggest(tiny, 800, better.anchor_scale) is None


def test_a_larger_image_where_no_scale_is_enough() -> None:
    rng = np.random.default_rng(0)
    corners = rng.uniform(0, 90, (300, 2))
    sides = np.where(np.arange(300)[:, None] % 2, 4.0, 90.0)  # 4 px needs another imgsz, 90 px forbids a small scale
    spread = objects(np.clip(np.concatenate([corners, corners + sides], axis=1), 0, 100), (100, 100))
    better = suggest(spread, 64, 4.0)
    assert better is not None
    assert better.imgsz > 64
    assert better.imgsz % 32 == 0
    assert better.reached >= covered_share(spread, 64, 4.0) + 0.02


def test_nothing_is_suggested_without_need_or_use(monkeypatch: pytest.MonkeyPatch) -> None:
    good = objects([(0, 0, 64, 64)] * 5, (800, 800))
    assert covered_share(good, 800, 4.0) == 1
    assert suggest(good, 800, 4.0) is None
    assert suggest(objects([], (1, 1)), 800, 4.0) is None
    needle = objects([(0, 0, 790, 2)] * 5, (800, 800))  # no anchor is 400 times as wide as high
    assert covered_share(needle, 800, 4.0) == 0
    assert suggest(needle, 800, 4.0) is None


def test_of_scales_with_equal_coverage_the_nearest_is_suggested() -> None:
    small = objects([(100, 100, 124, 124)] * 30, (800, 800))  # 24 px: scales 2 to 3 and more reach all
    better = suggest(small, 800, 8.0)
    assert better is not None
    larger = [scale for scale in (4.0, 5.0, 6.0) if covered_share(small, 800, scale) == 1]
    assert better == Suggestion(800, max([3.5, *larger]), 1.0)
