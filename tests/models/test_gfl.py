"""The head gfl: its shapes and order, its losses against a loop over positives in float64, DC on them."""

from __future__ import annotations

import math

import pytest
import torch
from torchvision.ops import generalized_box_iou_loss

from cledet.components.dc import dynamic_coefficient, normalize_coefficient
from cledet.models.anchors import Anchors
from cledet.models.assignment import Targets, positives
from cledet.models.criterion import Criterion
from cledet.models.heads import GFLHead, he_initialize
from cledet.models.network import Architecture, RawOutputs, build_network
from cledet.models.postprocess import candidates
from cledet.ops.assigners.atss import assign_atss
from cledet.ops.assigners.fcos import assign_fcos

GFL = Criterion(iac=None, dc=False, assignment="atss", cls_loss="qfl", reg_loss="dfl")
LEVELS = [64, 16]


def outputs(images: int = 2, classes: int = 3, seed: int = 0, bias: float = -2.0, most: int = 3) -> RawOutputs:
    """Two levels of points on 64x64 images, of strides 8 and 16; `most` strides are too few for some of TWO's boxes."""
    anchors, strides = Anchors((8, 16), 4.0, octaves=(1.0,), ratios=(1.0,))([(8, 8), (4, 4)], (64, 64))
    g = torch.Generator().manual_seed(seed)
    logits = torch.randn(images, 80, classes, generator=g) + bias
    code = torch.randn(images, 80, 4 * (most + 1), generator=g)
    return RawOutputs(logits.requires_grad_(), code.requires_grad_(), anchors, strides, LEVELS, "distances", 1)


TWO = Targets(
    torch.tensor([[[4.0, 4, 30, 28], [30, 20, 60, 62]], [[10, 30, 40, 60], [0, 0, 0, 0]]]),
    torch.tensor([[1, 2], [0, 0]]),
    torch.zeros(2, 0, 4),
)


def slow_gfl(raw: RawOutputs, truth: Targets, gt: torch.Tensor):
    """Classification and box loss, position by position, in float64; and the quality focal loss of each positive."""
    cls, box, weights, count, each = 0.0, 0.0, 0.0, 0, []
    for i, row in enumerate(gt.tolist()):
        for a, j in enumerate(row):
            x, code = raw.logits[i, a].double(), raw.deltas[i, a].double().view(4, 4)
            target = torch.zeros(3, dtype=torch.float64)
            if j >= 0:
                p = code.softmax(-1)
                far = sum(k * p[:, k] for k in range(4)) * raw.strides[a]
                point = (raw.anchors[a, :2] + raw.anchors[a, 2:]).double() / 2
                predicted = torch.cat([point - far[:2], point + far[2:]])
                true = truth.boxes[i, j].double()
                low, high = torch.maximum(predicted[:2], true[:2]), torch.minimum(predicted[2:], true[2:])
                shared = (high - low).clamp(min=0).prod()
                union = (predicted[2:] - predicted[:2]).prod() + (true[2:] - true[:2]).prod() - shared
                target[truth.labels[i, j]] = (shared / union).detach()
                wanted = torch.cat([point - true[:2], true[2:] - point]) / raw.strides[a]
                wanted, dfl = wanted.clamp(0, 2.9), 0.0
                for side in range(4):
                    y = float(wanted[side])
                    k = math.floor(y)
                    dfl = dfl - (k + 1 - y) * p[side, k].log() - (y - k) * p[side, k + 1].log()
                weight = x.detach().sigmoid().max()
                box = box + weight * (2 * generalized_box_iou_loss(predicted, true) + 0.25 * dfl / 4)
                weights, count = weights + float(weight), count + 1
            p = x.sigmoid()
            bce = -(target * p.log() + (1 - target) * (1 - p).log())
            loss = ((target - p).abs() ** 2 * bce).sum()
            cls = cls + loss
            if j >= 0:
                each.append(float(loss.detach()))
    return cls / count, box / max(weights, 1), count, each


