"""The rivals' losses of a batch: FCOS's against torchvision's, TOOD's and VarifocalNet's by hand, GHM's, DC on all."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torchvision.models.detection.fcos import FCOSHead as TheirFCOSHead
from torchvision.ops import generalized_box_iou_loss, sigmoid_focal_loss

from cledet.models.anchors import Anchors
from cledet.models.assignment import Targets, positives
from cledet.models.criterion import Criterion
from cledet.models.losses import CLS_LOSSES
from cledet.models.network import Architecture, RawOutputs, build_network
from cledet.models.postprocess import candidates
from cledet.ops.assigners.max_iou import assign_max_iou
from cledet.ops.assigners.paa import choose_paa
from cledet.ops.assigners.tal import assign_tal
from cledet.ops.losses import focal_loss, ghm_loss, quality_focal_loss, varifocal_loss

FCOS = Criterion(iac=None, dc=False, assignment="fcos", reg_loss="giou")
TWO = Targets(
    torch.tensor([[[4.0, 4, 30, 28], [30, 20, 60, 62]], [[10, 30, 40, 60], [0, 0, 0, 0]]]),
    torch.tensor([[1, 2], [0, 0]]),
    torch.zeros(2, 0, 4),
)


def outputs(scale: float = 4.0, central: bool = True, seed: int = 0) -> RawOutputs:
    """Two levels of points on 64x64 images, of strides 8 and 16, with the sides' distances, one in eight of them 0."""
    anchors, strides = Anchors((8, 16), scale, octaves=(1.0,), ratios=(1.0,))([(8, 8), (4, 4)], (64, 64))
    g = torch.Generator().manual_seed(seed)
    logits, central_logits = torch.randn(2, 80, 3, generator=g), torch.randn(2, 80, generator=g)
    sides = (2 * torch.rand(2, 80, 4, generator=g) - 0.25).relu()
    return RawOutputs(
        logits.requires_grad_(), sides.requires_grad_(), anchors, strides, [64, 16], "sides", 1,
        central_logits.requires_grad_() if central else None,
    )  # fmt: skip


def part(raw: RawOutputs, image: int) -> tuple[RawOutputs, Targets]:
    """Select one of two processes' part of a batch."""
    here = slice(image, image + 1)
    central = None if raw.centerness is None else raw.centerness[here]
    kept = raw._replace(logits=raw.logits[here], deltas=raw.deltas[here], centerness=central)
    return kept, Targets(*(value[here] for value in TWO))


def test_fcos_is_torchvisions() -> None:
    """Their box coder measures in anchors, which are a stride wide there."""
    raw = outputs(scale=1.0)
    assigned = FCOS.assign(raw, TWO)
    assert (assigned.gt >= 0).sum() > 8
    theirs = TheirFCOSHead(32, 1, 3).compute_loss(
        [{"boxes": boxes, "labels": labels} for boxes, labels, _ in zip(*TWO[:2], range(2))],
        {"cls_logits": raw.logits, "bbox_regression": raw.deltas, "bbox_ctrness": raw.centerness[..., None]},
        [raw.anchors] * 2,
        list(assigned.gt),
    )
    ours = FCOS(raw, TWO)
    torch.testing.assert_close(ours.classification, theirs["classification"])
    torch.testing.assert_close(ours.regression, theirs["bbox_regression"] + theirs["bbox_ctrness"])
    inputs = (raw.logits, raw.deltas, raw.centerness)
    for a, b in zip(
        torch.autograd.grad(ours.classification + ours.regression, inputs),
        torch.autograd.grad(sum(theirs.values()), inputs),
    ):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-4)


def test_a_positive_outside_its_object_has_centerness_0() -> None:
    """Assignment by IoU, a square's centre may lie outside; the target is 0 then, not the root of a negative number."""
    raw = outputs(scale=2.0)
    truth = Targets(torch.tensor([[[20.5, 0, 22, 64]]] * 2), torch.zeros(2, 1, dtype=torch.int64), torch.zeros(2, 0, 4))
    losses = Criterion(iac=None, assignment="iou", reg_loss="giou")(raw, truth)
    assert int(losses.positives) > 0
    assert losses.regression.isfinite()


