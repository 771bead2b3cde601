"""Methods that decay scores or compare centres, against slow float64 loops over single boxes."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cledet.ops import box_pairs, soft_nms, suppress

Loop = dict[int, float]
Scene = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def scene(seed: int, n: int = 60, classes: int = 3) -> Scene:
    """Crowded boxes; those of an odd seed on a grid, with equal boxes, equal scores and boxes without area."""
    generator = torch.Generator().manual_seed(seed)
    corner, side = torch.rand(2, n, 2, generator=generator) * 20
    boxes = torch.cat([corner, corner + side + 1], 1)
    scores = torch.rand(n, generator=generator)
    if seed % 2:
        boxes, scores = (boxes / 4).round() * 4, (scores * 8).round() / 8
    return boxes, scores, torch.randint(classes, (n,), generator=generator)


def iou_and_distance(a: list[float], b: list[float]) -> tuple[float, float]:
    """IoU, and the squared distance of the centres over the squared diagonal about both boxes."""
    sides = [min(a[k + 2], b[k + 2]) - max(a[k], b[k]) for k in (0, 1)]
    shared = max(sides[0], 0) * max(sides[1], 0)
    union = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)) - shared
    apart = sum((a[k] + a[k + 2] - b[k] - b[k + 2]) ** 2 for k in (0, 1)) / 4
    across = sum((max(a[k + 2], b[k + 2]) - min(a[k], b[k])) ** 2 for k in (0, 1))
    return shared / union if union else 0.0, apart / across if across else 0.0


def loop(scene: Scene, method: str, threshold: float, least: float) -> Loop:
    """Final score by index."""
    box, label = scene[0].double().tolist(), scene[2].tolist()
    now, final = dict(enumerate(scene[1].double().tolist())), {}
    while now:
        best = min(now, key=lambda i: (-now[i], i))
        final[best] = now.pop(best)
        for i in [i for i in now if label[i] == label[best]]:
            iou, distance = iou_and_distance(box[i], box[best])
            if method == "diou" and iou - distance > threshold:
                del now[i]
            elif method == "soft":
                now[i] *= math.exp(-(iou**2) / 0.5)
            elif method == "soft-linear" and iou > threshold:
                now[i] *= 1 - iou
    return {i: score for i, score in final.items() if method == "diou" or score >= least}


def assert_equal_to_loop(sample: Scene, method: str, threshold: float, least: float = 0.001) -> None:
    wanted = loop(sample, method, threshold, least)
    keep, scores, boxes = suppress(*sample, threshold, method=method, min_score=least)
    assert sorted(keep.tolist()) == sorted(wanted)
    assert scores.tolist() == pytest.approx([wanted[i] for i in keep.tolist()], rel=1e-4)
    assert torch.equal(boxes, sample[0][keep])
    order = [(-s, i) for s, i in zip(scores.tolist(), keep.tolist())]
    assert order == sorted(order)


@pytest.mark.parametrize("worth", [0, 1, 10**6])
@pytest.mark.parametrize("classes", [1, 3, 80])
@pytest.mark.parametrize("method", ["soft", "soft-linear", "diou"])
def test_equals_the_loop(monkeypatch: pytest.MonkeyPatch, method: str, classes: int, worth: int) -> None:
    # single boxes after the first round, after some rounds, or never
    monkeypatch.setattr(soft_nms, "WORTH", worth)
    for seed in range(6):
        assert_equal_to_loop(scene(seed, 60, classes), method, 0.37)


@pytest.mark.parametrize(("pairs", "ahead"), [(0, 1), (0, 4), (0, 32), (10**6, 4)])
@pytest.mark.parametrize("classes", [1, 3, 80])
@pytest.mark.parametrize("method", ["soft", "soft-linear", "diou"])
def test_a_gpu_equals_the_loop(
    monkeypatch: pytest.MonkeyPatch, method: str, classes: int, pairs: int, ahead: int
) -> None:
    # the code for GPUs: only the best of each class compared, in every round, or all, once
    monkeypatch.setattr(soft_nms, "LISTED", -1)
    monkeypatch.setattr(soft_nms, "PAIRS", pairs)
    monkeypatch.setattr(soft_nms, "AHEAD", ahead)
    for seed in range(6):
        assert_equal_to_loop(scene(seed, 60, classes), method, 0.37)


@pytest.mark.parametrize("method", ["soft", "soft-linear", "soft-vote", "diou"])
def test_lists_of_pairs_in_parts_give_the_same(monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    sample = scene(7, 90)
    at_once = suppress(*sample, 0.4, method=method)
    monkeypatch.setattr(box_pairs, "PAIRS", {False: 50})
    in_parts = suppress(*sample, 0.4, method=method)
    assert torch.equal(in_parts.keep, at_once.keep)
    torch.testing.assert_close(in_parts.scores, at_once.scores)


def test_a_small_and_a_large_class_in_one_call() -> None:
    boxes, scores, _ = scene(4, 630, 1)
    boxes += torch.arange(630)[:, None] // 30 * 25.0
    labels = (torch.arange(630) >= 600).long()
    assert_equal_to_loop((boxes, scores, labels), "soft", 0.5)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.integers(0, 100), st.sampled_from([0.1, 0.53, 0.7]), st.sampled_from([0.0011, 0.3]))
@pytest.mark.parametrize("method", ["soft", "soft-linear", "diou"])
def test_equals_the_loop_on_any_scene(method: str, seed: int, n: int, threshold: float, least: float) -> None:
    assert_equal_to_loop(scene(2 * seed, n, 2), method, threshold, least)


def test_classes_of_very_different_sizes() -> None:
    boxes, scores, labels = scene(4, 150, 80)
    labels[20:] = 7
    assert_equal_to_loop((boxes, scores, labels), "soft", 0.5)


def test_soft_linear_by_hand() -> None:
    # IoU with the best: 3/4 decays to a quarter, 1/4 is left alone; so the second of score comes before the third
    boxes = torch.tensor([[0.0, 0, 8, 8], [0, 0, 8, 6], [0, 0, 8, 2]])
    keep, scores, _ = suppress(boxes, torch.tensor([0.9, 0.8, 0.4]), torch.zeros(3).long(), 0.5, method="soft-linear")
    assert keep.tolist() == [0, 2, 1]
    assert scores.tolist() == pytest.approx([0.9, 0.4, 0.2])


def test_a_score_decayed_to_0_is_kept_with_min_score_0() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10]]).repeat(3, 1)
    scores, labels = torch.tensor([0.4, 0.9, 0.8]), torch.zeros(3).long()
    keep, kept, _ = suppress(boxes, scores, labels, method="soft-linear", min_score=0)
    assert keep.tolist() == [1, 0, 2]
    assert kept.tolist() == pytest.approx([0.9, 0, 0])


def test_a_box_that_decayed_decays_others_later() -> None:
    # a beats b (IoU 1/3), so c goes first and decays b, not b c (IoU 1/3), though b scored more than c
    boxes = torch.tensor([[0.0, 0, 10, 10], [5, 0, 15, 10], [10, 0, 20, 10]])
    keep, scores, _ = suppress(boxes, torch.tensor([0.9, 0.8, 0.75]), torch.zeros(3).long(), method="soft")
    decay = math.exp(-((1 / 3) ** 2) / 0.5)
    assert keep.tolist() == [0, 2, 1]
    assert scores.tolist() == pytest.approx([0.9, 0.75, 0.8 * decay * decay])


def test_diou_keeps_boxes_with_distant_centres() -> None:
    # IoU 1/2 with both; the tall box has the same centre, that of the short one is 2.5 away in a diagonal of 200^0.5
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 2.5, 10, 7.5], [0, 0, 10, 5]])
    scores, labels = torch.tensor([0.9, 0.7, 0.8]), torch.zeros(3).long()
    assert suppress(boxes, scores, labels, 0.48, method="diou").keep.tolist() == [0, 2]
    assert suppress(boxes, scores, labels, 0.46, method="diou").keep.tolist() == [0]
    assert suppress(boxes, scores, labels, 0.48, method="standard").keep.tolist() == [0]


def test_diou_keeps_boxes_of_score_0() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10], [30, 0, 40, 10]])
    assert suppress(boxes, torch.zeros(2), torch.zeros(2).long(), method="diou").keep.tolist() == [0, 1]


@pytest.mark.parametrize("method", ["soft", "soft-linear", "diou"])
def test_boxes_without_area_neither_suppress_nor_are_suppressed(method: str) -> None:
    boxes = torch.tensor([[3.0, 3, 3, 3], [0, 0, 6, 6], [3, 3, 3, 3]])
    keep, scores, _ = suppress(boxes, torch.tensor([0.9, 0.8, 0.7]), torch.zeros(3).long(), 0.1, method=method)
    assert keep.tolist() == [0, 1, 2]
    assert scores.tolist() == pytest.approx([0.9, 0.8, 0.7])


@pytest.mark.parametrize("method", ["soft", "soft-linear", "soft-vote", "diou", "weighted"])
def test_half_boxes_are_computed_in_float32(method: str) -> None:
    boxes, scores, labels = scene(2, 80)
    boxes, scores = (boxes * 50).half(), scores.half()  # areas over 65504
    half = suppress(boxes, scores, labels, method=method)
    full = suppress(boxes.float(), scores.float(), labels, method=method, min_score=0.001)
    assert (half.scores.dtype, half.boxes.dtype) == (torch.float16, torch.float16)
    assert sorted(half.keep.tolist()) == sorted(full.keep.tolist())
    for kept in (half, full):
        order = kept.keep.argsort()
        kept.scores.copy_(kept.scores[order])
        kept.boxes.copy_(kept.boxes[order])
    torch.testing.assert_close(half.scores, full.scores.half())
    torch.testing.assert_close(half.boxes, full.boxes.half())