@pytest.mark.parametrize("assignment", ["atss", "fcos"])
def test_losses_and_gradients_equal_the_slow_loop(assignment: str) -> None:
    raw = outputs(bias=0.0)
    gt = assign_atss(raw.anchors, TWO.boxes, LEVELS) if assignment == "atss" else assign_fcos(
        raw.anchors, TWO.boxes, raw.strides)  # fmt: skip
    losses = Criterion(iac=None, dc=False, assignment=assignment, cls_loss="qfl", reg_loss="dfl")(raw, TWO)
    cls, box, count, _ = slow_gfl(raw, TWO, gt)
    assert int(losses.positives) == int(losses.n) == count > 4
    assert float(losses.classification.detach()) == pytest.approx(float(cls.detach()), rel=1e-5)
    assert float(losses.regression.detach()) == pytest.approx(float(box.detach()), rel=1e-5)
    ours = torch.autograd.grad(losses.classification + losses.regression, (raw.logits, raw.deltas))
    theirs = torch.autograd.grad(cls + box, (raw.logits, raw.deltas))
    for a, b in zip(ours, theirs):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-4)


def test_box_losses_are_divided_by_the_weights_of_all_processes_and_at_least_one() -> None:
    raw = outputs(bias=0.0)
    alone = GFL(raw, TWO)
    twice = Criterion(iac=None, dc=False, assignment="atss", cls_loss="qfl", reg_loss="dfl", total=lambda x: 2 * x,
                      processes=2)(raw, TWO)  # fmt: skip
    torch.testing.assert_close(twice.regression, alone.regression)
    torch.testing.assert_close(twice.classification, alone.classification)
    unsure = GFL(outputs(bias=-9.0), TWO)
    assert float(unsure.regression.detach()) < 0.05  # weights of about e^-9 are not blown up to a sum of 1


def test_dc_weights_quality_focal_loss_like_focal_loss() -> None:
    raw = outputs(bias=0.0)
    plain, dc = GFL(raw, TWO), Criterion(iac=None, assignment="atss", cls_loss="qfl", reg_loss="dfl")(raw, TWO)
    assert float(dc.classification.detach()) == pytest.approx(float(plain.classification.detach()), rel=1e-6)
    assert torch.equal(dc.regression, plain.regression)
    assigned = GFL.assign(raw, TWO)
    found = positives(raw, TWO, assigned)
    each = torch.tensor(slow_gfl(raw, TWO, assigned.gt)[3])
    side = (found.gt_boxes[:, 2:] - found.gt_boxes[:, :2]).prod(-1).sqrt()
    weight = normalize_coefficient(dynamic_coefficient(found.boxes, found.gt_boxes, unit=side), each)
    assert float(dc.coefficient) == pytest.approx(float(weight.mean()), rel=1e-5)
    (a,) = torch.autograd.grad(plain.classification, raw.logits, retain_graph=True)
    (b,) = torch.autograd.grad(dc.classification, raw.logits)
    wanted = a.clone()
    wanted[found.image, found.anchor] *= weight[:, None]
    torch.testing.assert_close(b, wanted, atol=1e-7, rtol=1e-4)


@pytest.mark.parametrize("assignment", ["atss", "fcos", "iou"])
def test_without_objects_there_is_only_background(assignment: str) -> None:
    raw = outputs()
    nothing = Targets(
        torch.zeros(2, 1, 4), torch.zeros(2, 1, dtype=torch.int64), torch.tensor([[[0.0, 0, 64, 64]]] * 2)
    )
    losses = Criterion(iac=None, dc=True, assignment=assignment, cls_loss="qfl", reg_loss="dfl")(raw, nothing)
    assert (int(losses.positives), float(losses.regression.detach())) == (0, 0)
    (losses.classification + losses.regression).backward()
    assert raw.logits.grad.isfinite().all()
    assert (raw.deltas.grad == 0).all()
    crowded = (raw.anchors[:, :2] >= 0).all(1) & (raw.anchors[:, 2:] <= 64).all(1)
    assert (raw.logits.grad[:, crowded] == 0).all()
    assert (raw.logits.grad[:, 0] > 0).all()  # three quarters of the first square lie outside the image and the crowd