@pytest.mark.parametrize("cls_loss", CLS_LOSSES)
@pytest.mark.parametrize("assignment", ["atss", "paa", "tal"])
def test_dc_weights_every_loss_and_preserves_its_sum(cls_loss: str, assignment: str) -> None:
    raw = outputs()
    plain, dc = (
        Criterion(iac=None, dc=on, assignment=assignment, cls_loss=cls_loss, reg_loss="ciou") for on in (False, True)
    )
    before, after = plain(raw, TWO), dc(raw, TWO)
    assert float(after.classification.detach()) == pytest.approx(float(before.classification.detach()), rel=1e-6)
    assert torch.equal(after.regression, before.regression)
    anchors = plain.assign(raw, TWO)
    found = positives(raw, TWO, anchors)
    loss = plain.classification(raw, anchors, found)[found.image, found.anchor]
    weight = dc.coefficient(found, loss, raw.logits.shape[2])
    assert float(weight.std()) > 0.05
    (a,) = torch.autograd.grad(before.classification, raw.logits, retain_graph=True)
    (b,) = torch.autograd.grad(after.classification, raw.logits)
    a[found.image, found.anchor] *= weight[:, None]
    torch.testing.assert_close(b, a, atol=1e-7, rtol=1e-4)


@pytest.mark.parametrize("cls_loss", CLS_LOSSES)
@pytest.mark.parametrize("assignment", ["fcos", "paa", "tal"])
def test_without_objects_there_is_only_background(cls_loss: str, assignment: str) -> None:
    raw = outputs()
    truth = Targets(torch.zeros(2, 1, 4), torch.zeros(2, 1, dtype=torch.int64), torch.tensor([[[0.0, 0, 64, 64]]] * 2))
    losses = Criterion(iac=None, assignment=assignment, cls_loss=cls_loss, reg_loss="ciou")(raw, truth)
    assert (int(losses.positives), float(losses.regression.detach())) == (0, 0)
    (losses.classification + losses.regression).backward()
    assert raw.logits.grad.isfinite().all()
    crowded = (raw.anchors[:, :2] >= 0).all(1) & (raw.anchors[:, 2:] <= 64).all(1)
    assert (raw.logits.grad[:, crowded] == 0).all()
    assert (raw.logits.grad[:, ~crowded].sum(-1) >= 0).all()


def test_tood_is_quality_focal_loss_and_boxes_weighted_by_alignment() -> None:
    """Both are divided by the sum of the target scores, also with a loss of hard labels."""
    raw = outputs(central=False)
    gt, quality = assign_tal(raw.anchors, raw.boxes().detach(), raw.logits.detach(), TWO.boxes, TWO.labels)
    image, anchor = (gt >= 0).nonzero(as_tuple=True)
    share = quality[image, anchor]
    total = max(1.0, float(share.sum()))
    labels = torch.where(gt >= 0, TWO.labels.gather(1, gt.clamp(min=0)), -1).flatten()
    boxes = share * generalized_box_iou_loss(raw.boxes(image, anchor), TWO.boxes[image, gt[image, anchor]])
    logits = raw.logits.flatten(0, 1)
    for name, loss in (("qfl", quality_focal_loss(logits, labels, share)), ("focal", focal_loss(logits, labels))):
        found = Criterion(iac=None, dc=False, assignment="tal", cls_loss=name, reg_loss="giou")(raw, TWO)
        assert float(found.n) == pytest.approx(float(quality.sum()))
        torch.testing.assert_close(found.classification, loss.sum() / total)
        torch.testing.assert_close(found.regression, boxes.sum() / total)


def test_varifocal_loss_weights_boxes_by_their_iou() -> None:
    raw = outputs(central=False)
    criterion = Criterion(iac=None, dc=False, assignment="atss", cls_loss="varifocal", reg_loss="giou")
    found = positives(raw, TWO, criterion.assign(raw, TWO))
    losses = criterion(raw, TWO)
    boxes = found.quality * generalized_box_iou_loss(found.boxes, found.gt_boxes)
    torch.testing.assert_close(losses.regression, boxes.sum() / max(1.0, float(found.quality.sum())))
    labels = torch.full((2, 80), -1)
    labels[found.image, found.anchor] = TWO.labels[found.image, found.gt]
    each = varifocal_loss(raw.logits.flatten(0, 1), labels.flatten(), found.quality)
    torch.testing.assert_close(losses.classification, each.sum() / len(found.gt))


def test_gradient_harmonized_loss_is_not_divided() -> None:
    raw = outputs()
    gt = FCOS.assign(raw, TWO).gt
    labels = torch.where(gt >= 0, TWO.labels.gather(1, gt.clamp(min=0)), -1).flatten()
    losses = replace(FCOS, cls_loss="ghm")(raw, TWO)
    torch.testing.assert_close(losses.classification, ghm_loss(raw.logits.flatten(0, 1), labels).sum())
    torch.testing.assert_close(losses.regression, FCOS(raw, TWO).regression)


