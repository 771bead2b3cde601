import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cledet.components import assign_iac, iac_score
from cledet.components.iac import IACOptions, at_matched_class, recalled
from cledet.ops.assigners.max_iou import assign_from, assign_max_iou, match


def scene(seed: int, anchors: int = 60, gts: int = 5, classes: int = 3) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)

    def boxes(n: int) -> torch.Tensor:
        corner, side = torch.randint(1, 40, (2, n, 2), generator=generator).float()
        return torch.cat([corner, corner + side], 1)

    labels = torch.randint(classes, (gts,), generator=generator)
    return boxes(anchors), boxes(gts), labels, torch.rand(anchors, classes, generator=generator)


def overlap(a: list[float], b: list[float]) -> tuple[float, float, float, float]:
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    shared = max(width, 0) * max(height, 0)
    area_a, area_b = ((c[2] - c[0]) * (c[3] - c[1]) for c in (a, b))
    return shared, area_a, area_b, shared / (area_a + area_b - shared)


def loop(anchors, gts, labels, prob, alpha=0.75, score_threshold=0.5, min_iou=0.0, center=False, cap=0, fill=0):  # type: ignore[no-untyped-def]
    """Compute Eq. 5-7 anchor by anchor, then keep the best `cap` recalled per object, or up to `fill` positives."""
    anchors, gts = anchors.double().tolist(), gts.double().tolist()
    iou = [[overlap(a, g)[3] for g in gts] for a in anchors]
    best = [max(row[j] for row in iou) for j in range(len(gts))]
    out, more = [], []
    for i, anchor in enumerate(anchors):
        highest = max(iou[i])
        j = iou[i].index(highest)
        shared, area_a, area_g, _ = overlap(anchor, gts[j])
        score = alpha * prob[i, labels[j]].item() + (1 - alpha) * shared / min(area_a, area_g)
        keeps_gt = any(iou[i][k] == best[k] > 0 for k in range(len(gts)))
        x, y = (anchor[0] + anchor[2]) / 2, (anchor[1] + anchor[3]) / 2
        inside = gts[j][0] <= x <= gts[j][2] and gts[j][1] <= y <= gts[j][3]
        out.append(j if highest >= 0.5 or keeps_gt else -1 if highest < 0.4 else -2)
        if out[-1] < 0 and score >= score_threshold and highest > min_iou and (inside or not center):
            more.append((-score, i, j))
    more.sort()
    for k in range(len(gts)):
        room = max(fill - out.count(k), 0) if fill else None
        for _, i, _ in [m for m in more if m[2] == k][: cap or room]:
            out[i] = k
    return out


def test_score_by_hand() -> None:
    # 10 x 10 anchor, 5 x 20 object, 5 x 10 shared: 50 / min(100, 100); 0.75 * 0.4 + 0.25 * 0.5
    anchor, gt = torch.tensor([[0.0, 0, 10, 10]]), torch.tensor([[5.0, 0, 10, 20]])
    assert iac_score(anchor, gt, torch.tensor([0.4])).item() == pytest.approx(0.425)
    assert iac_score(anchor, gt, torch.tensor([0.4]), alpha=0.5).item() == pytest.approx(0.45)


def test_score_of_boxes_without_area_is_the_probability_alone() -> None:
    point, gt = torch.tensor([[5.0, 5, 5, 5]]), torch.tensor([[0.0, 0, 10, 10]])
    assert iac_score(point, gt, torch.tensor([0.4])).item() == pytest.approx(0.3)
    assert iac_score(gt, point, torch.tensor([0.4])).item() == pytest.approx(0.3)