def test_retinanets_anchors_may_be_assigned_by_atss_and_trained_with_quality() -> None:
    anchors, strides = Anchors((8, 16), 3.0)([(8, 8), (4, 4)], (64, 64))
    g = torch.Generator().manual_seed(0)
    raw = RawOutputs(torch.randn(2, 720, 3, generator=g), torch.zeros(2, 720, 4), anchors, strides, [576, 144])
    criterion = Criterion(iac=None, dc=False, assignment="atss", cls_loss="qfl", reg_loss="giou")
    found = positives(raw, TWO, criterion.assign(raw, TWO))
    assert torch.equal(found.boxes, found.anchors)
    nine_places = assign_atss(anchors, TWO.boxes, raw.levels, count=81)
    assert torch.equal(criterion.assign(raw, TWO).gt, nine_places)
    assert not torch.equal(nine_places, assign_atss(anchors, TWO.boxes, raw.levels, count=9))
    assert set(zip(found.image.tolist(), found.gt.tolist())) == {(0, 0), (0, 1), (1, 0)}
    weight = raw.logits[found.image, found.anchor].sigmoid().amax(-1)
    wanted = (weight * generalized_box_iou_loss(found.anchors, found.gt_boxes)).sum() / weight.sum()
    assert float(criterion(raw, TWO).regression) == pytest.approx(float(wanted), rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_losses_are_float32_under_autocast(dtype: torch.dtype) -> None:
    raw = outputs()
    half = raw._replace(logits=raw.logits.to(dtype), deltas=raw.deltas.to(dtype))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = GFL(half, TWO)
    full = GFL(raw._replace(logits=half.logits.float(), deltas=half.deltas.float()), TWO)
    torch.testing.assert_close(losses.classification, full.classification)
    torch.testing.assert_close(losses.regression, full.regression)


@torch.inference_mode()
def test_outputs_and_points_are_in_the_same_order() -> None:
    torch.manual_seed(0)
    network = build_network(Architecture(backbone="r18", classes=3, fpn_channels=16, anchor_scale=8, head="gfl")).eval()
    network.head.scales.copy_(torch.tensor([1.0, 2, 3, 4, 5]))
    images = torch.randn(2, 3, 64, 96)
    raw = network.raw(images)
    assert raw.levels == [96, 24, 6, 2, 1]
    assert (raw.coder, raw.per_position) == ("distances", 1)
    assert (raw.logits.shape, raw.deltas.shape) == ((2, 129, 3), (2, 129, 68))
    assert raw.anchors[1].tolist() == [8 - 32, -32, 8 + 32, 32]
    assert raw.logits.sigmoid().mean() == pytest.approx(0.01, rel=0.2)
    features = network.pyramid(images)
    for level, (first, x) in enumerate(zip((0, 96, 120, 126, 128), features)):
        alone = network.head.regression.level(x)
        assert alone.abs().max() > 0
        torch.testing.assert_close(
            raw.deltas[:, first : first + alone.shape[1]], alone * (level + 1), atol=1e-4, rtol=1e-3
        )


@torch.inference_mode()
def test_p7_comes_from_p6_without_relu() -> None:
    network = build_network(Architecture(backbone="r18", classes=1, fpn_channels=16, head="gfl"))
    *_, p6, p7 = network.pyramid(torch.randn(1, 3, 128, 128))
    assert (p6 < 0).any()
    torch.testing.assert_close(network.neck.extra_blocks.p7(p6), p7)


def test_group_norm_has_32_groups_of_256_channels_and_as_large_ones_of_fewer() -> None:
    for channels, groups in ((256, 32), (64, 8), (16, 2), (4, 1), (100, 4), (512, 32)):
        head = GFLHead(channels, 1, 2, norm="group")
        assert [m.num_groups for m in head.modules() if isinstance(m, torch.nn.GroupNorm)] == [groups] * 8
        assert head.classification.convs[0].bias is None
    he_initialize(head)
    assert float(head.classification.convs[0].weight.detach().std()) == pytest.approx((2 / (9 * 512)) ** 0.5, rel=0.05)


def test_candidates_are_decoded_by_distances() -> None:
    """A point at 8, 8 predicts distances of 1, 1, 2 and 3 strides with near certainty."""
    raw = outputs(images=1, classes=2, bias=-9.0, most=8)
    with torch.no_grad():
        raw.logits[0, 9, 1] = 3
        raw.deltas[0, 9] = torch.eye(9)[[1, 1, 2, 3]].flatten() * 40
    (found,) = candidates(raw, torch.tensor([[64, 64]]), 0.5)
    assert found.labels.tolist() == [1]
    torch.testing.assert_close(found.boxes, torch.tensor([[0.0, 0, 24, 32]]), atol=1e-4, rtol=0)