def test_paa_keeps_the_anchors_of_low_loss() -> None:
    """Candidates have an IoU of at least 0.1, and are ranked by focal and GIoU loss for any losses of the criterion."""
    raw = outputs()
    chosen = Criterion(iac=None, assignment="paa", cls_loss="ghm", reg_loss="diou").assign(raw, TWO).gt
    first = assign_max_iou(raw.anchors, TWO.boxes, fg_threshold=0.1, bg_threshold=0.1)
    image, anchor = (first >= 0).nonzero(as_tuple=True)
    gt = first[image, anchor]
    true = torch.nn.functional.one_hot(TWO.labels[image, gt], 3)
    focal = sigmoid_focal_loss(raw.logits[image, anchor], true.float()).sum(-1)
    loss = focal + 1.3 * generalized_box_iou_loss(raw.boxes(image, anchor), TWO.boxes[image, gt])
    keep = choose_paa(loss, 2 * image + gt, raw.strides[anchor].long())
    wanted = torch.full_like(first, -1)
    wanted[image[keep], anchor[keep]] = gt[keep]
    assert torch.equal(chosen, wanted)
    assert 4 < int((chosen >= 0).sum()) < int((first >= 0).sum())


@pytest.mark.parametrize("cls_loss", CLS_LOSSES)
@pytest.mark.parametrize("assignment", ["fcos", "tal"])
def test_two_processes_share_one_batch(cls_loss: str, assignment: str) -> None:
    """The first pass records the tensors to sum, the second returns the sums to both."""
    raw, terms = outputs(), ([], [])
    criterion = Criterion(iac=None, dc=False, assignment=assignment, cls_loss=cls_loss, reg_loss="diou", processes=2)
    for i in range(2):
        replace(criterion, total=lambda value, i=i: terms[i].append(value) or value)(*part(raw, i))
    halves = []
    for i in range(2):
        sums = iter([a + b for a, b in zip(*terms)])
        halves.append(replace(criterion, total=lambda value, sums=sums: next(sums))(*part(raw, i)))
    whole = replace(criterion, processes=1)(raw, TWO)
    assert int(whole.positives) == sum(int(half.positives) for half in halves) > 4
    for name in ("classification", "regression"):
        mean = sum(getattr(half, name) for half in halves) / 2
        torch.testing.assert_close(mean, getattr(whole, name))


def test_scores_are_the_root_of_class_times_centerness() -> None:
    raw = outputs()
    scored = raw.scored()
    wanted = (raw.logits.sigmoid() * raw.centerness.sigmoid()[..., None]).sqrt()
    torch.testing.assert_close(scored.logits.sigmoid(), wanted)
    assert scored.scored() is scored
    assert outputs(central=False).scored().logits.equal(raw.logits)
    far = raw._replace(logits=torch.tensor([[[90.0, -90, 90]]]), centerness=torch.tensor([[90.0]])).scored().logits
    assert far.sigmoid().tolist() == [[[1.0, pytest.approx(0, abs=1e-15), 1.0]]]
    (found,) = candidates(raw._replace(logits=raw.logits[:1], deltas=raw.deltas[:1], centerness=raw.centerness[:1]),
                          torch.tensor([[64, 64]]), 0.5)  # fmt: skip
    kept = wanted[0] > 0.5
    kept &= (raw.boxes(0).clamp(0, 64).unflatten(-1, (2, 2)).diff(dim=-2).amin((-1, -2)) > 0)[:, None]
    torch.testing.assert_close(found.scores.sort().values, wanted[0][kept].sort().values)


@torch.inference_mode()
def test_fcos_predicts_distances_in_strides_and_centerness_per_point() -> None:
    torch.manual_seed(0)
    network = build_network(Architecture(backbone="r18", classes=3, fpn_channels=16, head="fcos")).eval()
    network.head.scales.copy_(torch.tensor([1.0, 2, 3, 4, 5]))
    network.head.regression.predict.weight.zero_()
    network.head.regression.predict.bias.copy_(torch.tensor([1.0, 2, 0.5, -9, 7]))
    images = torch.randn(2, 3, 64, 96)
    raw = network.raw(images)
    assert (raw.coder, raw.per_position, raw.levels) == ("sides", 1, [96, 24, 6, 2, 1])
    assert (raw.logits.shape, raw.deltas.shape, raw.centerness.shape) == ((2, 129, 3), (2, 129, 4), (2, 129))
    assert (raw.centerness == 7).all()
    for level, (first, last) in enumerate(((0, 96), (96, 120), (120, 126), (126, 128), (128, 129))):
        assert (raw.deltas[:, first:last] == torch.tensor([1, 2, 0.5, 0]) * (level + 1)).all()
    assert raw.boxes(0, [0, 97]).tolist() == [[-8, -16, 4, 0], [16 - 32, -64, 16 + 16, 0]]  # points 0, 0 and 16, 0