@settings(max_examples=100, deadline=None)
@given(
    st.integers(0, 10**6),
    st.integers(1, 8),
    st.sampled_from([1, 3, 80]),
    st.sampled_from([0.0, 0.2]),
    st.booleans(),
    st.sampled_from([0, 1, 3]),
)
def test_equals_loop(seed: int, gts: int, classes: int, floor: float, center: bool, cap: int) -> None:
    anchors, boxes, labels, prob = (x.double() if x.is_floating_point() else x for x in scene(seed, 40, gts, classes))
    got = assign_iac(anchors, boxes, labels, prob, recall_min_iou=floor, recall_center=center, recall_cap=cap)
    assert got.tolist() == loop(anchors, boxes, labels, prob, min_iou=floor, center=center, cap=cap)


def test_cap_keeps_the_best_of_each_object_and_ties_by_index() -> None:
    gts = torch.tensor([[0.0, 0, 10, 10], [20, 0, 30, 10]])
    inside = torch.tensor([[0.0, 0, 4, 4], [1, 1, 5, 5], [2, 2, 6, 6], [21, 1, 25, 5], [22, 2, 26, 6], [23, 3, 27, 7]])
    anchors = torch.cat([gts, inside])
    prob = torch.tensor([1, 1, 0.5, 0.9, 0.7, 0.6, 0.6, 0.6])[:, None]
    labels = torch.zeros(2, dtype=torch.long)
    assert assign_iac(anchors, gts, labels, prob, recall_cap=1).tolist() == [0, 1, -1, 0, -1, 1, -1, -1]
    assert assign_iac(anchors, gts, labels, prob, recall_cap=2).tolist() == [0, 1, -1, 0, 0, 1, 1, -1]
    assert assign_iac(anchors, gts, labels, prob).tolist() == [0, 1, 0, 0, 0, 1, 1, 1]


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 6), st.integers(1, 12), st.booleans())
def test_filling_up_equals_loop(seed: int, gts: int, fill: int, padded: bool) -> None:
    anchors, boxes, labels, prob = (x.double() if x.is_floating_point() else x for x in scene(seed, 60, gts))
    wanted = loop(anchors, boxes, labels, prob, fill=fill)
    if padded:  # a batch of two images, the second without objects
        boxes = torch.stack([torch.cat([boxes, boxes.new_zeros(1, 4)]), boxes.new_zeros(gts + 1, 4)])
        labels, prob = torch.cat([labels, torch.tensor([-1])]).repeat(2, 1), prob.repeat(2, 1, 1)
    matches = match(anchors, boxes)
    by_iou, own = assign_from(matches), at_matched_class(prob, labels, matches)
    chosen, _ = recalled(by_iou, matches, anchors, boxes, own, IACOptions(fill=fill))
    got = torch.where(chosen, matches.gt, by_iou)
    assert got.tolist() == ([wanted, [-1] * 60] if padded else wanted)
    matched = by_iou.flatten()[:60].clamp(min=-1).add(1).bincount(minlength=gts + 1)[1:]
    assert all(wanted.count(k) <= max(fill, matched[k]) for k in range(gts))


def test_centre_rule_leaves_out_anchors_beside_the_object() -> None:
    gts, labels = torch.tensor([[0.0, 0, 10, 10]]), torch.tensor([0])
    anchors = torch.tensor([[0.0, 0, 10, 10], [8, 0, 11, 10], [9, 0, 13, 10]])  # centres at x 5, 9.5 and 11
    prob = torch.ones(3, 1)
    assert assign_iac(anchors, gts, labels, prob).tolist() == [0, 0, 0]
    assert assign_iac(anchors, gts, labels, prob, recall_center=True).tolist() == [0, 0, -1]


def test_probability_under_a_third_recalls_nothing() -> None:
    for seed in range(20):
        anchors, gts, labels, prob = scene(seed)
        plain = assign_max_iou(anchors, gts)
        assert torch.equal(assign_iac(anchors, gts, labels, prob * 0.333), plain)
    assert not torch.equal(assign_iac(anchors, gts, labels, prob * 0 + 1), plain)


