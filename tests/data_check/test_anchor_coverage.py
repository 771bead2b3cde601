"""The best IoU of every object against all anchors of a real network, and what is suggested."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from cledet.data.dataset import pad_images
from cledet.data.open import open_source
from cledet.data_check.anchor_coverage import (
    AnchorSettings,
    Coverage,
    best_iou,
    choose_anchors,
    covered_share,
    measure_coverage,
    suggest,
)
from cledet.data_check.statistics import Objects, objects_of
from cledet.models.anchors import RATIOS, STRIDES, Anchors
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


def all_anchors(size: tuple[int, int], scale: float, ratios: tuple[float, ...] = RATIOS) -> torch.Tensor:
    """The anchors of the network for an image of this width and height."""
    return Anchors(STRIDES, scale, ratios=ratios)(map_shapes(size), (0, 0))[0]


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


@pytest.mark.parametrize("ratios", [(1.0,), (0.33, 1.0, 3.0), (0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0), (0.7, 5.0)])
def test_best_iou_of_other_ratios_equals_that_of_all_anchors_exactly(ratios: tuple[float, ...]) -> None:
    size = (333, 801)
    boxes = difficult_boxes(size, seed=len(ratios))
    brute = box_iou(torch.from_numpy(boxes), all_anchors(size, 3.0, ratios)).amax(-1)
    assert torch.equal(best_iou(objects(boxes, size), 3.0, ratios), brute)


def test_objects_of_images_of_many_sizes_at_once() -> None:
    sizes = [(64, 64), (200, 100), (97, 301)]
    parts = [objects(difficult_boxes(size, seed=i)[:50], size) for i, size in enumerate(sizes)]
    together = Objects(*(np.concatenate(columns) for columns in zip(*parts)))
    expected = torch.cat(
        [box_iou(torch.from_numpy(p.boxes), all_anchors(s, 4.0)).amax(-1) for p, s in zip(parts, sizes)]
    )
    assert torch.equal(best_iou(together, 4.0), expected)


@pytest.mark.slow
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
    assert better == AnchorSettings(800, max([3.5, *larger]), RATIOS, 1.0)


def bars(aspect: float, count: int = 100, seed: int = 0) -> Objects:
    """Upright and lying bars of an area of 64 x 64 px, anywhere in 800 x 800 px."""
    rng = np.random.default_rng(seed)
    long, short = 64 * aspect**0.5, 64 / aspect**0.5
    sides = np.where(np.arange(count)[:, None] % 2, [long, short], [short, long])
    corners = rng.uniform(0, 800 - long, (count, 2))
    return objects(np.concatenate([corners, corners + sides], axis=1), (800, 800))


def joined(*parts: Objects) -> Objects:
    rows, boxes, sizes = (np.concatenate(columns) for columns in zip(*parts))
    return Objects(np.arange(len(rows)), boxes, sizes)


def test_long_objects_get_longer_anchors() -> None:
    """A ratio of 6 is 3 times the longest default: the best IoU of equal areas is 1 / (2 sqrt(3) - 1) = 0.41."""
    squares, long = bars(1), bars(6)
    assert covered_share(squares, 800, 4.0) == 1
    assert covered_share(long, 800, 4.0) < 0.1
    better = choose_anchors(joined(squares, long), 800, 4.0, RATIOS, scales=(4.0,))
    assert better is not None
    assert (better.anchor_scale, better.anchor_ratios) == (4.0, (0.33, 1.0, 3.0))
    assert better.reached > 0.98
    advice = suggest(joined(squares, long), 800, 4.0)
    assert advice is not None
    assert len(advice.anchor_ratios) == 3
    assert advice.reached >= better.reached - 0.005


def test_additional_ratios_must_gain_half_a_point_each() -> None:
    """Bars of 16:1 need seven ratios, four more than the three that cover the rest: 2 points."""
    rest, needles = bars(1, 980), bars(16, 15)
    seven = (0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
    assert covered_share(needles, 800, 4.0, seven) > 0.9
    assert covered_share(needles, 800, 4.0) == 0
    assert choose_anchors(joined(rest, needles), 800, 4.0, RATIOS) is None  # 1.5 points
    more = joined(rest, bars(16, 40))
    better = choose_anchors(more, 800, 4.0, RATIOS)  # 3.9 points
    assert better is not None
    assert better.anchor_ratios == seven
    assert choose_anchors(more, 800, 4.0, RATIOS, ratio_sets=()) is None


def test_scale_and_ratios_are_chosen_together() -> None:
    """Bars of the area of 16 x 16 px and a ratio of 5 need smaller and longer anchors at once."""
    full = bars(5, 200)
    small = Objects(full.rows, full.boxes * np.float32(16 / 64), full.sizes)
    both = choose_anchors(small, 800, 4.0, RATIOS)
    assert both is not None
    assert both.anchor_scale < 4
    assert both.anchor_ratios != RATIOS
    assert both.reached > 0.7
    assert covered_share(small, 800, 4.0, both.anchor_ratios) < both.reached - 0.1
    assert covered_share(small, 800, both.anchor_scale) < both.reached - 0.1
    assert both.reached == covered_share(small, 800, both.anchor_scale, both.anchor_ratios)


def test_nothing_is_chosen_without_gain_or_objects() -> None:
    assert choose_anchors(bars(1), 800, 4.0, RATIOS) is None
    assert choose_anchors(objects([], (1, 1)), 800, 4.0, RATIOS) is None


def test_settings_are_written_as_flags() -> None:
    settings = AnchorSettings(640, 2.5, (0.33, 1.0, 3.0), 0.9)
    assert settings.flags() == "--imgsz 640 --anchor-scale 2.5 --anchor-ratios 0.33,1,3"
    assert settings.flags(640, (0.33, 1.0, 3.0)) == "--anchor-scale 2.5"
    assert settings._replace(anchor_ratios=RATIOS).flags(640) == "--anchor-scale 2.5"
