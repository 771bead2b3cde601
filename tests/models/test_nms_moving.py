"""Methods that move boxes, against slow float64 loops."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cledet.models.nms import AGREEING_IOU, CLOSENESS, DECAY_IOU, MOVING, NMS, VOTERS_IOU
from cledet.ops import batched_nms, box_pairs, box_voting, suppress
from cledet.ops.boxes import box_iou
from cledet.ops.nms_clusters import find_clusters

Scene = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def scene(seed: int, n: int = 60, classes: int = 2) -> Scene:
    """Loose copies of a few boxes."""
    generator = torch.Generator().manual_seed(seed)
    corner, side = torch.rand(2, n, 2, generator=generator) * 20
    boxes = torch.cat([corner, corner + side + 4], 1)
    of = torch.randint(1 + n // 6, (n,), generator=generator).clamp(max=max(0, n - 1))
    boxes = boxes[of] + torch.randn(n, 4, generator=generator) * 0.5
    return boxes, torch.rand(n, generator=generator), torch.randint(classes, (n,), generator=generator)


def mean(sample: Scene, members: list[int]) -> list[float]:
    boxes, scores = sample[0].double().tolist(), sample[1].double().tolist()
    total = sum(scores[i] for i in members)
    return [sum(scores[i] * boxes[i][k] for i in members) / total for k in range(4)]


def greedy(sample: Scene, threshold: float) -> dict[int, list[int]]:
    """Standard NMS as a loop: each box kept, and its cluster."""
    boxes, scores, labels = sample
    iou, label = box_iou(boxes, boxes).tolist(), labels.tolist()
    left, found = sorted(range(len(boxes)), key=lambda i: (-float(scores[i]), i)), {}
    while left:
        best = left[0]
        taken = [i for i in left if i == best or (label[i] == label[best] and iou[best][i] > threshold)]
        found[best] = taken
        left = [i for i in left if i not in taken]
    return found


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.integers(0, 50), st.sampled_from([0.3, 0.5, 0.8]))
def test_weighted_equals_the_loop(seed: int, n: int, threshold: float) -> None:
    sample = scene(seed, n)
    wanted = greedy(sample, threshold)
    keep, scores, boxes = suppress(*sample, threshold, method="weighted")
    assert keep.tolist() == list(wanted)
    assert torch.equal(scores, sample[1][keep])
    torch.testing.assert_close(boxes, torch.tensor([mean(sample, m) for m in wanted.values()]).reshape(-1, 4))


def test_weighted_by_hand() -> None:
    # the first two make a cluster, of weights 0.6 and 0.2; the third, of another class, and the fourth stay
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 14], [0, 0, 10, 12], [50, 0, 60, 10]])
    scores, labels = torch.tensor([0.6, 0.2, 0.5, 0.1]), torch.tensor([0, 0, 1, 0])
    keep, kept, moved = suppress(boxes, scores, labels, 0.5, method="weighted")
    assert keep.tolist() == [0, 2, 3]
    assert torch.equal(kept, scores[keep])
    torch.testing.assert_close(moved, torch.tensor([[0.0, 0, 10, 11], [0, 0, 10, 12], [50, 0, 60, 10]]))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.integers(0, 50))
def test_soft_vote_equals_the_loop(seed: int, n: int) -> None:
    sample = scene(seed, n)
    label, iou = sample[2].tolist(), box_iou(sample[0], sample[0]).tolist()
    soft = suppress(*sample, DECAY_IOU, method="soft-linear")
    keep, kept, moved = suppress(*sample, method="soft-vote")
    assert torch.equal(keep, soft.keep)
    assert torch.equal(kept, soft.scores)
    near = [[j for j in range(n) if j == i or (label[i] == label[j] and iou[i][j] > VOTERS_IOU)] for i in keep.tolist()]
    torch.testing.assert_close(moved, torch.tensor([mean(sample, m) for m in near]).reshape(-1, 4))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.integers(0, 50))
def test_agreement_equals_the_loop(seed: int, n: int) -> None:
    boxes, scores, labels = scene(seed, n)
    soft = suppress(boxes, scores, labels, DECAY_IOU, method="soft-linear")
    expected = []
    for i, score in zip(soft.keep.tolist(), soft.scores.tolist()):
        iou = box_iou(boxes[i : i + 1].double(), boxes.double())[0]
        near = (iou > AGREEING_IOU) & (labels == labels[i])
        near[i] = True
        own, others = scores[near].double(), boxes[near].double()
        weight = own * torch.exp(-((1 - iou[near]) ** 2) / CLOSENESS)
        mean = (weight[:, None] * others).sum(0) / weight.sum()
        agreed = (own * box_iou(mean[None], others)[0]).sum() / own.sum()
        expected.append((score * float(agreed), i, mean.tolist()))
    expected.sort(key=lambda kept: -kept[0])
    keep, kept, moved = suppress(boxes, scores, labels, method="agreement")
    torch.testing.assert_close(kept, torch.tensor([score for score, _, _ in expected]))
    assert sorted(keep.tolist()) == sorted(i for _, i, _ in expected)
    place = {i: mean for _, i, mean in expected}
    means = torch.tensor([place[i] for i in keep.tolist()]).reshape(-1, 4)
    torch.testing.assert_close(moved, means, rtol=1e-5, atol=1e-3)


def test_agreement_by_hand() -> None:
    # IoU 2/3: a weight of 0.4 exp(-(1/3)^2 / 0.05) = 0.0433 against 0.8
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 15], [50, 50, 60, 60]])
    scores, labels = torch.tensor([0.8, 0.4, 0.6]), torch.zeros(3).long()
    keep, kept, moved = suppress(boxes, scores, labels, method="agreement", min_score=0.2)
    vote = 0.4 * math.exp(-1 / 9 / 0.05)
    height = 10 + 5 * vote / (0.8 + vote)
    assert keep.tolist() == [0, 2]
    torch.testing.assert_close(moved[0], torch.tensor([0.0, 0, 10, height]))
    assert kept.tolist() == pytest.approx([0.8 * (0.8 * 10 / height + 0.4 * height / 15) / 1.2, 0.6], abs=1e-6)


@pytest.mark.parametrize("method", ["soft-vote", "agreement"])
def test_voting_is_the_same_in_parts(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    sample = scene(5, 90)
    at_once = suppress(*sample, method=method)
    monkeypatch.setattr(box_pairs, "PAIRS", {False: 100, True: 100})
    monkeypatch.setattr(box_voting, "LISTED", 0)
    in_parts = suppress(*sample, method=method)
    torch.testing.assert_close(in_parts.boxes, at_once.boxes)
    torch.testing.assert_close(in_parts.scores, at_once.scores)


@pytest.mark.parametrize("method", MOVING)
def test_a_lone_box_stays_to_the_bit(method: str) -> None:
    boxes = torch.tensor([[0.1, 0.2, 7.3, 9.9], [30.1, 3.3, 30.1, 3.3], [30.1, 3.3, 30.1, 3.3]])
    found = suppress(boxes, torch.tensor([0.3, 0.7, 0.0]), torch.zeros(3).long(), method=method, min_score=0)
    assert found.keep.tolist() == [1, 0, 2]
    assert torch.equal(found.boxes, boxes[found.keep])


@pytest.mark.parametrize("method", MOVING)
def test_a_cluster_without_scores_has_a_mean(method: str) -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 12]])
    found = suppress(boxes, torch.zeros(2), torch.zeros(2).long(), method=method, min_score=0)
    share = math.exp(-1 / 36 / 0.05) if method == "agreement" else 1  # IoU 5/6
    torch.testing.assert_close(found.boxes[0], torch.tensor([0.0, 0, 10, 10 + 2 * share / (1 + share)]))


@pytest.mark.parametrize("method", MOVING)
def test_batched_nms_refuses_methods_that_move_boxes(method: str) -> None:
    with pytest.raises(ValueError, match="suppress"):
        batched_nms(*scene(0), 0.5, method=method)


@pytest.mark.parametrize("method", sorted(set(NMS) - set(MOVING)))
def test_other_methods_do_not_move_boxes(method: str) -> None:
    sample = scene(3)
    found = suppress(*sample, 0.5, method=method)
    assert torch.equal(found.boxes, sample[0][found.keep])
    keep, scores = batched_nms(*sample, 0.5, method=method)
    assert torch.equal(keep, found.keep)
    assert torch.equal(scores, found.scores)


def test_weighted_takes_the_clusters_of_standard_nms() -> None:
    # of two keepers that overlap it the better one takes the third box, and it counts for that one only
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 8, 10, 18], [0, 4, 10, 14]])
    scores, labels = torch.tensor([0.9, 0.8, 0.3]), torch.zeros(3).long()
    assert find_clusters(boxes, scores, labels, 0.4)[1].tolist() == [0, 1, 0]
    moved = suppress(boxes, scores, labels, 0.4, method="weighted").boxes
    torch.testing.assert_close(moved, torch.tensor([[0.0, 1, 10, 11], [0, 8, 10, 18]]))