def test_anchors_that_touch_nothing_are_never_recalled() -> None:
    anchors = torch.tensor([[0.0, 0, 10, 10], [10, 0, 20, 10], [30, 30, 40, 40], [0, 0, 4, 4]])
    gts = torch.tensor([[0.0, 0, 10, 10]])
    got = assign_iac(anchors, gts, torch.tensor([0]), torch.ones(4, 1))
    assert got.tolist() == [0, -1, -1, 0]  # the second only shares an edge
    floor = assign_iac(anchors, gts, torch.tensor([0]), torch.ones(4, 1), recall_min_iou=0.2)
    assert floor.tolist() == [0, -1, -1, -1]  # IoU 16 / 100


def test_recall_uses_the_class_of_the_matched_object() -> None:
    anchors, gts = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 4.5]]), torch.tensor([[0.0, 0, 10, 10]])
    prob = torch.tensor([[0.0, 0.0], [0.9, 0.0]])
    assert assign_iac(anchors, gts, torch.tensor([0]), prob).tolist() == [0, 0]  # 0.675 + 0.25
    assert assign_iac(anchors, gts, torch.tensor([1]), prob).tolist() == [0, -2]  # 0.25, IoU 0.45


def test_boundaries() -> None:
    # IoU exactly 0.5 is positive, exactly 0.4 is not negative, score exactly 0.5 recalls
    anchors = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 5], [0, 0, 10, 4], [0, 0, 10, 3]])
    gts, label = torch.tensor([[0.0, 0, 10, 10]]), torch.tensor([0])
    assert assign_iac(anchors, gts, label, torch.zeros(4, 1)).tolist() == [0, 0, -2, -1]
    half = torch.tensor([[0.0], [0], [0], [0.5]])  # alpha 0.5: 0.25 + 0.5 * 30 / 30 = 0.75
    assert assign_iac(anchors, gts, label, half, alpha=0.5, score_threshold=0.75).tolist() == [0, 0, -2, 0]
    assert assign_iac(anchors, gts, label, half, alpha=0.5, score_threshold=0.751).tolist() == [0, 0, -2, -1]


def test_every_object_keeps_its_best_anchor() -> None:
    anchors, gts = torch.tensor([[0.0, 0, 10, 10], [40, 40, 50, 50]]), torch.tensor([[8.0, 8, 18, 18]])
    assert assign_iac(anchors, gts, torch.tensor([0]), torch.zeros(2, 1)).tolist() == [0, -1]


def test_batch_equals_single_images() -> None:
    one, two = scene(1, gts=4), scene(1, gts=4)[0:1] + scene(2, gts=2)[1:]
    boxes, labels = torch.zeros(2, 4, 4), torch.full((2, 4), -1)
    boxes[0], boxes[1, :2], labels[0], labels[1, :2] = one[1], two[1], one[2], two[2]
    prob = torch.stack([one[3], two[3]])
    got = assign_iac(one[0], boxes, labels, prob)
    assert torch.equal(got[0], assign_iac(*one))
    assert torch.equal(got[1], assign_iac(*two))


def test_parts_on_logits_equal_the_whole_on_probabilities() -> None:
    anchors, gts, labels, prob = scene(5)
    matches = match(anchors, gts)
    matched = at_matched_class(prob.logit(), labels, matches).sigmoid()
    plain = assign_from(matches)
    more, _ = recalled(plain, matches, anchors, gts, matched, IACOptions())
    assert more.any()
    assert not more[plain >= 0].any()
    assert torch.equal(torch.where(more, matches.gt, plain), assign_iac(anchors, gts, labels, prob))


@pytest.mark.parametrize("batch", [(), (2,)])
def test_without_objects_all_is_background(batch: tuple[int, ...]) -> None:
    anchors, gts, labels = (
        torch.rand(7, 4),
        torch.zeros(*batch, 0, 4),
        torch.zeros(*batch, 0, dtype=torch.long),
    )
    got = assign_iac(anchors, gts, labels, torch.ones(*batch, 7, 3))
    assert got.shape == (*batch, 7)
    assert (got == -1).all()


def test_padding_alone_is_background_and_no_anchors_give_none() -> None:
    labels, prob = torch.tensor([[-1, -1]]), torch.ones(1, 6, 2)
    anchors = torch.tensor([[0.0, 0, 4, 4]]).repeat(6, 1)
    assert assign_iac(anchors, torch.zeros(1, 2, 4), labels, prob).tolist() == [[-1] * 6]
    empty = assign_iac(torch.zeros(0, 4), torch.ones(1, 2, 4), labels, torch.ones(1, 0, 2))
    assert empty.shape == (1, 0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_inputs_are_computed_in_float32(dtype: torch.dtype) -> None:
    anchors, gts, labels, prob = scene(7)
    half = assign_iac(anchors.to(dtype), gts.to(dtype), labels, prob.to(dtype))
    assert torch.equal(half, assign_iac(anchors, gts, labels, prob.to(dtype).float()))


def test_no_gradient_through_the_assignment() -> None:
    anchors, gts, labels, prob = scene(8)
    matches = match(anchors, gts)
    prob.requires_grad_()
    assert not assign_iac(anchors, gts, labels, prob).requires_grad
    assert not matches.iou.requires_grad


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("relative", [0.0, 0.8])
@pytest.mark.parametrize("decoded", [False, True])
def test_readings_equal_a_loop_in_float64(seed: int, relative: float, decoded: bool) -> None:
    """The floor relative to the object, and Eq. 6's overlap from the predicted box."""
    anchors, gts, labels, prob = scene(seed, anchors=150)
    matches = match(anchors, gts)
    moved = (anchors + gts[matches.gt]) / 2
    by_iou = assign_from(matches)
    own = at_matched_class(prob, labels, matches)
    options = IACOptions(score_threshold=0.4, relative=relative, decoded=decoded)
    chosen, scores = recalled(by_iou, matches, anchors, gts, own, options, moved)
    iou = [[overlap(a, g)[3] for g in gts.double().tolist()] for a in anchors.double().tolist()]
    top = [max(row[k] for row in iou) for k in range(len(gts))]
    assert matches.top.tolist() == pytest.approx(top)
    wanted = []
    for i in range(len(anchors)):
        k = iou[i].index(max(iou[i]))
        box = (moved if decoded else anchors)[i].double().tolist()
        shared, first, second, of_box = overlap(box, gts[k].double().tolist())
        score = 0.75 * own[i].item() + 0.25 * shared / min(first, second)
        assert scores[i].item() == pytest.approx(score, abs=1e-6)
        is_recalled = score >= 0.4 and by_iou[i] < 0 and iou[i][k] > 0 and iou[i][k] >= relative * min(top[k], 0.5)
        wanted.append(is_recalled and (of_box >= 0.5 or not decoded))
    assert chosen.tolist() == wanted
    assert any(wanted)


def test_the_relative_floor_recalls_around_an_object_without_fitting_anchors() -> None:
    """A bar of 40 x 5 whose best anchors have IoU 3/7, 29/71 and 1/5: a floor of 0.45 recalls none of them."""
    gts = torch.tensor([[0.0, 0, 40, 5]])
    anchors = torch.tensor([[0.0, 0, 30, 10], [-1, 0, 29, 10], [5, 0, 25, 20]])
    matches = match(anchors, gts)
    assert matches.iou.tolist() == pytest.approx([150 / 350, 145 / 355, 100 / 500])
    floors = (IACOptions(relative=0.8), IACOptions(min_iou=0.45))
    near, fixed = (recalled(assign_from(matches), matches, anchors, gts, torch.ones(3), one)[0] for one in floors)
    assert near.tolist() == [False, True, False]  # the first is the best, so it is positive already
    assert fixed.tolist() == [False, False, False]
